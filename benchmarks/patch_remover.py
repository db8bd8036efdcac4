"""Train the segmenter of the patch remover on signs with photographed stickers, and judge it on held-out ones.

    python benchmarks/remover_material.py stickers DATA/gtsrb-train-third.zip --out runs/remover-stickers.safetensors
    python benchmarks/patch_remover.py train DATA/gtsrb-train-third.zip
    python benchmarks/patch_remover.py judge DATA/gtsrb-train-third.zip

Cross-entropy and dice loss on photographs of stickers; in the last epochs also on stickers whose pixels are moved
against the segmenter and the victim behind it (self adversarial training, Liu et al. 2022). `judge` looks at GTSRB's
held-out tracks with stickers that were not trained on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from remover_material import SIDE, SIGN_MM, STOP, Pictures, make_pictures, photo_signs, scene_source
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from physadv.attacks.patch import BLANK
from physadv.core.images import to_tensor
from physadv.core.seeds import generator, numpy_generator
from physadv.datasets import read_dataset
from physadv.defences.named import defend
from physadv.defences.remover import WEIGHTS, Remover, Segmenter, complete, filled
from physadv.evaluation.intervals import clustered
from physadv.evaluation.rows import Row, append_rows
from physadv.printing.bundle import Bundle, read_bundle
from physadv.scene import chain
from physadv.scene.placement import Placement
from physadv.scene.presets import EotRanges
from physadv.scene.scenes import PhotoScenes, View
from physadv.threat.objectives import margin
from physadv.training.loop import seeded, update_average
from physadv.victims.cards import LoadedVictim
from physadv.victims.classifiers import resize
from physadv.victims.registry import load_victim

ROWS = Path("benchmarks/patch_remover.jsonl")
HELD_STICKERS = 6
"""How many of the stickers are kept for judging."""


def segment_loss(logits: Tensor, areas: Tensor, care: Tensor) -> Tensor:
    """Cross-entropy where the answer is known, and one minus the dice overlap of each picture with a sticker."""
    entropy = F.binary_cross_entropy_with_logits(logits, areas, care)
    chance = logits.sigmoid() * care
    both, sums = (chance * areas).sum((1, 2, 3)), (chance + areas).sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (sums + 1)
    there = areas.amax((1, 2, 3))
    return entropy + 0.5 * (dice * there).sum() / there.sum().clamp_min(1)


def evasive(
    net: nn.Module, victim: nn.Module, pictures: Pictures, labels: Tensor, draws: torch.Generator, steps: int = 4
) -> Tensor:
    """``pictures`` with the stickers' pixels moved in signed steps so that the segmenter and the victim fail."""
    images, areas = pictures.images, pictures.areas
    start = torch.rand(images.shape, generator=draws)
    mix = (torch.rand(len(images), 1, 1, 1, generator=draws) < 0.5).float()
    x = images * (1 - areas) + areas * torch.lerp(images, start, 0.5 * mix)
    for _ in range(steps):
        x = x.detach().requires_grad_(True)
        logits = net(x)
        hidden = (F.softplus(logits) * areas).sum() / areas.sum().clamp_min(1)
        wrong = margin(victim(filled(x, logits.sigmoid())), labels).clamp_min(-2).mean()
        (slope,) = torch.autograd.grad(hidden + wrong, x)
        x = (x - 0.08 * slope.sign() * areas).clamp(0, 1)
    return x.detach()


def train(pictures: Pictures, victim: nn.Module, *, epochs: int, hard: int, seed: int, lr: float) -> nn.Module:
    """The averaged segmenter after ``epochs``; in the last ``hard`` ones a quarter of each batch fights back."""
    net = seeded(Segmenter, seed).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean = seeded(Segmenter, seed).eval()
    optimiser = torch.optim.AdamW(net.parameters(), lr, weight_decay=1e-2)
    batches = len(pictures) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * batches, pct_start=0.2)
    with torch.no_grad():
        labels = torch.cat([victim(part).argmax(1) for part in pictures.images.split(64)])
    began = time.process_time()
    for epoch in range(epochs):
        order = torch.randperm(len(pictures), generator=generator(seed, "epoch", epoch))
        total = 0.0
        for number, rows in enumerate(order[: batches * 32].split(32)):
            batch = Pictures(pictures.images[rows], pictures.areas[rows], pictures.care[rows])
            draws = generator(seed, "batch", epoch, number)
            if epoch >= epochs - hard:
                batch = with_evasive(net, victim, batch, labels[rows], draws)
            if number % 2:
                batch = Pictures(*(t.flip(3) for t in (batch.images, batch.areas, batch.care)))
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = net(batch.images.contiguous(memory_format=torch.channels_last))
            loss = segment_loss(logits.float(), batch.areas, batch.care)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 2.0)
            optimiser.step()
            schedule.step()
            step = epoch * batches + number
            update_average(mean, net, min(0.995, (1 + step) / (10 + step)))
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / batches:.3f}; {time.process_time() - began:.0f} s CPU", flush=True)
    return mean


def with_evasive(
    net: nn.Module, victim: nn.Module, batch: Pictures, labels: Tensor, draws: torch.Generator
) -> Pictures:
    """The batch, eight of its stickers moved against the net as it now is."""
    rows = (batch.areas.sum((1, 2, 3)) > 40).nonzero().flatten()[:8]
    chosen = Pictures(batch.images[rows], batch.areas[rows], batch.care[rows])
    net.eval()
    with torch.autocast("cpu", torch.bfloat16):
        moved = evasive(net, victim, chosen, labels[rows], draws)
    net.train()
    images = batch.images.clone()
    images[rows] = moved
    return Pictures(images, batch.areas, batch.care)


@torch.no_grad()
def judged(net: nn.Module, pictures: Pictures, threshold: float = 0.7) -> str:
    """Pixel IoU of the marks as they are and completed, and what is marked and left where nothing is."""
    remove = Remover(net, threshold=threshold)
    chance = torch.cat([remove.chance(part) for part in pictures.images.split(64)])
    marks, areas, care = chance > threshold, pictures.areas > 0, pictures.care > 0
    done = complete(marks)
    there = areas.any(3).any(2).any(1)
    said = []
    for name, found in (("marked", marks), ("completed", done)):
        both, either = ((t & care).sum((1, 2, 3)).float() for t in (found & areas, found | areas))
        iou = (both / either.clamp_min(1))[there]
        false = (found & care)[~there].float().mean()
        found_share = (iou > 0.5).float().mean()
        said.append(f"{name}: IoU {iou.mean():.3f}, {found_share:.1%} above 0.5, {false:.2%} of clean pictures")
    return f"{int(there.sum())} stickers, {int((~there).sum())} without; " + "; ".join(said)


@torch.no_grad()
def clean_rows(victim: LoadedVictim, data: Path, names: Sequence[str], n: int = 600) -> list[Row]:
    """Held-out signs of all classes as they are: is each read right behind each front end."""
    dataset = read_dataset(data, split="test")
    order = numpy_generator(0, "clean").permutation(len(dataset))[:n]
    images = torch.cat([resize(to_tensor(dataset.read(i))[None], SIDE, SIDE) for i in order])
    rows: list[Row] = []
    for name in names:
        seen = defended(victim, name)
        right = torch.cat([seen(part).argmax(1) for part in images.split(100)]) == torch.from_numpy(
            dataset.labels[order]
        )
        rows += [
            {"what": "signs of all classes", "defence": name, "group": dataset.groups[i], "clean": bool(r)}
            for i, r in zip(order, right, strict=True)
        ]
    return rows


@torch.no_grad()
def sticker_rows(victim: LoadedVictim, data: Path, bundle: Bundle, names: Sequence[str], n: int = 160) -> list[Row]:
    """Stop signs of held-out tracks with a bundle's sticker on them, blank, and without: is "stop" read."""
    stops = PhotoScenes(photo_signs(data, part="test", label=STOP), SIGN_MM)
    scenes = stops.sample(n, View(SIDE, False), EotRanges(), numpy_generator(0, "stops", bundle.card.patch.name))
    draw = chain.sample(scenes, EotRanges(), generator(0, "stops", bundle.card.patch.name))
    size, placed = bundle.card.size, bundle.card.placement
    place = Placement(size.width_mm, size.height_mm, (placed.center_mm[0], placed.center_mm[1]))
    blank = torch.full_like(bundle.patch, BLANK)
    pictures = {
        "clean": chain.without_patch(scenes, draw),
        "blank": chain.apply(blank, bundle.mask, place, scenes, draw),
        "sticker": chain.apply(bundle.patch, bundle.mask, place, scenes, draw),
    }
    rows: list[Row] = []
    for name in names:
        seen = defended(victim, name)
        right = {block: (seen(x).argmax(1) == STOP).tolist() for block, x in pictures.items()}
        about = {"what": f"stop signs, {bundle.card.patch.name}", "defence": name}
        rows += [{**about, "group": scenes.groups[k], **{b: right[b][k] for b in pictures}} for k in range(n)]
    return rows


def defended(victim: LoadedVictim, name: str) -> nn.Module:
    """The victim behind a front end; "none" is the victim."""
    return victim if name == "none" else defend(victim, name)


def table(rows: Sequence[Row]) -> str:
    """Markdown: how often held-out signs are read, with and without the remover."""
    lines = [
        "| held-out tracks of GTSRB | defence | clean | blank sticker | sticker | n |",
        "|---|---|---|---|---|---|",
    ]
    for what, name in dict.fromkeys((r["what"], r["defence"]) for r in rows):
        own = [r for r in rows if r["what"] == what and r["defence"] == name]
        groups = [r["group"] for r in own]
        cells = [str(what), str(name)]
        for block in ("clean", "blank", "sticker"):
            rate = clustered([r[block] for r in own], groups) if block in own[0] else None
            said = "" if rate is None else f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]".replace("%", " %")
            cells.append(said)
        lines.append("| " + " | ".join([*cells, f"{len(own)} in {len(set(groups))} tracks"]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train and write, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "judge"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--stickers", type=Path, default=Path("runs/remover-stickers.safetensors"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--hard", type=int, default=2)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundles", type=Path, nargs="*", default=[Path("patches/stop-sticker-signs-v1")])
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    stickers, victim = load_file(args.stickers)["stickers"], load_victim("signs")
    if args.what == "train":
        source = scene_source(args.data, "train")
        pictures = make_pictures(source, stickers[:-HELD_STICKERS], args.pictures, args.seed)
        net = train(pictures, victim, epochs=args.epochs, hard=args.hard, seed=args.seed, lr=args.lr)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), args.out)
    net = Segmenter()
    net.load_state_dict(load_file(args.out))
    part = "validation" if args.what == "train" else "test"
    held = make_pictures(scene_source(args.data, part), stickers[-HELD_STICKERS:], 600, args.seed + 1)
    print(f"{part}: {judged(net.eval(), held)}", flush=True)
    if args.what == "judge":
        names = ("none", "remover")
        rows = clean_rows(victim, args.data, names)
        for folder in args.bundles:
            rows += sticker_rows(victim, args.data, read_bundle(folder), names)
        ROWS.unlink(missing_ok=True)
        append_rows(ROWS, rows)
        print(table(rows))


if __name__ == "__main__":
    main()
