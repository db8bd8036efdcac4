"""Addresses without what must not be seen: users, passwords and tokens of cameras."""

from __future__ import annotations

import re

# Of a camera's scheme one slash or none will do: paths lose a slash, and people mistype. The
# lengths are bounded, so that a long text takes time in proportion.
_START = r"(?:[A-Za-z][A-Za-z0-9+.-]{0,30}://|(?:https?|rtsps?|rtmps?|srt|mms):(?=\S*@)[/\\]*)"
_SCHEME = re.compile(_START)
_IN_TEXT = re.compile(_START + r"[^\s\"'<>]*")
# Of an address typed without its scheme, which is then taken for the name of a file. A drive of
# Windows, C:\, is no user.
_USER = r"(?<![^\s\"'<(\[=])(?![A-Za-z]:[/\\])[^\s\"'<>:@/\\]{0,64}:(?!//)"
_BARE = re.compile(_USER + r"[^\s\"'<>]{0,200}@(?=[^\s\"'<>@])")
_BARE_IN_TEXT = re.compile(_BARE.pattern + r"[^\s\"'<>]*")
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_IN_PATH = re.compile(r"((?:password|passwd|passphrase|pass|pwd|token)=)[^&;/]*", re.IGNORECASE)


def public_address(text: str) -> str:
    """Return an address without user, password and query; any other text as it is.

    Without a scheme, ``user:password@host`` is an address too. Everything up to the last @ counts
    as user and password, for a password may hold any character.
    A password that stands in the path as ``password=...`` is covered.

    Args:
        text: An address alone, or behind an option as ``--source=rtsp://...``.

    Returns:
        The text, fit for a record, a report or a message.

    Example:
        >>> public_address("rtsp://user:secret@10.0.0.7/live?key=1")
        'rtsp://10.0.0.7/live'
        >>> public_address("film.mp4")
        'film.mp4'
    """
    scheme = _SCHEME.search(text)
    if scheme is None:
        bare = _BARE.search(text)
        return text if bare is None else text[: bare.start()] + _without_query(text[bare.end() :])
    place = text[scheme.end() :].rpartition("@")[2]
    return text[: scheme.end()] + _without_query(place)


def _without_query(place: str) -> str:
    """Host and path of an address, without its query, and without a password in the path."""
    return _IN_PATH.sub(r"\1***", _QUERY.sub("", place))


def redact_addresses(text: str) -> str:
    """Return a text with every address in it as :func:`public_address` has it.

    Args:
        text: Message, such as that of an error.

    Returns:
        The message, fit for a terminal or a log.

    Example:
        >>> redact_addresses("http://me:pw@cam/a?t=1 (HTTP 404). Check it.")
        'http://cam/a (HTTP 404). Check it.'
    """
    text = _IN_TEXT.sub(lambda found: public_address(found.group()), text)
    return _BARE_IN_TEXT.sub(lambda found: public_address(found.group()), text)
