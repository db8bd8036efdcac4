"""Question to an RTSP camera whether it leads elsewhere, before ffmpeg follows it there.

ffmpeg takes user and password along to whatever host a camera's redirect names.
"""

from __future__ import annotations

import socket
import ssl
from base64 import b64encode
from contextlib import suppress
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    AbstractDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    Request,
    parse_http_list,
    parse_keqv_list,
)

from physadv.core.errors import CaptureError

_PORTS = {"rtsp": 554, "rtsps": 322}
_MOST_BYTES = 1 << 16


def refuse_rtsp_redirect(url: str, timeout_s: float) -> None:
    """Refuse a camera that leads user and password to another host.

    Args:
        url: Address; any but an RTSP address with a password is left alone, and so is one that does
            not answer, of which ffmpeg tells more.
        timeout_s: Longest wait in seconds.

    Raises:
        CaptureError: It leads elsewhere.
    """
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if parts.scheme not in _PORTS or not user:
        return
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    location = ""
    # What no camera should answer raises LookupError in the standard library's own parsers.
    unanswered = (OSError, ValueError, LookupError)
    with suppress(*unanswered), _connect(bare, timeout_s) as connection:
        code, headers = _describe(connection, bare, 1, "")
        challenge = headers.get("www-authenticate", "")
        if code == 401 and challenge:
            code, headers = _describe(connection, bare, 2, _authorization(bare, user, challenge))
        location = headers.get("location", "") if 300 <= code < 400 else ""
    if location and _host_of(location) != host:
        raise CaptureError(
            f"{bare} leads to {location}",
            "A camera's password goes to no other host",
            "Give that address itself if you trust it",
        )


def _host_of(location: str) -> str | None:
    """Host and port of an address; None where it cannot be read, which is no host that is known."""
    try:
        return urlsplit(location).netloc.rpartition("@")[2]
    except ValueError:
        return None


def _connect(url: str, timeout_s: float) -> socket.socket:
    parts = urlsplit(url)
    port = parts.port or _PORTS[parts.scheme]
    connection = socket.create_connection((parts.hostname or "", port), timeout=timeout_s)
    if parts.scheme == "rtsp":
        return connection
    return ssl._create_unverified_context().wrap_socket(connection)  # as ffmpeg does


def _describe(
    connection: socket.socket, url: str, number: int, authorization: str
) -> tuple[int, dict[str, str]]:
    """The code and the headers, by name in lower case, of the answer to a DESCRIBE."""
    lines = [f"DESCRIBE {url} RTSP/1.0", f"CSeq: {number}", "Accept: application/sdp"]
    lines += [f"Authorization: {authorization}"] if authorization else []
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < _MOST_BYTES:
        piece = connection.recv(4096)
        if not piece:
            break
        answer += piece
    first, *rest = answer.partition(b"\r\n\r\n")[0].decode(errors="replace").split("\r\n")
    pairs = (line.partition(":")[::2] for line in rest)
    return int(first.split()[1]), {name.strip().lower(): text.strip() for name, text in pairs}


def _authorization(url: str, user: str, challenge: str) -> str:
    """The answer to a camera's ``challenge``, Basic or Digest."""
    kind, _, text = challenge.partition(" ")
    if kind.lower() == "basic":
        return f"Basic {b64encode(unquote(user).encode()).decode()}"
    name, _, password = user.partition(":")
    known = HTTPPasswordMgrWithDefaultRealm()
    asked = Request(url.replace("rtsp", "http", 1), method="DESCRIBE")
    known.add_password(None, asked.full_url, unquote(name), unquote(password))
    asked.selector = url
    digest = AbstractDigestAuthHandler(known)
    said = digest.get_authorization(asked, parse_keqv_list(parse_http_list(text)))
    return f"Digest {said}" if said else ""
