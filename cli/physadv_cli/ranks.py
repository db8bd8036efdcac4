"""Processes that torchrun starts, which divide one run among them.

``torchrun --nproc-per-node 2 -m physadv evaluate ...`` runs the same command in each. They share
the work by batches and write rows of their own below the run's folder; the first one joins them,
does what needs all rows, prints and writes the report.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from physadv.core.config import Config
from physadv.core.errors import JobEndedError, OptionError, PhysadvError
from physadv.core.files import make_folder
from physadv.core.shards import WHOLE, Shard
from physadv.core.wording import count_noun
from physadv_cli.runs import RunOptions
from physadv_cli.torchrun import is_one_of_several

if TYPE_CHECKING:
    from physadv.core.process_group import ProcessGroup
    from physadv.datasets import DatasetSummary
    from physadv.evaluation.progress_log import ProgressLog

Work = TypeVar("Work")


@dataclass(frozen=True)
class Division:
    """How this process takes part in a run.

    Attributes:
        shard: Its share of the batches.
        folder: The run's folder.
        own: Folder for this process's rows; the run's folder where it runs alone.
        several: Whether torchrun started several processes.
    """

    shard: Shard
    folder: Path
    own: Path
    several: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this process prints, joins the rows and writes the report."""
        return not self.several or self.shard.number == 1

    def words(self, result: Mapping[str, Any]) -> str:
        """Return for people how much of the run is done, and how it goes on.

        Args:
            result: Result of this process's share, with ``done``, its number of images.
        """
        done = count_noun(result["done"], "image")
        if self.several:
            return f"stopped after {done} of this process; the same command goes on"
        return (
            f"shard {self.shard} of the run: {done}, rows in {self.folder}\n"
            "once every shard is done: physadv merge SHARD_FOLDER... --out FOLDER"
        )

    def is_share(self, log: ProgressLog) -> bool:
        """Return whether ``log`` holds this process's share of the rows alone, not the run's."""
        if self.several:
            return log.folder != self.folder
        return not self.shard.is_whole

    def do_share(
        self,
        begin: Callable[[Path, Shard], Work],
        log_of: Callable[[Work], ProgressLog],
        watch: Callable[[Work, Shard], None],
    ) -> tuple[Work, bool]:
        """Do this process's share of the work; the first of several then joins all rows and does
        what needs them.

        Args:
            begin: Begins or resumes the work in a folder, on a share of the batches.
            log_of: Rows of the work.
            watch: Does the work on a share of the batches, with progress.

        Returns:
            The work, and whether Ctrl-C ended it before it was done. Of several processes, the
            first one's work that was done holds the rows of all.
        """
        work = begin(self.own, self.shard)
        if self.own != self.folder:
            self._take_known(log_of(work))
        try:
            watch(work, self.shard)
            if self.several:
                self._join()
                if self.is_first:
                    work = begin(self.folder, WHOLE)
                    watch(work, WHOLE)
        except KeyboardInterrupt:
            return work, True
        return work, False

    def _take_known(self, log: ProgressLog) -> None:
        """Let ``log``, of this process, know the rows that the run's folder has already."""
        from physadv.evaluation.progress_log import ProgressLog

        log.include(ProgressLog(self.folder))

    def _join(self) -> None:
        """Wait for the other processes; the first one then joins all rows in the run's folder."""
        from physadv.core.process_group import ProcessGroup
        from physadv.evaluation.merge_runs import gather_ranks

        ProcessGroup.current().wait()
        if self.is_first:
            gather_ranks(self.folder)


def refuse_division(run: RunOptions, what: str) -> None:
    """Refuse to divide a run that cannot be.

    Args:
        run: Options of the run.
        what: What the run is of.

    Raises:
        OptionError: ``--shard`` is given, or torchrun started several processes.
    """
    if run.shard is not None or is_one_of_several():
        raise OptionError(
            f"a run of {what} in several processes",
            "runs of classifiers over a data set are divided",
            "Start it alone, without --shard",
        )


@contextmanager
def divided_run(
    run: RunOptions,
    config: Config,
    claim: Callable[[Path], Any],
    data: DatasetSummary | None = None,
) -> Iterator[Division]:
    """Open the run's folder, in one process or in all that torchrun started.

    Rows that processes of an earlier, interrupted run left are joined first, however many there
    were.

    Args:
        run: Options of the run.
        config: What the run records.
        claim: Called with a folder; raises where it holds another run.
        data: What the run's data were taken for.

    Yields:
        How this process takes part.

    Raises:
        OptionError: ``--shard`` names no share, or stands beside torchrun; or the folder holds
            another run.
    """
    from physadv.evaluation.merge_runs import gather_ranks, rank_folder

    if not is_one_of_several():
        shard = run.own_shard()
        folder = run.open_folder(config, claim, data=data)
        gather_ranks(folder)
        yield Division(shard, folder, folder)
        return

    if run.shard is not None:
        raise OptionError(
            f"--shard {run.shard} under torchrun", "torchrun divides the run", "Leave one of them"
        )
    with joined_processes() as group:

        def opened() -> Path:
            folder = run.open_folder(config, claim, data=data)
            gather_ranks(folder)
            return folder

        folder = agreed_folder(group, opened)
        _refuse_disagreement(group, folder, claim)
        own = make_folder(rank_folder(folder, group.rank))
        claim(own)
        yield Division(Shard(group.rank + 1, group.count), folder, own, several=True)


def _refuse_disagreement(group: ProcessGroup, folder: Path, claim: Callable[[Path], Any]) -> None:
    """Refuse processes that made another model, or read other images, than the first one recorded
    in ``folder``, before any of them works."""
    fault = ""
    try:
        claim(folder)
    except PhysadvError as error:
        fault = error.value
    faults = [each for each in group.gather(fault) if each]
    if faults:
        raise OptionError(
            f"The processes differ: {faults[0]}",
            "All need the same model, images and labels",
            "Let a model's factory load its weights, or draw them from a seed of its own",
        )


def agreed_folder(group: ProcessGroup, opened: Callable[[], Path]) -> Path:
    """Return the run's folder, which the first process of ``group`` alone opens by ``opened``."""
    return Path(group.from_first(str(opened()) if group.is_first else ""))


@contextmanager
def joined_processes() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, or none.

    Where torchrun ends them, since one has failed, the first one says so in a line.

    Yields:
        This process among them.
    """
    from physadv.core.process_group import ALONE, ProcessGroup

    if not is_one_of_several():
        yield ALONE
        return
    import torch
    from torch import distributed
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # public all the same
    from torch.distributed.rendezvous import rendezvous

    def ended(_number: int, _frame: object) -> None:
        raise JobEndedError(
            "torchrun ended the job",
            "a process of it failed, or it was stopped",
            "The same command goes on from what is saved, with any number of processes",
        )

    usual = signal.signal(signal.SIGTERM, ended)
    # What torchrun keeps across restarts (--max-restarts) holds the addresses of ended processes.
    store, rank, count = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore(f"attempt {attempt}", store),
        rank=rank,
        world_size=count,
    )
    try:
        yield ProcessGroup.current()
    finally:
        distributed.destroy_process_group()
        signal.signal(signal.SIGTERM, usual)
