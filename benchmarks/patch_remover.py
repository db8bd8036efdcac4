r"""Train the segmenter of the patch remover on signs with photographed stickers, and judge it on
held-out ones.

    python benchmarks/remover_material.py stickers DATA/gtsrb-train-third.zip --out
    runs/remover-stickers.safetensors
    python benchmarks/patch_remover.py train DATA/gtsrb-train-third.zip
    physadv patch --victim signs --seed 11 --steps 100 --draws 24 --out runs/fresh-sticker
    physadv patch --victim signs+remover --seed 12 --steps 100 --draws 24 --out runs/fresh-adaptive
    python benchmarks/patch_remover.py sticker DATA/gtsrb-train-third.zip --out runs/hiding-sticker
    python benchmarks/patch_remover.py judge DATA/gtsrb-train-third.zip --bundles
        patches/stop-sticker-signs-v1 \
        runs/fresh-sticker runs/fresh-adaptive runs/hiding-sticker

Cross-entropy and dice loss on photographs of stickers; in the last epochs also on stickers whose
pixels are moved against the segmenter and the victim behind it (self adversarial training, Liu et
al. 2022). `judge` looks at GTSRB's held-out tracks with stickers that were not trained on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill

import torch
import torch.nn.functional as F
from remover_material import SIDE, SIGN_MM, STOP, Pictures, make_pictures, photo_signs, scene_source
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from physadv.core.image_io import to_tensor
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.rows import Row, append_rows, read_rows
from physadv.datasets import read_dataset
from physadv.defenses.load_model import load_model
from physadv.defenses.patch_removal import (
    WEIGHTS,
    PatchRemover,
    PatchSegmenter,
    fill_marked,
    load_segmenter,
)
from physadv.defenses.registry import defend_model
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import load_scene_sources
from physadv.eot.scenes.signs import PhotoScenes, SceneSize, SceneSource
from physadv.evaluation.metrics.intervals import clustered_interval
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import resize_images
from physadv.patches.bundle import PatchBundle, read_bundle, write_bundle
from physadv.patches.card import make_card
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import BLANK_LEVEL, measure_patch, optimize_patch, to_8bit
from physadv.patches.preview import preview_picture
from physadv.patches.task import PatchTask
from physadv.threat.losses import margin_loss
from physadv.training.loop import seed_all, update_average

ROWS = Path("benchmarks/patch_remover.jsonl")
TITLE = "## The remover, and stickers told to hide from it"
INTRO = """Signs of all classes as they are, and stop signs in simulated photographs, of tracks that neither `signs`
nor the remover was trained on; and drawn stop signs, whose face the training shares, not the backgrounds or stickers.
95 % intervals by bootstrap over tracks, or over scenes where drawn. `fresh-sticker` is one of another seed, made by
`physadv patch` as the ready-made one was. `fresh-adaptive` was made so against `signs+remover` and found nothing,
which says little: its loss does not tell it to hide. That of `hiding-sticker` does (120 steps), and it undoes much of
the defense; pixels free to move and told to hide undo it all (last line). Overlap (IoU, mean) of what is taken out
with stickers not trained on, of any size and place: {pixels}. Commands: `python benchmarks/patch_remover.py
--help`."""
HELD_STICKERS = 6
"""How many of the stickers are kept for judging."""


def segment_loss(logits: Tensor, areas: Tensor, care: Tensor) -> Tensor:
    """Cross-entropy where the answer is known, and one minus the dice overlap of each picture with
    a sticker."""
    entropy = F.binary_cross_entropy_with_logits(logits, areas, care)
    chance = logits.sigmoid() * care
    both, sums = (chance * areas).sum((1, 2, 3)), (chance + areas).sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (sums + 1)
    there = areas.amax((1, 2, 3))
    return entropy + 0.5 * (dice * there).sum() / there.sum().clamp_min(1)


def evasive(
    net: nn.Module,
    model: nn.Module,
    pictures: Pictures,
    labels: Tensor,
    draws: torch.Generator,
    steps: int = 4,
) -> Tensor:
    """``pictures`` with the stickers' pixels moved in signed steps so that the segmenter and the
    victim fail."""
    images, areas = pictures.images, pictures.areas
    start = torch.rand(images.shape, generator=draws)
    mix = (torch.rand(len(images), 1, 1, 1, generator=draws) < 0.5).float()
    x = images * (1 - areas) + areas * torch.lerp(images, start, 0.5 * mix)
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        logits = net(x)
        hidden = (F.softplus(logits) * areas).sum() / areas.sum().clamp_min(1)
        wrong = margin_loss(model(fill_marked(x, logits.sigmoid())), labels).clamp_min(-2).mean()
        (slope,) = torch.autograd.grad(hidden + wrong, x)
        x = (x - 0.08 * slope.sign() * areas).clamp(0, 1)
    return x.detach()


def train(
    pictures: Pictures, model: nn.Module, *, epochs: int, hard: int, seed: int, lr: float
) -> nn.Module:
    """The averaged segmenter after ``epochs``; in the last ``hard`` ones a quarter of each batch
    fights back."""
    net = seed_all(PatchSegmenter, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = seed_all(PatchSegmenter, seed).eval()
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=1e-2)
    batches = len(pictures) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=epochs * batches, pct_start=0.2
    )
    with torch.no_grad():
        labels = torch.cat([model(part).argmax(1) for part in pictures.images.split(64)])
    began = time.process_time()
    for epoch in range(epochs):
        order = torch.randperm(len(pictures), generator=generator(seed, "epoch", epoch))
        total = 0.0
        for number, rows in enumerate(order[: batches * 32].split(32)):
            batch = Pictures(pictures.images[rows], pictures.areas[rows], pictures.care[rows])
            draws = generator(seed, "batch", epoch, number)
            if epoch >= epochs - hard:
                batch = with_evasive(net, model, batch, labels[rows], draws)
            if number % 2:
                batch = Pictures(*(t.flip(3) for t in (batch.images, batch.areas, batch.care)))
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(batch.images.contiguous(memory_format=torch.channels_last))
            loss = segment_loss(logits.float(), batch.areas, batch.care)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            step = epoch * batches + number
            update_average(mean, net, min(0.995, (1 + step) / (10 + step)))
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}: loss {total / batches:.3f}; {time.process_time() - began:.0f} s "
            "CPU",
            flush=True,
        )
    return mean


def with_evasive(
    net: nn.Module, model: nn.Module, batch: Pictures, labels: Tensor, draws: torch.Generator
) -> Pictures:
    """The batch, eight of its stickers moved against the net as it now is."""
    rows = (batch.areas.sum((1, 2, 3)) > 40).nonzero().flatten()[:8]
    chosen = Pictures(batch.images[rows], batch.areas[rows], batch.care[rows])
    net.eval()
    with torch.autocast("cpu", torch.bfloat16):
        moved = evasive(net, model, chosen, labels[rows], draws)
    net.train()
    images = batch.images.clone()
    images[rows] = moved
    return Pictures(images, batch.areas, batch.care)


@torch.no_grad()
def pixel_rows(net: nn.Module, pictures: Pictures) -> list[Row]:
    """One row a picture: IoU of what is taken out with the sticker or, without one, the share taken
    out."""
    remove = PatchRemover(net)
    taken = torch.cat([remove.marks(part) for part in pictures.images.split(64)])
    areas, care = pictures.areas > 0, pictures.care > 0
    rows: list[Row] = []
    for k in range(len(pictures)):
        found, there, known = taken[k] & care[k], areas[k], int(care[k].sum())
        row: Row = {"what": "pixels", "group": k, "sticker_px": int(there.sum())}
        if there.any():
            row["iou"] = round(int((found & there).sum()) / max(int((found | there).sum()), 1), 4)
        elif known == SIDE * SIDE:  # neither a sticker nor a blank one
            row["taken"] = round(int(found.sum()) / known, 5)
        rows.append(row)
    return rows


def pixels_said(rows: Sequence[Row], from_px: int = 200) -> str:
    """In words: mean IoU of small and of large stickers, and what is taken out of pictures without
    one."""
    means = []
    for name, values in (
        (
            f"stickers from {from_px} px",
            [r["iou"] for r in rows if "iou" in r and r["sticker_px"] >= from_px],
        ),
        ("smaller ones", [r["iou"] for r in rows if "iou" in r and r["sticker_px"] < from_px]),
        ("bare signs (share of the picture)", [r["taken"] for r in rows if "taken" in r]),
    ):
        rate = clustered_interval(values, range(len(values)))
        means.append(f"{name} {rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}], n = {len(values)}")
    return "; ".join(means)


@torch.no_grad()
def clean_rows(model: LoadedModel, data: Path, names: Sequence[str], n: int = 600) -> list[Row]:
    """Held-out signs of all classes as they are: is each read right behind each front end."""
    dataset = read_dataset(data, split="test")
    order = numpy_generator(0, "clean").permutation(len(dataset))[:n]
    images = torch.cat([resize_images(to_tensor(dataset.read(i))[None], SIDE, SIDE) for i in order])
    rows: list[Row] = []
    for name in names:
        seen = defended(model, name)
        right = torch.cat([seen(part).argmax(1) for part in images.split(100)]) == torch.from_numpy(
            dataset.labels[order]
        )
        rows += [
            {
                "what": "signs of all classes",
                "defence": name,
                "group": dataset.groups[i],
                "clean": bool(r),
            }
            for i, r in zip(order, right, strict=True)
        ]
    return rows


def stop_sources(data: Path) -> dict[str, SceneSource]:
    """Stop signs of held-out tracks, and drawn ones before backgrounds that nothing was trained on."""
    tracks = PhotoScenes(photo_signs(data, part="test", label=STOP), SIGN_MM)
    return {
        "stop signs": tracks,
        "drawn stop signs": load_scene_sources(None, None, width_mm=SIGN_MM, seed=0).test,
    }


@torch.no_grad()
def sticker_rows(
    model: LoadedModel,
    source: SceneSource,
    kind: str,
    bundle: PatchBundle,
    names: Sequence[str],
    n: int = 160,
) -> list[Row]:
    """Stop signs of a source with a bundle's sticker on them, blank, and without: is "stop" read."""
    scenes = source.sample(n, SceneSize(SIDE, False), EotRanges(), numpy_generator(0, "stops"))
    pipeline = Pipeline.from_ranges(EotRanges())
    draw = pipeline.sample(scenes, generator(0, "stops"))
    size, placed = bundle.card.size, bundle.card.placement
    place = Placement(size.width_mm, size.height_mm, (placed.center_mm[0], placed.center_mm[1]))
    blank = torch.full_like(bundle.patch, BLANK_LEVEL)
    pictures = {
        "clean": pipeline.without_patch(scenes, draw),
        "blank": pipeline.apply(blank, bundle.mask, place, scenes, draw),
        "sticker": pipeline.apply(bundle.patch, bundle.mask, place, scenes, draw),
    }
    rows: list[Row] = []
    for name in names:
        seen = defended(model, name)
        right = {block: (seen(x).argmax(1) == STOP).tolist() for block, x in pictures.items()}
        about = {"what": f"{kind}, {bundle.folder.name}", "defence": name}
        rows += [
            {
                **about,
                "group": scenes.groups[k] if len(set(scenes.groups)) > 1 else k,
                **{b: right[b][k] for b in pictures},
            }
            for k in range(n)
        ]
    return rows


def hiding_rows(model: LoadedModel, cache: Path, n: int = 20, steps: int = 30) -> list[Row]:
    """Is "stop" still read after each blank sticker's pixels were moved to hide from the segmenter
    and fool the victim.

    Signed steps with momentum on the margin behind the marks (straight through their threshold), on
    the margin without the remover, and on the probability of being marked. The scenes are those of
    patch_defenses.py.
    """
    found = torch.load(cache, weights_only=True)
    x, area, labels = found["blank"][:n], found["area"][:n], torch.full((n,), STOP)
    remove = PatchRemover(load_segmenter())
    defense, whole, speed = (
        defended(model, "remover"),
        torch.ones(n, dtype=torch.bool),
        torch.zeros_like(x),
    )
    for step in range(steps + 1):
        with torch.no_grad():
            whole &= defense(x).argmax(1) == STOP
        x = x.detach().requires_grad_(True)
        logits = remove.segmenter(x)
        chance = logits.sigmoid()
        marks = chance + ((chance > remove.threshold).float() - chance).detach()
        hidden = (F.softplus(logits) * area).sum((1, 2, 3)) / area.sum((1, 2, 3))
        seen, bare = (margin_loss(model(image), labels) for image in (fill_marked(x, marks), x))
        (slope,) = torch.autograd.grad(
            (seen.clamp_min(-1) + 0.5 * bare.clamp_min(-3) + hidden).sum(), x
        )
        speed = 0.8 * speed + slope / slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
        x = (x - (0.1 * (1 - step / (steps + 1)) + 0.005) * speed.sign() * area).clamp(0, 1)
    about = {
        "what": f"drawn scenes, pixels that hide from the segmenter, {steps} steps",
        "defence": "remover",
    }
    return [
        {**about, "group": found["groups"][k] + str(k), "sticker": bool(whole[k])} for k in range(n)
    ]


class Hiding(nn.Module):
    """The victim behind the remover as a sticker that hides sees it: what is marked counts for the
    stop sign."""

    def __init__(self, model: nn.Module, weight: float = 10.0) -> None:
        super().__init__()
        self.model, self.weight, self.remove = model, weight, PatchRemover(load_segmenter())

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, 64, 64) -> logits, straight through the marks' threshold."""
        logits = self.remove.segmenter(images)
        chance = logits.sigmoid()
        marks = chance + ((chance > self.remove.threshold).float() - chance).detach()
        seen: Tensor = self.model(fill_marked(images, marks))
        marked = self.weight * F.softplus(logits).mean((2, 3))
        return torch.cat(
            (seen[:, :STOP], seen[:, STOP : STOP + 1] + marked, seen[:, STOP + 1 :]), 1
        )


def hiding_sticker(out: Path, steps: int, *, draws: int = 24, seed: int = 13) -> str:
    """A bundle of a printable sticker that hides from the remover, judged on held-out draws of
    `signs+remover`."""
    settings = PatchConfig(
        model="signs+remover", steps=steps, draws=draws, seed=seed, test_draws=100
    )
    task = PatchTask.from_config(settings)
    model = task.loaded_model
    aimed = replace(task, models=[Hiding(load_model("signs")).eval()])
    *_, last = optimize_patch(aimed, steps=steps, draws=draws, validate_every=steps + 1)
    patch = to_8bit(task, last.patch)
    measured = measure_patch(task, patch, draws=settings.test_draws)
    card = make_card(replace(settings, name=out.name), task, model, measured, steps_done=steps)
    write_bundle(out, card=card, patch=patch, mask=task.mask, preview=preview_picture(task, patch))
    return f"success {measured.success}; blank {measured.blank_success}"


def defended(model: LoadedModel, name: str) -> nn.Module:
    """The victim behind a front end; "none" is the victim."""
    return model if name == "none" else defend_model(model, name)


def table(rows: Sequence[Row]) -> str:
    """Markdown: how often held-out signs are read, with and without the remover."""
    lines = [
        "| scenes | defense | clean | blank sticker | sticker | n, tracks or scenes |",
        "|---|---|---|---|---|---|",
    ]
    for what, name in dict.fromkeys((r["what"], r["defence"]) for r in rows):
        own = [r for r in rows if r["what"] == what and r["defence"] == name]
        groups = [r["group"] for r in own]
        cells = [str(what), str(name)]
        for block in ("clean", "blank", "sticker"):
            rate = clustered_interval([r[block] for r in own], groups) if block in own[0] else None
            said = (
                ""
                if rate is None
                else f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]".replace("%", " %")
            )
            cells.append(said)
        lines.append("| " + " | ".join([*cells, f"{len(own)} in {len(set(groups))}"]) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The remover's part of patch_defenses.md, of its rows."""
    rows = list(read_rows(ROWS))
    pixels = [r for r in rows if r["what"] == "pixels"]
    shares = table([r for r in rows if r["what"] != "pixels"])
    return f"{TITLE}\n\n{fill(INTRO.format(pixels=pixels_said(pixels)), 120, break_on_hyphens=False)}\n\n{shares}"


def main() -> None:
    """Train and write, or judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "sticker", "judge"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--stickers", type=Path, default=Path("runs/remover-stickers.safetensors"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--cache", type=Path, default=Path("runs/patch-defences.pt"))
    parser.add_argument("--pictures", type=int, default=7000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hard", type=int, default=2)
    parser.add_argument("--steps", type=int, default=120, help="of the sticker that hides")
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--bundles", type=Path, nargs="*", default=[Path("patches/stop-sticker-signs-v1")]
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if args.what == "sticker":
        print(hiding_sticker(args.out, args.steps))
        return
    stickers, model = load_file(args.stickers)["stickers"], load_model("signs")
    if args.what == "train":
        source = scene_source(args.data, "train")
        pictures = make_pictures(source, stickers[:-HELD_STICKERS], args.pictures, args.seed)
        net = train(pictures, model, epochs=args.epochs, hard=args.hard, seed=args.seed, lr=args.lr)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), args.out)
    net = PatchSegmenter()
    net.load_state_dict(load_file(args.out))
    part = "validation" if args.what == "train" else "test"
    held = make_pictures(
        scene_source(args.data, part), stickers[-HELD_STICKERS:], 600, args.seed + 1
    )
    pixels = pixel_rows(net.eval(), held)
    print(f"{part}: {pixels_said(pixels)}", flush=True)
    if args.what == "judge":
        names = ("none", "remover")
        rows = clean_rows(model, args.data, names)
        for kind, source in stop_sources(args.data).items():
            for folder in args.bundles:
                rows += sticker_rows(model, source, kind, read_bundle(folder), names)
        rows += hiding_rows(model, args.cache)
        ROWS.unlink(missing_ok=True)
        append_rows(ROWS, rows + pixels)
        print(page())


if __name__ == "__main__":
    main()
