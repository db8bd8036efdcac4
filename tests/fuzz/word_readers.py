"""Fuzzed readers of words of the command line, several readers an input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz import mutations
from fuzz.reader_kit import Call, registered, texts_of
from fuzz.table_readers import configurations, first_accepted


def _word(*calls: Callable[[str], object]) -> Call:
    def call(folder: Path, data: bytes) -> object:
        text = data.decode("utf-8", "surrogateescape").replace("\0", "")[:5000]
        return first_accepted([lambda each=each: each(text) for each in calls])

    return call


def _threat(text: str) -> object:
    from physadv.threat.parsing import parse_eps, parse_threat

    parse_threat(text)
    return parse_eps(text, "l2")


def _eps(text: str) -> object:
    from physadv.threat.parsing import parse_eps

    return parse_eps(text)


registered(
    "threats",
    texts_of("linf:8/255", "l2:0.5", "8/255", "l1:12", "L2:1e-3", "inf:0.03"),
    mutations.mutate_text,
    16,
)(_word(_threat, _eps))


def _pairs(text: str) -> object:
    from physadv_cli.configured import parse_numbers

    def read(separator: str, count: int) -> object:
        return parse_numbers(text, "--size", separator, count=count)

    kinds = (("x", 2), (",", 2), (":", 2), (",", 4))
    return first_accepted([lambda kind=kind: read(*kind) for kind in kinds])


registered(
    "pairs of numbers",
    texts_of("190x150", "0,95", "0.3:0.5", "4,2,60,80", "280x190mm", "1280×720"),
    mutations.mutate_text,
    16,
)(_word(_pairs))


def _palette(text: str) -> object:
    from physadv.threat.printability import parse_palette

    return parse_palette(text)


def _paper(text: str) -> object:
    from physadv.printing.layout import paper_size

    return paper_size(text)


def _distance(text: str) -> object:
    from physadv.check.check_task import _parse_distance

    return _parse_distance(text)


registered(
    "palettes, papers, distances",
    texts_of("#c01c28,#ffffff,#000", "a4", "300x400mm", "letter", "2.5m", "250cm"),
    mutations.mutate_text,
    6,
)(_word(_palette, _paper, _distance))


def _device(text: str) -> object:
    from physadv.models.loading import pick_device

    return pick_device(text)


def _class_of(text: str) -> object:
    from physadv.models.cards import ModelCard

    return ModelCard("toy", classes=("stop", "give way", "3")).class_index(text)


def _defense(text: str) -> object:
    from physadv.defenses.registry import DEFENSES, _settings

    name, _, settings = text.partition(":")
    name = name if name in DEFENSES else "jpeg"
    return _settings(name, DEFENSES[name], settings)


def _faces(text: str) -> object:
    from physadv.privacy.face_choice import FaceChoice

    return FaceChoice.parse([], [], ["a.jpg"], [text])


def _address(text: str) -> object:
    from physadv.camera.open_source import is_camera, open_frame_source, public_address

    is_camera(text)
    public_address(text)
    # No address of a machine: a file without a scheme, or a word that the system refuses at once.
    return open_frame_source(text, timeout_s=0.2) if "/" not in text and ":" not in text else None


registered(
    "devices, classes, defenses, faces, addresses",
    texts_of(
        *("cuda:0", "cpu", "stop", "3", "jpeg:quality50,plain", "median:size5"),
        *("a.jpg:2,3=high", "1=2.5", "http://u:p@h:80/x"),
    ),
    mutations.mutate_text,
    3,
)(_word(_device, _class_of, _defense, _faces, _address))


def _options(text: str) -> object:
    words = text.split()[:40]

    def read(kind: Any) -> object:
        names = list(kind.documented_fields())
        return kind.from_table({names[(len(w) + i) % len(names)]: w for i, w in enumerate(words)})

    return first_accepted([lambda kind=kind: read(kind) for kind in configurations()[:12]])


registered(
    "options",
    texts_of("signs 190x150 300 0.05 0,95 linf:8/255 auto", "a 1 2 nan x:y", "signs", ""),
    mutations.mutate_text,
    2,
)(_word(_options))


def _member(text: str) -> object:
    from physadv.core.members import member_of

    folder = Path("/nowhere")
    member = member_of(folder, text)
    assert member.is_relative_to(folder), "a member outside"
    return member


def _shown(text: str) -> object:
    from physadv.core.addresses import redact_addresses
    from physadv.core.names import natural_key, plain_name
    from physadv.core.visible_text import visible_line, visible_text

    line = visible_line(text)
    plain = line.replace("\t", "")
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in plain), "obeyed"
    return natural_key(text), plain_name(text), visible_text(text), redact_addresses(text)


registered(
    "names",
    texts_of("clips/a.png", "a", "../b", "IMG 10.jpg", "rtsp://u:p@h/x and more", "\x1b[31m"),
    mutations.mutate_text,
    6,
)(_word(_member, _shown))
