"""Fetching of weights: from a local server or a file, by pinned sha256, complete or not at all."""

from __future__ import annotations

import hashlib
import http.server
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from commandline import environment

from physadv.core.errors import ModelError
from physadv.models.cards import ModelCard
from physadv.models.fetch import cache_dir, cached_weights, fetch_weights

DATA = b"weights" * 30_000


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        name="own", sha256=hashlib.sha256(DATA).hexdigest(), extra={"size_bytes": len(DATA)}
    )


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server of this machine's own, with the right file, another file and one too long."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "right.pth").write_bytes(DATA)
    (folder / "other.pth").write_bytes(DATA[:-1] + b"x")
    (folder / "long.pth").write_bytes(DATA + b"x")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def files_left() -> list[Path]:
    return [p for p in cache_dir().rglob("*") if p.is_file()] if cache_dir().exists() else []


def test_a_url_is_fetched_verified_and_found_again(card: ModelCard, server: str) -> None:
    """The bytes arrive whole, progress counts to the end, and the cache then knows them."""
    seen: list[tuple[int, int | None]] = []
    path = fetch_weights(
        card, source=f"{server}/right.pth", progress=lambda done, total: seen.append((done, total))
    )
    assert path.read_bytes() == DATA
    assert cached_weights(card) == path
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_file_of_another_machine_by_path(card: ModelCard, tmp_path: Path) -> None:
    """--from takes a path, for machines without a network."""
    (tmp_path / "carried file.pth").write_bytes(DATA)
    assert fetch_weights(card, source=tmp_path / "carried file.pth").read_bytes() == DATA


@pytest.mark.parametrize("name", ["other.pth", "long.pth", "absent.pth"])
def test_the_wrong_bytes_leave_nothing_behind(card: ModelCard, server: str, name: str) -> None:
    """Another sha256, too many bytes, and 404 raise ModelError naming the source; the cache stays
    empty."""
    with pytest.raises(ModelError, match=name):
        fetch_weights(card, source=f"{server}/{name}")
    assert files_left() == []


def test_the_cards_urls_are_tried_in_turn(card: ModelCard, server: str) -> None:
    """A first URL that is gone does not stop the second."""
    urls = (f"{server}/absent.pth", f"{server}/right.pth")
    both = ModelCard(name="own", sha256=card.sha256, urls=urls, extra=card.extra)
    assert fetch_weights(both).read_bytes() == DATA


def test_what_is_there_is_not_fetched_again(card: ModelCard, tmp_path: Path) -> None:
    """A whole file in the cache answers without its source; a damaged one is replaced."""
    source = tmp_path / "w.pth"
    source.write_bytes(DATA)
    path = fetch_weights(card, source=source)
    path.write_bytes(b"damaged")
    assert fetch_weights(card, source=source).read_bytes() == DATA
    source.unlink()
    assert fetch_weights(card, source=source) == path


def test_cards_without_source_are_refused(card: ModelCard) -> None:
    """A card without URLs, and a source that is neither file nor URL, raise ModelError."""
    with pytest.raises(ModelError, match="nothing to fetch"):
        fetch_weights(card)
    with pytest.raises(ModelError, match="neither a file nor"):
        fetch_weights(card, source="ftp://example.invalid/w.pth")


def test_a_full_disk_is_not_blamed_on_the_source(
    card: ModelCard, server: str, tmp_path: Path
) -> None:
    """What the disk does not take is an error of the disk, and nothing is kept; a source that ends
    early is one of the source."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fetch_weights(card, source=f"{server}/right.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_left() == []
    (tmp_path / "served" / "short.pth").write_bytes(DATA[:-1])
    with pytest.raises(ModelError, match="sha256"):
        fetch_weights(card, source=f"{server}/short.pth")
    assert files_left() == []


def test_what_a_killed_fetch_left_goes(card: ModelCard, tmp_path: Path) -> None:
    """Weights are large: half of them are not kept for ever."""
    source = tmp_path / "own.pth"
    source.write_bytes(DATA)
    code = (
        "import os, sys\nfrom physadv.core.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(bytes(1000))\n    os._exit(9)\n"
    )
    target = str(cache_dir() / "weights" / "own.pth")
    subprocess.run([sys.executable, "-c", code, target], env=environment(), check=False)
    assert len(files_left()) == 1
    fetched = fetch_weights(card, source=source)
    assert files_left() == [fetched]
