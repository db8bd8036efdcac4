"""What stands between the options of `physadv check` and the library: sources, locator, progress,
words."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physadv_cli.runs import finish

if TYPE_CHECKING:
    from physadv.camera.lens import LensFor
    from physadv.camera.localization.boxes import Box
    from physadv.camera.localization.location import Locator, SignLocation
    from physadv.camera.localization.with_pose import WidthOf
    from physadv.camera.open_source import FrameSource
    from physadv.check.run_check import BlockSource
    from physadv.models.cards import LoadedModel
    from physadv.patches.bundle import PatchBundle


@dataclass(frozen=True)
class Asked:
    """What is asked of whom: the bundle's card, overruled by options."""

    model: str
    goal: str
    true_class: str
    target_class: str | None
    sign_width_mm: float | None
    about: dict[str, Any] = field(default_factory=dict)
    bundle: PatchBundle | None = None


def what_is_asked(
    bundle: Path | None,
    *,
    model: str | None,
    goal: str | None,
    true_class: str | None,
    target_class: str | None,
    sign_width_mm: float | None,
) -> Asked:
    """Merge card and options. Raises OptionError where neither says what is needed."""
    from physadv.core.errors import OptionError
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.patches.reverify import refuse_foreign_models

    if bundle is None:
        if model is None or goal is None or true_class is None:
            limit = "then --model, --goal and --true-class must be given"
            raise OptionError("no --bundle", limit, "name the bundle that was printed")
        return Asked(model, goal, true_class, target_class, sign_width_mm)
    bundle = bundle_folder(bundle)
    opened = read_bundle(bundle)
    card = opened.card
    if model is None:
        refuse_foreign_models(opened, (card.victim.name,))
    about = {
        "name": card.patch.name,
        "sha256": card.patch.sha256,
        "folder": str(bundle),
        "victim": card.victim.name,
        "victim_sha256": card.victim.sha256,
        "heldout": card.heldout,
        "sign": card.placement.sign,
        "sign_width_mm": card.placement.sign_width_mm,
    }
    return Asked(
        model or card.victim.name,
        goal or card.patch.goal,
        true_class or card.patch.true_class,
        target_class or card.patch.target_class,
        sign_width_mm or card.placement.sign_width_mm,
        {"bundle": about},
        opened,
    )


def open_feeds(
    stack: ExitStack,
    controls: Mapping[str, str | None],
    source: str,
    block: str | None,
    opening: Mapping[str, Any],
) -> list[BlockSource]:
    """Controls first, then SOURCE, whose block is the option's, the twin's, the markers' or, for a
    file, patch."""
    from physadv.camera.open_source import BLOCKS, open_frame_source
    from physadv.check.run_check import BlockSource
    from physadv.core.errors import OptionError

    if block is not None and block not in BLOCKS:
        raise OptionError(f"--block {block}", f"one of {', '.join(BLOCKS)}", "correct it")

    def opened(spec: str) -> FrameSource:
        return stack.enter_context(open_frame_source(spec, **opening))

    feeds = [BlockSource(opened(spec), name) for name, spec in controls.items() if spec is not None]
    main = opened(source)
    return [*feeds, BlockSource(main, block, None if main.live or main.kind == "twin" else "patch")]


def build_locator(
    strategy: str,
    *,
    box: Box | None,
    weights: Path | None,
    model: LoadedModel,
    twins_only: bool,
    asked: Asked,
) -> Locator:
    """The strategy's locator; a detector is loaded for classifiers only, and in "auto" only if its
    weights are here."""
    from physadv.camera.localization.reference_images import reference_images
    from physadv.check.locators import locator_for
    from physadv.core.errors import ModelError
    from physadv.defenses.load_model import load_model

    detector = None
    wanted = strategy == "detector" or weights is not None
    if wanted or (strategy == "auto" and model.card.task == "classify" and not twins_only):
        try:
            detector = load_model("fastestdet", weights=weights)
        except ModelError:
            if wanted:
                raise
    by_features = (
        asked.bundle is not None
        and strategy in {"auto", "features"}
        and not twins_only
        and box is None
    )
    references = reference_images(asked.bundle) if by_features and asked.bundle else []
    return locator_for(
        strategy,
        box=box,
        detector=detector,
        references=references,
        whole_frame=model.card.task == "detect",
    )


def width_of(given: float | None, asked: Asked, paper: str) -> WidthOf:
    """The sign's width in mm: what was typed, a test page's where its markers were seen, else the
    bundle's sign."""
    from physadv.printing.layout import sign_page_layout

    page = sign_page_layout(paper, "clean").sign.w

    def width(place: SignLocation) -> float | None:
        if given is not None:
            return given
        return page if place.by == "fiducials" else asked.sign_width_mm

    return width


def lens_of(profile: Path | None, focal_px: float | None) -> LensFor:
    """The lens by profile or by focal length. Raises OptionError for both."""
    from physadv.camera.lens import lens_for
    from physadv.core.errors import OptionError

    if profile is not None and focal_px is not None:
        raise OptionError(
            "--camera-profile with --focal-px",
            "one of the two",
            "the profile holds the focal length",
        )
    return lens_for(profile, focal_px)


def geometry(
    profile: Path | None, focal_px: float | None, paper: str, sign_width_mm: float | None
) -> dict[str, Any]:
    """What distances rest on, for the record and the report."""
    from physadv.camera.lens import ASSUMED
    from physadv.printing.layout import sign_page_layout

    known = "profile" if profile else "typed" if focal_px else "assumed"
    words = {
        "profile": f"profile {profile.name if profile else ''}",
        "typed": f"focal length {focal_px or 0:g} px, as typed",
        "assumed": f"assumed: focal length {ASSUMED:g} times the picture's longer side",
    }[known]
    page = sign_width_mm or sign_page_layout(paper, "clean").sign.w
    return {"geometry": {"lens": known, "lens_words": words, "page_sign_mm": round(page, 1)}}


def parse_distance(text: str | None) -> float | None:
    """A distance as people write it, 2.5m, 250cm or 2.5, in meters. Raises OptionError for anything
    else."""
    import re

    from physadv.core.errors import OptionError

    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|cm|m)?\s*", text)
    if match is None:
        raise OptionError(f"--distance {text}", "a length is needed", "write 2.5m, 250cm or 2500mm")
    return float(match[1]) * {"mm": 0.001, "cm": 0.01, "m": 1.0}[match[2] or "m"]


def twin_summary(folder: Path | None, bundle: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the report says of a check of the twin, beside this one. Raises OptionError for one that
    was filmed."""
    from physadv.report.sim_to_real import stage_of_check

    return {} if folder is None else {"twin_check": stage_of_check(folder, bundle)}


def score_threshold(given: float | None, model: LoadedModel) -> float:
    """The option, else what the victim's card says, else the library's."""
    from physadv.check.frame_verdict import THRESHOLD

    return float(model.card.extra.get("score_threshold", THRESHOLD)) if given is None else given


def all_twins(*specs: str | None) -> bool:
    """Whether every source given is a twin's folder, whose signs need no finding."""
    return all((Path(s) / "truth.jsonl").is_file() for s in specs if s is not None)


def report_run(folder: Path, *, as_json: bool) -> None:
    """Write the report of a check's folder and say what is in it."""
    from physadv.report.check_report import write_check_report

    report = write_check_report(folder)
    said = {
        k: v
        for k, v in report.summary.items()
        if k not in {"patch_by_distance_and_yaw", "settings"}
    }
    finish(
        {"run": str(folder), **said}, as_json=as_json, summary=in_words(report.summary, report.html)
    )


def in_words(summary: Mapping[str, Any], html: Path) -> str:
    """The result for people, a line a block."""
    lines = ["simulation" if summary["simulation"] else "filmed", str(summary["headline"])]
    for name, b in summary["blocks"].items():
        lines.append(
            f"  {name:5}  goal met {b['attack_success_rate']:6.1%} [{b['low']:.1%}, "
            f"{b['high']:.1%}]  "
            f"true class {b['true_class_rate']:6.1%}  n {b['frames']}, clips {b['clips']}"
        )
    lines += [str(stage) for stage in summary["stages_in_words"]]
    lines += [str(line) for line in summary["missing"]]
    lines += [f"note: {note}" for note in summary["notes"]]
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    return "\n".join([*lines, f"report: {html}"]).replace("[", "\\[")


def recorded(options: Mapping[str, Any], asked: Asked, box: Box | None) -> dict[str, Any]:
    """What config.toml records: the options, and what they resolved to; addresses without their
    passwords."""
    from physadv.camera.open_source import public_address

    merged = {
        **options,
        **{k: v for k, v in vars(asked).items() if k not in {"about", "bundle"}},
        "box": box,
    }
    return {k: public_address(v) if isinstance(v, str) else v for k, v in merged.items()}


def parse_box(text: str | None) -> Box | None:
    """x0,y0,x1,y1 in pixels. Raises OptionError for anything else."""
    from physadv.core.errors import OptionError

    if text is None:
        return None
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError as error:
        limit = "four numbers x0,y0,x1,y1 are needed"
        raise OptionError(f"--box {text}", limit, "e.g. --box 410,220,610,420") from error
    return x0, y0, x1, y1


def parse_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT. Raises OptionError for anything else."""
    from physadv.core.errors import OptionError

    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise OptionError(
            f"--camera-size {text}", "WIDTHxHEIGHT is needed", "e.g. --camera-size 1280x720"
        )
    return int(width), int(height)


def draw_box(source: str, opening: Mapping[str, Any]) -> Box:
    """The box drawn on the source's first frame; the source is opened anew for the check."""
    from physadv.camera.open_source import open_frame_source
    from physadv.check.locators import select_box

    with open_frame_source(source, **opening) as opened:
        return select_box(next(iter(opened)))
