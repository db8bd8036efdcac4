"""Rates of a check of the twin by camera, on the card of the bundle that was filmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from physadv.check.rates import tabulate_rates
from physadv.check.run_check import ROWS, SETTINGS
from physadv.core.errors import OptionError
from physadv.core.members import member_of
from physadv.core.rows import Row, read_rows
from physadv.core.tables import read_table
from physadv.patches.bundle import ModelInfo, PatchBundle, TwinRates, TwinRecord, write_card


def record_twin(bundle: PatchBundle, folder: str | Path) -> PatchBundle:
    """Write the rates of a check of the twin on a bundle's card, in place of those by its model.

    Args:
        bundle: Bundle that was filmed.
        folder: Folder of the finished check.

    Returns:
        The bundle with the new card.

    Raises:
        OptionError: The check is of a camera, of another bundle, of a part of the film or not
            finished.
        BundleError: The card cannot be written.
    """
    record = twin_record(bundle, folder)
    kept = [one for one in bundle.card.twin if one.victim.name != record.victim.name]
    changed = replace(bundle, card=replace(bundle.card, twin=(*kept, record)))
    write_card(changed)
    return changed


def twin_record(bundle: PatchBundle, folder: str | Path) -> TwinRecord:
    """Return the rates of the check of the twin in ``folder``, over all frames and by camera.

    Raises:
        OptionError: As in :func:`record_twin`.
    """
    root = Path(folder)
    record = read_table(member_of(root, SETTINGS), finite=False)
    film = _film_of(record, bundle, root)
    rows = list(read_rows(member_of(root, ROWS)))

    cameras = [str(camera["name"]) for camera in film["cameras"]]
    groups: dict[str, list[Row]] = {"all": rows} | {name: [] for name in cameras}
    for row in rows:
        # Clips are called block-NUMBER, and the cameras take turns.
        groups[cameras[int(str(row["clip"]).rpartition("-")[2]) % len(cameras)]].append(row)

    victim = record["victim"]
    return TwinRecord(
        victim=ModelInfo(victim["name"], victim["task"], victim.get("sha256", "")),
        goal=str(record["goal"]),
        seed=int(film["seed"]),
        clips=int(film["clips"]),
        frames=int(film["frames"]),
        cameras=tuple(_rates(name, own) for name, own in groups.items() if own),
        score_threshold=record.get("threshold"),
    )


def _rates(camera: str, rows: Sequence[Row]) -> TwinRates:
    """The rates of one camera, whose trials are clips."""
    table = tabulate_rates(rows)
    return TwinRates(
        camera,
        success=table["patch"].attack,
        blank_success=table["blank"].attack,
        clean_recognised=table["clean"].true,
    )


def _film_of(record: dict[str, Any], bundle: PatchBundle, folder: Path) -> dict[str, Any]:
    """The settings of the twin's film that was checked."""
    sources = record.get("sources") or []
    films = [source["settings"].get("twin") for source in sources if source.get("simulation")]
    reason = ""
    if len(sources) != 1 or len(films) != 1 or not films[0]:
        reason = "is no check of one film of the twin"
    elif films[0].get("run_id") != bundle.card.patch.run_id:
        reason = f"is of run {films[0].get('run_id')}, the bundle of {bundle.card.patch.run_id}"
    elif record.get("status") != "complete" or not films[0].get("complete"):
        reason = "did not end"
    elif record.get("left_out"):
        reason = "left frames out"
    elif films[0].get("without"):
        reason = f"leaves out {', '.join(films[0]['without'])}"
    if reason:
        raise OptionError(
            f"{folder}: {reason}",
            "A card records finished checks of the whole twin",
            "Film the bundle with `physadv twin`, and check that",
        )
    return dict(films[0])
