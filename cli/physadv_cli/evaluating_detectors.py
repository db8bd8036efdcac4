"""Course of ``attack`` and ``evaluate`` on a detector: from configuration to summary and report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from physadv.core.wording import count_noun
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
    from physadv.evaluation.detector_evaluation import DetectorEvaluation
    from physadv.models.cards import LoadedModel

_CLASSIFIERS_ONLY = {
    "targeted": "--targeted",
    "target": "--target",
    "surrogates": "--surrogate",
}


def run_detector_evaluation(
    config: SampleConfig, run: RunOptions, model: LoadedModel, settings: dict[str, Any]
) -> None:
    """Attack a detector with progress and report.

    Ctrl-C leaves a report of what is finished and exit code 130.

    Args:
        config: the configuration, which the run's folder records.
        run: where and how to report.
        model: the detector.
        settings: further settings of the command, such as the attack.
    """
    from physadv.attacks.detection import GOALS
    from physadv.evaluation.detector_evaluation import prepare_detector_evaluation
    from physadv.evaluation.detector_examples import DetectorExamples
    from physadv.evaluation.subject import reading_facts
    from physadv.report.detector_report import write_detector_report

    _refuse_classifier_settings(config, settings)
    names = ("attack", "steps", "restarts", "loss")
    task = prepare_detector_evaluation(
        model,
        config.data,
        config.threat,
        goals=config.detector_goal or GOALS,
        limit=config.limit,
        split=config.split,
        labels=config.labels,
        eight_bit=config.rounds_to_8_bit,
        seed=config.seed,
        **{name: settings[name] for name in names if settings.get(name) is not None},
    )
    task.facts.update(reading_facts(config.model_settings))
    data = task.samples.summary
    print_asked(model)
    print_data(data)
    folder = run.open_folder(config, task.claim, data=data)
    examples = DetectorExamples(
        folder / "examples", model.card.class_name, save=config.save, name=task.samples.name
    )
    evaluation = task.start(folder, examples)
    stopped = False
    try:
        _watch(evaluation)
    except KeyboardInterrupt:
        stopped = True

    result = {
        **evaluation.result(),
        **task.facts,
        **queries_sent(model),
        "data_summary": data.as_dict(),
        "out": str(folder),
    }
    if evaluation.ledger.rows:
        result["report"] = str(write_detector_report(folder, result, task.facts, data))
    print_findings(result["doubts"])
    run.finish(result, _summary(result, evaluation, stopped=stopped))
    if stopped:
        raise SystemExit(130)


def _refuse_classifier_settings(config: SampleConfig, settings: dict[str, Any]) -> None:
    from physadv.core.errors import OptionError

    given = [option for name, option in _CLASSIFIERS_ONLY.items() if settings.get(name)]
    given += ["--eot-draws"] if config.eot_draws else []
    if given:
        raise OptionError(
            ", ".join(given), "It is for classifiers, and this is a detector", "Leave it out"
        )


def _watch(evaluation: DetectorEvaluation) -> None:
    """Run with a bar: images finished, and the goal at work."""
    from physadv_cli.progress import bar

    with bar() as progress:
        task: Any = None
        for step in evaluation.run():
            if task is None:
                task = progress.add_task("attacking", total=step.total)
            progress.update(task, completed=step.done, note=step.stage)
        if task is not None:
            progress.update(task, completed=len(evaluation.ledger.rows), note="")


def _summary(result: dict[str, Any], evaluation: DetectorEvaluation, *, stopped: bool) -> str:
    """For people: AP50 and AP, clean and by goal, how often each goal is met, where it all is."""
    clean, goals = evaluation.figures()
    done = len(evaluation.ledger.rows)
    lines = [f"stopped after {done} of {count_noun(result['images'], 'image')}"] if stopped else []
    lines += [f"{count_noun(done, 'image')}, {result['threat']}"]
    for name, figures in {"clean": clean, **goals}.items():
        lines += [f"{name:<10} AP50 {figures.ap50}", f"{'':<10} AP {figures.ap}"]
        lines += [f"{'':<10} objects found {figures.recall}"]
        if figures.success is not None:
            lines += [f"{'':<10} goal met {figures.success}"]
            lines += [f"{'':<10} false boxes an image {figures.extra}"]
    lines += [
        f"{result['seconds']:.1f} s, {count_noun(result['forwards'], 'image')} through the model"
    ]
    lines += query_lines(result)
    return "\n".join([*lines, f"rows and report in {result['out']}"])
