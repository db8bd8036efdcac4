"""Course of ``attack`` and ``evaluate``: from a configuration to summary and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from physadv.core.wording import count_noun, format_percent
from physadv_cli.gate import Gate, end_by, outcomes_table, void_reason
from physadv_cli.ranks import Division, divided_run, refuse_division
from physadv_cli.runs import (
    RunOptions,
    print_asked,
    print_data,
    print_findings,
    queries_sent,
    query_lines,
)

if TYPE_CHECKING:
    from physadv.evaluation.config import SampleConfig
    from physadv.evaluation.evaluate import EvaluationTask
    from physadv.evaluation.metrics.requirements import RequirementOutcome
    from physadv.evaluation.robust_accuracy import Evaluation, EvaluationProgress
    from physadv.models.cards import LoadedModel


def run_evaluation(config: SampleConfig, run: RunOptions, **settings: Any) -> None:
    """Load, attack with progress and report.

    Ctrl-C leaves a report of what is finished and exit code 130.

    Args:
        config: the configuration, which the run's folder records.
        run: where and how to report.
        settings: further keywords of :func:`physadv.evaluation.evaluate.prepare_evaluation`.
    """
    run.own_shard()  # what is typed wrong is refused before anything is loaded
    gate = Gate.of(run, ("clean", "robust"))
    model = _load(config)
    if model.card.task == "detect":
        from physadv_cli.evaluating_detectors import run_detector_evaluation

        refuse_division(run, "a detector")
        gate.refuse("detectors: their average precision is no share of images")
        run_detector_evaluation(config, run, model, settings)
        return
    task = _prepare(config, model, settings)
    print_asked(model)
    print_data(task.samples.summary)
    with divided_run(run, config, task.claim, task.samples.summary) as part:
        save = None if config.save is None else Path(config.save)
        evaluation, stopped = part.do_share(
            lambda folder, shard: task.start(folder, save, shard=shard),
            lambda evaluation: evaluation.ledger,
            lambda evaluation, _: _watch(evaluation, task.facts),
        )
        outcomes = []
        if part.is_first:
            outcomes = _finish(task, evaluation, run, part, gate, stopped=stopped)
    if stopped:
        raise SystemExit(130)
    end_by(outcomes)


def _finish(
    task: EvaluationTask,
    evaluation: Evaluation,
    run: RunOptions,
    part: Division,
    gate: Gate,
    *,
    stopped: bool,
) -> list[RequirementOutcome]:
    """Write the report, print the result, of a shard only how much is done, and judge the
    requirements."""
    from physadv.evaluation.adversarial_examples import strongest_example
    from physadv.evaluation.metrics.intervals import RateInterval
    from physadv.report.evaluate_report import write_evaluate_report

    folder, data = part.folder, task.samples.summary
    is_share = part.is_share(evaluation.ledger)
    result = {
        **evaluation.result(),
        **task.facts,
        "data_summary": data.as_dict(),
        "out": str(folder),
        **queries_sent(task.model),
    }
    if is_share:
        result |= {"shard": str(part.shard), "done": len(evaluation.ledger.rows)}
    elif evaluation.ledger.rows:
        example = strongest_example(folder / "examples")
        result["report"] = str(write_evaluate_report(folder, result, task.facts, example, data))
    figures = {name: RateInterval(**result[f"{name}_accuracy"]) for name in ("clean", "robust")}
    outcomes = gate.judge(folder, task.facts["victim"], figures, void_reason(result))
    result |= outcomes_table(outcomes)
    print_findings(result["doubts"])
    run.finish(result, part.words(result) if is_share else _summary(result, stopped=stopped))
    return outcomes


def _load(config: SampleConfig) -> LoadedModel:
    """Load the model with the defenses before it."""
    from physadv.defenses.load_model import load_model

    return load_model(
        config.model,
        weights=config.weights,
        device=config.device,
        settings=config.model_settings,
    )


def _prepare(config: SampleConfig, model: LoadedModel, settings: dict[str, Any]) -> EvaluationTask:
    """Load and check everything else that the configuration names."""
    from physadv.core.errors import OptionError
    from physadv.evaluation.evaluate import prepare_evaluation
    from physadv.evaluation.subject import reading_facts

    if config.detector_goal:
        limit = "It is for detectors, and this is a classifier"
        raise OptionError("--detector-goal", limit, "Leave it out")
    task = prepare_evaluation(
        model,
        config.data,
        config.threat,
        split=config.split,
        labels=config.labels,
        limit=config.limit,
        eot_draws=config.eot_draws,
        eight_bit=config.rounds_to_8_bit,
        batch_size=config.batch_size,
        speed=config.speed,
        seed=config.seed,
        device=model.device,
        **settings,
    )
    task.facts.update(reading_facts(config.model_settings))
    return task


def _watch(evaluation: Evaluation, facts: Mapping[str, Any]) -> None:
    """Run with a bar: samples finished, accuracy so far, time left."""
    from physadv.report.design import format_setting
    from physadv_cli.progress import bar

    with bar() as progress:
        tasks: dict[str, Any] = {}
        for step in evaluation.run():
            if step.round not in tasks:
                _, of_curve, eps = step.round.partition("curve-")
                name = f"eps {format_setting(eps, 'eps', facts)}" if of_curve else "attacking"
                tasks[step.round] = progress.add_task(name, total=step.total)
            progress.update(tasks[step.round], completed=step.done, note=_note(step))


def _note(step: EvaluationProgress) -> str:
    if step.round != "rows" or not step.done:
        return step.stage
    return f"clean {format_percent(step.clean.rate)}  robust {format_percent(step.robust.rate)}"


def _summary(result: dict[str, Any], *, stopped: bool) -> str:
    """For people: the rates, what each attack broke, the curve, and where everything is."""
    from physadv.evaluation.metrics.intervals import RateInterval
    from physadv.evaluation.robust_accuracy import unbroken_in_words
    from physadv.threat.parsing import format_eps

    clean = RateInterval(**result["clean_accuracy"])
    robust = RateInterval(**result["robust_accuracy"])
    broken = ", ".join(f"{name} {count}" for name, count in result["broken_by"].items())

    lines = (
        [f"stopped after {robust.n} of {count_noun(result['images'], 'image')}"] if stopped else []
    )
    lines += [f"clean accuracy   {clean}"]
    lines += [f"robust accuracy  {robust}  at {result['threat']}"]
    if result["targeted"]:
        lines[-1] += ", broken where the target class is predicted"
    lines += [f"broken by        {broken}"]
    if result["spent_on_unbroken"]:
        lines += [f"unbroken         {unbroken_in_words(result['spent_on_unbroken'])}"]
    if len(result["curve"]) > 2:
        points = (
            f"{format_eps(p['eps'], 6)}: {format_percent(p['rate'])}" for p in result["curve"]
        )
        lines += [f"over epsilon     {', '.join(points)}"]

    if result["gradients_of"]:
        lines += [f"gradients of     {'; '.join(result['gradients_of'])}"]
    lines += [
        f"{result['seconds']:.1f} s, {count_noun(result['forwards'], 'image')} through the model"
    ]
    if result["memory"]:
        lines += [result["memory"]]
    lines += query_lines(result)
    return "\n".join([*lines, f"rows and report in {result['out']}"])
