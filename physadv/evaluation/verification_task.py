"""Verify a list of properties of networks: from a configuration to rows and counts, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from physadv.certification.config import CertifyConfig
from physadv.certification.verify_property import (
    REFUSED,
    Instance,
    read_instances,
    verify_instances,
)
from physadv.core.errors import DataError
from physadv.core.files import sha256_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.progress_log import ProgressLog, claim_folder

VERDICTS = ("verified", "falsified", "timeout", REFUSED)
"""What becomes of a property, in the order of reports."""


@dataclass(frozen=True)
class VerificationTask:
    """Properties to verify, ready to run: the list is read, no network is loaded.

    A folder may only be resumed by a task of the same ``facts``, which hold a digest of all files.
    A property that was begun and not finished is begun anew, so that its row is that of a run
    without interruption.

    Attributes:
        instances: Networks and properties.
        time_limit: Most seconds a property; a list that allows a property less has less.
        seed: Seed of the attacks.
        facts: Settings that identify the task.

    Example:
        >>> def verify(folder):  # a folder with an instances.csv
        ...     task = VerificationTask.from_config(CertifyConfig(vnnlib=folder, time_limit=20))
        ...     log = ProgressLog(None)
        ...     for row in task.run(log):
        ...         print(row["property"], row["verdict"])
        ...     return task.result(log)["counts"]
    """

    instances: tuple[Instance, ...]
    time_limit: float
    seed: int
    facts: dict[str, Any]

    @classmethod
    def from_config(cls, config: CertifyConfig) -> VerificationTask:
        """Read the list that ``config.vnnlib`` names.

        Raises:
            DataError: The list cannot be read, or a file that it names.
            OptionError: A single property without a network, or no line is of the network.
        """
        found = read_instances(config.vnnlib or "", config.model or None)[: config.limit]
        networks = {instance.model for instance in found}
        facts = {
            "vnnlib": config.vnnlib,
            "network": config.model or None,
            "properties": len(found),
            "networks": len(networks),
            "time_limit": config.time_limit,
            "seed": config.seed,
            "physadv": version("physadv"),
            "files_sha256": _digest(found),
        }
        return cls(tuple(found), config.time_limit, config.seed, facts)

    def claim(self, folder: Path) -> None:
        """Note in ``folder`` what is verified there. Raises OptionError where that is another."""
        claim_folder(folder, self.facts)

    def open_log(self, folder: Path) -> ProgressLog:
        """Return the rows in ``folder``, which become or already are this task's.

        Raises OptionError where another run lies in it.
        """
        self.claim(folder)
        return ProgressLog(folder)

    def run(self, log: ProgressLog) -> Iterator[Row]:
        """Verify every property that ``log`` has no row of yet, and yield the row of each.

        Raises:
            ModelError: The network of a single property cannot be read, or bounds cannot pass one
                of its operations; in a list such a property is "refused".
            DataError: A single property cannot be read or does not fit its network.
        """
        pending = [i for i in range(len(self.instances)) if i not in log.rows]
        found = verify_instances(
            [self.instances[i] for i in pending],
            time_limit=self.time_limit,
            seed=self.seed,
            keep_refused=len(self.instances) > 1,
        )
        for index, row in zip(pending, found, strict=True):
            numbered = {"index": index, **row}
            log.write(index, "", [numbered], seconds=row["seconds"])
            yield numbered

    def result(self, log: ProgressLog) -> dict[str, Any]:
        """Return the counts of verdicts, of all rows and by network, with the share that was
        settled, and the facts."""
        rows = [log.rows[i] for i in sorted(log.rows)]
        settled = sum(row["verdict"] in VERDICTS[:2] for row in rows)
        by_network: dict[str, list[Row]] = {}
        for row in rows:
            by_network.setdefault(str(row["model"]), []).append(row)
        return {
            "settled": wilson_interval(settled, len(rows)).as_dict(),
            "counts": count_verdicts(rows),
            "by_network": {name: count_verdicts(own) for name, own in by_network.items()},
            "complete": len(rows) == len(self.instances),
            "seconds": sum(float(row["seconds"]) for row in rows),
            **self.facts,
        }


def count_verdicts(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number of ``rows`` of each verdict.

    Example:
        >>> count_verdicts([{"verdict": "verified"}, {"verdict": "timeout"}])
        {'verified': 1, 'falsified': 0, 'timeout': 1, 'refused': 0}
    """
    counts = Counter(str(row["verdict"]) for row in rows)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _digest(instances: Sequence[Instance]) -> str:
    """The digest of all files in order, so that a run goes on with the files it began with."""
    known: dict[Path, str] = {}
    for path in (path for instance in instances for path in (instance.model, instance.property)):
        if path not in known:
            with foreign_errors(str(path), DataError, "no file that can be read"):
                known[path] = sha256_of(path) if path.is_file() else ""
    listed = "".join(f"{known[i.model]} {known[i.property]} {i.time_limit}\n" for i in instances)
    return sha256(listed.encode()).hexdigest()
