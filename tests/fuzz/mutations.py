"""Structure-aware mutations of small files: of bytes, text, tables and chunks.

Each mutation takes a random generator and the seed files of a reader, and returns the bytes of one
input; equal generators give equal inputs.
"""

from __future__ import annotations

import io
import json
import re
import struct
import tomllib
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import tomli_w

Mutation = Callable[[Random, Sequence[bytes]], bytes]

_INTEGERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 65536, 1 << 24, (1 << 31) - 1, 1 << 31)
_INTEGERS += ((1 << 32) - 1, 3_000_000_000, (1 << 63) - 1, (1 << 64) - 1)
_NUMBERS = (
    *("0", "-1", "1", "-0.0", "1e308", "-1e308", "1e309", "1e-320", "NaN", "nan", "inf", "-inf"),
    *(
        "Infinity",
        "3000000000",
        "99999999999999999999",
        "1" * 5000,
        "0x10",
        "1_000",
        "1,5",
        "٣",
        "²",
    ),
    *("1/0", "8/255", "1e", "--1", "+", ".", "1.2.3", " 7 ", "true", "null", '""', "[]", "{}"),
)
_TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "\ufeff",
        "\u2028",
        "\x1b[31m",
        "[/b]",
        "[red]",
        "../../etc/passwd",
        "a" * 5000,
    ),
    *(
        "é",
        "ß",
        "漢字",
        "👩‍👩‍👧",
        "\u202e",
        "%s%n",
        "{0}",
        "<script>",
        "NaN",
        "CON",
        "/dev/null",
        "a\nb",
    ),
    *("\ud800", "\udcff", "C:\\x", "~", "-", "--", "http://[", "file:///etc/passwd", "0" * 400),
)
_ENCODINGS = (
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "cp1252",
    "latin-1",
    "cp037",
    "shift_jis",
)
_TOKEN = re.compile(r"[A-Za-z_]+|[-+.\deE]+|\"[^\"\n]*\"|\s+|.", re.DOTALL)
_MOST_BYTES = 400_000


def mutate_bytes(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Flip, overwrite, cut, repeat and splice bytes of one of the seeds."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((1, 1, 1, 2, 3, 5, 9))):
        place = random.randrange(len(data) + 1) if data else 0
        # Headers come first in most formats, and decide most.
        if random.random() < 0.5:
            place = min(place, random.randrange(64))
        kind = random.randrange(9)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << random.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = random.randrange(256)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + random.choice((1, 2, 4, 16, 200))]
        elif kind == 4:
            size, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
            number = random.choice(_INTEGERS) % (1 << 8 * size)
            data[place : place + size] = number.to_bytes(size, order)
        elif kind == 5:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            data[place:] = other[start:]
        elif kind == 6:
            piece = bytes(data[place : place + random.choice((1, 4, 32, 500))])
            data[place:place] = piece * random.choice((1, 2, 50))
        elif kind == 7:
            data[place:place] = random.randbytes(random.choice((1, 3, 30)))
        else:
            data[place:place] = random.choice((b"\0" * 8, b"\xff" * 8, b"%n", b"\r\n\r\n", b"\x1a"))
        del data[_MOST_BYTES:]
    return bytes(data)


def mutate_text(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Replace, drop, repeat and nest the tokens and lines of a seed; change its encoding."""
    text = random.choice(seeds).decode("utf-8", "replace")
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        tokens = _TOKEN.findall(text) or [""]
        place = random.randrange(len(tokens))
        kind = random.randrange(10)
        if kind <= 2:
            numbers = [i for i, t in enumerate(tokens) if t[:1].isdigit()] or [place]
            tokens[random.choice(numbers)] = random.choice(_NUMBERS)
        elif kind == 3:
            tokens[place] = random.choice(_TEXTS)
        elif kind == 4:
            tokens[place] = f'"{random.choice(_TEXTS)}"'
        elif kind == 5:
            del tokens[place : place + random.choice((1, 1, 2, 20))]
        elif kind == 6:
            end = place + random.choice((1, 3, 20))
            tokens[place:place] = tokens[place:end] * random.choice((1, 2, 30))
        elif kind == 7:
            nested = random.choice(("[", "{", "(", "<a>", '{"a":', "a.", "[[", "\\", '"', "'"))
            tokens.insert(place, nested * random.choice((1, 2, 100, 3000)))
        elif kind == 8:
            other = _TOKEN.findall(random.choice(seeds).decode("utf-8", "replace")) or [""]
            start = random.randrange(len(other))
            tokens[place:place] = other[start : start + random.choice((1, 5, 50))]
        else:
            lines = "".join(tokens).splitlines(keepends=True) or [""]
            one, two = random.randrange(len(lines)), random.randrange(len(lines))
            lines[one], lines[two] = lines[two], random.choice((lines[one], "", lines[two] * 2))
            tokens = lines
        text = "".join(tokens)[:_MOST_BYTES]

    if random.random() < 0.1:
        text = text.replace("\n", random.choice(("\r\n", "\r", "\x85", "\u2028", "")))
    if random.random() < 0.1:
        return text.encode(random.choice(_ENCODINGS), "replace")
    data = text.encode("utf-8", "surrogatepass")
    return mutate_bytes(random, [data]) if random.random() < 0.1 else data


def _mutate_value(random: Random, value: Any) -> Any:
    """Return what may stand in place of a value of a table."""
    odd: list[Any] = [None, True, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 3_000_000_000]
    odd += [1 << 70, random.choice(_TEXTS), [], {}, [[]], {"": 0}, [0] * 50, value, [value]]
    if isinstance(value, bool | int | float) and random.random() < 0.5:
        return random.choice([-value, value * 1e6, value + 0.5, str(value), int(value or 0) << 40])
    return random.choice(odd)


def _mutate_tree(random: Random, tree: Any) -> Any:
    """Change one place of a tree of dictionaries and lists."""
    node, way = tree, 0
    while way < 12:
        way += 1
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = random.choice(keys)
        inner = node[key]
        if isinstance(inner, dict | list) and inner and random.random() < 0.75:
            node = inner
            continue
        kind = random.randrange(8)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, dict):
            node[random.choice((*_TEXTS, key.upper(), key + "x"))] = inner
        elif kind == 2 and isinstance(node, list):
            node[key:key] = [inner] * random.choice((1, 2, 200))
        else:
            node[key] = _mutate_value(random, inner)
        break
    return tree


def mutate_json(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change a seed of JSON, or of JSON lines, as a tree; every third one as text."""
    if random.random() < 0.35:
        return mutate_text(random, seeds)
    lines = random.choice(seeds).decode().splitlines()
    is_rows = len(lines) > 1 and lines[0].endswith("}") and lines[0].startswith("{")
    if not is_rows:
        tree = json.loads("\n".join(lines))
        for _ in range(random.choice((1, 1, 2, 4))):
            _mutate_tree(random, tree)
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    place = random.randrange(len(lines))
    row = json.loads(lines[place])
    for _ in range(random.choice((1, 1, 2, 4))):
        _mutate_tree(random, row)
    lines[place] = json.dumps(random.choice((row, row, row, [row], 7, None)))
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _for_toml(value: Any) -> Any:
    """Return a value that TOML can hold."""
    if isinstance(value, dict):
        return {str(k): _for_toml(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_for_toml(v) for v in value if v is not None]
    return value if isinstance(value, str | bool | int | float) else str(value)


def mutate_toml(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change a seed of TOML as a tree; every third one as text."""
    if random.random() < 0.35:
        return mutate_text(random, seeds)
    tree = tomllib.loads(random.choice(seeds).decode())
    for _ in range(random.choice((1, 1, 2, 4))):
        _mutate_tree(random, tree)
    return tomli_w.dumps(_for_toml(tree)).encode("utf-8", "surrogatepass")


def mutate_png(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change, drop, repeat and move the chunks of a PNG, with sums that fit."""
    data = random.choice(seeds)
    if random.random() < 0.3 or not data.startswith(b"\x89PNG"):
        return mutate_bytes(random, seeds)
    chunks, place = [], 8
    while place + 8 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    for _ in range(random.choice((1, 1, 2, 3))):
        one = random.randrange(len(chunks))
        name, content = chunks[one]
        kind = random.randrange(6)
        if kind <= 2:
            chunks[one] = (name, mutate_bytes(random, [content]))
        elif kind == 3 and len(chunks) > 1:
            del chunks[one]
        elif kind == 4:
            chunks.insert(random.randrange(len(chunks) + 1), chunks[one])
        else:
            odd = random.choice(
                (b"tEXt", b"iTXt", b"zTXt", b"eXIf", b"iCCP", b"tRNS", b"PLTE", b"acTL")
            )
            body = random.choice((content, random.randbytes(20), zlib.compress(b"\0" * 100_000)))
            chunks.insert(1, (odd, body))
    joined = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return data[:8] + joined


def mutate_zip(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change, drop, rename and repeat the members of a zip archive; every third one as bytes."""
    if random.random() < 0.35:
        return mutate_bytes(random, seeds)
    with zipfile.ZipFile(io.BytesIO(random.choice(seeds))) as archive:
        members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    for _ in range(random.choice((1, 1, 2))):
        if not members:
            break
        one = random.randrange(len(members))
        name, content = members[one]
        kind = random.randrange(6)
        if kind <= 2:
            change = (
                random.choice((mutate_bytes, mutate_text))
                if len(content) < 20_000
                else mutate_bytes
            )
            members[one] = (name, change(random, [content]))
        elif kind == 3:
            del members[one]
        elif kind == 4:
            odd = random.choice((*_TEXTS, "../" + name, "/" + name, name + "/x", name.upper()))
            odd = odd.replace("\0", "").encode("utf-8", "replace").decode()[:200] or "x"
            members[one] = (odd, content)
        else:
            members.append((name, random.choice((content, b"", b"\0" * 1_000_000))))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name twice is what is wanted
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    data = packed.getvalue()
    if random.random() < 0.2:  # sizes and sums in the directory lie
        place = data.rfind(b"PK\x01\x02") + random.choice((8, 10, 16, 20, 24, 28, 42))
        number = random.choice(_INTEGERS) & 0xFFFFFFFF
        data = data[:place] + struct.pack("<I", number) + data[place + 4 :]
    return data


def mutate_npy(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change the header of an npy file, whose length is set to fit; every third one as bytes."""
    data = random.choice(seeds)
    if random.random() < 0.35:
        return mutate_bytes(random, seeds)
    (size,) = struct.unpack("<H", data[8:10])
    header = mutate_text(random, [data[10 : 10 + size]])[:60_000]
    return data[:8] + struct.pack("<H", len(header)) + header + data[10 + size :]


def mutate_npz(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change the headers of the arrays within an npz file, or its members."""
    if random.random() < 0.5:
        return mutate_zip(random, seeds)
    with zipfile.ZipFile(io.BytesIO(random.choice(seeds))) as archive:
        members = [(m, archive.read(m)) for m in archive.namelist()]
    one = random.randrange(len(members))
    members[one] = (members[one][0], mutate_npy(random, [members[one][1]]))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


def mutate_safetensors(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change the JSON header of a safetensors file, whose length is set to fit."""
    data = random.choice(seeds)
    if random.random() < 0.35:
        return mutate_bytes(random, seeds)
    (size,) = struct.unpack("<Q", data[:8])
    header = mutate_json(random, [data[8 : 8 + size]])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutate_jpeg(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change, drop, repeat and move the segments of a JPEG's head, whose lengths are set to fit."""
    data = random.choice(seeds)
    if random.random() < 0.25 or not data.startswith(b"\xff\xd8"):
        return mutate_bytes(random, [data])
    segments, place = [], 2
    while data[place : place + 1] == b"\xff" and data[place + 1] != 0xDA:
        (size,) = struct.unpack(">H", data[place + 2 : place + 4])
        segments.append((data[place + 1], data[place + 4 : place + 2 + size]))
        place += 2 + size
    for _ in range(random.choice((1, 1, 2, 3))):
        one = random.randrange(len(segments))
        marker, content = segments[one]
        # EXIF, XMP, profiles and the like decide more than tables of the coder.
        labeled = [i for i, (m, _) in enumerate(segments) if 0xE0 <= m <= 0xEF or m == 0xFE]
        if labeled and random.random() < 0.7:
            one = random.choice(labeled)
            marker, content = segments[one]
        kind = random.randrange(6)
        if kind <= 2:
            change = mutate_text if b"<x:" in content and random.random() < 0.7 else mutate_bytes
            segments[one] = (marker, change(random, [content])[:65_000])
        elif kind == 3 and len(segments) > 1:
            del segments[one]
        elif kind == 4:
            segments.insert(random.randrange(len(segments) + 1), (marker, content))
        else:
            odd = random.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xC0, 0xC2, 0xDB, 0xDD))
            segments.insert(one, (odd, random.choice((content, b"", random.randbytes(20)))))
    head = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
        for marker, content in segments
    )
    return b"\xff\xd8" + head + data[place:]


def mutate_pdf(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change the words and numbers of a PDF's objects and pages; readers mend the table."""
    data = random.choice(seeds)
    if random.random() < 0.3:
        return mutate_bytes(random, [data])
    words = list(re.finditer(rb"/[A-Za-z]+|[-+.\d]+|\b[A-Za-z*]{1,10}\b", data))
    pieces, last = [], 0
    for match in sorted(
        random.sample(words, k=random.choice((1, 1, 2, 4, 30))), key=re.Match.start
    ):
        odd = random.choice(
            (*_NUMBERS[:12], "3000000000", "1" * 300, "/Type", "q", "Q", "Do", "BI")
        )
        other = random.choice(words).group()
        piece = random.choice((odd.encode(), other, other, b"", match.group() + b" " + other))
        pieces += [data[last : match.start()], piece]
        last = match.end()
    return b"".join(pieces) + data[last:]


def mutate_head(random: Random, seeds: Sequence[bytes]) -> bytes:
    """Change the lines of a head as HTTP has it, and the body behind it, which keeps its bytes."""
    head, blank, body = random.choice(seeds).partition(b"\r\n\r\n")
    kind = random.random()
    if kind < 0.6:
        lines = head.decode("latin-1").split("\r\n")
        for _ in range(random.choice((1, 1, 2, 4))):
            place = random.randrange(len(lines))
            name, colon, value = lines[place].partition(": ")
            odd = random.choice((*_NUMBERS, *_TEXTS))
            lines[place] = random.choice(
                (f"{name}{colon}{odd}", f"{odd}{colon}{value}", odd, lines[place] + odd, name)
            )
            lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
        head = "\r\n".join(lines).encode("utf-8", "replace")
    elif kind < 0.8:
        head = mutate_bytes(random, [head])
    if body and random.random() < 0.4:
        body = mutate_bytes(random, [body])
    return head + random.choice((blank, blank, blank, b"\n\n", b"")) + body
