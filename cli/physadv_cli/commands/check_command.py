"""``physadv check``: how often a printed or simulated patch meets its goal, with both controls."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing

import typer

from physadv.check.config import CheckConfig
from physadv_cli import checking, watching
from physadv_cli.configured import from_config
from physadv_cli.help import ServeWithoutPort
from physadv_cli.runs import RunOptions, console, print_unused


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command(
        "check",
        cls=ServeWithoutPort,
        short_help="Success of a patch on filmed or simulated signs, with controls. Resumable.",
        rich_help_panel=panel,
    )(from_config(check, CheckConfig, switches=("require",)))


def check(config: CheckConfig, run: RunOptions) -> None:
    """Run a model on filmed or simulated signs and report success with intervals, beside controls.

    A camera sorts its frames into blocks by the printed markers: hold up the clean, the blank and
    the patch page in turn. The check ends when all intervals are narrow enough, or with Ctrl-C:
    what was measured is kept and reported. A stopped or killed run resumes with the same --out, and
    a finished one prints its result again.

    Example: physadv check 0 --bundle patches/stop-sticker-signs-v1 --serve

    Example: physadv check runs/twin --bundle my-patch --json

    Example: physadv check films/ --bundle my-patch --locate box --box 410,220,610,420 --distance
    2.5m
    """
    # ffmpeg reports every damaged frame on stderr; the report's warnings name those that matter.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from physadv.check.check_task import CheckTask, recorded_config
    from physadv.check.folder import is_finished, refuse_changed_sources
    from physadv.check.live.remote_control import RemoteControl
    from physadv.check.run_check import assert_fresh
    from physadv.check.stopping_rule import WIDTH
    from physadv.core.run_folder import refuse_other_run
    from physadv.models.black_box import black_box_within
    from physadv.report.check_report import write_check_report

    checking.check_gate(run)  # a requirement that cannot be read is refused at once
    if run.out is not None and run.out.is_dir():
        run.take_folder(run.out)
    if run.out is not None and not run.overwrite:
        if is_finished(run.out):
            refuse_other_run(run.out, recorded_config(config))
            refuse_changed_sources(run.out)
            console.print("this check is finished; its result again (--overwrite measures anew)")
            finished = run.take_folder(run.out)
            checking.record_on_card(config, finished)
            checking.report_run(finished, run, write_check_report(finished))
            return
        assert_fresh(run.out)
    task = CheckTask.from_config(config)
    twin = checking.twin_summary(config.twin_check, task.goal.as_record().get("bundle"))

    remote = RemoteControl()
    with ExitStack() as stack:
        displays = watching.open_displays(stack, remote, window=config.window, serve=config.serve)
        sources = task.open_sources(stack)
        print_unused(task.unused_options(sources))
        watch = watching.CheckWatch(
            sources,
            remote,
            displays,
            lens=task.lens,
            width_mm=task.width_mm,
            aim=config.width or WIDTH,
            claim=task.claim,
        )
        watch.folder = folder = run.open_folder(task.recorded, assert_fresh, compares_settings=True)
        if watch.live:
            console.print(
                f"rows go to {folder}; a run that is cut off resumes with the same command and "
                f"--out {folder}"
            )
        steps = task.run(sources, folder, facts=twin, remote=remote, on_message=watch.tell)
        with closing(steps):
            watch.follow(steps)
        report = write_check_report(folder)
        watching.show_report(displays, report.html)
    checking.record_on_card(config, folder)
    box = black_box_within(task.model)
    checking.report_run(folder, run, report, queries=None if box is None else box.sent)
