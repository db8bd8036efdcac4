"""Weights that lie in several files, or in a folder: shards with an index, and what accelerate and
DeepSpeed save."""

from __future__ import annotations

import hashlib
from pathlib import Path

from physadv.core.errors import ModelError
from physadv.core.files import sha256_of
from physadv.core.parsing import parse_json
from physadv.core.text import read_text

INDEX = ".index.json"
"""End of the name of a file that tells which shard holds which weight."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names under which Hugging Face's libraries save weights, the safer first."""
_DEEPSPEED = "mp_rank_00_model_states.pt"
_MOST_SHARDS = 10_000


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold the weights that ``path`` names.

    Args:
        path: A file with weights, an index of shards (``*.index.json``), or a folder as accelerate,
            ``save_pretrained`` or DeepSpeed writes it.

    Returns:
        The file itself, or its shards in the order of their names.

    Raises:
        ModelError: The folder holds no weights that are known, or those of several processes that
            must be merged first, or an index names what does not lie beside it.

    Example:
        >>> weight_files(Path("model.pth"))
        [PosixPath('model.pth')]
    """
    if path.is_dir():
        path = file_in_folder(path)
    if not path.name.endswith(INDEX):
        return [path]
    table = parse_json(read_text(path, error=ModelError), str(path), error=ModelError)
    places = table.get("weight_map") if isinstance(table, dict) else None
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{path}", "It names no shards (weight_map)", "Save the model anew")
    names = sorted({str(name) for name in places.values()})
    if len(names) > _MOST_SHARDS:
        raise ModelError(f"{path}", f"It names {len(names)} shards", "Save the model in fewer")
    return [_beside(path, name) for name in names]


def file_in_folder(folder: Path) -> Path:
    """Return the file, or index of shards, with the weights in ``folder``.

    Raises:
        ModelError: There is none, or the weights must be merged first.
    """
    for name in WEIGHTS:
        for file in (folder / name, folder / f"{name}{INDEX}"):
            if file.is_file():
                return file
    latest = folder / "latest"
    inner = folder / _first_line_of(latest) if latest.is_file() else folder
    shards = list(inner.glob("zero_pp_rank_*_model_states.pt")) if inner.is_dir() else []
    if shards or (inner / "mp_rank_01_model_states.pt").is_file():
        remedy = f"Run python zero_to_fp32.py . merged in it, and name {folder / 'merged'}"
        raise ModelError(f"{folder}", "Its weights are divided among DeepSpeed's processes", remedy)
    if (inner / _DEEPSPEED).is_file() and _is_within(inner, folder):
        return inner / _DEEPSPEED
    if (folder / ".metadata").is_file():
        convert = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        limit = "Its weights are divided among the processes of torch.distributed"
        raise ModelError(f"{folder}", limit, f"Run {convert} {folder} model.pth")
    known = ", ".join((*WEIGHTS, f"{WEIGHTS[0]}{INDEX}"))
    raise ModelError(f"{folder}", f"The folder holds none of {known}", "Name the file itself")


def sha256_of_weights(path: Path) -> str:
    """Return the sha256 of a file with weights; of several, that of their sha256 in a row."""
    digests = [sha256_of(file) for file in weight_files(path)]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _beside(index: Path, name: str) -> Path:
    """The shard ``name`` in the folder of ``index``."""
    file = index.parent / name
    if (
        Path(name).name != name
        or "\\" in name
        or "\0" in name
        or not _is_within(file, index.parent)
    ):
        limit = "An index may name files of its own folder alone"
        raise ModelError(f"shard {name[:80]!r}", limit, "Copy it beside the index")
    if not file.is_file():
        raise ModelError(f"{file}", f"{index.name} names it, and it is not here", "Copy it there")
    return file


def _is_within(path: Path, folder: Path) -> bool:
    """Whether ``path`` lies in ``folder``, links followed: Hugging Face's cache links to blobs."""
    inside = path.resolve().is_relative_to(folder.resolve())
    blobs = folder.resolve().parent.parent / "blobs"
    return inside or path.resolve().is_relative_to(blobs)


def _first_line_of(file: Path) -> str:
    """Name of the folder that DeepSpeed's ``latest`` names."""
    lines = read_text(file, error=ModelError).split()
    name = lines[0] if lines else ""
    if Path(name).name != name:
        raise ModelError(f"{file}", "It names no folder beside it", "Name the folder itself")
    return name
