"""Second measurement of a bundle: its task is rebuilt from its card and compared with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from physadv.core.errors import BundleError, DataError
from physadv.core.members import member_of
from physadv.eot.presets import ranges_from_table
from physadv.eot.ranges import NOTHING, EotRanges
from physadv.eot.scenes.load import PLAIN_NOTE
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.cards import LoadedModel
from physadv.models.load import is_built_in
from physadv.models.loading import is_import_path
from physadv.patches.bundle import PatchBundle
from physadv.patches.by_distance import bin_rates, differing_bins
from physadv.patches.config import PROFILES, PatchConfig
from physadv.patches.face_rates import FaceRates, rates_by_face
from physadv.patches.optimize import PatchMeasurement, measure_patch
from physadv.patches.task import PatchTask
from physadv.patches.victim_hashes import (
    are_comparable,
    is_same_weights,
    recorded_hashes,
    weight_hash,
)


@dataclass(frozen=True)
class VerifyOutcome:
    """Success on a bundle's card beside a new measurement.

    Args:
        claimed: Success on the card.
        measured: Rates measured now.
        agrees: Whether they agree (:func:`verify_bundle`).
        bins: Rates measured now by distance and by angle, as
            :func:`physadv.patches.by_distance.bin_rates` returns them.
        differing: A line for each of these bins whose success is not that of the card.
        by_face: Rates measured now on each held-out face and on real photos.
    """

    claimed: RateInterval
    measured: PatchMeasurement
    agrees: bool
    bins: dict[str, Any] = field(default_factory=dict)
    differing: tuple[str, ...] = ()
    by_face: tuple[FaceRates, ...] = ()


def config_from_bundle(bundle: PatchBundle, *, eot: str | None = None) -> PatchConfig:
    """Return the configuration that the card of ``bundle`` records.

    ``eot`` takes the place of the card's pipeline. A card that names one of its maker's own needs
    it: code is run because the user names it, never because a file does.

    Raises:
        BundleError: The card records none, or names a pipeline that the user does not.

    Example:
        >>> from physadv.patches.bundle import read_bundle
        >>> config_from_bundle(read_bundle("stop-sticker-signs-v1")).goal
        'untargeted'
    """
    table: dict[str, Any] = dict(bundle.card.optimisation)
    if not {"victim", "goal", "seed"} <= set(table):
        raise BundleError(
            f'The card of "{bundle.folder}" records no configuration',
            "[optimisation] with victim, goal and seed is needed",
            "Make the patch again",
        )
    named = str(table.get("eot", "default"))
    if eot is None and is_import_path(named):
        raise BundleError(
            f'The card of "{bundle.folder}" names the EOT pipeline {named!r}',
            "No code is run because a card names it",
            f"Read that code; if you trust it, pass --eot {named}",
        )
    if eot is not None:
        table["eot"] = eot
    return PatchConfig.from_card_table(table)


def refuse_foreign_models(
    bundle: PatchBundle, names: Iterable[str], *, named_by_user: Collection[str] = ()
) -> None:
    """Refuse models that would run code because a card names them.

    Args:
        bundle: The bundle, for errors.
        names: Models on its card, each NAME or NAME=WEIGHTS.
        named_by_user: Models that the user asked for by name, which are allowed.

    Raises:
        BundleError: A name is neither built in nor named by the user.
    """
    for text in names:
        name = text.partition("=")[0]
        if name not in named_by_user and not is_built_in(name):
            raise BundleError(
                f'The card of "{bundle.folder}" names the model "{name}"',
                "a bundle may name built-in models only, since a file or a module runs its code",
                f"Name it yourself if you trust it: --model {name}"
                if ":" in name or Path(name).suffix
                else "If you trust it, name the file or module that was attacked with --model",
            )


_FILE_FIELDS = ("weights", "signs", "backgrounds", "photos", "boxes", "content", *PROFILES)


def locate_files(config: PatchConfig, bundle: PatchBundle, data: Path | None = None) -> PatchConfig:
    """Return a card's configuration with its files where they are now.

    Args:
        config: Configuration that the card records.
        bundle: The bundle; files are looked for here, under ``data`` and in its folder, profiles in
            the opposite order, since the bundle keeps its own.
        data: Folder that holds the data sets named on the card.

    Returns:
        The configuration with the paths that exist. Weights that do not are left out, since the
        model's own error names their source.

    Raises:
        DataError: A file is nowhere; the remedy is the source that the card records.
    """
    paths: dict[str, Any] = {}
    for key in _FILE_FIELDS:
        named = getattr(config, key)
        if not named:
            continue
        if isinstance(named, tuple):
            paths[key] = tuple(_locate(bundle, key, name, data) for name in named)
        else:
            paths[key] = _locate(bundle, key, named, data)
    ensemble = tuple(_located_model(text, bundle, data) for text in config.ensemble)
    return replace(config, ensemble=ensemble, **paths)


def _located_model(text: str, bundle: PatchBundle, data: Path | None) -> str:
    """A model of an ensemble, NAME or NAME=WEIGHTS, with its weights where they are now."""
    name, _, weights = text.partition("=")
    if not weights:
        return text
    candidates = _candidates(weights, bundle, data)
    path = next((file for file in candidates if file.is_file()), None)
    return name if path is None else f"{name}={path}"


def _locate(bundle: PatchBundle, key: str, name: str, data: Path | None) -> str | None:
    """Where the file or folder ``name`` of a field is now; None for weights that are nowhere."""
    candidates = _candidates(name, bundle, data)
    if key in PROFILES:
        candidates.reverse()
    path = next((file for file in candidates if file.exists()), None)
    if path is None and key != "weights":
        raise _missing_file(bundle, key, name)
    return None if path is None else str(path)


def _candidates(name: str, bundle: PatchBundle, data: Path | None) -> list[Path]:
    """Where the file or folder may lie that a card calls ``name``: here, under ``data``, and in the
    bundle. A card may come from elsewhere, so that no other place is looked at."""
    roots = [Path(), *([data] if data else [])]
    places = [root / name for root in roots if _lies_below(root, name)]
    own = Path(name).name
    if own in ("", ".."):  # the working folder, or one above it
        return places
    return [*places, member_of(bundle.folder, own, error=BundleError)]


def _lies_below(root: Path, name: str) -> bool:
    """Whether ``name``, absolute or not, leads into ``root``."""
    top, path = (os.path.normpath(Path.cwd() / place) for place in (root, root / name))
    return os.path.commonpath([top, path]) == top  # links are the user's own, and stay


def _missing_file(bundle: PatchBundle, key: str, name: str) -> DataError:
    source = bundle.card.data.get(name) or bundle.card.data.get(name.split("/")[0], "")
    hint = f" ({source})" if source else ""
    if Path(name).exists():
        return DataError(
            f'"{name}", named on the card of {bundle.card.patch.name}, lies elsewhere',
            "A card reaches into the working folder, --data-folder and its own bundle alone",
            f"Give --{key.replace('_', '-')} {name}, or --data-folder {Path(name).parent}",
        )
    return DataError(
        f'"{name}", named on the card of {bundle.card.patch.name}, is not found',
        "It is needed to measure the patch as before",
        f"Give --{key} or --data-folder FOLDER that holds it{hint}",
    )


def recorded_ranges(config: PatchConfig, bundle: PatchBundle) -> EotRanges | None:
    """Return the ranges of EOT that the card of ``bundle`` records.

    They are what its draws were made from: a preset narrowed to what the victim reads, with the
    ranges of a file and a camera over it.

    Args:
        config: Configuration of the measurement.
        bundle: The bundle.

    Returns:
        The ranges; None where ``config`` names another preset than the card, or the card has none.

    Raises:
        OptionError: The card's ranges are none.
    """
    is_own = config.eot == bundle.card.optimisation.get("eot", "default")
    if not bundle.card.eot or not (is_own or config.eot_ranges):
        return None
    card = f"{bundle.folder}: [eot]"
    return replace(NOTHING, **ranges_from_table(bundle.card.eot, card))


def verify_bundle(
    bundle: PatchBundle,
    *,
    given: Mapping[str, str | Sequence[str] | None] | None = None,
    data: Path | None = None,
    fresh: bool = False,
    draws: int | None = None,
    report: Callable[[int], None] | None = None,
) -> VerifyOutcome:
    """Measure a bundle's held-out success again and compare it with its card.

    On the card's own draws, whose photos are the same, the two agree where the new rate lies in
    Wilson's interval of the card's, and that of every bin of distance and angle in its own; on
    other draws, or another number of them, where the two intervals overlap. Bins that differ there
    are named, but decide nothing: of a dozen intervals one may miss by chance.

    Args:
        bundle: The bundle.
        given: What takes the place of files on the card and, as "model" and "eot", of its model
            and pipeline, which have to be given where they are not built in.
        data: Folder that holds the data sets named on the card.
        fresh: Whether to take new draws, which is a sharper test.
        draws: Number of draws; None for the card's.
        report: Called with the number of draws so far.

    Returns:
        Both rates, and whether they agree.

    Raises:
        BundleError: The weights or profiles are not those on the card, or the card names foreign
            code.
        DataError: A file named on the card is nowhere.
    """
    chosen: dict[str, Any] = {k: v for k, v in (given or {}).items() if v is not None}
    recorded = config_from_bundle(bundle, eot=chosen.pop("eot", None))
    config = replace(recorded, **chosen, device="cpu")
    trusted = [chosen.get("model", "")]
    refuse_foreign_models(bundle, (config.model, *config.ensemble), named_by_user=trusted)
    config = locate_files(config, bundle, data)
    _check_profiles(bundle, config)

    task = PatchTask.from_config(
        config, ranges=recorded_ranges(config, bundle), plain_backgrounds=recorded_plain(bundle)
    )
    _check_weights(bundle, task.loaded_model)
    draws = draws or config.test_draws
    name = "fresh" if fresh else "test"
    task = replace(task, mask=bundle.mask)
    measured = measure_patch(task, bundle.patch, draws=draws, name=name, report=report)

    claimed = RateInterval(**bundle.card.heldout["success"])
    now = measured.success
    same_draws = not fresh and draws == config.test_draws
    bins = bin_rates(task, measured.rows, has_sign=config.object == "sign")
    differing = differing_bins(bundle.card.heldout, bins, same_draws=same_draws)
    agrees = rates_agree(claimed, now, same_draws=same_draws)
    if same_draws:
        agrees = agrees and not differing
    faces = task.scene_sources.held_out_faces
    by_face = tuple(rates_by_face(measured.rows, faces)) if faces else ()
    return VerifyOutcome(claimed, measured, agrees, bins, tuple(differing), by_face)


def rates_agree(claimed: RateInterval, now: RateInterval, *, same_draws: bool) -> bool:
    """Return whether a rate measured ``now`` agrees with the one ``claimed`` on a card.

    On the same draws, whose photos are no source of chance, the new rate has to lie in Wilson's
    interval of the claimed one; on others the two intervals have to overlap. A rate of no draws
    agrees with none but another such.

    Example:
        >>> rates_agree(wilson_interval(9, 10), wilson_interval(2, 10), same_draws=True)
        False
    """
    if claimed.n == 0 or now.n == 0:
        return claimed.n == now.n
    if not same_draws:
        return now.low <= claimed.high and claimed.low <= now.high
    same = wilson_interval(round(claimed.rate * claimed.n), claimed.n)
    return same.low - 1e-9 <= now.rate <= same.high + 1e-9


def recorded_plain(bundle: PatchBundle) -> bool:
    """Return whether the draws on the card of ``bundle`` stand before plain backgrounds made by
    code: all without photos did before streets were drawn."""
    return PLAIN_NOTE in bundle.card.heldout.get("notes", ())


def _check_profiles(bundle: PatchBundle, config: PatchConfig) -> None:
    """Raise BundleError where a profile is not the one that the card records."""
    for key, actual in config.profile_checksums().items():
        recorded = bundle.card.optimisation.get(key)
        if recorded and recorded != actual:
            name = key.removesuffix("_sha256")
            raise BundleError(
                f'In "{bundle.folder}" the {name} has sha256 {actual[:12]}',
                f"The card records {str(recorded)[:12]}",
                "Restore the profile that it was made with, or make the patch again",
            )


def _check_weights(bundle: PatchBundle, model: LoadedModel) -> None:
    """Raise BundleError where the model's weights are not those on the card."""
    recorded, actual = bundle.card.victim.sha256, model.card.sha256
    if recorded and actual and recorded != actual:
        raise BundleError(
            f'Model "{model.card.name}" has weights with sha256 {actual[:12]}',
            f"The card was measured on {recorded[:12]}",
            "Give those weights with --weights, or make the patch again",
        )
    first, hashed = recorded_hashes(bundle.card.optimisation)[:1], weight_hash(model)
    if any(are_comparable(own, hashed) and not is_same_weights(own, hashed) for own in first):
        raise BundleError(
            f'Model "{model.card.name}" has weights of hash {hashed}',
            f"The card was measured on {first[0]}",
            "Let its factory load those weights, or make the patch again",
        )
