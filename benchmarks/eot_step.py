"""Cost of one EOT step against the model's own forward and backward pass, and of two JPEG codecs.

    OMP_NUM_THREADS=1 python benchmarks/eot_step.py --fastestdet fastestdet_coco.pth
    --yolox yolox_nano_coco.onnx --out benchmarks/eot_step.jsonl

CPU seconds of this process, interleaved, median of --repeats; ratios are what counts. Rows:

- floor: one forward and one backward pass of the model to its input, parameters frozen, on images
  that are already there;
- folded: the same of the model as the optimizer runs it (batch normalization folded, if a
  classifier);
- rendering: the patch under a preset, forward and backward, without a model;
- step: rendering, the folded model, and the gradient in the patch;
- scenes: drawing the scenes of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable

from physadv.core.image_io import to_tensor
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot.presets import eot_preset
from physadv.eot.scenes.signs import SceneSize
from physadv.eot.transforms.codec import differentiable_jpeg
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import gradient_models, render_scenes
from physadv.patches.task import PatchTask, sample_scenes

PARTS = (
    " step default",
    " step camera",
    " rendering default",
    " rendering camera",
    " folded",
    " scenes",
)
"""What is set against the floor."""


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def step_parts(task: PatchTask, draws: int, preset: str) -> dict[str, Callable[[], object]]:
    """The parts of one step, each as a call."""
    task = replace(task, ranges=eot_preset(preset))
    model, goal = task.models[0], task.goal
    patch = torch.rand(1, 3, *task.mask.shape[-2:]).requires_grad_()
    scenes = sample_scenes(task, task.scene_sources.train, draws, "bench")
    ready, marks = render_scenes(task, patch.detach(), scenes, ("bench",))
    gradient_model = gradient_models(task)[0]

    def floor() -> None:
        images = ready.clone().requires_grad_()
        torch.autograd.grad(goal.loss(model(images), marks).mean(), images)

    def folded() -> None:
        images = ready.clone().requires_grad_()
        torch.autograd.grad(goal.loss(gradient_model(images), marks).mean(), images)

    def step() -> None:
        images, annotations = render_scenes(task, patch, scenes, ("bench",))
        torch.autograd.grad(goal.loss(gradient_model(images), annotations).mean(), patch)

    def rendering() -> None:
        images, _ = render_scenes(task, patch, scenes, ("bench",))
        torch.autograd.grad(images.mean(), patch)

    parts: dict[str, Callable[[], object]] = {
        f"step {preset}": step,
        f"rendering {preset}": rendering,
    }
    if preset == "default":
        parts |= {
            "floor": floor,
            "folded": folded,
            "scenes": lambda: sample_scenes(task, task.scene_sources.train, draws, "bench"),
        }
    return parts


def models(
    fastestdet: str | None, yolox: str | None, only: Sequence[str]
) -> Iterator[tuple[str, PatchTask, int]]:
    """Name, task and draws a step of each row."""
    if "signs" in only:
        yield "signs 32x64x64", PatchTask.from_config(PatchConfig(steps=1)), 32
    if "lite0" in only:
        task = PatchTask.from_config(
            PatchConfig(model="efficientnet-lite0", true_class="street sign", steps=1)
        )
        yield "efficientnet-lite0 32x224x224", replace(task, scene_size=SceneSize(224, False)), 32
    if "fastestdet" in only and fastestdet:
        task = PatchTask.from_config(
            PatchConfig(model="fastestdet", weights=fastestdet, goal="vanish", steps=1)
        )
        yield "fastestdet 8x352x352", task, 8
    if "yolox" in only and yolox:
        task = PatchTask.from_config(
            PatchConfig(model="yolox-nano", weights=yolox, goal="vanish", steps=1)
        )
        yield "yolox-nano 8x416x416", task, 8


def codecs(size: int = 352, batch: int = 8) -> dict[str, Callable[[], object]]:
    """Forward and backward of both codecs on photos made by code."""
    photos = torch.stack(
        [to_tensor(synthetic_background(i, height=size, width=size)) for i in range(batch)]
    )
    quality = torch.full((batch,), 70.0)

    def run(codec: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        def both() -> None:
            x = photos.clone().requires_grad_()
            torch.autograd.grad(codec(x, quality).sum(), x)

        return both

    return {"jpeg": run(differentiable_jpeg), "jpeg kornia": run(jpeg_codec_differentiable)}


def distance_to_libjpeg(quality: int, size: int = 352) -> dict[str, float]:
    """RMSE in 8-bit levels of each codec's picture to OpenCV's real one, and of doing nothing."""
    picture = synthetic_background(0, height=size, width=size)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    real = to_tensor(np.asarray(cv2.imdecode(data, 1))[..., ::-1].copy())[None]
    image, q = to_tensor(picture)[None], torch.tensor([float(quality)])
    pictures = {
        "ours": differentiable_jpeg(image, q),
        "kornia": jpeg_codec_differentiable(image, q),
        "untouched": image,
    }
    return {
        name: round(float((p - real).square().mean().sqrt() * 255), 3)
        for name, p in pictures.items()
    }


def main() -> None:
    """Measure and append the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/eot_step.jsonl"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--fastestdet", help="its weights, to measure whole frames too")
    parser.add_argument("--yolox", help="the ONNX file of YOLOX-Nano, likewise")
    parser.add_argument(
        "--only", nargs="*", default=["signs", "lite0", "fastestdet", "yolox", "codec"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    works: dict[str, Callable[[], object]] = {}
    for name, task, draws in models(options.fastestdet, options.yolox, options.only):
        for preset in ("default", "camera"):
            works |= {f"{name} {k}": w for k, w in step_parts(task, draws, preset).items()}
    if "codec" in options.only:
        works |= codecs()
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repeats):
        for name, work in works.items():
            taken[name].append(seconds(work))
    middle = {name: statistics.median(times) for name, times in taken.items()}
    rows: list[dict[str, object]] = []
    for name, times in taken.items():
        row: dict[str, object] = {"what": name, "cpu_s": round(middle[name], 4)}
        for part in PARTS:
            if name.endswith(part):
                floors = taken[name.removesuffix(part) + " floor"]
                pairs = zip(times, floors, strict=True)
                row["times_floor"] = round(statistics.median([t / f for t, f in pairs]), 3)
        rows.append(row | {"all": [round(x, 4) for x in times]})
    if "codec" in options.only:
        rows += [
            {"what": f"distance to libjpeg, quality {q}", **distance_to_libjpeg(q)}
            for q in (30, 50, 75, 92)
        ]
    with options.out.open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    for row in rows:
        print({k: v for k, v in row.items() if k != "all"}, flush=True)


if __name__ == "__main__":
    main()
