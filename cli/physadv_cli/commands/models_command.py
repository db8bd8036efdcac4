"""`physadv models`: which victims there are, what they say of themselves, how to get and check
them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.runs import console, finish

if TYPE_CHECKING:
    from torch import Tensor

    from physadv.models.cards import ModelCard

Name = Annotated[str, typer.Argument(help="A name from `physadv models list`.", metavar="NAME")]
Model = Annotated[
    str, typer.Argument(help="A name, a model file, or module:factory.", metavar="VICTIM")
]


def register(app: typer.Typer, panel: str) -> None:
    """Attach the commands."""
    models = typer.Typer(
        help="The models under test: list, show, fetch, check.", no_args_is_help=True
    )
    models.command("list")(list_models)
    models.command("show")(show)
    models.command("fetch")(fetch)
    models.command("check")(check)
    app.add_typer(models, name="models", rich_help_panel=panel)


def list_models(json: options.Json = False) -> None:
    """List the victims known by name, and whether their weights are here.

    Example: physadv models list
    """
    from rich.markup import escape
    from rich.table import Table

    from physadv.models.load import list_models, remedy_for, weights_of

    table = Table("name", "task", "classes", "licence", "weights", box=None, header_style="bold")
    rows = []
    for card in list_models():
        here = weights_of(card.name) is not None
        state = "here" if here else remedy_for(card.name)
        table.add_row(card.name, card.task, str(len(card.classes)), card.licence, escape(state))
        rows.append({**card.as_dict(), "here": here})
    console.print(table)
    finish(
        {"victims": rows},
        as_json=json,
        summary="Your own: a TorchScript or torch.export file, or module:factory.",
    )


def show(model: Model, weights: options.Weights = None, json: options.Json = False) -> None:
    """Show the card of a victim: classes, license, source, data, sha256, accuracy.

    Example: physadv models show fastestdet
    """
    from rich.markup import escape
    from rich.table import Table

    from physadv.defenses.load_model import load_model
    from physadv.models.load import card_of, list_models, weights_of

    known = model in {card.name for card in list_models()}
    card = card_of(model) if known and weights is None else load_model(model, weights=weights).card
    here = weights or (weights_of(model) if known else None)
    result = {**card.as_dict(), "weights": here}
    table = Table(box=None, show_header=False)
    extra: dict[str, Any] = result.pop("extra", None) or {}
    plain = {key: value for key, value in extra.items() if isinstance(value, str | int | float)}
    for key, value in (result | plain).items():
        if value and key != "name":
            table.add_row(key, escape(_brief(value)))
    if len(plain) < len(extra):
        table.add_row("more", f"{', '.join(k for k in extra if k not in plain)}: with --json")
    result["extra"] = extra
    console.print(table)
    finish(
        result, as_json=json, summary=f"[bold]{escape(card.name)}[/bold]: a victim to {card.task}."
    )


def fetch(
    name: Name,
    source: Annotated[
        str | None,
        typer.Option("--from", help="Another URL, or a file carried here.", metavar="URL|PATH"),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "--accept-license",
            help="Accept source and licence without being asked.",
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Fetch a victim's weights into the cache, once you accept source and license; the sha256 is
    pinned.

    Example: physadv models fetch fastestdet --accept-license
    """
    from physadv.core.errors import OptionError
    from physadv.models import fetch as fetching
    from physadv.models.faces.embedders import FETCHABLE
    from physadv.models.load import card_of, weights_of

    card = FETCHABLE[name] if name in FETCHABLE else card_of(name)
    there = fetching.cached_weights(card) if name in FETCHABLE else weights_of(name)
    if there is not None and source is None:
        finish(
            {"name": name, "path": there, "fetched": False},
            as_json=json,
            summary=f"{name} is here: {there}",
        )
        return
    fetching.require_fetchable(card, source)
    origins = [source] if source else card.urls
    said = [
        f"{name} from",
        *(f"  {o}" for o in origins),
        f"sha256  {card.sha256}",
        f"licence {card.licence}",
    ]
    console.print("\n".join(said), soft_wrap=True, markup=False)
    if not yes and not _accepted():
        raise OptionError(
            f"the license of {name}", "was not accepted", "give --accept-license once you accept it"
        )
    path = _fetch_with_bar(card, source)
    finish(
        {"name": name, "path": path, "fetched": True},
        as_json=json,
        summary=f"{name} is here: {path}",
    )


def check(
    model: Model,
    weights: options.Weights = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Photos to ask about. (default: made by code)")
    ] = None,
    gradients: Annotated[
        bool, typer.Option(help="Also ask whether a gradient reaches the image.")
    ] = True,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Check that a victim's answers and gradients can be trusted, before an attack is spent on it.

    Example: physadv models check my_models:make --images photos/
    """
    from physadv.defenses.load_model import load_model
    from physadv.models.checks import check_model
    from physadv.models.loading import pick_device

    loaded = load_model(model, weights=weights, device=device)
    batch = _pictures(images).to(pick_device(device))
    warnings = check_model(loaded, batch, gradients=gradients)
    for warning in warnings:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False, style="yellow")
    said = f"{len(warnings)} warnings" if warnings else "answers, shapes and gradients are sound"
    result = {
        "victim": model,
        "warnings": warnings,
        "sha256": loaded.card.sha256,
        "images": batch.shape[0],
    }
    finish(result, as_json=json, summary=f"{model}: {said}.")


def _brief(value: Any) -> str:
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)}: {', '.join(map(str, value[:4]))} ... {value[-1]}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _accepted() -> bool:
    try:
        return typer.confirm("Fetch it, and accept its licence?", err=True)
    except typer.Abort:
        return False


def _fetch_with_bar(card: ModelCard, source: str | None) -> Path:
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    from physadv.models.fetch import fetch_weights as fetch_weights

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(card.name, total=card.extra.get("size_bytes"))
        return fetch_weights(
            card,
            source=source,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _pictures(folder: Path | None) -> Tensor:
    """Four photos at 240x320, or four pictures made by code."""
    import torch

    from physadv.core.image_io import list_images, read_image, to_tensor
    from physadv.core.synthetic_backgrounds import synthetic_background
    from physadv.models.classifiers import resize_images

    if folder is None:
        made = [
            to_tensor(synthetic_background(0, "check", i, height=240, width=320)) for i in range(4)
        ]
        return torch.stack(made)
    return torch.cat(
        [resize_images(read_image(file)[None], 240, 320) for file in list_images(folder)[:4]]
    )
