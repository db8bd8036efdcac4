r"""Patch defenses with a proof, on GTSRB: certified accuracy, and an adaptive attack that must not
get below it.

    python benchmarks/patch_proofs.py run ../shared/data/gtsrb-train-third.zip
    patchcleanser:patch6,masks6 python benchmarks/patch_defenses.py table

One frame, drawn at random, of each track of the split (test: the held-out fifth that no victim here
was trained on), so that the images are independent. In ``--attacked`` images that the defense
knows, half of them certified, a patch of the certified size is painted at ``--places`` places of
each, from a random start and by ``--steps`` signed steps through the defense; the first place is
where the defense's own slope is largest. The second table of patch_defenses.md is made of the rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.rows import Row, append_rows, read_rows
from physadv.datasets import ImageDataset, read_dataset
from physadv.defenses.load_model import load_model
from physadv.defenses.registry import CertifiedDefense, certified_defense, defend_model
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import resize_images
from physadv.threat.losses import margin_loss

ROWS = Path("benchmarks/patch_proofs.jsonl")
SIDE, GROUP = 64, 8
INTRO = """## What the proofs give on GTSRB

Certified accuracy on one random frame of each held-out track: no patch of that size, wherever it lies and whatever it
shows, changes the right verdict. 95 % Wilson intervals over tracks. Patch sizes are px of the 64 x 64 that the victims
see: 6, 9 and 14 px a side are 0.9, 2.0 and 4.8 % of the picture. Settings were chosen on training tracks. "Attacked" is
how many of the certified and of the other known images an adaptive attack breaks with a patch of the certified size
(random start, signed steps through the defense at several places): none of the certified, or the proof were wrong. It
is a check of the proof, not a measure of robustness: few steps at few places find only part of what can be broken."""


def frames(dataset: ImageDataset, n: int, seed: int = 0) -> list[int]:
    """One random frame each of ``n`` random tracks (of all where there are fewer)."""
    rng = numpy_generator(seed, "patch-proofs")
    where: dict[str, list[int]] = {}
    for i, group in enumerate(dataset.groups):
        where.setdefault(group, []).append(i)
    tracks = [sorted(where)[i] for i in rng.permutation(len(where))[:n]]
    return [where[track][int(rng.integers(len(where[track])))] for track in tracks]


def attacked(
    model: LoadedModel,
    proof: CertifiedDefense,
    image: Tensor,
    label: Tensor,
    *,
    places: int,
    steps: int,
    seed: int,
) -> bool:
    """Whether one of the places of a patch of the certified size was found to change the verdict of
    (1, c, h, w)."""
    tall, wide = proof.patch
    draw = generator(seed, "patch-proofs", "attack")
    leaf = image.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(margin_loss(model(leaf), label).sum(), leaf)
    heat = torch.nn.functional.avg_pool2d(slope.abs().sum(1, keepdim=True), (tall, wide), 1)[0, 0]
    across = heat.shape[1]
    first = int(heat.argmax())
    chosen = [first, *torch.randint(0, heat.numel(), (places - 1,), generator=draw).tolist()]
    for place in chosen:
        top, left = divmod(place, across)
        area = torch.zeros_like(image)
        area[..., top : top + tall, left : left + wide] = 1
        x = torch.where(area > 0, torch.rand(image.shape, generator=draw), image)
        for step in range(steps + 1):
            x = x.detach().requires_grad_(True)
            logits = model(x)
            if int(logits.argmax()) != int(label):
                return True
            if step < steps:
                (slope,) = torch.autograd.grad(margin_loss(logits, label).sum(), x)
                size = 0.3 * (1 - step / steps) + 0.02
                x = (x.detach() - size * slope.sign() * area).clamp(0, 1)
    return False


def judge(
    base: str,
    name: str,
    dataset: ImageDataset,
    split: str,
    chosen: list[int],
    *,
    tried: int,
    places: int,
    steps: int,
) -> list[Row]:
    """One row an image: read right, certified, and broken by the attack (None where it was not
    attacked)."""
    model = defend_model(load_model(base), name)
    found = certified_defense(model)
    if found is None:
        raise SystemExit(f"{name} proves nothing")
    proof = found[0]
    images = torch.cat(
        [resize_images(to_tensor(dataset.read(i))[None], SIDE, SIDE) for i in chosen]
    )
    labels = torch.tensor([int(dataset.labels[i]) for i in chosen])
    began = time.process_time()
    found_out = [proof.verdicts(x) for x in images.split(GROUP)]
    right = torch.cat([said for said, _ in found_out]) == labels
    sure = torch.cat([certain for _, certain in found_out])
    seconds = (time.process_time() - began) / len(chosen)
    certain, others = (
        (right & which).nonzero()[: tried // 2, 0].tolist() for which in (sure, ~sure)
    )
    known = certain + others
    broken = {
        k: attacked(
            model, proof, images[k : k + 1], labels[k : k + 1], places=places, steps=steps, seed=k
        )
        for k in known
    }
    about = {
        "victim": base,
        "defence": name,
        "patch": list(proof.patch),
        "split": split,
        "cpu_s": round(seconds, 3),
    }
    return [
        {
            **about,
            "image": dataset.names[i],
            "track": dataset.groups[i],
            "right": bool(right[k]),
            "certified": bool(sure[k] & right[k]),
            "broken": broken.get(k),
            "places": places,
            "steps": steps,
        }
        for k, i in enumerate(chosen)
    ]


def table(path: Path = ROWS, split: str = "test") -> str:
    """Markdown: certified accuracy by victim, defense and size of the patch."""
    head = (
        "victim",
        "defence",
        "patch px",
        "right, no patch",
        "certified",
        "n",
        "attacked: certified",
        "others",
        "CPU s an image",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    rows = [r for r in read_rows(path) if r["split"] == split] if path.is_file() else []
    found = {
        (r["victim"], r["defence"]): (r["defence"].partition(":")[0], r["patch"], r["cpu_s"])
        for r in rows
    }
    for model, name in sorted(found, key=lambda key: found[key]):
        own = [r for r in rows if (r["victim"], r["defence"]) == (model, name)]
        rates = [
            wilson_interval(sum(r[key] for r in own), len(own)) for key in ("right", "certified")
        ]
        said = [f"{r.rate:.1%} [{r.low:.1%}, {r.high:.1%}]".replace("%", " %") for r in rates]
        tried = [
            [r["broken"] for r in own if r["broken"] is not None and r["certified"] == c]
            for c in (True, False)
        ]
        hits = [f"{sum(of)} of {len(of)} broken" for of in tried]
        size = "{} x {}".format(*own[0]["patch"])
        cells = [model, name, size, *said, str(len(own)), *hits, f"{own[0]['cpu_s']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Defenses one by one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument(
        "data", nargs="?", type=Path, default=Path("../shared/data/gtsrb-train-third.zip")
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--model", "--victim", default="signs-masked")
    parser.add_argument("--split", default="test")
    parser.add_argument("--n", type=int, default=261)
    parser.add_argument("--attacked", type=int, default=40)
    parser.add_argument("--places", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROWS)
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.what == "run":
        dataset = read_dataset(args.data, split=args.split)
        chosen = frames(dataset, args.n)
        for name in args.names:
            rows = judge(
                args.model,
                name,
                dataset,
                args.split,
                chosen,
                tried=args.attacked,
                places=args.places,
                steps=args.steps,
            )
            append_rows(args.out, rows)
            lines = table(args.out, args.split).splitlines()
            print(next(line for line in lines if f"| {args.model} | {name} |" in line), flush=True)
    else:
        print(table(args.out, args.split))


if __name__ == "__main__":
    main()
