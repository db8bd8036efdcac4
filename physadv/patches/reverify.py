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
    """Result of a verification.

    Attributes:
        claimed: Success on the card.
        measured: Rates measured now.
        agrees: Whether the one lies within the interval of the other.
    """

    claimed: RateInterval
    measured: PatchMeasurement
    agrees: bool


def config_from_bundle(bundle: PatchBundle, *, eot: str | None = None) -> PatchConfig:
    """Return the configuration on the card of a bundle.

    Args:
        bundle: The bundle.
        eot: Pipeline in place of the card's; needed where the card names one of its maker's own,
            since no code is run because a file names it.

    Returns:
        The configuration.

    Raises:
        BundleError: There is none, or only the card names the pipeline.
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
    """Refuse a bundle whose card names a model that would run foreign code.

    Args:
        bundle: The bundle.
        names: Models on the card, each NAME or NAME=WEIGHTS.
        named_by_user: Models that the user named, which are allowed.

    Raises:
        BundleError: The card names a model that is neither built in nor named by the user.
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
    """Return a configuration with the files on the card where they lie now.

    Args:
        config: Configuration of the card.
        bundle: The bundle, whose folder is searched as well.
        data: Folder under which the data sets pose.

    Returns:
        The configuration with paths that exist.

    Raises:
        DataError: A file is nowhere; the error says how the card obtains it.
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
        ):  # the model's own error says where its weights come from
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
    """Measure the held-out success of a bundle again, by default on the draws of its card.

    Args:
        bundle: The bundle.
        given: Files in place of the card's (:data:`FILES`), and as "model" and "eot" the model and
            the pipeline, which must be given where the card names foreign ones.
        data: Folder under which the data sets pose.
        fresh: Take new draws, a sharper test.
        draws: Number of scenes; None for the card's.
        report: Called with the number of scenes done.

    Returns:
        Both rates, and whether they agree: the new rate lies in the card's interval or, for new or
        fewer draws, the intervals overlap.

    Raises:
        BundleError: The model's weights are not those on the card, or it names foreign code.
        DataError: A data set on the card is not found.
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
            f"model {model.card.name} {model.card.sha256[:12]}",
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
