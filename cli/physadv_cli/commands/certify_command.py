"""``physadv certify``: certified accuracy of a model over a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from physadv.certification.config import CertifyConfig
from physadv.core.wording import count_noun, format_percent
from physadv_cli.configured import from_config, hidden_option, threat_forms
from physadv_cli.gate import Gate, end_by, outcomes_table, void_reason
from physadv_cli.ranks import Division, divided_run, refuse_division
from physadv_cli.runs import RunOptions, print_data, print_findings

if TYPE_CHECKING:
    from physadv.core.rows import Row
    from physadv.core.shards import Shard
    from physadv.evaluation.certification_task import CertificationTask
    from physadv.evaluation.metrics.requirements import RequirementOutcome
    from physadv.evaluation.progress_log import ProgressLog
    from physadv.evaluation.verification_task import VerificationTask

_FIGURES = {"certified": "certified_accuracy", "accuracy": "accuracy"}
"""Figures that may be required, with their keys in the result."""


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    radius = hidden_option("radius", "--radius", "Radius of the threat: 8/255, 0.03, 2.0.")
    app.command(
        "certify",
        short_help="Certified accuracy: randomized smoothing or bounds. Resumable.",
        rich_help_panel=panel,
    )(
        from_config(
            certify,
            CertifyConfig,
            adapt=_join_threat,
            hidden=[*threat_forms(), radius],
            switches=("shard", "require"),
        )
    )


def certify(config: CertifyConfig, run: RunOptions) -> None:
    """Certify every image: no change within the radius, by whatever attack, alters the class.

    Smoothing certifies the majority vote under noise, for any classifier; train the model with
    noise. With a radius (--threat l2:0.25) it certifies that radius alone, with 10 to 100 times
    fewer noisy images; with a norm (--threat l2) the largest radius of each image. Bounds certify
    the net itself where it is made of layers that bounds pass; --method bab searches on, by branch
    and bound, for a proof or a counterexample, --time-limit seconds an image. --vnnlib verifies
    properties of ONNX networks instead of a data set. Patch certificates are those of a defense in
    the model's name: no patch of its size, anywhere, changes the verdict.

    Each certificate is attacked at its own radius. One that breaks is wrong: it is saved as
    broken-INDEX.npz, and the command ends with exit code 1. --no-attack leaves this out.

    Example: physadv certify --model signs --data gtsrb.zip --sigma 0.25 --threat l2:0.25 --limit
    100

    Example: physadv certify --model wongkolter-mnist --weights w.pth --data mnist/ --method
    polytope
    --threat linf:0.1

    Example: physadv certify --model net.onnx --vnnlib property.vnnlib --time-limit 60

    Example: physadv certify --model signs-masked+patchcleanser:patch6 --data gtsrb.zip --method
    patch
    --limit 200
    """
    if config.vnnlib is not None:
        refuse_division(run, "--vnnlib")
        Gate.of(run, tuple(_FIGURES)).refuse("properties: a falsified one ends with exit code 1")
        _certify_properties(config, run)
        return
    from physadv.evaluation.certification_task import CertificationTask

    run.own_shard()  # what is typed wrong is refused before anything is loaded
    gate = Gate.of(run, tuple(_FIGURES))
    task = CertificationTask.from_config(config)
    print_data(task.samples.summary)
    with divided_run(run, config, task.claim, task.samples.summary) as part:
        log, stopped = part.do_share(
            lambda folder, _: task.open_log(folder),
            lambda log: log,
            lambda log, shard: _watch(task, log, shard),
        )
        outcomes = []
        if part.is_first:
            outcomes = _finish(task, log, run, part, gate, stopped=stopped)
    if any(row.get("broken") for row in log.rows.values()):
        raise SystemExit(1)
    if stopped:
        raise SystemExit(130)
    end_by(outcomes)


def _finish(
    task: CertificationTask,
    log: ProgressLog,
    run: RunOptions,
    part: Division,
    gate: Gate,
    *,
    stopped: bool,
) -> list[RequirementOutcome]:
    """Write the report, print the result, of a shard only how much is done, and judge the
    requirements."""
    from physadv.evaluation.metrics.intervals import RateInterval
    from physadv.report.certify_report import write_certify_report

    folder, data, is_share = part.folder, task.samples.summary, part.is_share(log)
    result = {**task.result(log), "data_summary": data.as_dict(), "out": str(folder)}
    if is_share:
        result |= {"shard": str(part.shard), "done": len(log.rows)}
    elif log.rows:
        facts = {**task.facts, "device": task.device}
        report = write_certify_report(folder, result, facts, list(log.rows.values()), data)
        result["report"] = str(report)
    figures = {name: RateInterval(**result[key]) for name, key in _FIGURES.items()}
    outcomes = gate.judge(folder, task.facts["victim"], figures, void_reason(result))
    result |= outcomes_table(outcomes)
    print_findings(result["doubts"])
    run.finish(result, part.words(result) if is_share else _summary(result, stopped=stopped))
    return outcomes


def _certify_properties(config: CertifyConfig, run: RunOptions) -> None:
    """Verify the properties of ``--vnnlib``, one row each; exit code 1 where one is falsified or
    refused."""
    from physadv.evaluation.verification_task import VerificationTask
    from physadv.report.verification_report import write_verification_report

    task = VerificationTask.from_config(config)
    folder = run.open_folder(config, task.claim)
    log = task.open_log(folder)
    stopped = False
    try:
        _watch_properties(task, log)
    except KeyboardInterrupt:
        stopped = True

    result = {**task.result(log), "out": str(folder)}
    rows = [log.rows[i] for i in sorted(log.rows)]
    if rows:
        result["report"] = str(write_verification_report(folder, result, rows))
    run.finish(result, _properties_summary(result, rows, stopped=stopped))
    if stopped:
        raise SystemExit(130)
    if result["counts"]["falsified"] or result["counts"]["refused"]:
        raise SystemExit(1)


def _watch_properties(task: VerificationTask, log: ProgressLog) -> None:
    """Run with a bar: properties finished, and the last verdict."""
    from physadv_cli.progress import bar

    with bar() as progress:
        line = progress.add_task("verifying", total=len(task.instances))
        progress.update(line, completed=len(log.rows))
        for row in task.run(log):
            progress.update(line, completed=len(log.rows), note=str(row["verdict"]))


def _properties_summary(result: dict[str, Any], rows: list[Row], *, stopped: bool) -> str:
    """For people: the first properties, the counts, and where everything is."""
    lines = (
        [f"stopped after {len(rows)} of {count_noun(result['properties'], 'property')}"]
        if stopped
        else []
    )
    for row in rows[:20]:
        reason = f"  {row['reason']}" if "reason" in row else ""
        lines.append(f"{row['property']}  {row['verdict']}  {row['seconds']:.1f} s{reason}")
    if len(rows) > 20:
        lines.append(f"... {len(rows) - 20} more")
    total = ", ".join(f"{count} {verdict}" for verdict, count in result["counts"].items() if count)
    lines.append(f"{total or 'nothing verified'}; {result['seconds']:.1f} s; rows, counterexamples")
    lines[-1] += f" and report in {result['out']}"
    return "\n".join(lines)


def _join_threat(values: dict[str, Any]) -> dict[str, Any]:
    """Join ``--norm``, ``--eps`` and ``--radius``, each of which may be missing, to a threat."""
    from physadv.threat.parsing import parse_norm

    norm, eps, radius = (values.pop(name) for name in ("norm", "eps", "radius"))
    given = eps or radius
    if norm is None and given is None:
        return values

    own_norm, _, own_radius = (values["threat"] or "").partition(":")
    usual = "l2" if values["method"] == "smoothing" else "linf"
    name = parse_norm(norm or own_norm or usual)
    if given is None and own_radius and parse_norm(own_norm) == name:
        given = own_radius
    return {**values, "threat": f"{name}:{given}" if given else name}


def _watch(task: CertificationTask, log: ProgressLog, shard: Shard) -> None:
    """Run with a bar: images finished, certified accuracy so far, time left."""
    from physadv_cli.progress import bar

    with bar() as progress:
        line = progress.add_task("certifying", total=len(task.samples))
        done = total = 0

        def tick(share: float) -> None:
            group = min(task.certifier.group, total - done)
            progress.update(line, completed=done + share * group)

        for step in task.run(log, tick, shard=shard):
            done, total = step.done, step.total
            note = f"certified {format_percent(task.certified_share(log))}" if done else ""
            progress.update(line, completed=done, total=total, note=note)


def _summary(result: dict[str, Any], *, stopped: bool) -> str:
    """For people: the rates, the table, and where everything is."""
    from physadv.evaluation.metrics.intervals import RateInterval
    from physadv.threat.parsing import format_eps

    certified = RateInterval(**result["certified_accuracy"])
    accuracy = RateInterval(**result["accuracy"])
    has_curve = result["method"] != "patch"  # a patch defense certifies one size
    method = f", {result['method']}" if has_curve else ""

    lines = (
        [f"stopped after {certified.n} of {count_noun(result['images'], 'image')}"]
        if stopped
        else []
    )
    if "verdicts" in result:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(result["verdicts"].items()))
        lines += [f"searched            {counts}"]
    lines += [f"certified accuracy  {certified}  at {result['threat']}{method}"]
    lines += [f"accuracy            {accuracy}"]
    if result["abstained"]:
        lines += [f"abstained           {result['abstained']}"]
    if has_curve and certified.n:
        points = (
            f"{format_eps(p['radius'], 4)}: {format_percent(p['rate'])}" for p in result["curve"]
        )
        lines += [f"over the radius     {', '.join(points)}"]

    if result["attacked"]:
        lines += [f"certified and broken: {result['broken']} of {result['attacked']}"]
    if result["samples"] and certified.n:
        lines += [f"{count_noun(round(result['samples'] / certified.n), 'noisy image')} each"]
    if result["memory"]:
        lines += [result["memory"]]
    return "\n".join([*lines, f"{result['seconds']:.1f} s; rows and report in {result['out']}"])
