"""How good the embedders are on the shared faces: LFW-style accuracy, and thresholds at stated
shares of false accepts.

The committed row of edgeface-xs is of the last 60 people, 3 photos each, faces by the slim detector
alone.

python benchmarks/cloak_embedders.py [--shared ../shared] [--out benchmarks/cloak_embedders.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from physadv.core.image_io import list_images, read_rgba, to_tensor
from physadv.evaluation.metrics.intervals import clustered_interval
from physadv.models.faces.embedders import FaceEmbedder, load_embedder
from physadv.models.faces.face_detection import DlibFinder, SlimFinder, crop_faces, find_faces

FARS = (0.01, 0.001)


def embed_all(
    embedders: list[FaceEmbedder], faces: Path, slim: Path
) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """People's names by photo, and each embedder's embeddings of the face nearest to the middle of
    each photo."""
    finders = [SlimFinder(slim), DlibFinder()]
    people, rows = [], {e.card.name: [] for e in embedders}
    for path in list_images(faces):
        rgb = read_rgba(path)[..., :3]
        found = find_faces(rgb, finders)
        if not found:
            print(f"no face in {path.name}")
            continue
        middle = np.array(rgb.shape[1::-1]) / 2
        face = min(found, key=lambda f: float(np.linalg.norm(f.quad().mean(0) - middle)))
        people.append(path.parent.name)
        for embedder in embedders:
            warp = torch.from_numpy(face.to_photo(embedder.card.alignment, embedder.card.size))[
                None
            ]
            rows[embedder.card.name].append(
                embedder(crop_faces(to_tensor(rgb)[None], warp, embedder.card.size))[0]
            )
    return np.array(people), {k: torch.stack(v) for k, v in rows.items()}


def measure(
    embedder: FaceEmbedder, people: np.ndarray, embeddings: torch.Tensor
) -> dict[str, object]:
    """Accuracy in ten folds of people at the other folds' best threshold, balanced pairs;
    thresholds at stated FAR."""
    scores = embedder.similarity(embeddings, embeddings).numpy()
    first, second = np.triu_indices(len(people), 1)
    same, score = people[first] == people[second], scores[first, second]
    names = np.unique(people)
    fold_of = {name: k % 10 for k, name in enumerate(np.random.default_rng(0).permutation(names))}
    folds = np.array([fold_of[p] for p in people])
    inside = folds[first] == folds[second]
    rng = np.random.default_rng(1)
    keep = same | (inside & (rng.random(len(same)) < same.sum() / (inside & ~same).sum()))
    hits, who = [], []
    for fold in range(10):
        train = keep & (folds[first] != fold) & (folds[second] != fold)
        test = keep & (folds[first] == fold) & inside
        candidates = np.quantile(score[train], np.linspace(0, 1, 2001))
        good = [
            (score[train & same] >= c).mean() + (score[train & ~same] < c).mean()
            for c in candidates
        ]
        hits += list((score[test] >= candidates[int(np.argmax(good))]) == same[test])
        who += list(people[first[test]])
    thresholds = {far: float(np.quantile(score[~same], 1 - far)) for far in FARS}
    return {
        "embedder": embedder.card.name,
        "accuracy": clustered_interval(hits, who).as_dict(),
        "thresholds": thresholds,
        "impostor_pairs": int((~same).sum()),
        "true_accepts": {
            far: clustered_interval(list(score[same] >= t), list(people[first[same]])).as_dict()
            for far, t in thresholds.items()
        },
        "photos": len(people),
        "people": len(names),
    }


def main() -> None:
    """Measure the embedders and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    weights = chosen.shared / "data/weights"
    embedders = [
        load_embedder("dlib"),
        load_embedder("mobilefacenet", weights=weights / "mobilefacenet_foamliu.pt"),
        load_embedder("edgeface-xs", weights=weights / "edgeface_xs_q.pt"),
    ]
    people, embeddings = embed_all(
        embedders, chosen.shared / "data/faces", weights / "facedet_slim_biubug6.pth"
    )
    table = [measure(e, people, embeddings[e.card.name]) for e in embedders]
    chosen.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
