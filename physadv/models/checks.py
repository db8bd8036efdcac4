"""Sanity checks of a model under test, run once before an attack: outputs, determinism,
gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physadv.core.errors import ModelError, is_out_of_memory
from physadv.core.types import Detections, Model, Prediction
from physadv.core.wording import count_noun
from physadv.models.cards import ModelCard
from physadv.models.failures import failure_of
from physadv.models.preserved_state import preserved_state

_SATURATED = 16.6
"""Gap between the two best logits from which the best class has probability 1 in float32: its loss
is exactly 0."""


def check_model(
    model: Model, images: Tensor, *, gradients: bool = True, limit: int = 4
) -> list[str]:
    """Run ``model`` on a few images and return warnings about its outputs and gradients.

    Warns of probabilities in place of logits, saturated logits, outputs that differ from run to run
    or with the other images of the batch, gradients that are zero, and a model left in training
    mode. Model, images and the global random state are preserved.

    Args:
        model: Model under test; maps images to logits or Detections.
        images: Batch (b, 3, h, w) in [0, 1].
        gradients: Whether to require that a finite gradient reaches the image.
        limit: Number of images of the batch to use, 1 or more.

    Returns:
        Warnings, each one sentence or two with its remedy; empty where nothing is wrong.

    Raises:
        ModelError: No attack or evaluation could mean anything: the model fails, returns another
            shape or number of classes than its card states, NaN or infinity, detector scores
            outside [0, 1], or lets no finite gradient reach the image.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()
        >>> check_model(model, torch.rand(2, 3, 2, 2))
        []
    """
    images = images[:limit].detach().clone()
    if images.ndim != 4 or images.shape[0] == 0:
        raise ModelError(
            f"images of shape {tuple(images.shape)}",
            "(b, 3, h, w) is needed",
            "Pass a batch of images",
        )

    # A model that draws noise or updates its statistics must not change what is the caller's.
    modules = [model] if isinstance(model, nn.Module) else []
    with preserved_state(*modules, device=images.device):
        prediction = _run(model, images)
        _require_shape(prediction, images.shape[0], getattr(model, "card", None))
        _require_finite(prediction)
        warnings = [_training(model), _scale(prediction), *_steady(model, images, prediction)]
        if gradients:
            warnings.append(_gradient(model, images))
    return [w for w in warnings if w]


def _run(model: Model, images: Tensor) -> Prediction:
    with torch.no_grad():
        try:
            prediction = model(images)
        except Exception as error:  # whatever the user's model raises is told in one line
            if isinstance(error, ModelError) or is_out_of_memory(error):
                raise
            raise failure_of(model, images, error) from error

    if not isinstance(prediction, Tensor | Detections):
        raise ModelError(
            f"the model returned {type(prediction).__name__}",
            "logits or Detections are needed",
            "Use as_model",
        )
    return prediction


def _require_shape(prediction: Prediction, count: int, card: ModelCard | None) -> None:
    if isinstance(prediction, Tensor):
        shape = tuple(prediction.shape)
        if (
            len(shape) != 2
            or shape[0] != count
            or shape[1] < 2
            or not prediction.is_floating_point()
        ):
            actual = f"{prediction.dtype} of shape {shape}"
            raise ModelError(
                actual,
                f"logits ({count}, classes >= 2) are needed",
                "Return one row of logits an image",
            )
    else:
        boxes, shape = tuple(prediction.boxes.shape), tuple(prediction.scores.shape)
        if len(shape) != 3 or shape[0] != count or boxes != (*shape[:2], 4) or 0 in shape:
            raise ModelError(
                f"boxes {boxes}, scores {shape}",
                f"boxes ({count}, n, 4) and scores ({count}, n, classes) are needed",
                "Return every candidate, before suppression",
            )

    if card is not None and card.classes and len(card.classes) != shape[-1]:
        raise ModelError(
            f"the model has {count_noun(shape[-1], 'class')}",
            f"its card names {len(card.classes)}",
            "Give the classes it has",
        )


def _require_finite(prediction: Prediction) -> None:
    outputs = (
        [prediction] if isinstance(prediction, Tensor) else [prediction.boxes, prediction.scores]
    )
    bad = sum(int((~p.isfinite()).sum()) for p in outputs)
    if bad:
        raise ModelError(
            f"{bad} of {count_noun(sum(p.numel() for p in outputs), 'output')} NaN or infinite",
            "finite numbers are needed",
            "Check the weights, mean and std, and half precision",
        )

    if isinstance(prediction, Detections):
        low, high = float(prediction.scores.min()), float(prediction.scores.max())
        if low < -1e-6 or high > 1 + 1e-6:
            raise ModelError(
                f"scores from {low:.3g} to {high:.3g}",
                "must lie in [0, 1]",
                "Apply sigmoid or softmax",
            )


def _training(model: Model) -> str:
    if isinstance(model, nn.Module) and any(m.training for m in model.modules()):
        return (
            "The model is in training mode: batch norm and dropout change its outputs from run to "
            "run. Call .eval() on it."
        )
    return ""


def looks_like_probabilities(logits: Tensor) -> bool:
    """Return whether every row of ``logits`` (b, classes) lies in [0, 1] and sums to 1, as after
    a softmax."""
    inside = bool(((logits >= 0) & (logits <= 1)).all())
    return inside and bool((logits.double().sum(1) - 1).abs().max() < 1e-3)


@torch.no_grad()
def require_logits(model: Model, images: Tensor) -> None:
    """Raise ModelError where a classifier returns softmax probabilities for ``images``.

    An optimization through another softmax would make next to no progress.
    """
    prediction = model(images)
    if isinstance(prediction, Tensor) and looks_like_probabilities(prediction):
        raise ModelError(
            "The model returns softmax probabilities",
            "Logits are needed",
            'Return logits, or wrap it with as_model(..., outputs="probabilities")',
        )


def _scale(prediction: Prediction) -> str:
    if not isinstance(prediction, Tensor):
        return ""
    if looks_like_probabilities(prediction):
        return (
            "The model returns probabilities, not logits: another softmax flattens the gradient, "
            "and robustness is overstated. "
            'Return logits, or set outputs = "probabilities" (as_model or <file>.toml).'
        )

    best = prediction.float().topk(2, 1).values
    saturated = (best[:, 0] - best[:, 1]) > _SATURATED
    if bool(saturated.float().mean() > 0.5):
        return (
            f"The best logit leads by more than {_SATURATED} on {int(saturated.sum())} of "
            f"{count_noun(len(saturated), 'image')}: the cross entropy is 0 in float32 and its "
            "gradient vanishes. Use a margin loss, or divide the logits."
        )
    return ""


def _steady(model: Model, images: Tensor, first: Prediction) -> list[str]:
    again, alone = _run(model, images), _run(model, images[:1])
    if _distance(first, again) > 1e-3:
        return [
            "Two runs on the same images differ: the model is random. Evaluate it over many draws "
            "(EOT)."
        ]

    if images.shape[0] > 1 and _distance(_head(first), alone) > 1e-2:
        return [
            "The output for an image depends on the other images of its batch. Use the batch "
            "statistics of training: call .eval()."
        ]
    return []


def _head(prediction: Prediction) -> Prediction:
    if isinstance(prediction, Tensor):
        return prediction[:1]
    return Detections(prediction.boxes[:1], prediction.scores[:1])


def _distance(first: Prediction, second: Prediction) -> float:
    """Largest difference of logits or scores, in units of the first's own spread."""
    a, b = (p if isinstance(p, Tensor) else p.scores for p in (first, second))
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / a.float().std().clamp_min(1e-6))


def _gradient(model: Model, images: Tensor) -> str:
    inputs = images.clone().requires_grad_()
    with torch.enable_grad():
        prediction = model(inputs)
        values = prediction if isinstance(prediction, Tensor) else prediction.scores
        if not values.requires_grad:
            raise _without_gradient(model)
        best = values.flatten(1).amax(1)
        (gradient,) = torch.autograd.grad(best.sum(), inputs, allow_unused=True)

    if gradient is None:
        raise _without_gradient(model)
    if not bool(gradient.isfinite().all()):
        raise ModelError(
            "the gradient is NaN or infinite",
            "a finite one is needed",
            "Look for sqrt, log or power at 0 in the model",
        )

    dead = int((gradient.flatten(1).abs().amax(1) == 0).sum())
    if dead:
        return (
            f"The gradient is zero on {dead} of {count_noun(len(gradient), 'image')}: rounding, "
            "thresholds or saturation mask it. Confirm any robustness with a black-box attack."
        )
    return ""


def _without_gradient(model: Model) -> ModelError:
    card = getattr(model, "card", None)
    reason = card.extra.get("gradient") if isinstance(card, ModelCard) else None
    limit = "attacks that optimize need one"
    if reason:
        remedy = "Use a black-box attack, and --no-gradients here"
        return ModelError("no gradient reaches the image", f"{limit} ({reason})", remedy)
    return ModelError("no gradient reaches the image", limit, _GRADIENT_REMEDY)


_GRADIENT_REMEDY = (
    "remove detach, no_grad, rounding or numpy from the model, or use a black-box attack"
)
