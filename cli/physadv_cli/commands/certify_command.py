"""`physadv certify`: certificates of a victim over a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.arithmetic import prepare_torch

if TYPE_CHECKING:
    from physadv.evaluation.certified_accuracy import CertificationMethod
    from physadv.evaluation.progress_log import ProgressLog
    from physadv.evaluation.samples import EvaluationSamples
    from physadv.models.load import LoadedModel

METHODS = ("smoothing", "ibp", "crown-ibp", "crown", "polytope", "patch")


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command(
        "certify",
        rich_help_panel=panel,
        short_help="Certified accuracy: randomized smoothing or bounds. Resumable.",
    )(certify)


def certify(
    model: options.Model,
    data: options.Data,
    method: Annotated[str, typer.Option("--method", help=", ".join(METHODS) + ".")] = "smoothing",
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm", help="l2, linf, or l1 (smoothing). (default: l2 smoothing, linf bounds)"
        ),
    ] = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="Bounds: the radius, as 8/255 or 0.1.")
    ] = None,
    curve: Annotated[
        str,
        typer.Option(
            "--curve", help="Bounds: other radii for the curve: auto, none, or 1/255,2/255 ..."
        ),
    ] = "auto",
    radius: Annotated[
        str | None,
        typer.Option(
            "--radius",
            help="Smoothing: this radius alone, in stages: about 10-100 times fewer samples.",
        ),
    ] = None,
    sigma: Annotated[
        float, typer.Option("--sigma", help="Smoothing: scale of the noise.", min=1e-6)
    ] = 0.25,
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise", help="gaussian (l2, linf), laplace or uniform (l1). (default: by norm)"
        ),
    ] = None,
    n0: Annotated[
        int | None,
        typer.Option("--n0", help="Samples that pick the class. (default: 100, staged 32)", min=1),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            help="Samples that count, staged at most. (default: 100000, staged 120000)",
            min=1,
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Smoothing: error allowed each certificate.")
    ] = 0.001,
    weights: options.Weights = None,
    split: Annotated[
        str, typer.Option("--split", help="Part of the data set, where it has parts.")
    ] = "test",
    limit: Annotated[
        int | None, typer.Option("--limit", help="This many images, drawn at random.", min=1)
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Noisy images, or images, at a time.", min=1)
    ] = 256,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    out: options.Out = None,
    as_json: options.Json = False,
) -> None:
    """Certify every image: no change within the radius, by whatever attack, alters the class.

    Smoothing certifies the majority vote under noise, for any classifier; train the victim with
    noise. Bounds certify the net itself where it is made of linear, convolution, batch norm, ReLU
    and average pooling layers. Patch certificates are those of a defense in the victim's name: no
    patch of its size, anywhere, changes the verdict.

    Example: physadv certify --model signs --data gtsrb.zip --method smoothing --sigma 0.25
    --radius 0.25 --limit 100

    Example: physadv certify --model wongkolter-mnist --weights w.pth --data mnist/ --method
    polytope --eps 0.1

    Example: physadv certify --model signs-masked+patchcleanser:patch6 --data gtsrb.zip --method
    patch --limit 200
    """
    from physadv.core.errors import OptionError
    from physadv.datasets import read_dataset
    from physadv.defenses.load_model import load_model
    from physadv.evaluation.progress_log import ProgressLog, claim_folder
    from physadv.evaluation.samples import choose_samples
    from physadv.threat.parsing import parse_norm
    from physadv_cli.runs import open_run

    if method not in METHODS:
        raise OptionError(
            f"method {method!r}", f"one of {', '.join(METHODS)} is needed", "for example smoothing"
        )
    ball = (
        "patch"
        if method == "patch"
        else parse_norm(norm or ("l2" if method == "smoothing" else "linf"))
    )
    prepare_torch(threads)
    loaded = load_model(model, weights=weights, device=device)
    samples = choose_samples(read_dataset(data, split=split), loaded.card, limit=limit, seed=seed)
    facts: dict[str, Any] = {
        "victim": loaded.card.name,
        "weights_sha256": loaded.card.sha256,
        "data": str(data),
        "split": split,
        "images": len(samples),
        "image_size": f"{samples.channels}x{samples.size[0]}x{samples.size[1]}",
        "method": method,
        "norm": ball,
        "seed": seed,
    }
    if method == "smoothing":
        found, main, radii = _smoothing(
            loaded, samples, facts, ball, radius, noise, sigma, n0, n, alpha, batch_size, seed
        )
    elif method == "patch":
        found, main, radii = _patch(loaded, facts)
    else:
        found, main, radii = _bounds(loaded, samples, facts, method, ball, eps, curve, batch_size)
    folder = open_run("certify", out, {**facts, "limit": limit, "weights": weights})
    claim_folder(folder, facts)
    facts["device"] = str(next((p.device for p in loaded.parameters()), "cpu"))
    _run(found, samples, ProgressLog(folder), facts, main, radii, folder, as_json=as_json)


def _smoothing(
    model: LoadedModel,
    samples: EvaluationSamples,
    facts: dict[str, Any],
    norm: str,
    radius: str | None,
    noise: str | None,
    sigma: float,
    n0: int | None,
    n: int | None,
    alpha: float,
    batch: int,
    seed: int,
) -> tuple[CertificationMethod, float, list[float]]:
    """The certifier, the radius it is judged by, and the radii of the table."""
    from physadv.certification.smoothing.noise import noise_by_name
    from physadv.evaluation.certified_accuracy import SmoothingCertifier
    from physadv.threat.parsing import parse_eps

    kind = noise or ("uniform" if norm == "l1" else "gaussian")
    dims = samples.channels * samples.size[0] * samples.size[1]
    fixed = None if radius is None else parse_eps(radius, norm)
    drawn = noise_by_name(kind, sigma)
    made = SmoothingCertifier(
        model,
        drawn,
        norm=norm,
        dims=dims,
        radius=fixed,
        n0=n0,
        n=n,
        alpha=alpha,
        batch=batch,
        seed=seed,
    )
    facts |= {
        "noise": kind,
        "sigma": sigma,
        "radius": fixed,
        "n0": made.n0,
        "n": made.n,
        "alpha": alpha,
    }
    main = (
        fixed if fixed is not None else drawn.radius(0.84134, norm, dims)
    )  # one sigma, by Gaussian noise
    facts["threat"] = f"{norm}:{main:.4g}"
    radii = (
        [0.0, main]
        if fixed is not None
        else sorted({0.0, main, *(made.widest * i / 8 for i in range(1, 9))})
    )
    return made, main, radii


def _patch(
    model: LoadedModel, facts: dict[str, Any]
) -> tuple[CertificationMethod, float, list[float]]:
    """The certifier, the side of its patch, and the sides of the table."""
    from physadv.evaluation.certified_accuracy import PatchCertifier

    made = PatchCertifier(model)
    side = "{} x {}".format(*made.size)
    facts["threat"] = "one patch of {} x {} px".format(*made.defense.patch) + f" in {side} px"
    return made, float(made.patch), [0.0, float(made.patch)]


def _bounds(
    model: LoadedModel,
    samples: EvaluationSamples,
    facts: dict[str, Any],
    method: str,
    norm: str,
    eps: str | None,
    curve: str,
    batch: int,
) -> tuple[CertificationMethod, float, list[float]]:
    """The certifier, the radius it is judged by, and the radii of the table."""
    from physadv.certification.bounds.input_ball import NORMS
    from physadv.certification.bounds.verify import prepare_graph
    from physadv.core.errors import OptionError
    from physadv.evaluation.certified_accuracy import BoundCertifier
    from physadv.evaluation.evaluate import curve_radii as other_radii
    from physadv.threat.parsing import parse_eps

    if norm not in NORMS:
        raise OptionError(
            f"norm {norm}",
            f"{method} bounds {' and '.join(NORMS)}",
            "use --method smoothing for l1",
        )
    if eps is None:
        raise OptionError("no --eps", f"{method} needs a radius", "for example --eps 8/255")
    main = parse_eps(eps, norm)
    radii = sorted({main, *other_radii(curve, norm, main)})
    graph = prepare_graph(model, (samples.channels, *samples.size))
    facts |= {
        "eps": main,
        "radii": ", ".join(f"{r:.6g}" for r in radii),
        "threat": f"{norm}:{eps.strip()}",
    }
    return (
        BoundCertifier(graph, method, norm=norm, eps=radii, main=main, group=min(batch, 32)),
        main,
        [0.0, *radii],
    )


def _run(
    certifier: CertificationMethod,
    samples: EvaluationSamples,
    ledger: ProgressLog,
    facts: dict[str, Any],
    main: float,
    radii: list[float],
    folder: Path,
    *,
    as_json: bool,
) -> None:
    """Certify with a bar, then report; Ctrl-C leaves a report of what is finished and ends with
    130."""
    from physadv.evaluation.certified_accuracy import is_certified, summarize_certified
    from physadv.evaluation.metrics.intervals import wilson_interval
    from physadv.report.certify_report import write_certify_report
    from physadv_cli.runs import finish

    stopped = False
    try:
        _watch(certifier, samples, ledger, main, facts["device"])
    except KeyboardInterrupt:
        stopped = True
    rows = list(ledger.rows.values())
    rate = wilson_interval(sum(is_certified(r, main) for r in rows), len(rows))
    result = {
        "certified_accuracy": rate.as_dict(),
        **summarize_certified(rows, radii),
        "complete": len(rows) == len(samples),
        "seconds": ledger.total("seconds"),
        **facts,
        "out": str(folder),
    }
    if rows:
        result["report"] = str(write_certify_report(folder, result, facts, rows))
    finish(result, as_json=as_json, summary=_summary(result, stopped=stopped))
    if stopped:
        raise SystemExit(130)


def _watch(
    certifier: CertificationMethod,
    samples: EvaluationSamples,
    ledger: ProgressLog,
    main: float,
    device: str,
) -> None:
    """Run with a bar: images finished, certified accuracy so far, time left."""
    from physadv.evaluation.certified_accuracy import certify_all, is_certified
    from physadv_cli.progress import bar

    with bar() as progress:
        task = progress.add_task("certifying", total=len(samples), note="")
        done = 0

        def tick(share: float) -> None:
            progress.update(
                task, completed=done + share * min(certifier.group, len(samples) - done)
            )

        for step in certify_all(certifier, samples, ledger, device=device, tick=tick):
            done = step.done
            good = sum(is_certified(r, main) for r in ledger.rows.values())
            progress.update(
                task, completed=done, note=f"certified {good / done:.1%}" if done else ""
            )


def _summary(result: dict[str, Any], *, stopped: bool) -> str:
    """For people: the rates, the table, and where everything is."""
    from physadv.evaluation.metrics.intervals import RateInterval

    rate = RateInterval(**result["certified_accuracy"])
    lines = [f"stopped after {rate.n} of {result['images']} images"] if stopped else []
    patch = result["method"] == "patch"
    lines += [
        f"certified accuracy  {rate}  at {result['threat']}"
        + ("" if patch else f", {result['method']}")
    ]
    lines += [f"accuracy            {RateInterval(**result['accuracy'])}"]
    if result["abstained"]:
        lines += [f"abstained           {result['abstained']}"]
    if not patch:  # one size is certified or not
        lines += [
            "over the radius     "
            + ", ".join(f"{p['radius']:.3g}: {p['rate']:.1%}" for p in result["curve"])
        ]
    if result["samples"] and rate.n:
        lines += [f"{result['samples'] / rate.n:.0f} noisy images each"]
    return "\n".join([*lines, f"{result['seconds']:.1f} s; rows and report in {result['out']}"])
