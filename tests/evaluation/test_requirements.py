"""Requirements of figures: read strictly, judged by what was measured, told to CI services."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.errors import OptionError
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.metrics.requirements import Requirement, judge_all
from physadv.report.gate_files import sarif_log, write_gate_files

METRICS = ("clean", "robust")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("robust >= 0.5", "robust >= 0.5"),
        ("robust>=50%", "robust >= 0.5"),
        ("  clean.low > .9 ", None),
        ("clean.low > 0.9", "clean.low > 0.9"),
        ("robust.rate < 1", "robust < 1"),
        ("robust.high <= 12.5 %", "robust.high <= 0.125"),
    ],
)
def test_forms_that_are_read(text: str, read: str | None) -> None:
    if read is None:
        with pytest.raises(OptionError, match="a figure, a comparison"):
            Requirement.parse(text, METRICS)
    else:
        assert str(Requirement.parse(text, METRICS)) == read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("robust", "a figure, a comparison"),
        ("robust == 0.5", "a figure, a comparison"),
        ("robust >= nan", "a figure, a comparison"),
        ("robust >= -0.1", "a figure, a comparison"),
        ("robust >= 50", r"shares lie in \[0, 1\]"),
        ("robust >= 101%", r"shares lie in \[0, 1\]"),
        ("robustness >= 0.5", "this command measures clean, robust"),
        ("robust.mean >= 0.5", "ends of the 95 % interval"),
        ("1" * 100_000, "a figure, a comparison"),
        ("a" * 100_000 + ".", "a figure, a comparison"),
    ],
)
def test_forms_that_are_refused(text: str, said: str) -> None:
    """Each refusal says what is allowed."""
    with pytest.raises(OptionError, match=said):
        Requirement.parse(text, METRICS)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0, 1), st.sampled_from(["rate", "low"]))
def test_a_limit_is_kept_as_the_numbers_say(good: int, bad: int, limit: float, end: str) -> None:
    """``>=`` and ``<`` of one limit are never both met, and always one of them."""
    figure = wilson_interval(good, good + bad)
    at_least = Requirement("robust", end, ">=", limit).judge(figure)
    below = Requirement("robust", end, "<", limit).judge(figure)
    assert at_least.met != below.met
    assert at_least.met == (getattr(figure, end) >= limit)


def test_doubtful_passes_say_so() -> None:
    """A rate that keeps the limit while its interval does not is met, with a word on it."""
    figure = wilson_interval(11, 20)
    outcome = Requirement.parse("robust >= 0.5", METRICS).judge(figure)
    assert outcome.met
    assert "the interval reaches beyond the limit" in outcome.words
    assert not Requirement.parse("robust.low >= 0.5", METRICS).judge(figure).met


@pytest.mark.parametrize("text", ["robust >= 0", "robust <= 1"])
def test_what_was_not_measured_meets_nothing(text: str) -> None:
    """No trials, or figures that mean nothing, meet not even what is always true."""
    requirement = Requirement.parse(text, METRICS)
    assert not requirement.judge(RateInterval(0.0, 0.0, 1.0, 0)).met
    assert not requirement.judge(wilson_interval(5, 10), "all answers are one class").met
    one_clip = RateInterval(1.0, 0.0, 1.0, 50, clusters=1)
    assert requirement.judge(one_clip).met
    assert not Requirement.parse("robust.low >= 0", METRICS).judge(one_clip).met


def test_files_for_services_hold_every_outcome(tmp_path: Path) -> None:
    """JUnit counts what failed; SARIF names a rule for each, whatever the model is called."""
    texts = ("robust >= 0.5", "clean >= 0.9", "clean >= 0.9")
    requirements = [Requirement.parse(text, METRICS) for text in texts]
    figures = {"robust": wilson_interval(3, 10), "clean": wilson_interval(10, 10)}
    outcomes = judge_all(requirements, figures)
    subject = 'a<b>&"\x1b[31m'
    junit, _ = write_gate_files(tmp_path, "evaluate", subject, outcomes)

    suite = ET.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["robust >= 0.5"]

    run = sarif_log("evaluate", subject, outcomes)["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["robust >= 0.5", "clean >= 0.9"]
    (result,) = run["results"]
    assert rules[result["ruleIndex"]] == result["ruleId"] == "robust >= 0.5"
    assert (result["kind"], result["level"]) == ("fail", "error")
    assert "\x1b" not in result["message"]["text"]


@pytest.mark.parametrize(
    ("page", "uri"),
    [
        ("runs/my run/report.html", "runs/my%20run/report.html"),
        ("/home/someone/run/report.html", "run/report.html"),
        ("C:/work/run/report.html", "run/report.html"),
    ],
)
def test_a_result_has_a_file_below_the_top_folder(page: str, uri: str) -> None:
    """GitHub refuses a whole log for one result without a file; no path of a machine is named."""
    requirement = Requirement.parse("robust >= 0.5", METRICS)
    outcomes = judge_all([requirement], {"robust": wilson_interval(3, 10)})
    (result,) = sarif_log("evaluate", "net", outcomes, page)["runs"][0]["results"]
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == uri
    assert place["physicalLocation"]["region"]["startLine"] == 1
