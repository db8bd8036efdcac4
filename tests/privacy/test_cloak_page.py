"""The cloak's local page: photos in, faces chosen, a zip out, over HTTP as a browser asks."""

from __future__ import annotations

import errno
import http.client
import io
import json
import re
import socket
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tinyface import KnownFinder, drawn_photo, face_at, tiny_embedder

from physadv.core.errors import CaptureError, OptionError
from physadv.privacy import cloak_page
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.cloak_page import MOST_PHOTO_BYTES, CloakPage
from physadv.privacy.photo_cloaker import PhotoCloaker

FACE = KnownFinder()(np.zeros((120, 160, 3)))[0]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloakPage]:
    for name, mode in MODES.items():
        monkeypatch.setitem(MODES, name, replace(mode, steps=2, draws=1, every=2))
    finder = [KnownFinder(), lambda rgb: [face_at(4, 4, 30)]]
    with CloakPage(0, PhotoCloaker(finder, [tiny_embedder()], MODES["low"])) as made:
        yield made


def photo(person: int = 0) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    pixels = drawn_photo(120, 160, FACE, person=person)
    Image.fromarray(pixels).save(out, "PNG", exif=exif)
    return out.getvalue()


def ask(
    page: CloakPage, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    connection.request(method, f"/{page.token}/{path}", body, named)
    answer = connection.getresponse()
    return answer.status, answer.read()


def state(page: CloakPage) -> dict[str, Any]:
    page.settle()
    table: dict[str, Any] = json.loads(ask(page, "GET", "state.json")[1])
    return table


def test_a_photo_that_fails_oddly_stops_no_other(
    page: CloakPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finder or network may raise anything, such as torch's own lack of memory: the photo says
    so, and the next one is looked at."""
    plain = PhotoCloaker.faces

    def failing(self: PhotoCloaker, pixels: Any, name: str) -> Any:
        if name == "odd.png":
            raise RuntimeError("out of memory")
        return plain(self, pixels, name)

    monkeypatch.setattr(PhotoCloaker, "faces", failing)
    for name in ("odd.png", "good.png"):
        assert ask(page, "POST", "photo", photo(), X_Name=name)[0] == 200
    odd, good = state(page)["photos"]
    assert (odd["status"], odd["note"]) == ("failed", "out of memory")
    assert good["status"] == "ready"


def test_photos_are_cloaked_and_come_back_as_a_zip(page: CloakPage) -> None:
    """Two photos of one name, one of which is no photo: faces are found, the good one is cloaked
    inside its boxes alone, without its place, and the bad one says why."""
    data = photo()
    assert ask(page, "POST", "photo", data, X_Name="a%20b.png") == (200, b'{"number": 1}')
    assert ask(page, "POST", "photo", data, X_Name="a%20b.png")[0] == 200
    assert ask(page, "POST", "photo", b"no photo", X_Name="x.jpg")[0] == 200
    first, _, bad = state(page)["photos"]
    assert (first["name"], first["status"], len(first["faces"])) == ("a b.png", "ready", 2)
    assert bad["status"] == "failed"
    assert bad["note"].startswith("x.jpg")

    assert ask(page, "POST", "cloak/mid")[0] == 200
    assert [p["cloaked"] for p in state(page)["photos"]] == [["mid"], ["mid"], []]
    status, body = ask(page, "GET", "mid/cloaked-photos.zip")
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["a b.png", "a b-2.png"]
        with Image.open(io.BytesIO(archive.read("a b.png"))) as cloaked:
            assert 0x8825 not in cloaked.getexif()
            changed = (np.asarray(cloaked) != np.asarray(Image.open(io.BytesIO(data)))).any(2)
    outside = changed.copy()
    for face in first["faces"]:
        x0, y0, x1, y1 = (
            round(v * s) for v, s in zip(face["box"], (160, 120, 160, 120), strict=True)
        )
        assert changed[y0:y1, x0:x1].any()
        outside[y0:y1, x0:x1] = False
    assert not outside.any()
    for kind in ("before", "mid"):
        assert ask(page, "GET", f"1/{kind}.jpg")[1][:2] == b"\xff\xd8"


def test_the_photos_of_a_page_are_one_album(page: CloakPage) -> None:
    """A person's two photos know each other, one of another person says that it is alone. None
    flees from its own earlier cloak."""
    for person, shot in ((0, 0), (0, 1), (5, 0)):
        out = io.BytesIO()
        pixels = drawn_photo(120, 160, FACE, person=person, shot=shot)
        pixels[40 + 9 * shot : 49 + 9 * shot] //= 2  # a shadow, as two shots are no one photo
        Image.fromarray(pixels).save(out, "PNG")
        ask(page, "POST", "photo", out.getvalue(), X_Name=f"{person}{shot}.png")
    for number in (1, 2, 3):
        page.settle()
        ask(page, "POST", f"face/{number}/2")  # the finder's second face is no person
    page.settle()
    ask(page, "POST", "cloak/low")
    assert [photo["alone"] for photo in state(page)["photos"]] == [[], [], ["low"]]
    assert len(page._memory(page._photo(1), "low").copy()) == 2


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("..%2F..%2Fetc%2Fa.png", "a.png"),
        ("C%3Aa.png", "C_a.png"),
        ("con.png", "_con.png"),
        ("a%00b%1B%5B2J%E2%80%AE.png", "a_b_[2J_.png"),
        ("..", "_...png"),
        ("a.png.%20.", "a.png. ..png"),
    ],
)
def test_no_name_in_the_zip_is_one_that_a_system_obeys(
    page: CloakPage, name: str, member: str
) -> None:
    """Photos have the names that their senders chose; the zip may be unpacked anywhere."""
    assert ask(page, "POST", "photo", photo(), X_Name=name)[0] == 200
    (shown,) = state(page)["photos"]
    assert not any(character in shown["name"] for character in "\0\x1b\u202e/")
    assert ask(page, "POST", "cloak/mid")[0] == 200
    assert state(page)["photos"][0]["cloaked"] == ["mid"]
    with zipfile.ZipFile(io.BytesIO(ask(page, "GET", "mid/cloaked-photos.zip")[1])) as archive:
        assert archive.namelist() == [member]


@pytest.mark.parametrize(
    "name", ["a.%00png", "a." + "%F0%9F%98%80" * 60, "a." + "b" * 199, "a.%2Fpng", "a.p%0Ang"]
)
def test_no_name_is_too_odd_to_be_kept_under(
    page: CloakPage, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """A suffix that no disk takes is left out of the copy's name: the photo is cloaked as any."""
    assert ask(page, "POST", "photo", photo(), X_Name=name)[0] == 200
    assert state(page)["photos"][0]["status"] == "ready"
    assert capfd.readouterr().err == ""


def test_a_photo_that_cannot_be_kept_is_not_on_the_page(
    page: CloakPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser is told, as of a full disk, and the next photo is taken."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cloak_page, "write_bytes", full)
        code, words = ask(page, "POST", "photo", photo(), X_Name="a.png")
    assert (code, b"No space left" in words) == (404, True)
    assert state(page)["photos"] == []
    assert ask(page, "POST", "photo", photo(), X_Name="a.png")[0] == 200
    assert state(page)["photos"][0]["status"] == "ready"


def test_a_budget_is_a_strength_as_a_mode_is(page: CloakPage) -> None:
    """A number is cloaked at and kept beside the modes; that of a mode is that mode."""
    ask(page, "POST", "photo", photo(), X_Name="a.png")
    for strength in ("2.15", "3.20", "2.150"):
        assert ask(page, "POST", f"cloak/{strength}")[0] == 200
    assert state(page)["photos"][0]["cloaked"] == ["2.15", "high"]
    for strength in ("2.15", "high"):
        assert ask(page, "GET", f"{strength}/cloaked-photos.zip")[0] == 200
        assert ask(page, "GET", f"1/{strength}.jpg")[0] == 200


def test_a_face_is_left_bare_by_its_box(page: CloakPage) -> None:
    """It stays bit for bit, may be chosen again, and what was cloaked before counts no more."""
    data = photo()
    ask(page, "POST", "photo", data, X_Name="a.png")
    assert state(page)["photos"][0]["faces"][1]["on"]
    ask(page, "POST", "cloak/low")
    page.settle()
    assert ask(page, "POST", "face/1/2")[0] == 200
    row = state(page)["photos"][0]
    assert (row["cloaked"], row["faces"][1]["why"]) == ([], "not chosen")
    ask(page, "POST", "cloak/low")
    page.settle()
    body = ask(page, "GET", "low/cloaked-photos.zip")[1]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        after = np.asarray(Image.open(io.BytesIO(archive.read("a.png"))))
    before = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(after[4:34, 4:34], before[4:34, 4:34])
    assert (after != before).any()
    ask(page, "POST", "face/1/2")
    assert state(page)["photos"][0]["faces"][1]["on"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "cloak/max"),
        ("POST", "cloak/5.1"),
        ("POST", "cloak/nan"),
        ("POST", "face/1/9"),
        ("POST", "face/7/1"),
        ("POST", "face/1"),
        ("POST", "nothing"),
        ("GET", "1/after.jpg"),
        ("GET", "9/before.jpg"),
        ("GET", "low/cloaked-photos.zip"),
        ("GET", "../../etc/passwd"),
        ("GET", "1/../../x"),
    ],
)
def test_what_there_is_not_is_not_found(page: CloakPage, method: str, path: str) -> None:
    """And the page goes on."""
    ask(page, "POST", "photo", photo(), X_Name="a.png")
    page.settle()
    assert ask(page, method, path)[0] == 404
    assert ask(page, "GET", "")[0] == 200


def test_bodies_are_bounded(page: CloakPage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo over the limit is refused by its head alone, as is one without a length; a body
    anywhere else, more photos than the page takes, and a cut one leave no photo."""

    def raw(head: str, body: bytes = b"") -> bytes:
        with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
            start = f"POST /{page.token}/photo HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
            connection.sendall(start.encode() + head.encode() + b"\r\n\r\n" + body)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1 << 12)

    assert b" 413 " in raw(f"Content-Length: {MOST_PHOTO_BYTES + 1}")
    assert b" 413 " in raw("Content-Length: -1")
    assert b" 413 " in raw("Content-Length: 3\r\nContent-Length: 4", b"abcd")
    assert b" 413 " in raw("Transfer-Encoding: chunked", b"0\r\n\r\n")
    assert raw("Content-Length: 9", b"abc") == b""
    assert ask(page, "POST", "cloak/low", b"x")[0] == 404
    monkeypatch.setattr(cloak_page, "MOST_PHOTOS", 1)
    assert ask(page, "POST", "photo", photo())[0] == 200
    assert ask(page, "POST", "photo", photo())[0] == 404
    assert len(state(page)["photos"]) == 1


def test_strangers_and_other_pages_get_nothing(page: CloakPage) -> None:
    """Without the token, under another host, or from another page."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("POST", "/photo", photo())
    assert connection.getresponse().status == 403
    assert ask(page, "POST", "photo", photo(), Origin="http://evil.example")[0] == 403
    assert ask(page, "GET", "state.json", Host="evil.example")[0] == 403
    assert state(page)["photos"] == []


def test_copies_are_removed_and_the_button_ends_it(page: CloakPage) -> None:
    """Nothing of the photos is left behind."""
    ask(page, "POST", "photo", photo(), X_Name="..%2F..%2Fa.png")
    assert state(page)["photos"][0]["name"] == "a.png"
    folder = page._folder
    assert list(folder.iterdir())
    assert not page.wait(0)
    assert ask(page, "POST", "stop")[0] == 200
    assert page.wait(0)
    page.close()
    assert not folder.exists()


def test_the_page_is_for_keyboards_phones_and_the_dark(page: CloakPage) -> None:
    """Native controls with names, a viewport, no request to elsewhere, scripts by nonce alone."""
    html = ask(page, "GET", "")[1].decode()
    assert 'name="viewport"' in html
    assert "prefers-color-scheme:dark" in html
    assert page.token not in html
    assert not re.search(r"https?://", html)
    assert "<script>" not in html
    for control in ('type="file"', 'type="range"', 'role="status"', "aria-pressed", "aria-label"):
        assert control in html


def test_a_used_port_and_an_unknown_photo_are_refused(page: CloakPage) -> None:
    """In words, before a folder is made."""
    with pytest.raises(CaptureError, match="--serve"):
        CloakPage(page.port, PhotoCloaker([], [], MODES["low"]))
    with pytest.raises(OptionError, match="not on the page"):
        page.toggle(3, 1)
