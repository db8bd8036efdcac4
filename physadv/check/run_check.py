"""The check: one row per frame, classified by the model, in the blocks clean, blank and patch.

The folder of a check holds rows.jsonl (appended as frames are classified), check.json (settings,
sources and warnings) and examples/ (a few frames of each outcome). Tables and report are computed
from these alone. The same check on the same folder resumes where it was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from physadv.camera.frames import BLOCKS, CameraFrame, FrameSource
from physadv.camera.localization.by_markers import LEAST_PX
from physadv.camera.localization.location import Locator, SignLocation
from physadv.check.example_frames import ExampleFrames
from physadv.check.folder import EXAMPLES, ROWS, SETTINGS, assert_fresh, earlier_record
from physadv.check.frame_verdict import IOU, CardedModel, VerdictRule, verdict_rule
from physadv.check.live.remote_control import RemoteControl
from physadv.check.located_frames import LocatedFrames
from physadv.check.page_identity import PageIdentity
from physadv.check.session import BlockSource, CheckProgress, CheckSession
from physadv.check.stopping_rule import check_width
from physadv.core.errors import CaptureError, OptionError
from physadv.core.files import contents_digest, write_json
from physadv.core.rows import read_rows
from physadv.core.torch_threads import calm_threads, cores_beside
from physadv.core.wording import count_noun
from physadv.evaluation.subject import state_digest

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
    threshold: float | None = None,
    iou: float = IOU,
    margin: float = MARGIN,
    batch: int = 16,
    max_frames: int | None = None,
    device: str = "cpu",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    width: float | None = None,
    remote: RemoteControl | None = None,
    on_message: Callable[[str], None] | None = None,
) -> Generator[CheckProgress, None, None]:
    """Classify every frame of ``feeds``; rows and settings are on disk at any time.

    A classifier receives the sign's bounding square, widened by ``margin`` on each side and resized
    by area; a detector receives the whole frame. A folder with rows of the same check, interrupted
    before its end, is continued: files from the first frame without a row, live sources with clips
    of a new name. Closing the generator ends the check; rows written so far are kept.

    Args:
        feeds: Sources of frames, with their blocks.
        model: Model under test, with its card.
        folder: Folder of the check.
        locator: Finds the sign in a frame.
        goal: One of ``physadv.threat.patch_goals.GOALS``.
        true_class: Class of the sign or object, by name or by index, as in
            :func:`physadv.check.frame_verdict.verdict_rule`.
        target_class: Class aimed at; needed for "targeted" and "create".
        threshold: Score in (0, 1] from which a detection counts; None: the card's, else 0.25.
        iou: Overlap in (0, 1] from which a detection belongs to the sign.
        margin: Share of the sign's side added on each side of a classifier's crop.
        batch: Frames per forward pass.
        max_frames: Most frames per block.
        device: Device of the model.
        seed: Seed of the example frames.
        about: Further entries of check.json.
        run_id: Run whose printed pages the frames must show; None where that is not known.
        width: Width of the 95 % interval at which a block is finished; None films to the end.
        remote: Input of a person who watches.
        on_message: Called with a line when a source is lost or returns.

    Yields:
        The progress after each batch and after each frame left out.

    Raises:
        OptionError: Classes, goal, width or folder do not fit.
        CaptureError: No frame could be classified.
        ModelError: The model returned NaN or infinite scores.
    """
    target, card = Path(folder), model.card
    rule = verdict_rule(
        card,
        goal=goal,
        true_class=true_class,
        target_class=target_class,
        threshold=threshold,
        iou=iou,
    )

    if not feeds:
        raise OptionError(
            "no source", "at least one is needed", "Name a camera, a video or a folder"
        )
    check_width(width)

    settings = _settings(rule, feeds, margin, seed, about, str(true_class))
    settings |= _hashes(model, feeds)
    earlier = earlier_record(target, settings)

    session = CheckSession(
        target / ROWS,
        model,
        rule,
        locator,
        ExampleFrames(seed),
        margin,
        max(1, batch),
        max_frames,
        device,
        width,
        remote or RemoteControl(),
        pages=PageIdentity.of_run(run_id),
    )

    settings |= {"width": width, "attempt": _take_up(session, target, earlier)}
    # Decoding and locating take a core of their own: a model that shares it waits for its threads.
    threads = min(torch.get_num_threads(), cores_beside(1))
    with (
        calm_threads(threads),
        _recorded(target, session, feeds, settings),
        _evaluating(model),
    ):
        total = _expected(feeds, max_frames)
        for feed in feeds:
            feed.source.on_message = on_message or session.remote.set_note
            yield from _drain(session, feed, total, settings["attempt"])
        if not any(session.kept.values()):
            reasons = (
                "; ".join(f"{n} {what}" for what, n in session.left_out.items())
                or "the sources gave none"
            )
            limit = f"{reasons}{_sizes(session)}"
            if session.pages.foreign:
                raise CaptureError(
                    f"the frames show another patch than that of run {run_id}",
                    reasons,
                    "Name the bundle that was printed, or print this one's test signs",
                )
            raise CaptureError(
                "no frame could be classified", limit, "Try --locate, --box x0,y0,x1,y1 or --block"
            )


def _take_up(session: CheckSession, folder: Path, earlier: Mapping[str, Any] | None) -> int:
    """Count the rows of earlier attempts; return the number of this attempt."""
    if earlier is None:
        return 1

    rows = list(read_rows(folder / ROWS))
    session.remember(rows)
    session.pages.remember(earlier.get("pages") or {})
    session.examples.resume(folder / EXAMPLES, rows)
    return int(earlier.get("attempt", 1)) + 1


def _drain(
    session: CheckSession, feed: BlockSource, total: int | None, attempt: int
) -> Iterator[CheckProgress]:
    """Classify one feed to its end, or until every block that it can hold is finished."""
    source = feed.source

    def locate(frame: CameraFrame) -> tuple[CameraFrame, SignLocation | None]:
        # Clips are trials: those of another attempt are not the same ones.
        if source.live and attempt > 1:
            frame = replace(frame, clip=f"take{attempt}-{frame.clip}")
        return session.locate(feed, frame)

    with LocatedFrames(source, locate) as frames:
        for located in frames:
            if session.remote.stopped:
                break

            view = session.view(located)
            judged = view is not None and (session.add(view) or (source.live and session.flush()))
            if judged:
                session.examples.save_periodically(session.rows.parent / EXAMPLES)

            # A person who holds a page up to a camera must be shown that it is not recognized.
            if judged or view is None:
                yield session.progress(total)
            if _enough(session, feed):
                break
        else:
            session.lost |= source.live

        if session.flush():
            yield session.progress(total)


def _enough(session: CheckSession, feed: BlockSource) -> bool:
    """Return whether further frames of this feed would be discarded; an unsorted feed may hold any
    block."""
    blocks = BLOCKS if feed.block is None else (feed.block,)
    return all(session.full(block) for block in blocks)


def _expected(feeds: Sequence[BlockSource], max_frames: int | None) -> int | None:
    """Return the most frames that can be classified; None where a source has no known length."""
    expected = 0
    for feed in feeds:
        total = feed.source.total
        if total is None and max_frames is None:
            return None
        limit = None if max_frames is None else max_frames * (1 if feed.block else len(BLOCKS))
        expected += min(n for n in (total, limit) if n is not None)
    return expected


def _settings(
    rule: VerdictRule,
    feeds: Sequence[BlockSource],
    margin: float,
    seed: int,
    about: Mapping[str, Any] | None,
    carrier: str,
) -> dict[str, Any]:
    card = rule.card
    detects = card.task == "detect"
    return {
        "started": _now(),
        "status": "running",
        "victim": {"name": card.name, "task": card.task, "sha256": card.sha256},
        **rule.claim(carrier),
        "threshold": rule.threshold if detects else None,
        "iou": rule.iou if detects else None,
        "margin": None if detects else margin,
        "seed": seed,
        "simulation": any(f.source.simulation for f in feeds),
        "live": any(f.source.live for f in feeds),
        "asked_of": [[f.source.name, f.block or f.fallback] for f in feeds],
        **(about or {}),
    }


def _hashes(model: object, feeds: Sequence[BlockSource]) -> dict[str, str]:
    """Hashes by which an interrupted check knows its films, photos and the model's weights again;
    that of cameras is empty."""
    recorded = [feed.source.name for feed in feeds if not feed.source.live]
    state = state_digest(model) if isinstance(model, torch.nn.Module) else ""
    return {"contents": contents_digest(recorded), "victim_state": state}


def _speed(session: CheckSession) -> dict[str, Any]:
    """Return the speed for check.json; empty where fewer than two frames were classified."""
    speed = session.speed.overall()
    return {} if speed is None else {"speed": speed.as_dict()}


def _refusals(session: CheckSession) -> list[str]:
    """Return a warning about signs too small to be measured."""
    if not session.refused_px:
        return []
    frames = count_noun(len(session.refused_px), "frame")
    return [f"{frames} refused{_sizes(session)}. Come closer, or print the signs larger"]


def _sizes(session: CheckSession) -> str:
    px = session.refused_px
    return f" (markers of {min(px):.0f} to {max(px):.0f} px, {LEAST_PX:g} are needed)" if px else ""


@contextmanager
def _recorded(
    folder: Path, session: CheckSession, feeds: Sequence[BlockSource], settings: dict[str, Any]
) -> Iterator[None]:
    """Write check.json before the first frame and after the last, whatever ends the run."""
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
            **session.pages.as_record(),
            **_speed(session),
            "warnings": [w for f in feeds for w in f.source.warnings]
            + [f"{n} {what}" for what, n in session.contradicted.items()]
            + _refusals(session),
        }
        write_json(folder / SETTINGS, settings)


@contextmanager
def _evaluating(model: object) -> Iterator[None]:
    """Switch ``model`` to evaluation mode, and restore every module's own flag afterwards."""
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
