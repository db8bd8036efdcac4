"""Gradients of obfuscated models: BPDA where a part has none of use, EOT where parts are random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from physadv.attacks._classifier_step import Classifier
from physadv.core.errors import OptionError
from physadv.core.number_checks import check_whole
from physadv.core.random_streams import derive
from physadv.models.outputs import read_logits

Part = Callable[[Tensor], Tensor]
"""A part of a model: tensor in, tensor out."""


def pass_through(x: Tensor) -> Tensor:
    """Return ``x``: the usual gradient stand-in for a part that changes images little."""
    return x


def bpda(part: Part, backward: Part = pass_through) -> Part:
    """Return ``part`` with the gradient of another function, for parts without a useful one.

    Backward pass differentiable approximation (Athalye et al. 2018), for quantization, JPEG, median
    filters and the like. Compose it with the rest of the model: ``lambda x: net(bpda(jpeg)(x))``.

    Args:
        part: Function of the forward pass, tensor to tensor.
        backward: Differentiable function whose gradient is taken, of the same output shape; the
            identity without it.

    Returns:
        The function for both passes. Its backward pass raises OptionError where the shapes differ.

    Example:
        >>> import torch
        >>> x = torch.tensor([0.3, 0.8], requires_grad=True)
        >>> bpda(torch.round)(x).sum().backward()
        >>> x.grad.tolist()
        [1.0, 1.0]
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
            return part(x.detach().clone()).clone()  # parts may write into either

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (saved,) = ctx.saved_tensors
        with torch.enable_grad():
            x = saved.detach().requires_grad_()
            stand_in = ctx.stand_in(x.clone())

        if stand_in.shape != grads[0].shape:
            raise OptionError(
                f"backward returns shape {tuple(stand_in.shape)}",
                f"the part returns shape {tuple(grads[0].shape)}",
                "Give bpda a backward that returns the shape of the part",
            )

        return torch.autograd.grad(stand_in, x, grads[0])[0], None, None


def expectation_model(model: Classifier, *, draws: int = 16, seed: int = 0) -> ExpectationModel:
    """Wrap a model with random parts, to attack it in expectation over its randomness.

    Expectation over transformation (Athalye et al. 2018). Gradient attacks average losses and
    gradients over the draws, never logits; success is evaluated on the log of the mean probability.
    Every call uses the same seeds, a fixed sample of the randomness, so that losses can be compared
    from step to step. The global generator is forked: the caller's random state is preserved.

    Args:
        model: Model with random parts: images in [0, 1] to logits (b, classes).
        draws: Number of draws, at least 1; ``queries`` count each.
        seed: Seed of the draws; evaluate with another one to see what holds for fresh draws.

    Returns:
        The model in expectation.

    Raises:
        OptionError: ``draws`` is no whole number of at least 1.

    Example:
        >>> import torch
        >>> from physadv.attacks import pgd
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> noisy = expectation_model(lambda x: net(x + 0.01 * torch.randn_like(x)), draws=8)
        >>> images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
        >>> pgd(noisy, images, labels, eps=8 / 255, steps=3).images.shape
        torch.Size([2, 3, 4, 4])
    """
    check_whole(draws=draws)
    return ExpectationModel(model, draws, seed)


class ExpectationModel:
    """Model in expectation over its randomness, made by :func:`expectation_model`.

    ``eot_count`` is the number of draws.
    """

    def __init__(self, model: Classifier, count: int, seed: int) -> None:
        self.model, self.eot_count, self.seed = model, count, seed

    def eot_draws(self) -> Iterator[Classifier]:
        """Yield the model once a draw, each time with its own seed."""
        for number in range(self.eot_count):
            yield partial(self._once, number)

    def with_fresh_draws(self) -> ExpectationModel:
        """Return the same model over draws of another seed, to see what holds for fresh ones."""
        return ExpectationModel(self.model, self.eot_count, derive(self.seed, "fresh draws"))

    def __call__(self, images: Tensor) -> Tensor:
        """Return the log of the mean probability (b, classes) of ``images``."""
        draws = [draw(images).double().log_softmax(1) for draw in self.eot_draws()]
        mean = torch.logsumexp(torch.stack(draws), 0) - torch.tensor(float(self.eot_count)).log()
        return mean if images.dtype == torch.float64 else mean.float()

    def _once(self, number: int, images: Tensor) -> Tensor:
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive(self.seed, "expectation_model", number))
            return read_logits(self.model(images.clone()), len(images))
