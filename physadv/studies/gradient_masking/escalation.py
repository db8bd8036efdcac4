"""Attack what a defense has left with ever more queries, steps and seeds, until doubling them
breaks nothing more.

An attack that stops early overrates a defense as a masked gradient does (Carlini et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from physadv.core.random_streams import derive
from physadv.studies.gradient_masking.adaptive_attacks import JointLossAttack
from physadv.studies.gradient_masking.gallery import (
    MaskedDefense,
    adaptive_images,
    black_box_images,
    correct_verdicts,
)


@dataclass(frozen=True)
class AttackRound:
    """One round of attacks on the images that no earlier one broke.

    Attributes:
        steps: Steps of each gradient attack.
        queries: Queries of the black-box attack for each image and seed.
        seeds: Number of seeds, each with every attack.
        attacked: Number of images that the round began with.
        broken: Number of them that it broke.
    """

    steps: int
    queries: int
    seeds: int
    attacked: int
    broken: int

    def as_dict(self) -> dict[str, int]:
        """Return plain values for JSON."""
        return asdict(self)


def is_settled(rounds: Sequence[AttackRound | dict[str, Any]]) -> bool:
    """Return whether the last of ``rounds`` changed nothing, or nothing was left to attack.

    Example:
        >>> is_settled([AttackRound(80, 2000, 2, 9, 3), AttackRound(160, 4000, 4, 6, 0)])
        True
        >>> is_settled([AttackRound(80, 2000, 2, 9, 3)])
        False
    """
    if not rounds:
        return False
    last = rounds[-1] if isinstance(rounds[-1], dict) else rounds[-1].as_dict()
    return last["broken"] in (0, last["attacked"])


def escalate_attacks(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    survived: Tensor,
    *,
    eps: float,
    steps: int,
    queries: int,
    rounds: int,
    seed: int = 0,
    earlier: Sequence[AttackRound] = (),
) -> tuple[Tensor, list[AttackRound]]:
    """Attack surviving images in rounds, each with twice the steps, queries and seeds of the last.

    It ends with the first round that breaks nothing, when nothing is left, or after ``rounds``. All
    attacks of the gallery take part, from random starts. Every image is judged by the deployed
    defense; a random one must be wrong in the majority of two separate sets of fresh draws, since
    among many attempts some one set fails by chance. The global random generator is left as it was.

    Args:
        masked: Defense to attack.
        images: Clean images (b, c, h, w) in [0, 1].
        labels: True classes (b,).
        survived: Images (b,), bool, that are correct under the attacks so far.
        eps: Radius of the l_inf ball, in units of [0, 1].
        steps: Steps of the gradient attacks before the first round.
        queries: Queries of the black-box attack before the first round; 0 runs none.
        rounds: Largest number of rounds, ``earlier`` ones included.
        seed: Seed of random draws.
        earlier: Rounds already run, whose survivors ``survived`` holds; the next one goes on from
            them as if all had run in one call.

    Returns:
        Images (b,), bool, that survive all rounds, and the rounds, ``earlier`` ones included.

    Example:
        >>> import torch
        >>> from physadv.studies.gradient_masking.gallery import one_hot_defense
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
        >>> defense = one_hot_defense(net.requires_grad_(False))
        >>> images = torch.rand(8, 3, 2, 2)
        >>> labels = net(images).argmax(1)
        >>> left, record = escalate_attacks(defense, images, labels, torch.ones(8).bool(), eps=0.0,
        ...                                 steps=5, queries=10, rounds=3)
        >>> int(left.sum()), [(r.queries, r.seeds, r.broken) for r in record]
        (8, [(20, 2, 0)])
    """
    survived, record = survived.clone(), list(earlier)
    for number in range(len(record) + 1, rounds + 1):
        attacked = int(survived.sum())
        if not attacked or (record and is_settled(record)):
            break

        scale = 2**number
        for k in range(scale):
            rest = survived.nonzero()[:, 0]
            if not len(rest):
                break
            draws = derive(seed, "escalation", masked.name, str(number), str(k)) % 2**31
            survived[rest] = _left_by_one_seed(
                masked, images[rest], labels[rest], eps, scale * steps, scale * queries, draws
            )

        broken = attacked - int(survived.sum())
        record.append(AttackRound(scale * steps, scale * queries, scale, attacked, broken))
    return survived, record


def _left_by_one_seed(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    eps: float,
    steps: int,
    queries: int,
    seed: int,
) -> Tensor:
    """Return which images (b,), bool, stay correct under every attack with one seed."""
    correct = torch.ones(len(labels), dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        attempts = _attempts(masked, images, labels, correct, eps, steps, queries, seed)
        for rest, moved in attempts:
            correct[rest] = _judged_twice(masked, moved, labels[rest], seed)
    return correct


def _attempts(
    masked: MaskedDefense,
    images: Tensor,
    labels: Tensor,
    correct: Tensor,
    eps: float,
    steps: int,
    queries: int,
    seed: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield for each attack the positions that are ``correct`` by then, and their adversarial
    images; the caller updates ``correct`` between two attacks."""
    if queries:
        per_image = queries // 4 if masked.random else queries
        yield (
            torch.arange(len(labels)),
            black_box_images(masked, images, labels, eps=eps, queries=per_image, seed=seed),
        )

    rest = correct.nonzero()[:, 0]
    if len(rest):
        yield (
            rest,
            adaptive_images(
                masked,
                images[rest],
                labels[rest],
                eps=eps,
                steps=steps,
                seed=seed,
                random_start=True,
            ),
        )

    for attack in masked.further:
        rest = correct.nonzero()[:, 0]
        if len(rest):
            repeated = (
                replace(attack, restart=True) if isinstance(attack, JointLossAttack) else attack
            )
            yield rest, repeated(images[rest], labels[rest], eps=eps, steps=steps, seed=seed)


def _judged_twice(masked: MaskedDefense, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Return which images (b,), bool, the defense classifies correctly; one of a random defense
    counts as wrong where two separate sets of draws agree on it."""
    correct = correct_verdicts(masked, images, labels, seed, attacked=True)
    if masked.random:
        correct |= correct_verdicts(masked, images, labels, seed + 1000, attacked=True)
    return correct
