"""What `attack` and `evaluate` share: from a request to an evaluation with progress, a summary and
a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physadv_cli.arithmetic import prepare_torch
from physadv_cli.parsing import parse_eps
from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    import torch

    from physadv.evaluation.robust_accuracy import Evaluation, EvaluationProgress
    from physadv.evaluation.samples import EvaluationSamples
    from physadv.models.load import LoadedModel


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line; ``attack`` is empty for the ensemble."""

    command: str
    model: str
    weights: Path | None
    data: Path
    split: str
    norm: str
    eps: float
    limit: int | None
    batch_size: int
    eight_bit: bool
    speed: str
    save: Path | None
    seed: int
    device: str
    threads: int
    out: Path | None
    curve: tuple[float, ...] = ()
    attack: str = ""
    steps: int | None = None
    restarts: int = 1
    loss: str | None = None
    targeted: bool = False
    target: str | None = None
    surrogates: tuple[str, ...] = ()
    eot_draws: int = 0


def radii(text: str, norm: str, eps: float) -> tuple[float, ...]:
    """``auto``, ``none`` or a comma-separated list, as radii other than ``eps`` and 0."""
    if text == "none":
        return ()
    if text == "auto":
        wanted = [eps / 4, eps / 2, 1.5 * eps]
    else:
        wanted = [parse_eps(part, norm) for part in text.split(",") if part.strip()]
    largest = 1.0 if norm == "linf" else float("inf")
    return tuple(sorted({e for e in wanted if 0 < e <= largest and e != eps}))


def run(request: Request, *, as_json: bool) -> None:
    """Load, attack with progress, report. Ctrl-C leaves a report of what is finished and ends with
    130."""
    from physadv.evaluation.adversarial_examples import strongest_example
    from physadv.report.evaluate_report import write_evaluate_report

    folder, evaluation, facts = prepare(request)
    stopped = False
    try:
        _watch(evaluation)
    except KeyboardInterrupt:
        stopped = True
    result = {**evaluation.result(), **facts, "out": str(folder)}
    if evaluation.ledger.rows:
        report = write_evaluate_report(
            folder, result, facts, strongest_example(folder / "examples")
        )
        result["report"] = str(report)
    for doubt in result["doubts"]:
        console.print(f"[yellow]doubt[/] {doubt['name']}: {doubt['finding']}. {doubt['remedy']}.")
    finish(result, as_json=as_json, summary=summary(result, stopped=stopped))
    if stopped:
        raise SystemExit(130)


def prepare(request: Request) -> tuple[Path, Evaluation, dict[str, Any]]:
    """The run's folder, the evaluation, and the facts that the report prints. Everything wrong is
    found here."""
    from physadv.attacks.obfuscated import expectation_model
    from physadv.datasets import read_dataset
    from physadv.defenses.load_model import load_model
    from physadv.evaluation.adversarial_examples import AdversarialExamples, ExampleSaver
    from physadv.evaluation.progress_log import claim_folder
    from physadv.evaluation.robust_accuracy import Evaluation
    from physadv.evaluation.samples import choose_samples
    from physadv.threat.constraints import LpBall
    from physadv.threat.norms import parse_norm

    prepare_torch(request.threads)
    ball = LpBall(parse_norm(request.norm), request.eps, 255 if request.eight_bit else None)
    model = load_model(request.model, weights=request.weights, device=request.device)
    _refuse_detectors(model)
    plan = _plan(request, model)
    samples = choose_samples(
        read_dataset(request.data, split=request.split),
        model.card,
        limit=request.limit,
        seed=request.seed,
    )
    if request.target is not None:
        samples = samples.without(model.card.class_index(request.target))
    targets = _targets(request, model, samples)
    config = {k: v for k, v in asdict(request).items() if k not in ("out", "threads")}
    folder = open_run(request.command, request.out, config)
    facts = _facts(request, model, samples)
    claim_folder(
        folder,
        {
            **facts,
            **{k: config[k] for k in ("curve", "attack", "steps", "restarts", "loss", "target")},
        },
    )
    examples = AdversarialExamples(
        folder / "examples", model, model.card.class_name, samples.labels
    )
    save = (
        ExampleSaver(request.save, model.card.class_name, samples.labels) if request.save else None
    )

    def keep(positions: Sequence[int], clean: torch.Tensor, found: torch.Tensor) -> None:
        examples(positions, clean, found)
        if save is not None:
            save(positions, clean, found)

    attacked = (
        expectation_model(model, draws=request.eot_draws, seed=request.seed)
        if request.eot_draws
        else model
    )
    evaluation = Evaluation(
        model=attacked,
        samples=samples,
        ball=ball,
        plan=plan,
        curve=request.curve,
        folder=folder,
        batch_size=request.batch_size,
        device=_device_of(model),
        speed=_speed(request.speed),
        seed=request.seed,
        targets=targets,
        keep=keep,
    )
    return folder, evaluation, facts


def _refuse_detectors(model: LoadedModel) -> None:
    from physadv.core.errors import ModelError

    if model.card.task != "classify":
        raise ModelError(
            f"victim {model.card.name}", "is a detector", "attack detectors with `physadv patch`"
        )


def _speed(name: str) -> Any:
    from physadv.core.errors import OptionError

    if name not in ("plain", "fold", "bf16"):
        raise OptionError(f"speed {name!r}", "plain, fold or bf16", "choose one of these")
    return name


def _plan(request: Request, model: LoadedModel) -> Sequence[Any]:
    from physadv.evaluation.attack_plan import AttackSettings, attack_by_name

    if not request.attack:
        return ()
    nets = tuple(_surrogate(name, request.device, model) for name in request.surrogates)
    settings = AttackSettings(request.steps, request.restarts, request.loss, nets)
    wanted = request.targeted or request.target is not None
    return (attack_by_name(request.attack, request.norm, settings, targeted=wanted),)


def _surrogate(name: str, device: str, model: LoadedModel) -> LoadedModel:
    """A surrogate by name, or by ``name=weights``; it must have the victim's classes."""
    from physadv.core.errors import ModelError, OptionError
    from physadv.defenses.load_model import load_model
    from physadv.models.load import list_models, weights_of

    source, _, weights = name.partition("=")
    if (
        not weights
        and source in {card.name for card in list_models()}
        and weights_of(source) is None
    ):
        raise ModelError(
            f"surrogate {source}",
            "its weights are not here",
            f"name them: --surrogate {source}=FILE",
        )
    found = load_model(source, weights=Path(weights) if weights else None, device=device)
    if (
        found.card.classes
        and model.card.classes
        and len(found.card.classes) != len(model.card.classes)
    ):
        have, need = len(found.card.classes), len(model.card.classes)
        raise OptionError(
            f"surrogate {name!r} of {have} classes",
            f"the victim has {need}",
            "choose one trained alike",
        )
    return found


def _targets(request: Request, model: LoadedModel, samples: EvaluationSamples) -> Any:
    """None, or a function from positions to the classes wanted there."""
    import torch

    from physadv.core.random_streams import numpy_generator

    if request.target is not None:
        fixed = model.card.class_index(request.target)
        return lambda positions: torch.full((len(positions),), fixed)
    if not request.targeted:
        return None
    with torch.no_grad():
        logits = model(samples.images([0]).to(_device_of(model)))
    classes = int(logits.shape[1])

    def draw(position: int) -> int:
        shift = int(
            numpy_generator(request.seed, "target", samples.indices[position]).integers(1, classes)
        )
        return (samples.labels[position] + shift) % classes

    return lambda positions: torch.tensor([draw(p) for p in positions])


def _facts(request: Request, model: LoadedModel, samples: EvaluationSamples) -> dict[str, Any]:
    from physadv import __version__
    from physadv.report.evaluate_report import in_255ths

    return {
        "victim": model.card.name,
        "weights_sha256": model.card.sha256,
        "data": str(request.data),
        "split": request.split,
        "images": len(samples),
        "image_size": f"{samples.channels}x{samples.size[0]}x{samples.size[1]}",
        "threat": f"{request.norm}:{in_255ths(request.eps)}",
        "norm": request.norm,
        "eps": request.eps,
        "attacks": request.attack or "ensemble",
        "targeted": request.targeted or request.target is not None,
        "eight_bit": request.eight_bit,
        "speed": request.speed,
        "batch_size": request.batch_size,
        "seed": request.seed,
        "surrogates": ", ".join(request.surrogates),
        "eot_draws": request.eot_draws,
        "physadv": __version__,
    }


def _watch(evaluation: Evaluation) -> None:
    """Run with a bar: samples finished, accuracy so far, time left."""
    from physadv_cli.progress import bar

    with bar() as progress:
        tasks: dict[str, Any] = {}
        for step in evaluation.run():
            if step.round not in tasks:
                name = "attacking" if step.round == "rows" else step.round.replace("curve-", "eps ")
                tasks[step.round] = progress.add_task(name, total=step.total, note="")
            progress.update(tasks[step.round], completed=step.done, note=_note(step))


def _note(step: EvaluationProgress) -> str:
    if not step.done:
        return step.stage
    return (
        f"clean {step.clean.rate:.1%}  robust {step.robust.rate:.1%}"
        if step.round == "rows"
        else step.stage
    )


def summary(result: dict[str, Any], *, stopped: bool) -> str:
    """For people: the rates, what each attack broke, the curve, and where everything is."""
    from physadv.evaluation.metrics.intervals import RateInterval
    from physadv.report.evaluate_report import in_255ths

    lines = (
        [f"stopped after {result['robust_accuracy']['n']} of {result['images']} images"]
        if stopped
        else []
    )
    lines += [f"clean accuracy   {RateInterval(**result['clean_accuracy'])}"]
    lines += [
        f"robust accuracy  {RateInterval(**result['robust_accuracy'])}  at {result['threat']}"
    ]
    if result["targeted"]:
        lines[-1] += ", broken where the target is seen"
    lines += [
        "broken by        "
        + ", ".join(f"{name} {count}" for name, count in result["broken_by"].items())
    ]
    if len(result["curve"]) > 2:
        lines += [
            "over epsilon     "
            + ", ".join(f"{in_255ths(p['eps'])}: {p['rate']:.1%}" for p in result["curve"])
        ]
    lines += [f"{result['seconds']:.1f} s, {result['forwards']} images asked about"]
    return "\n".join([*lines, f"rows and report in {result['out']}"])


def _device_of(model: LoadedModel) -> torch.device:
    """Where a victim lies; one without parameters lies on the CPU."""
    import torch

    return next((p.device for p in model.parameters()), torch.device("cpu"))
