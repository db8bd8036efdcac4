"""Every defense on MNIST (and some on GTSRB), small enough for two CPU cores: clean, PGD, ensemble
and certified.

    python benchmarks/defenses.py run standard pgd ibp --shared ../shared/data --out runs/defenses
    python benchmarks/defenses.py table

`run` trains, going on where it was killed, and then measures: one row an image, and one a run with
its counts over the whole test set, in benchmarks/defenses.jsonl. `table` makes
benchmarks/defenses.md of these rows alone.

The test images are drawn at random by seed 0: 1000 for PGD-40, 200 of these, drawn again, for the
ensemble, for smoothing and for CROWN and polytope bounds; interval bounds and clean accuracy are of
the whole test part. So compare columns by n. The last line compares attack and certificate image by
image. Times are CPU seconds of one thread. A shorter budget than the papers' everywhere: see the
epochs in the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.attacks.gradient import pgd
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.certification.smoothing.fixed_radius import certify_at_radius
from physadv.certification.smoothing.noise import GaussianNoise
from physadv.certification.smoothing.sampler import NoiseSampler
from physadv.certification.smoothing.sequential_plan import make_sequential_plan
from physadv.core.rows import append_rows, read_rows
from physadv.datasets import read_dataset
from physadv.defenses.load_model import load_model
from physadv.evaluation.ensemble import attack_ensemble
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.evaluation.samples import EvaluationSamples, choose_samples
from physadv.models.load import LoadedModel
from physadv.training.classifier_recipe import (
    CARD,
    WEIGHTS,
    ClassifierRecipe,
    publish_classifier,
    train_defense,
)
from physadv.training.data import load_training_data

HERE = Path(__file__).resolve().parent
GTSRB = "gtsrb-train-third.zip"
ROWS, TABLE = HERE / "defenses.jsonl", HERE / "defenses.md"
SIGMA, RADIUS = 0.25, 0.5
FEW, MANY, PART = 200, 1000, 20_000


@dataclass(frozen=True)
class Plan:
    """One run: its recipe, its data, and the bound it is judged by, on the ``whole`` test set or on
    few images."""

    recipe: ClassifierRecipe
    data: str = "mnist"
    limit: int | None = None
    side: int | None = None
    bound: str = "crown"
    whole: bool = False
    smoothing: bool = False


def mnist(defense: str, epochs: int, **settings: Any) -> ClassifierRecipe:
    """A recipe with the defaults of all MNIST runs."""
    known = {
        k: settings.pop(k) for k in list(settings) if k in ClassifierRecipe.__dataclass_fields__
    }
    return ClassifierRecipe(
        defense, **{"batch": 256, "eps": 0.1, "epochs": epochs, **known}, settings=settings
    )


def signs(defense: str, epochs: int, **settings: Any) -> ClassifierRecipe:
    """A recipe with the defaults of all GTSRB runs."""
    return mnist(defense, epochs, **{"batch": 128, "eps": 2 / 255, "shift": 2, **settings})


BOUNDED: dict[str, Any] = {"architecture": "small-cnn-bn", "lr": 4e-3, "grow": (0.05, 0.5)}
SHORT: dict[str, Any] = {**BOUNDED, "grow": (0.05, 0.35), "batch": 128}
PLAIN: dict[str, Any] = {**SHORT, "own_start": False, "regularize": 0.0}
PLANS: dict[str, Plan] = {
    "standard": Plan(mnist("standard", 6)),
    "fast": Plan(mnist("fast", 10)),
    "pgd": Plan(mnist("pgd", 5, steps=7)),
    "ibp": Plan(mnist("ibp", 16, **BOUNDED), bound="ibp", whole=True),
    "fgsm": Plan(mnist("fgsm", 6, batch=128), limit=PART),
    "free": Plan(mnist("free", 12, replays=4, batch=128), limit=PART),
    "trades": Plan(mnist("trades", 4, steps=7, batch=128), limit=PART),
    "gradient-penalty": Plan(mnist("gradient-penalty", 6, batch=128), limit=PART),
    "gaussian": Plan(mnist("gaussian", 6, sigma=SIGMA, batch=128), limit=PART, smoothing=True),
    "smoothadv": Plan(
        mnist("smoothadv", 4, sigma=SIGMA, steps=3, eps=0.5, norm="l2", batch=128),
        limit=PART,
        smoothing=True,
    ),
    "polytope": Plan(
        mnist("polytope", 3, projections=5, batch=128, judged=100), limit=8000, bound="polytope"
    ),
    "ibp-0.3": Plan(mnist("ibp", 8, eps=0.3, **SHORT), limit=PART, bound="ibp", whole=True),
    "crown-ibp-0.3": Plan(
        mnist("crown-ibp", 8, eps=0.3, **SHORT), limit=PART, bound="ibp", whole=True
    ),
    "ibp-0.3-plain": Plan(mnist("ibp", 8, eps=0.3, **PLAIN), limit=PART, bound="ibp", whole=True),
    "crown-ibp-0.3-plain": Plan(
        mnist("crown-ibp", 8, eps=0.3, **PLAIN), limit=PART, bound="ibp", whole=True
    ),
    "ibp-0.3-long": Plan(mnist("ibp", 14, eps=0.3, **BOUNDED), bound="ibp", whole=True),
    "crown-ibp-0.3-long": Plan(mnist("crown-ibp", 14, eps=0.3, **BOUNDED), bound="ibp", whole=True),
    "crown-ibp": Plan(mnist("crown-ibp", 8, **SHORT), limit=PART, bound="ibp", whole=True),
    "ibp-wide": Plan(
        mnist("ibp", 45, **{**BOUNDED, "architecture": "wide-cnn-bn", "lr": 6e-3, "stretch": 1.5}),
        bound="ibp",
        whole=True,
    ),
    "signs-standard": Plan(signs("standard", 12), GTSRB, side=32),
    "signs-fast": Plan(signs("fast", 12), GTSRB, side=32),
    "signs-trades": Plan(signs("trades", 12, steps=5), GTSRB, side=32),
    "signs-pgd": Plan(signs("pgd", 12, steps=5), GTSRB, side=32),
    "signs-crown-ibp": Plan(
        signs("crown-ibp", 20, **BOUNDED), GTSRB, side=32, bound="ibp", whole=True
    ),
    "signs-ibp": Plan(signs("ibp", 20, **BOUNDED), GTSRB, side=32, bound="ibp", whole=True),
}


def train_one(name: str, plan: Plan, shared: Path, out: Path) -> None:
    """Train one run, or go on with it, and publish it."""
    if (out / name / CARD).is_file():
        return
    material = load_training_data(shared / plan.data, image_size=plan.side, limit=plan.limit)
    for step in train_defense(plan.recipe, material, out / name):
        if step.ends_epoch:
            shown = ", ".join(f"{k} {v:.3f}" for k, v in step.metrics.items())
            print(
                f"{name} epoch {step.epoch} loss {step.loss:.3f} {shown} {step.seconds:.0f} s",
                flush=True,
            )
    publish_classifier(
        plan.recipe,
        material,
        out / name,
        data=plan.data,
        command=f"benchmarks/defenses.py run {name}",
    )


def measure_one(name: str, plan: Plan, shared: Path, out: Path) -> None:
    """Judge one run on the test part and append its rows."""
    model = load_model(str(out / name / WEIGHTS))
    if ROWS.is_file() and any(row.get("sha256") == model.card.sha256 for row in read_rows(ROWS)):
        return
    dataset = read_dataset(shared / plan.data, split="test")
    every = choose_samples(dataset, model.card)
    some = choose_samples(dataset, model.card, limit=min(MANY, len(dataset))).indices
    few = choose_samples(
        dataset, model.card, limit=min(FEW, len(dataset))
    ).indices  # a part of ``some``
    eps = 0.1 if plan.smoothing else plan.recipe.eps
    begun = time.process_time()
    columns = _columns(plan, model, every, list(some), list(few), eps)
    rows = [
        {"run": name, "index": i, **{k: found[i] for k, found in columns.items() if i in found}}
        for i in some
    ]
    totals = {"clean": sum(columns["clean"].values()), "n": len(every)}
    if plan.whole:
        totals["certified"] = sum(columns["certified"].values())
    extra = model.card.extra
    append_rows(
        ROWS,
        [
            {
                "run": name,
                "data": plan.data,
                "defence": plan.recipe.defense,
                "architecture": plan.recipe.architecture,
                "eps": eps,
                "bound": plan.bound,
                "epochs": extra["epochs_done"],
                "train_images": plan.limit or "all",
                "train_cpu_seconds": extra["cpu_seconds"],
                "measure_cpu_seconds": round(time.process_time() - begun, 1),
                "sha256": model.card.sha256,
                **{f"test_{k}": v for k, v in totals.items()},
            },
            *rows,
        ],
    )
    print(name, totals, flush=True)


def _columns(
    plan: Plan,
    model: LoadedModel,
    every: EvaluationSamples,
    some: list[int],
    few: list[int],
    eps: float,
) -> dict[str, dict[int, int]]:
    """Of each column 1 or 0 by image: read, survives or is certified. ``every`` holds the data set
    in its order."""
    images, labels = every.images(range(len(every))), every.targets(range(len(every)))
    graph = prepare_graph(model, tuple(images.shape[1:]))

    def judged(places: list[int], judge: Callable[[Tensor, Tensor], Tensor]) -> dict[int, int]:
        return dict(
            zip(
                places, _by_parts(images[places], labels[places], judge).int().tolist(), strict=True
            )
        )

    def left(places: list[int], success: Tensor) -> dict[int, int]:
        return {
            place: int(clean[place] and not won)
            for place, won in zip(places, success.tolist(), strict=True)
        }

    whole = list(range(len(every)))
    clean = judged(whole, lambda x, y: model(x).argmax(1) == y)
    columns = {
        "clean": clean,
        "pgd": left(some, pgd(model, images[some], labels[some], eps=eps, steps=40).success),
        "certified": judged(
            whole if plan.whole else few,
            lambda x, y: (
                verify_bounds(graph, x, y, eps=eps, method=plan.bound, norm="linf").certified
            ),
        ),
        "ensemble": left(few, attack_ensemble(model, images[few], labels[few], eps=eps).success),
    }
    if plan.smoothing:
        smoothed = _smoothed(model, images[few], labels[few], few)
        columns["smoothed"] = dict(zip(few, smoothed.int().tolist(), strict=True))
    return columns


def _by_parts(
    images: Tensor, labels: Tensor, judge: Callable[[Tensor, Tensor], Tensor], size: int = 50
) -> Tensor:
    with torch.no_grad():
        return torch.cat(
            [judge(x, y) for x, y in zip(images.split(size), labels.split(size), strict=True)]
        )


def _smoothed(model: LoadedModel, images: Tensor, labels: Tensor, indices: list[int]) -> Tensor:
    """Certified at l_2 RADIUS by staged smoothing, alpha 0.001."""
    noise = GaussianNoise(SIGMA)
    plan = make_sequential_plan(
        noise.needed(RADIUS, "l2", images[0].numel()), n=20_000, alpha=0.001
    )
    sampler = NoiseSampler(model, noise, seed=0, batch=1024)
    found = certify_at_radius(
        sampler, [x[None] for x in images], plan, radius=RADIUS, n0=32, indices=indices
    )
    return torch.tensor(
        [
            c.predicted == y and c.radius >= RADIUS
            for c, y in zip(found, labels.tolist(), strict=True)
        ]
    )


def table() -> str:
    """The table of all runs, from the rows alone; of a run measured twice the latest."""
    runs: dict[str, dict[str, Any]] = {}
    images: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(ROWS):
        name = str(row["run"])
        if "index" in row:
            images[name].append(row)
        else:
            runs[name], images[name] = row, []
    runs = {name: runs[name] for name in PLANS if name in runs}
    lines = []
    for data in dict.fromkeys(str(r["data"]) for r in runs.values()):
        lines += [
            f"\n## {data}\n",
            "| run | eps | net | epochs x images | clean | PGD-40 | ensemble | certified | by | "
            "CPU s |",
        ]
        lines += ["|---" * 10 + "|"]
        lines += [
            _line(name, run, images[name]) for name, run in runs.items() if run["data"] == data
        ]
    every = [row for rows in images.values() for row in rows]
    broken = sum(
        r.get("certified", 0) > r.get(attack, 1) for r in every for attack in ("pgd", "ensemble")
    )
    lines += [
        f"\nCertified by a bound and broken by an attack all the same: {broken} of {len(every)} "
        "images."
    ]
    head = (__doc__ or "").split("\n\n")
    return f"# Defenses side by side\n\n{head[0]}\n\n{head[3]}\n" + "\n".join(lines) + "\n"


def _line(name: str, run: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    def rate(column: str) -> str:
        have = [int(r[column]) for r in rows if column in r]
        return str(wilson_interval(sum(have), len(have))) if have else ""

    clean = str(wilson_interval(run["test_clean"], run["test_n"]))
    certified, by = rate("certified"), str(run["bound"])
    if "test_certified" in run:
        certified = str(wilson_interval(run["test_certified"], run["test_n"]))
    if any("smoothed" in r for r in rows):
        certified, by = (
            f"{certified}; {rate('smoothed')}",
            f"{by}; smoothing, l2 {RADIUS}, sigma {SIGMA}",
        )
    budget = f"{run['epochs']} x {run['train_images']}"
    cells = [
        name,
        f"{run['eps']:.3g}",
        run["architecture"],
        budget,
        clean,
        rate("pgd"),
        rate("ensemble"),
        certified,
        by,
        f"{run['train_cpu_seconds']:.0f}",
    ]
    return "| " + " | ".join(str(c) for c in cells) + " |"


def main() -> None:
    """Run or tabulate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("runs", nargs="*", metavar="RUN", help=", ".join(PLANS))
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/defences"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in options.runs:
        train_one(name, PLANS[name], options.shared, options.out)
        measure_one(name, PLANS[name], options.shared, options.out)
        TABLE.write_text(table(), encoding="utf-8")
    TABLE.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
