"""Every activity's configuration: what a run records is read back as the very same
configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w

from physadv.core.config import Config
from physadv.core.errors import OptionError

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in (ROOT / "physadv").glob("*/*config.py")
    if path.parent.name != "core"
)


def configurations() -> Iterator[type[Config]]:
    """The configuration of every activity."""
    for name in MODULES:
        for value in vars(import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Config) and value.command:
                yield value


CLASSES = sorted({c.command: c for c in configurations()}.items())


def other_value(kind: Any, note: Any) -> Any:
    """A value that the field may have and that is not usual."""
    options = [k for k in get_args(kind) or (kind,) if k is not type(None)]
    plain = options[0] if len(options) == 1 else kind
    if plain is bool:
        return True
    if plain in (int, float):
        return plain(note.most if note.most is not None else (note.least or 0) + 3)
    if plain is str:
        return "a 'quoted' = name"
    items = get_args(plain) or (str,)
    if items[-1] is ...:
        return (other_value(items[0], note),) * 2
    return tuple(kind(i + 1) for i, kind in enumerate(items))


NEEDED = {"certify": {"model": "signs", "data": "gtsrb.zip"}, "cloak": {"photos": "album"}}
"""Values without which a configuration is refused, though its fields have defaults."""


def required(kind: type[Config]) -> dict[str, Any]:
    """Values of the fields without a default, and of those that are needed all the same."""
    documented = kind.documented_fields()
    lacking = [f for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    special = {"threat": "linf:8/255", "defense": "pgd"}
    given = {f.name: special.get(f.name) or other_value(*documented[f.name]) for f in lacking}
    return {**given, **NEEDED.get(kind.command, {})}


def test_every_activity_has_a_configuration() -> None:
    """The list of the issue that brought them: no activity is left out."""
    names = {name for name, _ in CLASSES}
    assert names >= {"patch", "print", "twin", "check", "attack", "evaluate", "train", "certify"}
    assert names >= {"cloak", "cloak-check", "calibrate-chart", "calibrate-fit"}
    assert names >= {"calibrate-camera", "patch-verify", "patch-transfer"}


@pytest.mark.parametrize(("name", "kind"), CLASSES, ids=[name for name, _ in CLASSES])
def test_what_is_recorded_is_read_back(name: str, kind: type[Config], tmp_path: Path) -> None:
    """Defaults, and each field with another value, survive the way through config.toml."""
    usual = kind(**required(kind))
    changed = [usual]
    for field_name, (hint, note) in kind.documented_fields().items():
        if field_name not in required(kind):
            try:
                value = other_value(hint, note)
                changed.append(kind(**{**required(kind), field_name: value}))
            except OptionError:
                continue  # a name that the configuration checks against its own list

    for config in changed:
        file = tmp_path / "config.toml"
        file.write_text(tomli_w.dumps(config.as_table()))
        assert kind.from_toml(file) == config
    assert len(changed) > len(kind.documented_fields()) / 2


@pytest.mark.parametrize(("name", "kind"), CLASSES, ids=[name for name, _ in CLASSES])
def test_every_field_is_documented_in_a_sentence(name: str, kind: type[Config]) -> None:
    """Help texts are sentences: a capital (or a method's name) first, a period last."""
    for field, (_, note) in kind.documented_fields().items():
        assert note.help.endswith((".", "...")), f"{name} {field}: {note.help}"
        assert note.help[0].isupper() or ":" in note.help, f"{name} {field}: {note.help}"
