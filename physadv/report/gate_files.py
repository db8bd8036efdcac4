"""Requirements and their outcomes in the forms that CI services read: JUnit XML and SARIF 2.1.0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from physadv.core.files import write_json, write_text
from physadv.core.visible_text import visible_line
from physadv.evaluation.metrics.requirements import RequirementOutcome

JUNIT, SARIF = "requirements.xml", "requirements.sarif"
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def write_gate_files(
    folder: str | Path, command: str, subject: str, outcomes: Sequence[RequirementOutcome]
) -> tuple[Path, Path]:
    """Write ``requirements.xml`` (JUnit) and ``requirements.sarif`` into a run's folder.

    Args:
        folder: Folder of the run.
        command: The activity, such as "evaluate".
        subject: What was measured, such as the model's name.
        outcomes: The requirements with their outcomes.

    Returns:
        Paths of both files.
    """
    junit = write_text(Path(folder) / JUNIT, junit_xml(command, subject, outcomes))
    page = (Path(folder) / "report.html").as_posix()
    return junit, write_json(Path(folder) / SARIF, sarif_log(command, subject, outcomes, page))


def junit_xml(command: str, subject: str, outcomes: Sequence[RequirementOutcome]) -> str:
    """Return a JUnit document of one suite with a test case for each requirement.

    Args:
        command: The activity, which names the suite.
        subject: What was measured.
        outcomes: The requirements with their outcomes.
    """
    failed = sum(not outcome.met for outcome in outcomes)
    counts = {"tests": str(len(outcomes)), "failures": str(failed), "errors": "0"}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": f"physadv {command}", **counts})
    for outcome in outcomes:
        case = ET.SubElement(
            suite,
            "testcase",
            {"classname": visible_line(subject), "name": str(outcome.requirement), "time": "0"},
        )
        if outcome.met:
            ET.SubElement(case, "system-out").text = visible_line(outcome.words)
        else:
            ET.SubElement(case, "failure", {"message": visible_line(outcome.words)})
    ET.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suites, "unicode") + "\n"


def sarif_log(
    command: str,
    subject: str,
    outcomes: Sequence[RequirementOutcome],
    page: str = "report.html",
) -> dict[str, Any]:
    """Return a SARIF log of one run: a rule for each requirement, a result for each one not met.

    Services show every result as an alert, whatever its kind, and refuse one without a file.

    Args:
        command: The activity.
        subject: What was measured.
        outcomes: The requirements with their outcomes.
        page: Path of the run's report with slashes, as the run's folder was named; of an absolute
            one its last two parts are taken.
    """
    parts = PurePosixPath(page).parts
    relative = parts[-2:] if PurePosixPath(page).is_absolute() or ":" in parts[0] else parts
    file = {"artifactLocation": {"uri": quote("/".join(relative))}, "region": {"startLine": 1}}
    place = {
        "physicalLocation": file,
        "logicalLocations": [{"name": visible_line(subject)}],
    }
    names = list(dict.fromkeys(str(outcome.requirement) for outcome in outcomes))
    results = [
        {
            "ruleId": str(outcome.requirement),
            "ruleIndex": names.index(str(outcome.requirement)),
            "kind": "fail",
            "level": "error",
            "message": {"text": visible_line(f"{subject}: {outcome}")},
            "locations": [place],
        }
        for outcome in outcomes
        if not outcome.met
    ]
    rules = [{"id": name, "shortDescription": {"text": f"Requires {name}"}} for name in names]
    driver = {"name": f"physadv {command}", "rules": rules}
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
