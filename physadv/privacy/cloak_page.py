"""Local web page that cloaks photos dropped onto it, on 127.0.0.1.

Photos stay on this machine: the page sends them to the program that shows it, which keeps them in a
temporary folder until it ends (:mod:`physadv.camera.local_server` for who gets in).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from threading import Event, RLock, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import cv2

from physadv.camera.local_server import LocalHandler, LocalPage
from physadv.core.errors import OptionError, PhysadvError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array
from physadv.core.visible_text import portable_name, visible_line
from physadv.models.faces.face_detection import DetectedFace
from physadv.privacy.cloak_faces import MODES, CloakMode, read_mode
from physadv.privacy.cloak_page_html import page_html
from physadv.privacy.embedding_loss import CloakMemory
from physadv.privacy.face_choice import PhotoFaces
from physadv.privacy.folder_survey import Embeddings
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv.privacy.photo_io.photo import encode_photo, output_name, read_photo

MOST_PHOTO_BYTES = 64 << 20
"""Most bytes of a photo that the page takes."""
MOST_PHOTOS = 200
_MOST_BYTES = 2 << 30
"""Most bytes of all photos of one page together."""
_SHOWN_PX, _QUALITY = 1400, 90
_LONGEST_SUFFIX = 8


@dataclass
class PagePhoto:
    """A photo on the page.

    Attributes:
        number: Its number on the page.
        name: Name of the file it was dropped as.
        file: Its copy in the temporary folder.
        status: "waiting", "looking", "ready", "cloaking", "cloaked" or "failed".
        note: What its owner should know.
        size: Height and width in px.
        faces: The faces found.
        results: Encoded cloaked photos by strength: the name of a mode, or a budget.
        clean: Embeddings (1, d) by embedder of each face as it was, by its number.
        cloaked: The same of the cloaked faces, by strength.
        alone: Strengths at which a face knew no other photo of its person.
    """

    number: int
    name: str
    file: Path
    status: str = "waiting"
    note: str = ""
    size: tuple[int, int] = (1, 1)
    faces: PhotoFaces = field(default_factory=PhotoFaces)
    results: dict[str, Path] = field(default_factory=dict)
    clean: dict[int, Embeddings] = field(default_factory=dict)
    cloaked: dict[str, dict[int, Embeddings]] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)


class CloakPage(LocalPage):
    """Server of the page and the one worker behind it, from construction to :meth:`close`.

    All photos of the page are one album: each cloak moves away from what the photos of its person
    share, and from those cloaked at the same strength.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        cloaker: Finds and cloaks faces; the page begins at its mode, which is replaced as the
            slider says.

    Raises:
        CaptureError: The port cannot be used.

    Example:
        >>> cloaker = PhotoCloaker([lambda rgb: []], [], read_mode("low"))
        >>> with CloakPage(0, cloaker) as page:
        ...     page.address.startswith("http://127.0.0.1:")
        True
    """

    def __init__(self, port: int, cloaker: PhotoCloaker) -> None:
        self._cloaker, self._start = cloaker, cloaker.mode.patches
        self._photos: dict[int, PagePhoto] = {}
        self._bytes, self._numbers = 0, 0
        self._lock, self._work = RLock(), Queue[Callable[[], None] | None]()
        self._ended = Event()
        super().__init__(port, _handler(self))
        self._copies = TemporaryDirectory(prefix="physadv-cloak-", ignore_cleanup_errors=True)
        self._folder = Path(self._copies.name)
        self._worker = Thread(target=self._run, daemon=True, name="cloak")
        self._worker.start()

    def html(self) -> str:
        """Return the page."""
        return page_html(self._start)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Return whether the page's button ended it, within ``timeout_s`` seconds."""
        return self._ended.wait(timeout_s)

    def settle(self) -> None:
        """Wait until all work asked for is done."""
        self._work.join()

    def close(self) -> None:
        """Stop the server and the worker, and remove the photos' copies."""
        self._ended.set()
        super().close()
        self._work.put(None)
        self._worker.join()
        self._copies.cleanup()

    def add(self, name: str, data: bytes) -> int:
        """Take a photo and look for its faces.

        Args:
            name: Name of its file.
            data: Its bytes.

        Returns:
            Its number.

        Raises:
            OptionError: There are too many photos.
            OSError: The photo cannot be kept, as on a full disk; it is not on the page then.
        """
        plain = Path(name.replace("\\", "/")).name or "photo"
        with self._lock:
            self._bytes += len(data)
            if len(self._photos) >= MOST_PHOTOS or self._bytes > _MOST_BYTES:
                self._bytes -= len(data)
                raise OptionError(
                    plain, f"The page takes {MOST_PHOTOS} photos and 2 GB", "Cloak the folder"
                )
            number = self._numbers + 1
            self._numbers = number
            photo = PagePhoto(number, plain, self._folder / f"{number}{_plain_suffix(plain)}")
            self._photos[number] = photo
        try:
            write_bytes(photo.file, data)
        except BaseException:
            with self._lock:
                self._photos.pop(number)
                self._bytes -= len(data)
            raise
        self._work.put(lambda: self._look(photo))
        return number

    def cloak(self, strength: str) -> None:
        """Cloak all photos at ``strength``, the name of a mode or a budget; those done at it
        already are kept.

        Raises OptionError where there is no such strength.
        """
        mode = read_mode(strength)
        with self._lock:
            photos = list(self._photos.values())
        for photo in photos:
            self._work.put(lambda photo=photo: self._cloak(photo, mode))  # type: ignore[misc]

    def toggle(self, number: int, face: int) -> None:
        """Leave a face bare, or cloak it after all.

        Args:
            number: Number of the photo.
            face: Number of the face.

        Raises:
            OptionError: There is no such photo or face, or it is too small.
        """
        with self._lock:
            photo = self._photo(number)
            chosen = set(photo.faces.cloaked)
            known = chosen | set(photo.faces.bare)
            if face not in known or photo.faces.reasons.get(face) == "too small":
                raise OptionError(f"face {face}", "cannot be chosen", "Choose a box")
            wanted = chosen ^ {face}
            everyone = {**photo.faces.cloaked, **photo.faces.bare}
            reasons = {
                n: photo.faces.reasons.get(n, "not chosen") for n in everyone if n not in wanted
            }
            photo.faces = PhotoFaces(
                {n: everyone[n] for n in sorted(wanted)},
                {n: everyone[n] for n in sorted(known - wanted)},
                reasons,
            )
            photo.results, photo.cloaked, photo.alone = {}, {}, set()
            photo.status = "ready"

    def state(self) -> dict[str, Any]:
        """Return what the page polls, plain values for JSON."""
        with self._lock:
            return {
                "modes": list(MODES),
                "busy": self._work.unfinished_tasks > 0,
                "photos": [_row(photo) for photo in self._photos.values()],
            }

    def picture(self, number: int, kind: str) -> bytes:
        """Return a JPEG of a photo to show.

        Args:
            number: Number of the photo.
            kind: "before", or a strength that it was cloaked at.

        Raises:
            OptionError: There is no such picture.
        """
        with self._lock:
            photo = self._photo(number)
            file = photo.file if kind == "before" else photo.results.get(kind)
        if file is None or photo.status in ("waiting", "looking", "failed"):
            raise OptionError(f"{number}/{kind}", "is no picture", "Cloak it first")
        return _jpeg(read_photo(file).rgb)

    def archive(self, strength: str) -> bytes:
        """Return the photos cloaked at ``strength`` as a zip archive, each in its own format.

        Raises OptionError where there is none.
        """
        key = _strength_key(read_mode(strength))
        with self._lock:
            done = [(p.name, p.results[key]) for p in self._photos.values() if key in p.results]
        if not done:
            raise OptionError(strength, "no photo is cloaked at it", "Cloak them first")
        out, taken = io.BytesIO(), set[str]()
        with zipfile.ZipFile(out, "w") as archive:
            for name, file in done:
                plain = Path(portable_name(output_name(Path(name), file.suffix)))
                unique, count = plain.name, 1
                while unique.lower() in taken:
                    count += 1
                    unique = f"{plain.stem}-{count}{plain.suffix}"
                taken.add(unique.lower())
                archive.writestr(unique, file.read_bytes())
        return out.getvalue()

    def end(self) -> None:
        """End the page, as its button asks."""
        self._ended.set()

    def _photo(self, number: int) -> PagePhoto:
        if number not in self._photos:
            raise OptionError(f"photo {number}", "is not on the page", "Drop it")
        return self._photos[number]

    def _run(self) -> None:
        """Do what was asked for, one after the other, until the page is closed."""
        while (task := self._work.get()) is not None:
            # Whatever a recognizer or a decoder raises is in the photo's note; the next one has its
            # turn all the same.
            with suppress(Exception):
                if not self._ended.is_set():
                    task()
            self._work.task_done()

    def _look(self, photo: PagePhoto) -> None:
        with self._at(photo, "looking") as step:
            pixels = read_photo(photo.file).rgb
            faces = self._cloaker.faces(pixels, photo.name)
            clean = self._embedded(pixels, {**faces.cloaked, **faces.bare})
            with self._lock:
                photo.size, photo.faces, photo.clean = pixels.shape[:2], faces, clean
            step.result = "ready"

    def _cloak(self, photo: PagePhoto, mode: CloakMode) -> None:
        key = _strength_key(mode)
        with self._lock:
            faces = dict(photo.faces.cloaked)
            if photo.status == "failed" or key in photo.results or not faces:
                return
        with self._at(photo, "cloaking") as step:
            loaded = read_photo(photo.file)
            self._cloaker.mode = mode
            self._cloaker.memory = self._memory(photo, key)
            work = self._cloaker.cloak(loaded.rgb.copy(), photo.name, list(faces.values()))
            made_with = [
                {"name": e.card.name, "sha256": e.card.sha256} for e in self._cloaker.embedders
            ]
            data = encode_photo(loaded, work.rgb, made_with=made_with)
            file = self._folder / f"{photo.number}-{key}{loaded.suffix}"
            write_bytes(file, data)
            made = self._embedded(read_photo(file).rgb, faces)
            with self._lock:
                if set(faces) == set(photo.faces.cloaked):  # else the choice changed meanwhile
                    photo.results[key], photo.cloaked[key] = file, made
                    if not all(face["others"] for face in work.faces):
                        photo.alone.add(key)
            step.result = "cloaked"

    def _embedded(self, rgb: Array, faces: Mapping[int, DetectedFace]) -> dict[int, Embeddings]:
        """Embeddings of faces by their number; none where the page has no recognizer."""
        if not self._cloaker.embedders:
            return {}
        rows = self._cloaker.embedded(rgb, list(faces.values()))
        return dict(zip(faces, rows, strict=True))

    def _memory(self, photo: PagePhoto, strength: str) -> CloakMemory:
        """What the cloak of ``photo`` knows: the faces of the page's photos, and what those became
        that are cloaked at ``strength``."""
        memory = CloakMemory()
        with self._lock:
            for other in self._photos.values():
                for number in other.faces.cloaked:
                    if number in other.clean:
                        memory.add_bare(other.clean[number])
                if other is not photo:
                    for number, made in other.cloaked.get(strength, {}).items():
                        memory.add(other.clean[number], made)
        return memory

    def _at(self, photo: PagePhoto, status: str) -> _Step:
        return _Step(self._lock, photo, status)


def _strength_key(mode: CloakMode) -> str:
    """The name of a strength on the page: that of a mode, else the budget as a number."""
    return mode.name if mode.name in MODES else f"{mode.patches:g}"


class _Step:
    """One step of a photo: its status while it lasts, and the failure in words."""

    def __init__(self, lock: Any, photo: PagePhoto, status: str) -> None:
        self._lock, self._photo, self.result = lock, photo, ""
        with lock:
            photo.status = status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None
    ) -> bool:
        failed = e is not None
        with self._lock:
            self._photo.status = "failed" if failed else self.result
            if failed:
                words = f"{e}".replace(str(self._photo.file), self._photo.name)
                self._photo.note = words or type(e).__name__
        return isinstance(e, PhysadvError | OSError | MemoryError)


def _row(photo: PagePhoto) -> dict[str, Any]:
    """A photo as the page polls it; boxes are in shares of its size."""
    height, width = photo.size
    boxes, bare = photo.faces.boxes(height, width)
    everyone = dict(sorted({**boxes, **bare}.items()))
    return {
        "number": photo.number,
        "name": visible_line(photo.name),
        "status": photo.status,
        "note": photo.note,
        "aspect": width / height,
        "cloaked": list(photo.results),
        "alone": sorted(photo.alone),
        "faces": [
            {
                "number": number,
                "box": [x0 / width, y0 / height, x1 / width, y1 / height],
                "on": number in boxes,
                "why": photo.faces.reasons.get(number, ""),
            }
            for number, (x0, y0, x1, y1) in everyone.items()
        ],
    }


def _plain_suffix(name: str) -> str:
    """The suffix of ``name`` in small letters; none where it is more than a few plain ones, which
    no disk need take."""
    suffix = Path(name).suffix.lower()
    plain = suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= _LONGEST_SUFFIX
    return suffix if plain else ""


def _jpeg(rgb: Array) -> bytes:
    """A picture as JPEG of at most 1400 px."""
    scale = min(1.0, _SHOWN_PX / max(rgb.shape[:2]))
    if scale < 1:
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    flags = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
    return data.tobytes()


def _handler(page: CloakPage) -> type[LocalHandler]:
    class Handler(LocalHandler):
        most_body = MOST_PHOTO_BYTES

        def get(self, path: str) -> None:
            parts = path.removeprefix("/").split("/")
            try:
                if len(parts) == 2 and parts[1] == "cloaked-photos.zip":
                    kind, body = "application/zip", page.archive(parts[0])
                elif len(parts) == 2 and parts[0].isdecimal():
                    shown = parts[1].removesuffix(".jpg")
                    kind, body = "image/jpeg", page.picture(int(parts[0][:9]), shown)
                else:
                    kind, body = "", b""
            except (PhysadvError, OSError) as error:  # a disk may fail, too
                self.answer(404, "text/plain", f"{error}\n".encode())
                return
            if kind:
                self.answer(200, kind, body)
            else:
                self.answer_for(page, path)

        def post(self, path: str) -> None:
            parts = path.removeprefix("/").split("/")
            try:
                if path == "/stop":
                    page.end()
                elif parts[0] == "cloak" and len(parts) == 2:
                    page.cloak(parts[1])
                elif parts[0] == "face" and all(p.isdecimal() for p in parts[1:]) and parts[2:]:
                    page.toggle(int(parts[1][:9]), int(parts[2][:9]))
                else:
                    raise OptionError(path, "is no command", "Use the page's buttons")
            except OptionError as error:
                self.answer(404, "text/plain", f"{error}\n".encode())
            else:
                self.answer(200, "text/plain", b"done\n")

        def post_body(self, path: str, body: bytes) -> None:
            name = unquote(self.headers.get("X-Name", ""))[:200]
            try:
                if path != "/photo":
                    raise OptionError(path, "takes no body", "Send photos to /photo")
                number = page.add(name, body)
            except (OptionError, OSError) as error:
                self.answer(404, "text/plain", f"{error}\n".encode())
            else:
                self.answer(200, "application/json", json.dumps({"number": number}).encode())

    return Handler
