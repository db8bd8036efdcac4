"""Models behind an address or a command: protocol, budget, failures, attacks, trust."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from reference_server import CLASSIFY, KEPT_RUNNING, ReferenceBox, python_words, served
from torch import Tensor

import physadv
from physadv.attacks.decision_based import hopskipjump
from physadv.attacks.gradient import pgd
from physadv.attacks.score_based import square_attack
from physadv.core.errors import ModelError
from physadv.core.image_io import save_png
from physadv.core.trust import only_code_named
from physadv.models.black_box import BlackBox, BlackBoxSettings, black_box_within
from physadv.models.black_box_connections import ProcessConnection

CLASSES = ["red", "green", "neither"]
ABOUT = {"classes": CLASSES, "outputs": "probabilities"}


def by_color(images: Tensor) -> Tensor:
    """Probabilities (b, 3) that follow the mean of red and green."""
    means = images.mean((2, 3))
    return (
        20 * torch.stack([means[:, 0], means[:, 1], torch.full_like(means[:, 0], 0.2)], 1)
    ).softmax(1)


def reds(count: int = 4, side: int = 8) -> Tensor:
    """Images (count, 3, side, side), slightly more red than green, in 8 bits."""
    draws = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3)) * 0.1
    base = torch.tensor([0.5, 0.44, 0.3])[None, :, None, None]
    return ((base + draws) * 255).round() / 255


def test_the_answers_are_those_of_the_model_behind() -> None:
    """Logits here are the logarithms of what the server's model returns, for every batch size."""
    box = ReferenceBox(by_color, ABOUT)
    with served(box) as url:
        model = physadv.load_model(url)
        images = reds(70)
        logits = model(images)
    assert model.card.classes == tuple(CLASSES)
    assert torch.allclose(logits, by_color(images).log(), atol=1e-4)
    assert box.requests == [32, 32, 6]


def test_a_box_without_a_description_is_asked_once_for_its_number_of_classes() -> None:
    """Its classes are numbers then."""
    box = ReferenceBox(by_color)
    with served(box) as url:
        model = physadv.load_model(url)
    assert model.card.classes == ("0", "1", "2")
    assert box.images == 1


def test_queries_are_counted_and_end_at_the_budget(tmp_path: Path) -> None:
    """Every image sent counts, none is sent beyond the budget."""
    box = ReferenceBox(by_color, ABOUT)
    with served(box) as url:
        (tmp_path / "box.toml").write_text(f'url = "{url}"\nbudget = 10\nbatch = 4\n')
        model = physadv.load_model(tmp_path / "box.toml")
        model(reds(9))
        with pytest.raises(ModelError, match="budget is 10"):
            model(reds(2))
    asked = black_box_within(model)
    assert asked is not None
    assert asked.sent == box.images == 9


def test_a_busy_box_is_asked_again_and_a_dead_one_is_named(tmp_path: Path) -> None:
    """503 and 429 pass; what goes on failing ends in one error, as does a closed port."""
    box = ReferenceBox(by_color, ABOUT, failures=[503, 429])
    with served(box) as url:
        model = physadv.load_model(url)
        assert model(reds(2)).shape == (2, 3)
        (tmp_path / "box.toml").write_text(f'url = "{url}"\nretries = 1\n')
        impatient = physadv.load_model(tmp_path / "box.toml")
        box.failures = [500] * 9
        with pytest.raises(ModelError, match="2 attempts"):
            impatient(reds(1))
        box.failures = [403]
        with pytest.raises(ModelError, match="HTTP 403"):
            model(reds(1))
    with pytest.raises(ModelError, match=r"cannot be reached|no answer"):
        physadv.load_model(url)


def test_the_rate_is_kept(tmp_path: Path) -> None:
    """Five requests at 20 a second take at least the four pauses between them."""
    with served(ReferenceBox(by_color, ABOUT)) as url:
        (tmp_path / "box.toml").write_text(f'url = "{url}"\nper_second = 20\nbatch = 1\n')
        model = physadv.load_model(tmp_path / "box.toml")
        begun = time.monotonic()
        model(reds(5))
    assert time.monotonic() - begun >= 4 / 20


def test_a_token_is_sent_from_the_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names the variable; the value goes into the request and nowhere else."""
    monkeypatch.setenv("BOX_TOKEN", "hush")
    box = ReferenceBox(by_color, ABOUT)
    with served(box) as url:
        (tmp_path / "box.toml").write_text(f'url = "{url}"\ntoken_env = "BOX_TOKEN"\n')
        model = physadv.load_model(tmp_path / "box.toml")
        model(reds(1))
    assert set(box.tokens) == {"Bearer hush"}
    assert "hush" not in str(model.card.as_dict())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>", "JSON"),
        (b"{}", "scores"),
        (b"5", "scores"),
        (b'{"scores": [[0.5, 0.5, 0]], "labels": [0]}', "One of"),
        (b'{"scores": [[0.5, 0.5]]}', "2 scores"),
        (b'{"scores": [[0.5, 0.5, NaN]]}', "JSON|finite|NaN"),
        (b'{"scores": [[7, 0.5, 0.1]]}', "probabilities"),
        (b'{"scores": [["a", "b", "c"]]}', "scores"),
        (b'{"scores": [[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]}', "2 rows"),
        (b'{"labels": ["blue"]}', "blue"),
        (b'{"labels": [3]}', "label"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_odd_answers_are_one_error(answer: bytes, words: str) -> None:
    """Whatever a server sends, the error is of this program and says what was wrong."""
    box = ReferenceBox(by_color, ABOUT)
    with served(box) as url:
        model = physadv.load_model(url)
        box.answer = answer
        with pytest.raises(ModelError, match=words):
            model(reds(1))


def test_scores_break_what_can_be_broken() -> None:
    """Square finds the images that a threat of this size allows; the check is the box's own."""
    with served(ReferenceBox(by_color, ABOUT)) as url:
        model = physadv.load_model(url)
        result = square_attack(model, reds(), torch.zeros(4).long(), eps=0.1, queries=60, seed=0)
    assert result.success.all()
    assert (by_color((result.images * 255).round() / 255).argmax(1) != 0).all()


def test_labels_alone_suffice_for_an_attack_on_decisions() -> None:
    """A box that answers labels is broken by HopSkipJump."""
    with served(
        ReferenceBox(by_color, {"classes": CLASSES, "outputs": "labels"}, labels=True)
    ) as url:
        model = physadv.load_model(url)
        result = hopskipjump(model, reds(2), torch.zeros(2).long(), eps=2.0, queries=200, seed=0)
    assert result.success.all()


def test_a_gradient_is_refused_with_the_way_out() -> None:
    """PGD cannot run; the error names the attacks that can."""
    with served(ReferenceBox(by_color, ABOUT)) as url:
        model = physadv.load_model(url)
        with pytest.raises(ModelError, match="black-box attack"):
            pgd(model, reds(), torch.zeros(4).long(), eps=0.1)


@pytest.mark.parametrize("words", ["{image}", "{images}", ""])
def test_a_command_answers_like_a_server(tmp_path: Path, words: str) -> None:
    """One picture a run, several, or on standard input: the scores are the same."""
    (tmp_path / "classify.py").write_text(CLASSIFY)
    command = f"command:{python_words()} '{tmp_path / 'classify.py'}' {words}"
    model = physadv.load_model(command)
    images = reds(3)
    means = images.mean((2, 3))
    expected = torch.stack([means[:, 0] / 2, means[:, 1] / 2, torch.full((3,), 0.1)], 1)
    assert torch.allclose(model(images).exp(), expected, atol=1e-4)


def test_a_command_with_lines_is_started_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets a name a line and answers each; it ends with the model, and its pictures go."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "classify.py").write_text(KEPT_RUNNING)
    model = physadv.load_model(f"command:{python_words()} classify.py {{lines}}")
    images = reds(3)
    answers = torch.cat([model(images), model(images[:1])])
    means = torch.cat([images, images[:1]]).mean((2, 3))
    expected = torch.stack([means[:, 0] / 2, means[:, 1] / 2, torch.full((4,), 0.1)], 1)
    assert torch.allclose(answers.exp(), expected, atol=1e-4)
    assert (tmp_path / "starts").read_text() == "x"

    box = black_box_within(model)
    assert isinstance(box, BlackBox)
    assert isinstance(box.connection, ProcessConnection)
    running = box.connection.process
    assert running is not None
    running.close()
    assert running.status is not None
    assert not list(tmp_path.glob("physadv-*"))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "print('loading'); print('3'); [print('a', flush=True) for line in sys.stdin]",
            "unasked|'loading'",
        ),
        ("input(); sys.exit('out of order')", "status 1 .out of order"),
        ("[line for line in iter(input, 'end')]", "flush its output"),
        ("input(); print('[0.5, 0.5, 0.5')", "JSON"),
    ],
)
def test_a_running_command_that_fails_is_one_error(
    monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    """What it prints unasked, its end, and an answer that never comes."""
    # Only the one that never answers is waited for to the end; a busy machine starts slowly.
    start_s = 1.5 if "flush" in words else 60
    monkeypatch.setattr("physadv.models.black_box_connections._START_S", start_s)
    command = f'{python_words()} -c "import sys; {code}" {{lines}}'
    settings = BlackBoxSettings(
        command=command, outputs="labels", classes=("a", "b"), timeout_s=1.5, retries=0
    )
    with pytest.raises(ModelError, match=words):
        BlackBox("box", settings)(reds(3))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("command:", "is needed"),
        ("command:{lines}", "is empty"),
        ("command:'", "quotes"),
        ("command:no-such-program-here {image}", "cannot be run"),
        (f"command:{python_words()} -c 'import sys; sys.exit(\"out of order\")'", "out of order"),
    ],
)
def test_a_command_that_fails_is_one_error(command: str, words: str) -> None:
    """With the last line of what it said."""
    with pytest.raises(ModelError, match=words):
        physadv.load_model(command)


@pytest.mark.parametrize("kept", ["", " {lines}"], ids=["anew", "kept running"])
@pytest.mark.parametrize("ending", ["", r"\n"], ids=["one line", "lines"])
def test_an_endless_answer_of_a_command_fills_no_memory(kept: str, ending: str) -> None:
    """It is ended, or waits, once it has printed more than an answer may have."""
    code = f"while True: sys.stdout.write('y' * 65536 + '{ending}')"
    command = f'{python_words()} -c "import sys\n{code}"{kept}'
    settings = BlackBoxSettings(
        command=command, outputs="labels", classes=("a", "b"), timeout_s=20, retries=0
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=r"too long|unasked|none of its classes|class"):
        BlackBox("box", settings)(reds(3))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_a_command_that_reads_nothing_and_leaves_a_child_is_not_waited_for() -> None:
    """Its child holds the pipe of the answer for a minute; the time of a request ends it."""
    command = "sh -c 'sleep 60 & exit 0'"
    settings = BlackBoxSettings(
        command=command, outputs="labels", classes=("a", "b"), timeout_s=0.5, retries=0
    )
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer in 0\.5 s"):
        BlackBox("box", settings)(reds(1))
    assert time.monotonic() - start < 20


DRIPS = {
    "head": (b"", b"HTTP/1.1 200 OK\r\nX-A: "),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"["),
    "body without a length": (b"HTTP/1.0 200 OK\r\n\r\n", b"["),
    "endless heads": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
}


@pytest.mark.parametrize(("first", "then"), DRIPS.values(), ids=DRIPS)
def test_a_server_that_drips_is_left_at_the_time_of_a_request(first: bytes, then: bytes) -> None:
    """A byte now and then keeps a socket alive for ever, but no request."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.sendall(first)
                    while True:
                        client.sendall(then)
                        time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        settings = BlackBoxSettings(url=url, classes=("a", "b"), timeout_s=0.5, retries=0)
        start = time.monotonic()
        with pytest.raises(ModelError, match="no answer in time"):
            BlackBox("box", settings)(reds(1))
        assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:9/x", "command:true {image}", "box.toml"], ids=["url", "cmd", "file"]
)
def test_a_box_that_only_a_file_names_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """A card or a configuration of someone else runs no command and sends no picture."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box.toml").write_text('command = "touch was-run"\n')
    with only_code_named([]), pytest.raises(ModelError, match="command line itself"):
        physadv.load_model(text)
    assert not (tmp_path / "was-run").exists()


def test_the_password_of_an_address_is_shown_nowhere() -> None:
    """Neither in the error nor on the card."""
    with pytest.raises(ModelError) as raised:
        physadv.load_model("http://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(raised.value)


ON_SERVERS = [["attack", "--attack", "square", "--steps", "30"], ["evaluate", "--curve", "none"]]


@pytest.mark.parametrize("command", ON_SERVERS)
def test_the_program_attacks_a_server(tmp_path: Path, command: list[str]) -> None:
    """attack and evaluate run on a box in a process of their own and show the queries."""
    for i, image in enumerate(reds(6)):
        save_png(tmp_path / "data" / "red" / f"{i}.png", image)
        save_png(tmp_path / "data" / "green" / f"{i}.png", image[[1, 0, 2]])
    box = ReferenceBox(by_color, ABOUT)
    with served(box) as url:
        words = [sys.executable, "-m", "physadv", *command, "--model", url, "--json"]
        words += ["--data", str(tmp_path / "data"), "--threat", "linf:0.1", "--limit", "2"]
        words += ["--split", "all", "--out", str(tmp_path / "run")]
        done = subprocess.run(words, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["queries"] == box.images
    assert "queries" in done.stderr


def test_settings_of_a_box_may_be_stated_beside_it() -> None:
    """Classes, size and outputs given for a box hold in place of what it states itself: they are
    the same options as for any model."""
    logits = ReferenceBox(lambda images: 5 * by_color(images), ABOUT)
    with served(logits) as url:
        with pytest.raises(ModelError, match="--outputs logits"):
            physadv.load_model(url)(reds())
        words = {"outputs": "logits", "classes": ("a", "b", "c"), "input_size": (4, 4)}
        model = physadv.load_model(url, settings=words)
        answers = model(reds())
        assert model.card.classes == ("a", "b", "c")
        assert model.card.input_size == (4, 4)
        with pytest.raises(ModelError, match="It is sent pictures"):
            physadv.load_model(url, settings={"mean": 0.5})
        assert physadv.load_model(url, settings={"input_size": 4}).card.input_size == (4, 4)
    box = black_box_within(model)
    assert box is not None
    assert box.outputs == "logits"
    assert answers.shape == (4, 3)


@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_a_box_of_one_value_has_two_classes(kind: str) -> None:
    """Its value is that of the second class: the logits' difference is what it says."""
    value = 3.0 if kind == "logit" else 0.75
    box = ReferenceBox(lambda images: torch.full((len(images), 1), value))
    with served(box) as url:
        settings = {"outputs": kind, "classes": ("other", "stop")}
        logits = physadv.load_model(url, settings=settings)(reds())
    difference = 3.0 if kind == "logit" else torch.tensor(3.0).log()
    assert torch.allclose(logits[:, 1] - logits[:, 0], torch.as_tensor(difference).expand(4))
