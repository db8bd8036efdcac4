"""Re-verify a bundle: rebuild its task from the card and measure its held-out success again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from physadv.core.errors import BundleError, DataError
from physadv.eot.presets import is_import_path, ranges_from_table
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.models.load import is_built_in
from physadv.patches.bundle import PatchBundle
from physadv.patches.calibrated import PROFILES, check_profiles
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import PatchMeasurement, measure_patch
from physadv.patches.task import PatchTask


@dataclass(frozen=True)
class VerifyOutcome:
    """The card's rate, the rate measured now, and whether the one lies within the interval of the
    other."""

    claimed: RateInterval
    measured: PatchMeasurement
    agrees: bool


def config_from_bundle(bundle: PatchBundle, *, eot: str | None = None) -> PatchConfig:
    """Return the configuration written on the card of a ``bundle``.

    ``eot`` takes the place of the card's pipeline. A card that names one of its maker's own needs
    it: code is run because the user names it, never because a file does.

    Raises BundleError where there is none, and for a pipeline that only the card names.
    """
    table: dict[str, Any] = dict(bundle.card.optimisation)
    if not {"victim", "goal", "seed"} <= set(table):
        raise BundleError(
            f"{bundle.folder}", "its card holds no [optimisation] settings", "make it anew"
        )
    named = str(table.get("eot", "default"))
    if eot is None and is_import_path(named):
        raise BundleError(
            f"{bundle.folder}: its card names the EOT pipeline {named!r}",
            "No code is run because a card names it",
            f"Read that code; if you trust it, pass --eot {named}",
        )
    if eot is not None:
        table["eot"] = eot
    return PatchConfig.from_card_table(table)


def refuse_foreign_models(
    bundle: PatchBundle, names: Iterable[str], *, named_by_user: Collection[str] = ()
) -> None:
    """Raise BundleError where the card of ``bundle`` names a model that would run foreign code.

    ``names`` are the models on the card, each NAME or NAME=WEIGHTS; ``named_by_user`` are those
    that the user asked for by name, which are allowed.
    """
    for text in names:
        name = text.partition("=")[0]
        if name not in named_by_user and not is_built_in(name):
            raise BundleError(
                f'The card of "{bundle.folder}" names the model "{name}"',
                "a bundle may name built-in models only, since a file or a module runs its code",
                f"Name it yourself if you trust it: --model {name}",
            )


FILES = ("weights", "signs", "backgrounds", "photos", "boxes", "content", *PROFILES)
"""Settings that name files: relative names are looked for here, under ``data`` and in the bundle
itself."""


def locate_files(config: PatchConfig, bundle: PatchBundle, data: Path | None = None) -> PatchConfig:
    """The config with the files on the card found where they are now.

    Raises DataError for one that is nowhere, with what the card says about how to get it.
    """
    found: dict[str, Any] = {}
    for key in FILES:
        name = getattr(config, key)
        if name is None:
            continue
        places = [Path(name), *([data / name] if data else []), bundle.folder / Path(name).name]
        if key in PROFILES:  # the bundle keeps its own
            places.reverse()
        place = next((p for p in places if p.exists()), None)
        if (
            place is None and key != "weights"
        ):  # the victim's own error says where its weights come from
            how = bundle.card.data.get(name) or bundle.card.data.get(str(name).split("/")[0], "")
            source = f" ({how})" if how else ""
            remedy = f"give --{key} or --data-folder FOLDER that holds it{source}"
            raise DataError(
                f"{name}, named on the card of {bundle.card.patch.name}", "not found", remedy
            )
        found[key] = None if place is None else str(place)
    return replace(config, **found)


def _recorded_ranges(config: PatchConfig, bundle: PatchBundle) -> EotRanges | None:
    """Return the card's own table of ranges where they came from a file, which it does not hold."""
    if config.eot_ranges is None:
        return None
    card = f"{bundle.folder}: [eot]"
    return replace(NOTHING, **ranges_from_table(bundle.card.eot, card))


def verify_bundle(
    bundle: PatchBundle,
    *,
    given: Mapping[str, str | None] | None = None,
    data: Path | None = None,
    fresh: bool = False,
    draws: int | None = None,
    report: Callable[[int], None] | None = None,
) -> VerifyOutcome:
    """Measure a bundle's held-out success anew, by default on the very draws of its card.

    ``given`` replaces files on the card (:data:`FILES`) and, as "model" and "eot", the model and the
    pipeline, which must be given where the card names others than built-in ones; ``data`` is a
    folder under which the
    others lie. ``fresh`` takes new draws (a sharper test). Agreement: the new rate lies in the
    card's interval, or, with new draws or another number of them, the two intervals overlap. Raises
    BundleError where the victim's weights are not those on the card.
    """
    chosen: dict[str, Any] = {k: v for k, v in (given or {}).items() if v is not None}
    stated = config_from_bundle(bundle, eot=chosen.pop("eot", None))
    config = replace(stated, **chosen, device="cpu")
    refuse_foreign_models(
        bundle, (config.model, *config.ensemble), named_by_user=[chosen.get("model", "")]
    )
    config = locate_files(config, bundle, data)
    check_profiles(asdict(config), bundle.card.optimisation, bundle.folder)
    task = PatchTask.from_config(config, ranges=_recorded_ranges(config, bundle))
    model = task.loaded_model
    claimed_sha = bundle.card.victim.sha256
    if claimed_sha and model.card.sha256 and claimed_sha != model.card.sha256:
        raise BundleError(
            f"victim {model.card.name} {model.card.sha256[:12]}",
            f"the card was measured on {claimed_sha[:12]}",
            "give those weights with --weights, or make the patch anew",
        )
    task = replace(task, mask=bundle.mask)
    name = "fresh" if fresh else "test"
    measured = measure_patch(
        task, bundle.patch, draws=draws or config.test_draws, name=name, report=report
    )
    claimed = RateInterval(**bundle.card.heldout["success"])
    if fresh or (draws or config.test_draws) != config.test_draws:
        agrees = measured.success.low <= claimed.high and claimed.low <= measured.success.high
    else:
        agrees = claimed.low - 1e-9 <= measured.success.rate <= claimed.high + 1e-9
    return VerifyOutcome(claimed, measured, agrees)
