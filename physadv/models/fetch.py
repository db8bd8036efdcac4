"""Downloads of model weights, at the user's explicit request only: pinned sha256, complete or
absent."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from physadv.core.errors import ModelError
from physadv.core.files import atomic_stream, remove_leftovers, sha256_of
from physadv.models.cards import ModelCard

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and bytes in all (None where the server does not say)."""

_PIECE = 1 << 16
_LIMIT = 2 << 30


def cache_dir() -> Path:
    """Return the cache folder: PHYSADV_CACHE, else XDG_CACHE_HOME/physadv, else ~/.cache/physadv.

    The folder is not created here.
    """
    if own := os.environ.get("PHYSADV_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "physadv"


def cache_path(card: ModelCard) -> Path:
    """Return the path of the fetched weights of ``card``; its name carries the sha256, so that
    versions stay apart."""
    suffix = ".onnx" if card.urls and card.urls[0].endswith(".onnx") else ".pth"
    return cache_dir() / "weights" / f"{card.name}-{card.sha256[:12]}{suffix}"


def cached_weights(card: ModelCard) -> Path | None:
    """Return the fetched weights of ``card``, or None where there are none."""
    path = cache_path(card)
    return path if path.is_file() else None


def fetch_weights(
    card: ModelCard, *, source: str | Path | None = None, progress: Progress | None = None
) -> Path:
    """Bring a card's weights into the cache and return the path; a complete file there is left
    alone.

    This is the one function of the library that uses the network; the caller has asked the user.

    Args:
        card: Card with a pinned sha256 and addresses.
        source: URL or path that replaces the card's own addresses, which are otherwise tried in
            turn.
        progress: Called with the bytes copied so far and the bytes in all (None where unknown).

    Returns:
        Path of the verified file.

    Raises:
        ModelError: The card has nothing to fetch, no source answers, or the bytes have another
            sha256 than the card. Nothing is left behind then.
    """
    require_fetchable(card, source)
    target = cache_path(card)
    if target.is_file() and sha256_of(target) == card.sha256:
        return target
    remove_leftovers(target.parent, below=False)

    # Published addresses die; the first failure is reported once all have been tried.
    failures = []
    for origin in [str(source)] if source is not None else card.urls:
        try:
            with atomic_stream(target) as stream:
                digest = _copy(origin, stream, _size_of(card), progress)
                _verify(digest, card, origin)
            return target
        except ModelError as error:
            failures.append(error)
    raise failures[0]


def require_fetchable(card: ModelCard, source: str | Path | None = None) -> None:
    """Check that ``card`` can be fetched from its own addresses or from ``source``.

    Raises:
        ModelError: The card has no pinned sha256, or no addresses while no ``source`` is given.
    """
    if not card.sha256 or (source is None and not card.urls):
        remedy = (
            card.extra.get("install")
            or f"`physadv models show {card.name}` says where it comes from"
        )
        raise ModelError(f"model {card.name!r}", "has nothing to fetch", remedy)


def _size_of(card: ModelCard) -> int:
    """The most bytes that the weights of ``card`` may have."""
    return int(card.extra.get("size_bytes", _LIMIT))


def _verify(digest: str, card: ModelCard, origin: str) -> None:
    if digest != card.sha256:
        raise ModelError(
            f"{origin}",
            f"sha256 {digest} is not the pinned {card.sha256}",
            "Nothing was kept; give the right file with --source",
        )


def _copy(origin: str, out: BinaryIO, most: int, progress: Progress | None) -> str:
    """Copy what stands at ``origin`` to ``out``, ``most`` bytes at most; return its sha256."""
    digest, done = hashlib.sha256(), 0
    for piece, total in _pieces(origin):
        done += len(piece)
        # A body longer than stated is cut off at once, before it fills the disk.
        if done > most:
            raise ModelError(
                f"{origin}", f"is longer than the {most} bytes expected", "Check the source"
            )
        out.write(piece)
        digest.update(piece)
        if progress is not None:
            progress(done, total)
    return digest.hexdigest()


def _pieces(origin: str) -> Iterator[tuple[bytes, int | None]]:
    """Yield the bytes at ``origin``, a file or an address, and how many there are in all."""
    scheme = urllib.parse.urlsplit(origin).scheme.lower()
    if scheme in ("http", "https", "file"):
        request: str = origin
    elif Path(origin).is_file():
        request = Path(origin).resolve().as_uri()
    else:
        raise ModelError(f"{origin}", "neither a file nor an http(s) URL", "Check the path")

    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            total = int(reply.headers.get("Content-Length") or 0) or None
            while piece := reply.read(_PIECE):
                yield piece, total
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(
            f"{origin}", f"cannot be fetched ({reason})", "Give another source with --source"
        ) from error
