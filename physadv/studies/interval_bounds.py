"""Study of certified training and of its bounds: intervals, and lines in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from physadv.attacks.gradient import pgd
from physadv.certification.bounds.graph import LayerGraph
from physadv.certification.bounds.verify import prepare_graph, verify_bounds
from physadv.core.rows import Row
from physadv.models.architectures.cnn import build_network
from physadv.studies.certificate_studies_config import IntervalsConfig
from physadv.studies.interval_bounds_page import (
    ALPHA,
    BOUNDS,
    GOWAL,
    MIRMAN,
    NETS,
    ZHANG,
    ZHANG_CROWN,
    intervals_page,
)
from physadv.studies.small_classifiers import StudyData, fit_classifier, predict, read_once
from physadv.studies.study import Part, Study, Workspace
from physadv.training.methods.base import StandardTraining, TrainingMethod
from physadv.training.methods.certified import CrownIbpTraining, IbpTraining

SHARES = (0.25, 0.5, 1.0, 1.3)
"""Radii of the curves over the one that a network was trained for."""
CHUNK = 20
"""Images that are bounded at once."""


def study_parts(config: IntervalsConfig) -> list[Part]:
    """Return the parts of the study.

    Args:
        config: Its configuration.
    """
    parts = []
    for name in config.scaled(("standard", "ibp-0.1"), tuple(NETS), tuple(NETS)):
        parts.append(Part(f"errors-{name}", f"training {name}", partial(_error_rows, config, name)))
        parts.append(
            Part(f"bounds-{name}", f"bounds of {name}", partial(_bound_rows, config, name))
        )
    return parts


def _data(config: IntervalsConfig, workspace: Workspace) -> StudyData:
    return read_once(
        workspace,
        config.data,
        train=config.scaled(300, 12_000, 60_000),
        test=config.test_images,
        seed=config.seed,
    )


def _method(name: str) -> TrainingMethod:
    """Return the training method of a network."""
    eps = NETS[name].eps
    if name.startswith("crown-ibp"):
        return CrownIbpTraining(eps, grow=(0.05, 0.6))
    if name.startswith("ibp"):
        return IbpTraining(eps, grow=(0.05, 0.6))
    return StandardTraining()


def _net(config: IntervalsConfig, name: str, workspace: Workspace) -> nn.Module:
    """Return a trained network."""
    data = _data(config, workspace)
    epochs = config.scaled(1, 2, 20) if name == "standard" else config.scaled(2, 7, 100)
    return workspace.net(
        name,
        lambda: build_network(
            "small-cnn", channels=data.channels, side=data.image_size, classes=len(data.classes)
        ),
        lambda fresh: fit_classifier(
            fresh,
            data.train,
            method=_method(name),
            epochs=epochs,
            seed=workspace.seed_of("train", name),
        ),
    )


def _error_rows(config: IntervalsConfig, name: str, workspace: Workspace) -> Iterator[Row]:
    """Error, error under attack and interval-certified error at the radius of the training."""
    net = _net(config, name, workspace)
    images, labels = _data(config, workspace).test.floats(slice(None))
    eps = NETS[name].eps
    right = predict(net, images) == labels
    attacked = pgd(net, images, labels, eps=eps, steps=30, seed=workspace.seed_of("attack", name))
    graph = prepare_graph(net, tuple(images.shape[1:]))
    certified = torch.cat(
        [
            verify_bounds(graph, part, own, eps=eps, method="ibp").certified
            for part, own in zip(torch.split(images, 250), torch.split(labels, 250), strict=True)
        ]
    )
    robust = right & ~attacked.success
    for index in range(len(labels)):
        yield {
            "right": bool(right[index]),
            "robust": bool(robust[index]),
            "certified": bool(certified[index]),
        }


def _bound_rows(config: IntervalsConfig, name: str, workspace: Workspace) -> Iterator[Row]:
    """What each bound certifies of the first test images, at several radii."""
    net = _net(config, name, workspace)
    images, labels = _data(config, workspace).test.floats(slice(config.bounded_images))
    graph = prepare_graph(net, tuple(images.shape[1:]))
    for share in config.scaled((1.0,), SHARES, (0.1, *SHARES)):
        eps = round(share * NETS[name].eps, 4)
        workspace.tell(f"{name} at {eps:g}")
        seed = workspace.seed_of("bounds", name, f"{eps:g}")
        attacked = pgd(net, images, labels, eps=eps, steps=30, seed=seed)
        robust = (predict(net, images) == labels) & ~attacked.success
        certified = certified_by(graph, images, labels, robust, eps)

        # Optimizing lines takes seconds an image: some images, where CROWN leaves them open.
        first = slice(config.optimized_images if share <= 1 else 0)
        still_open = robust[first] & ~certified["crown"][first]
        optimized = certified_by(graph, images[first], labels[first], still_open, eps, {ALPHA: ""})
        proven = (certified["crown"][first] | optimized[ALPHA]).tolist()
        for index in range(len(labels)):
            proofs = {bound: bool(found[index]) for bound, found in certified.items()}
            more = {ALPHA: proven[index]} if index < len(proven) else {}
            yield {"eps": eps, "robust": bool(robust[index]), **proofs, **more}


def certified_by(
    graph: LayerGraph,
    images: Tensor,
    labels: Tensor,
    open_rows: Tensor,
    eps: float,
    bounds: Mapping[str, str] = BOUNDS,
) -> dict[str, Tensor]:
    """Return what each bound certifies.

    Broken images are not bounded, since no sound bound certifies them; nor are those that a
    bound certifies which is never tighter.

    Args:
        graph: Graph of the network.
        images: Images (b, c, h, w).
        labels: Their classes (b,).
        open_rows: Images (b,) that are right and that no attack has broken.
        eps: Radius in l_inf.
        bounds: Bounds, each with an earlier one that it is never looser than, or "".

    Returns:
        (b,) bool for each bound.
    """
    found: dict[str, Tensor] = {}
    for bound, looser in bounds.items():
        known = found[looser].clone() if looser else torch.zeros_like(open_rows)
        rows = (open_rows & ~known).nonzero()[:, 0]
        for piece in torch.split(rows, CHUNK):
            if len(piece):
                margins = verify_bounds(graph, images[piece], labels[piece], eps=eps, method=bound)
                known[piece] = margins.certified
        found[bound] = known
    return found


STUDY = Study(
    name="intervals",
    title="Intervals and lines",
    question="How much of a network's robustness can be proven, and by how cheap a bound?",
    config=IntervalsConfig,
    papers=(MIRMAN, ZHANG_CROWN, GOWAL, ZHANG),
    parts=study_parts,
    page=intervals_page,
)
