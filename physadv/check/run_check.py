"""The check: frames in, one row a frame out, judged by the victim in blocks clean, blank and patch.

The folder of a check holds rows.jsonl (written as it goes), check.json (what was asked, of what,
with which warnings) and examples/ (a few frames of each outcome). Tables and report are made from
these alone. The same check on the same folder goes on where it was stopped or killed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from physadv.camera.frames import BLOCKS, FrameSource
from physadv.camera.localization.by_markers import LEAST_PX
from physadv.camera.localization.location import Locator
from physadv.check.example_frames import ExampleFrames
from physadv.check.folder import EXAMPLES, ROWS, SETTINGS, assert_fresh, earlier_record
from physadv.check.frame_verdict import IOU, THRESHOLD, CardedModel, VerdictRule, verdict_rule
from physadv.check.live.remote_control import RemoteControl
from physadv.check.rates import count_noun
from physadv.check.session import BlockSource, CheckProgress, CheckSession
from physadv.check.stopping_rule import check_width
from physadv.core.errors import CaptureError, OptionError
from physadv.core.files import write_json
from physadv.core.rows import read_rows

MARGIN = 0.08
__all__ = [
    "EXAMPLES",
    "MARGIN",
    "ROWS",
    "SETTINGS",
    "BlockSource",
    "CheckProgress",
    "assert_fresh",
    "run_check",
]


def run_check(
    feeds: Sequence[BlockSource],
    model: CardedModel,
    *,
    folder: str | Path,
    locator: Locator,
    goal: str,
    true_class: str | int,
    target_class: str | int | None = None,
    threshold: float = THRESHOLD,
    iou: float = IOU,
    margin: float = MARGIN,
    batch: int = 16,
    max_frames: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    width: float | None = None,
    remote: RemoteControl | None = None,
    tell: Callable[[str], None] | None = None,
) -> Generator[CheckProgress, None, None]:
    """Judge every frame of ``feeds``; yield after each batch and each frame left out.

    Rows and settings lie in ``folder`` at any time.

    Classifiers see the sign's bounding square, wider by ``margin`` on each side, resized by area;
    detectors see the whole frame, and the sign counts as its class when a detection of it scores
    ``threshold`` or more and overlaps the sign's box by ``iou``. ``max_frames`` is a limit per
    block; ``width`` ends a block when its 95 % interval is that narrow. ``about`` is recorded as it
    is. ``remote`` lets somebody who watches name the block and end the check; ``tell`` is called
    with a line when a source is lost or comes back.

    A folder with rows of the same check, stopped before its end, is continued: files go on at the
    first frame not judged, live sources with clips of a new name. Raises OptionError for classes,
    goals and folders that do not fit, CaptureError when no frame could be judged, ModelError for
    NaN. Closing the generator ends the check; what was judged is kept.
    """
    target, card = Path(folder), model.card
    question = verdict_rule(
        card,
        goal=goal,
        true_class=true_class,
        target_class=target_class,
        threshold=threshold,
        iou=iou,
    )
    if not feeds:
        raise OptionError(
            "no source", "at least one is needed", "name a camera, a video or a folder"
        )
    check_width(width)
    settings = _settings(question, feeds, margin, seed, about)
    earlier = earlier_record(target, settings)
    session = CheckSession(
        target / ROWS,
        model,
        question,
        locator,
        ExampleFrames(seed),
        margin,
        max(1, batch),
        max_frames,
        device,
        width,
        remote or RemoteControl(),
    )
    settings |= {"width": width, "attempt": _take_up(session, target, earlier)}
    with _recorded(target, session, feeds, settings), _evaluating(model):
        total = _expected(feeds, max_frames)
        for feed in feeds:
            feed.source.tell = tell or session.remote.say
            yield from _drain(session, feed, total, settings["attempt"])
        if not any(session.kept.values()):
            why = (
                "; ".join(f"{n} {what}" for what, n in session.left_out.items())
                or "the sources gave none"
            )
            limit = f"{why}{_sizes(session)}"
            raise CaptureError(
                "no frame could be judged", limit, "try --locate, --box x0,y0,x1,y1 or --block"
            )


def _take_up(session: CheckSession, folder: Path, earlier: Mapping[str, Any] | None) -> int:
    """Count what earlier attempts judged; the number of this attempt."""
    if earlier is None:
        return 1
    rows = list(read_rows(folder / ROWS))
    session.remember(rows)
    session.examples.take_up(folder / EXAMPLES, rows)
    return int(earlier.get("attempt", 1)) + 1


def _drain(
    session: CheckSession, feed: BlockSource, total: int | None, attempt: int
) -> Iterator[CheckProgress]:
    """Judge one feed to its end, or until every block it can hold has its frames."""
    with feed.source as source:
        for frame in source:
            if session.remote.stopped:
                break
            if source.live and attempt > 1:  # clips are trials: those of another attempt are others
                frame = replace(frame, clip=f"take{attempt}-{frame.clip}")
            view = session.view(feed, frame)
            judged = view is not None and (session.add(view) or (source.live and session.flush()))
            if judged:
                session.examples.save_now_and_then(session.rows.parent / EXAMPLES)
            if (
                judged or view is None
            ):  # who holds a page up to a camera must see that it is not recognized
                yield session.progress(total)
            if _enough(session, feed):
                break
        else:
            session.lost |= source.live
        if session.flush():
            yield session.progress(total)


def _enough(session: CheckSession, feed: BlockSource) -> bool:
    """Whether more of this feed would be thrown away. Without a sure block, any block may still
    come."""
    blocks = BLOCKS if feed.block is None else (feed.block,)
    return all(session.full(block) for block in blocks)


def _expected(feeds: Sequence[BlockSource], max_frames: int | None) -> int | None:
    """How many frames will be judged at most, where all sources know their length."""
    expected = 0
    for feed in feeds:
        total = feed.source.total
        if total is None and max_frames is None:
            return None
        limit = None if max_frames is None else max_frames * (1 if feed.block else len(BLOCKS))
        expected += min(n for n in (total, limit) if n is not None)
    return expected


def _settings(
    question: VerdictRule,
    feeds: Sequence[BlockSource],
    margin: float,
    seed: int,
    about: Mapping[str, Any] | None,
) -> dict[str, Any]:
    card, target = question.card, question.target_class
    detects = card.task == "detect"
    return {
        "started": _now(),
        "status": "running",
        "victim": {"name": card.name, "task": card.task, "sha256": card.sha256},
        "goal": question.goal,
        "true_class": question.name(question.true_class),
        "target_class": None if target is None else question.name(target),
        "threshold": question.threshold if detects else None,
        "iou": question.iou if detects else None,
        "margin": None if detects else margin,
        "seed": seed,
        "simulation": any(f.source.simulation for f in feeds),
        "asked_of": [[f.source.name, f.block or f.fallback] for f in feeds],
        **(about or {}),
    }


def _refusals(session: CheckSession) -> list[str]:
    """What was seen too small to be measured."""
    if not session.refused_px:
        return []
    frames = count_noun(len(session.refused_px), "frame")
    return [f"{frames} refused{_sizes(session)}: come closer, or print the signs larger"]


def _sizes(session: CheckSession) -> str:
    px = session.refused_px
    return f" (markers of {min(px):.0f} to {max(px):.0f} px, {LEAST_PX:g} are needed)" if px else ""


@contextmanager
def _recorded(
    folder: Path, session: CheckSession, feeds: Sequence[BlockSource], settings: dict[str, Any]
) -> Iterator[None]:
    """check.json before the first frame and after the last, whatever ends the run."""
    write_json(folder / SETTINGS, settings)
    status = "stopped"
    try:
        yield
        status = "stopped" if session.remote.stopped else "lost" if session.lost else "complete"
    finally:
        for feed in feeds:
            feed.source.close()
        session.examples.save(folder / EXAMPLES)
        settings |= {
            "status": status,
            "finished": _now(),
            "sources": [_described(f.source, f) for f in feeds],
            "located_by": {block: dict(ways) for block, ways in session.located.items()},
            "left_out": dict(session.left_out),
            "warnings": [w for f in feeds for w in f.source.warnings]
            + [f"{n} {what}" for what, n in session.contradicted.items()]
            + _refusals(session),
        }
        write_json(folder / SETTINGS, settings)


@contextmanager
def _evaluating(model: object) -> Iterator[None]:
    """Evaluation mode for the time of the check; every module's own flag is put back."""
    modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
    flags = [m.training for m in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


def _described(source: FrameSource, feed: BlockSource) -> dict[str, Any]:
    sorting = "by name or markers" + (f", else {feed.fallback}" if feed.fallback else "")
    return {
        "name": source.name,
        "kind": source.kind,
        "live": source.live,
        "simulation": source.simulation,
        "block": feed.block or ("by truth.jsonl" if source.kind == "twin" else sorting),
        "settings": source.settings,
    }


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
