"""``physadv models``: the models known by name, their cards, their weights, and checks of a
model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv.core.addresses import public_address
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.config import ModelCheckConfig
from physadv_cli import options
from physadv_cli.configured import from_config
from physadv_cli.runs import (
    RunOptions,
    begin_report,
    code_typed,
    console,
    print_entry,
    print_findings,
    queries_sent,
    query_lines,
)

if TYPE_CHECKING:
    from torch import Tensor

    from physadv.evaluation.model_check import Accuracy, PictureAnswer
    from physadv.models.cards import ModelCard

_MOST_PHOTOS = 12
_MANY = 8
"""Entries of a list from which the table shows the first four and the last."""

_GROUPS = {
    "ready": "Ready: their weights are here",
    "fetchable": "Fetchable: not here yet, by command or from a file",
    "yours": "Yours: anything that --model names",
}
_OWN_FORMS = {
    "model.onnx": "ONNX, by torch with gradients or asked through onnxruntime",
    "model.ts, model.pt2": "TorchScript, torch.export",
    "my_models:make": "a function in your Python file; weights with --weights",
    "timm:NAME@FILE, hf:FOLDER": "timm, transformers: local weights",
    "torchvision:NAME, ultralytics:FILE": "their classifiers and detectors",
    "http://..., command:...": "a model that only answers",
    "NAME+DEFENSE": "any of them behind a defense",
}
"""Forms of models of the user's own, with what they are."""

Name = Annotated[str, typer.Argument(help="A name from `physadv models list`.", metavar="NAME")]
Model = Annotated[
    str, typer.Argument(help="A name, a model file, or module:factory.", metavar="MODEL")
]


def register(app: typer.Typer, panel: str) -> None:
    """Attach the commands to ``app``, listed under ``panel``."""
    models = typer.Typer(
        help="The models known by name: list, show, fetch; check of any model.",
        no_args_is_help=True,
    )
    models.command("list")(list_models)
    models.command("show")(show)
    fetch.spellings = {"from": "source"}  # type: ignore[attr-defined]
    models.command("fetch")(fetch)
    models.command("check")(from_config(check, ModelCheckConfig, out=None))
    app.add_typer(models, name="models", rich_help_panel=panel)


def list_models(
    json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False
) -> None:
    """List the models that can be named: ready, to be fetched, and your own.

    Example: physadv models list
    """
    from physadv.models.load import list_models, remedy_for, weights_of

    run = begin_report("models list", json=json, quiet=quiet, verbose=verbose)
    rows, groups = [], dict.fromkeys(_GROUPS, 0)
    entries: dict[str, list[tuple[str, str]]] = {name: [] for name in _GROUPS}
    for card in list_models():
        installed = weights_of(card.name) is not None
        group = "ready" if installed else "fetchable"
        remedy = "" if installed else remedy_for(card.name)
        facts = [card.task, count_noun(len(card.classes), "class"), card.licence, remedy]
        entries[group].append((card.name, "; ".join(filter(None, facts))))
        groups[group] += 1
        rows.append({**card.as_dict(), "here": installed, "group": group})
    for form, meaning in _OWN_FORMS.items():
        entries["yours"].append((form, meaning))

    for name, title in _GROUPS.items():
        if name == "yours" or groups[name]:
            console.print(f"\n{title}", style="bold")
            for head, detail in entries[name]:
                print_entry(head, detail)
    own = [{"form": form, "meaning": meaning} for form, meaning in _OWN_FORMS.items()]
    run.finish(
        {"victims": rows, "yours": own},
        f"{groups['ready']} models are ready, {groups['fetchable']} more by name.",
    )


def show(
    model: Model,
    weights: options.Weights = None,
    trust: options.Trust = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show the card of a model: classes, license, source, data, sha256, accuracy.

    Example: physadv models show fastestdet
    """
    from rich.table import Table

    from physadv.defenses.load_model import load_model
    from physadv.models.load import card_of, list_models, weights_of

    run = begin_report("models show", json=json, quiet=quiet, verbose=verbose)
    is_known = model in {card.name for card in list_models()}
    from_card = is_known and weights is None
    with code_typed([model], trust=trust):
        card = card_of(model) if from_card else load_model(model, weights=weights).card
    result = {**card.as_dict(), "weights": weights or (weights_of(model) if is_known else None)}

    # Long entries of the card's own are left to --json.
    extra: dict[str, Any] = result.pop("extra", None) or {}
    plain = {key: value for key, value in extra.items() if isinstance(value, str | int | float)}
    table = Table(box=None, show_header=False)
    for key, value in (result | plain).items():
        if value and key != "name":
            table.add_row("license" if key == "licence" else key, _in_words(value))
    if len(plain) < len(extra):
        table.add_row("more", f"{', '.join(k for k in extra if k not in plain)}: with --json")

    console.print(table)
    summary = f"{card.name}: a model to {card.task}."
    run.finish({**result, "extra": extra}, summary)


def fetch(
    name: Name,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Another address, or a file copied here.", metavar="URL|PATH"
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--accept-license", "--yes", "-y", help="Accept source and license without a question."
        ),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Fetch the weights of a model into the cache, once you accept their source and license.

    The sha256 is pinned: another file is refused.

    Example: physadv models fetch fastestdet --accept-license
    """
    from physadv.core.errors import OptionError
    from physadv.models import fetch as fetching
    from physadv.models.faces.embedders import FETCHABLE
    from physadv.models.load import card_of, weights_of

    run = begin_report("models fetch", json=json, quiet=quiet, verbose=verbose)
    is_embedder = name in FETCHABLE
    card = FETCHABLE[name] if is_embedder else card_of(name)
    installed = fetching.cached_weights(card) if is_embedder else weights_of(name)
    if installed is not None and source is None:
        run.finish(
            {"name": name, "path": installed, "fetched": False}, f"{name} is installed: {installed}"
        )
        return

    fetching.require_fetchable(card, source)
    _print_origin(card, source)
    if not yes and not _accepted():
        raise OptionError(
            f"The license of '{name}' was not accepted",
            "weights are fetched only with it",
            "Give --accept-license once you accept it",
        )
    path = _fetch(card, source)
    run.finish({"name": name, "path": path, "fetched": True}, f"{name} is installed: {path}")


def check(config: ModelCheckConfig, run: RunOptions) -> None:
    """Check how a model reads images and what it answers, before an attack is run on it.

    Outputs, gradients, input size, normalization, parameters and speed are told; with --photos its
    best classes on them, with --data its accuracy and whether it would be better with colors
    swapped, another normalization or another order of classes. --html writes all of it, with the
    pictures, as one HTML file.

    Example: physadv models check my_models:make --photos photos/ --data test/ --html model.html
    """
    from physadv.core.errors import OptionError
    from physadv.defenses.load_model import load_model
    from physadv.evaluation.data import open_samples
    from physadv.evaluation.model_check import (
        answer_pictures,
        examine_accuracy,
        model_facts,
        picture_findings,
    )
    from physadv.models.black_box import black_box_within
    from physadv.models.checks import check_model
    from physadv.models.loading import pick_device

    model = load_model(
        config.model,
        weights=config.weights,
        device=config.device,
        settings=config.model_settings,
    )
    detects = model.card.task == "detect"
    if config.data is not None and detects:
        raise OptionError(
            "--data", "The accuracy of classifiers is tested here", "See `physadv evaluate -h`"
        )
    samples = None
    if config.data is not None:
        samples = open_samples(
            config.data,
            model.card,
            split=config.split,
            limit=config.limit,
            labels=config.labels,
            count_classes=lambda image: model(image).shape[1],
        )

    if samples is not None and config.photos is None:
        # A net that states no size may take that of its own data alone, such as 28x28.
        batch = samples.images(range(min(4, len(samples))))
        photos = {f"image {k}": image for k, image in enumerate(batch, start=1)}
    else:
        photos = _photos(config.photos, gray=model.card.extra.get("channels") == 1)
        batch = _probe(photos)
    batch = batch.to(pick_device(config.device))
    is_asked = black_box_within(model) is not None
    warnings = check_model(model, batch, gradients=config.gradients and not is_asked)
    answers = answer_pictures(model, photos)
    findings = picture_findings(model, answers if config.photos else [])
    accuracy = None
    if samples is not None:
        accuracy, doubts = examine_accuracy(model, samples)
        findings += doubts

    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True, style="yellow")
    print_findings([finding.as_dict() for finding in findings])
    facts = model_facts(model, batch[:1])
    _print_facts(facts, answers if config.photos else [])
    verdict = _verdict(warnings, [f.name for f in findings], accuracy, detects=detects)
    result: dict[str, Any] = {
        "victim": config.model,
        "warnings": warnings,
        "doubts": [finding.as_dict() for finding in findings],
        "sha256": model.card.sha256,
        "images": batch.shape[0],
        "facts": facts,
        "answers": {a.name: [list(pair) for pair in a.answers] for a in answers},
        "accuracy": accuracy and accuracy.as_dict(),
        **queries_sent(model),
    }
    if config.html is not None:
        from physadv.report.model_report import write_model_report

        page = write_model_report(
            config.html, config.model, facts, answers, warnings, findings, accuracy, verdict
        )
        result["page"] = page
        verdict += f"\npage: {page}"
    run.finish(result, "\n".join([f"{config.model}: {verdict}", *query_lines(result)]))


def _verdict(
    warnings: Sequence[str], doubts: Sequence[str], accuracy: Accuracy | None, *, detects: bool
) -> str:
    """What the examination shows, in a line; never that a model is good that was not tested."""
    parts = [count_noun(len(warnings), "warning")] if warnings else ["outputs can be used"]
    if doubts:
        parts.append(count_noun(len(doubts), "doubt"))
    if accuracy is None:
        how = "see `physadv evaluate`" if detects else "give --data with labels"
        parts.append(f"whether its answers are right was not tested: {how}")
    else:
        parts.append(f"accuracy {accuracy.rate}")
        others = accuracy.variants
        best = max(others, key=lambda name: others[name].rate, default="")
        unsaid = not {"read-otherwise", "class-order"} & {*doubts}
        if unsaid and best and others[best].rate > accuracy.rate.rate:
            parts.append(f"{best} {others[best]}, which so few images do not tell apart")
    return "; ".join(parts) + "."


def _print_facts(facts: Mapping[str, str], answers: Sequence[PictureAnswer]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for heading, text in facts.items():
        if text and text != "unknown":
            table.add_row(heading, text)
    for answer in answers:
        best = ", ".join(f"{name} {format_percent(value, 0)}" for name, value in answer.answers)
        table.add_row(answer.name, best or "no box")
    console.print(table)


def _in_words(value: Any) -> str:
    """A value of a card in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if not isinstance(value, tuple | list):
        return str(value)
    if len(value) > _MANY:
        return f"{len(value)}: {', '.join(map(str, value[:4]))} ... {value[-1]}"
    return ", ".join(map(str, value))


def _print_origin(card: ModelCard, source: str | None) -> None:
    """Print where the weights come from, their sha256 and their license."""
    origins = [source] if source else card.urls
    lines = [
        f"{card.name} from",
        *(f"  {public_address(origin)}" for origin in origins),
        f"sha256  {card.sha256}",
        f"license {card.licence}",
    ]
    console.print("\n".join(lines), soft_wrap=True)


def _accepted() -> bool:
    """Whether a person at the terminal accepts; False where nobody can be asked."""
    try:
        return typer.confirm("Fetch it, and accept its license?", err=True)
    except typer.Abort:
        return False


def _fetch(card: ModelCard, source: str | None) -> Path:
    """Fetch with progress in megabytes."""
    from physadv.models.fetch import fetch_weights
    from physadv_cli.progress import bar

    size = card.extra.get("size_bytes")
    with bar(transient=True) as progress:
        task = progress.add_task(f"fetching {card.name} (MB)", total=size and size / 1e6)

        def update(done: int, total: int | None) -> None:
            progress.update(task, completed=done / 1e6, total=total and total / 1e6)

        return fetch_weights(card, source=source, progress=update)


def _photos(folder: str | None, *, gray: bool) -> dict[str, Tensor]:
    """Photos of a folder by name, at most a dozen and of 640 px, or four pictures made by code."""
    from physadv.core.image_io import list_images, read_image, to_tensor
    from physadv.core.synthetic_backgrounds import synthetic_background
    from physadv.models.classifiers import resize_images

    if folder is None:
        made = [synthetic_background(0, "check", i, height=240, width=320) for i in range(4)]
        photos = {f"made by code {i}": to_tensor(picture) for i, picture in enumerate(made)}
    else:
        files = list_images(folder)
        step = max(1, len(files) / _MOST_PHOTOS)  # some of each subfolder
        chosen = [files[int(i * step)] for i in range(min(len(files), _MOST_PHOTOS))]
        top = Path(folder)
        names = [f.name if f == top else f.relative_to(top).as_posix() for f in chosen]
        photos = {name: read_image(file) for name, file in zip(names, chosen, strict=True)}
    for name, image in photos.items():
        height, width = image.shape[-2:]
        shrink = max(height, width) / 640
        if shrink > 1:
            size = max(1, round(height / shrink)), max(1, round(width / shrink))
            photos[name] = resize_images(image[None], *size)[0].clamp(0, 1)
    if gray:
        return {name: image.mean(0, keepdim=True) for name, image in photos.items()}
    return photos


def _probe(photos: Mapping[str, Tensor]) -> Tensor:
    """The first four photos at 240x320."""
    import torch

    from physadv.models.resizing import InputResizing

    resizing = InputResizing((240, 320))
    return torch.cat([resizing(image[None]) for image in list(photos.values())[:4]])
