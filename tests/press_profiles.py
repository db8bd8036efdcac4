"""ICC output profiles made here: a CMYK press, an RGB photo printer, a press with black alone."""

from __future__ import annotations

import struct
from itertools import product
from pathlib import Path

import numpy as np


def cmyk_profile(path: Path) -> Path:
    """Write a CMYK output profile (ICC 2.1) of an ideal press: inks multiply, its gamut is smaller
    than sRGB's."""
    inks = np.array(
        [[0.10, 0.45, 0.70], [0.65, 0.12, 0.35], [0.85, 0.75, 0.10], [0.05, 0.05, 0.05]]
    )
    grid = np.array(list(product((0, 1), repeat=4)), float)
    paper = np.prod(1 - grid[..., None] * (1 - inks), 1)
    to_lab = _lut(b"mft2", 4, 3, 2, _lab16(paper))
    steps = np.linspace(0, 1, 17)
    lab = np.stack(
        np.meshgrid(steps * 100, steps * 255 - 128, steps * 255 - 128, indexing="ij"), -1
    ).reshape(-1, 3)
    rgb = np.clip(_rgb(lab), 0.0, 1.0)
    ink = np.clip((1 - rgb) / (1 - np.array([0.10, 0.12, 0.10])), 0, 1)
    ink = np.concatenate([ink, np.clip(ink.min(-1, keepdims=True) * 2 - 1, 0, 1)], -1)
    from_lab = _lut(b"mft2", 3, 4, 17, ink)
    tags = {b"A2B0": to_lab, b"B2A0": from_lab, b"A2B1": to_lab, b"B2A1": from_lab}
    return _written_profile(path, b"CMYK", tags)


def rgb_profile(path: Path) -> Path:
    """Write an output profile of a photo printer with three channels and sRGB's gamut."""
    grid = np.array(list(product((0, 1), repeat=3)), float)
    steps = np.linspace(0, 1, 17)
    lab = np.stack(
        np.meshgrid(steps * 100, steps * 255 - 128, steps * 255 - 128, indexing="ij"), -1
    ).reshape(-1, 3)
    to_lab = _lut(b"mft2", 3, 3, 2, _lab16(grid))
    from_lab = _lut(b"mft2", 3, 3, 17, np.clip(_rgb(lab), 0, 1))
    tags = {b"A2B0": to_lab, b"B2A0": from_lab, b"A2B1": to_lab, b"B2A1": from_lab}
    return _written_profile(path, b"RGB ", tags)


def gray_profile(path: Path) -> Path:
    """Write an output profile of a press with black ink alone."""
    return _written_profile(path, b"GRAY", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0)})


def _written_profile(path: Path, space: bytes, tables: dict[bytes, bytes]) -> Path:
    """Write an ICC 2.1 output profile for ``space`` with ``tables``."""
    text = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"test press\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    rights = b"text\0\0\0\0none\0"
    tags = {b"desc": text, b"cprt": rights, b"wtpt": white, **tables}
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s",
        at + len(body),
        b"test",
        0x02100000,
        b"prtr",
        space,
        b"XYZ " if space == b"GRAY" else b"Lab ",
        bytes(12),
        b"acsp",
    )
    head += bytes(24) + struct.pack(">I3i", 0, 63190, 65536, 54061)
    path.write_bytes(head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body)
    return path


def _lut(kind: bytes, inputs: int, outputs: int, grid: int, values: np.ndarray) -> bytes:
    """An ICC lut16 with straight curves; ``values`` (grid ** inputs, outputs) in [0, 1]."""
    head = kind + bytes(4) + struct.pack(">4B", inputs, outputs, grid, 0)
    head += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536) + struct.pack(">2H", 2, 2)
    curves = struct.pack(">2H", 0, 65535)
    cells = np.round(np.clip(values, 0, 1) * 65535).astype(">u2").tobytes()
    return head + curves * inputs + cells + curves * outputs


_D50 = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
_WHITE = np.array([0.9642, 1.0, 0.8249])


def _lab16(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB light -> Lab D50 as lut16 holds it: 0xFF00 is L 100."""
    ratio = np.maximum(linear @ _D50.T / _WHITE, 1e-6)
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    return (lab + np.array([0, 128, 128])) / np.array([100, 255, 255]) * 0xFF00 / 0xFFFF


def _rgb(lab: np.ndarray) -> np.ndarray:
    fy = (lab[:, 0] + 16) / 116
    f = np.stack([fy + lab[:, 1] / 500, fy, fy - lab[:, 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787) * _WHITE
    return np.asarray(xyz @ np.linalg.inv(_D50).T)
