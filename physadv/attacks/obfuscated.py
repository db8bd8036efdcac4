"""Victims that block or blur their gradients: BPDA for parts without a useful one, EOT for random
ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier
from physadv.core.errors import OptionError
from physadv.core.random_streams import derive

Part = Callable[[Tensor], Tensor]


def pass_through(x: Tensor) -> Tensor:
    """The usual stand-in for a defense that leaves images nearly as they were."""
    return x


def bpda(part: Part, backward: Part = pass_through) -> Part:
    """``part`` forwards, ``backward`` in its place for the gradient (Athalye et al. 2018).

    For quantization, JPEG, median filters and the like: wrap the part and compose it with the rest
    of the model, ``lambda x: net(bpda(jpeg)(x))``. ``backward`` must give the shape that ``part``
    gives; raises OptionError else.
    """
    return _Bpda(part, backward)


class _Bpda:
    def __init__(self, part: Part, backward: Part) -> None:
        self.part, self.backward = part, backward

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = _Straight.apply(x, self.part, self.backward)  # type: ignore[no-untyped-call]
        return result


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, part: Part, backward: Part) -> Tensor:
        ctx.save_for_backward(x)
        ctx.stand_in = backward
        with torch.no_grad():
            return part(x.detach()).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        with torch.enable_grad():
            x = saved.detach().requires_grad_()
            stand_in = ctx.stand_in(x)
        if stand_in.shape != grads[0].shape:
            raise OptionError(
                f"backward gives {tuple(stand_in.shape)}",
                f"the part gives {tuple(grads[0].shape)}",
                "give bpda a backward that changes shapes as the part does",
            )
        return torch.autograd.grad(stand_in, x, grads[0])[0], None, None


def expectation_model(model: Classifier, *, draws: int = 16, seed: int = 0) -> ExpectationModel:
    """A victim with random parts, to be attacked in expectation over its randomness (Athalye et al.
    2018).

    Attacks that go through ``logits.loss_and_gradient`` (fgsm, pgd, gradient_ascent, mifgsm, apgd)
    ask it ``draws`` times a step and average the *losses* and their *gradients*; logits are never
    averaged for the gradient. Verdicts are on the log of the mean probability over ``draws`` draws:
    a sample counts as broken where it is on average. Every call sees the same ``draws`` seeds, a
    fixed sample of the randomness, so that losses can be compared from step to step and results
    repeat; judge with another ``seed`` to see what holds for fresh draws. Draws use the global RNG
    under a fork: the caller's random state stays as it was. ``queries`` count every draw.
    """
    if draws < 1:
        raise OptionError(f"{draws} draws", "at least 1", "raise draws")
    return ExpectationModel(model, draws, seed)


class ExpectationModel:
    """See :func:`expectation_model`; ``model`` is the wrapped one, ``eot_count`` the number of draws."""

    def __init__(self, model: Classifier, count: int, seed: int) -> None:
        self.model, self.eot_count, self.seed = model, count, seed

    def eot_draws(self) -> Iterator[Classifier]:
        """The victim once a draw, each with its own seed."""
        for number in range(self.eot_count):
            yield partial(self._once, number)

    def __call__(self, images: Tensor) -> Tensor:
        """Log of the mean probability (b, classes)."""
        parts = [draw(images).double().log_softmax(1) for draw in self.eot_draws()]
        mean = torch.logsumexp(torch.stack(parts), 0) - torch.tensor(float(self.eot_count)).log()
        return mean if images.dtype == torch.float64 else mean.float()

    def _once(self, number: int, images: Tensor) -> Tensor:
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(self.seed, "expectation_model", number))
            return self.model(images)
