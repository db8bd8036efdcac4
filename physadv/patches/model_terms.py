"""A patch problem in the terms of one model: its class numbers, score threshold and image size."""

from __future__ import annotations

from collections.abc import Sequence

from physadv.core.errors import OptionError
from physadv.eot.scenes.signs import SceneSize
from physadv.models.cards import LoadedModel
from physadv.models.classifiers import Preprocessed
from physadv.patches.config import PatchConfig
from physadv.threat.patch_goals import PatchGoal

ANYWHERE = "anywhere"
"""Value of ``object`` for a patch that may lie anywhere in a photo."""
STOP_NAMES = ("stop", "stop sign", "street sign")
"""Name of the stop sign's class in GTSRB, COCO and ImageNet."""


def goal_for(config: PatchConfig, model: LoadedModel) -> PatchGoal:
    """Return the goal in ``config`` with the class numbers and the score threshold of ``model``.

    Raises:
        ModelError: The model has no class of that name.
        OptionError: The goal has no meaning on what carries the patch.

    Example:
        >>> from physadv.defenses.load_model import load_model
        >>> goal_for(PatchConfig(), load_model("signs")).true_class
        14
    """
    card, true_name = model.card, config.true_class
    if config.object not in ("sign", ANYWHERE):
        check_object_class(config.object, model)
        true_name = config.object

    target = None
    if config.target_class is not None:
        target = card.class_index(class_name_for(config.target_class, card.classes))

    # A photo anywhere has a class of its own, so this number is never used, only unlike the target.
    if config.object == ANYWHERE:
        true = 1 if target == 0 else 0
    else:
        true = card.class_index(class_name_for(true_name, card.classes))

    if config.object == ANYWHERE and card.task == "detect" and config.goal != "create":
        raise OptionError(
            f"Goal {config.goal!r} {ANYWHERE} in a photo for a detector",
            "Only a box can be made to appear there",
            "Use --goal create --target CLASS, or --object CLASS to put the patch on objects",
        )
    threshold = config.threshold
    if threshold is None:
        threshold = float(card.extra.get("score_threshold", 0.25))
    return PatchGoal(config.goal, true, target, score_threshold=threshold)


def class_name_for(name: str, classes: Sequence[str]) -> str:
    """Return the name that a model with these ``classes`` has for the class called ``name``.

    Only a stop sign has several (:data:`STOP_NAMES`); any other name is returned as it is.

    Example:
        >>> class_name_for("stop", ("car", "stop sign"))
        'stop sign'
    """
    if classes and name not in classes and name in STOP_NAMES:
        return next((known for known in STOP_NAMES if known in classes), name)
    return name


def check_object_class(kind: str, model: LoadedModel) -> None:
    """Raise OptionError where ``model`` cannot find objects of class ``kind`` to carry a patch."""
    if kind != ANYWHERE and model.card.task != "detect":
        raise OptionError(
            f'Objects of class "{kind}" for "{model.card.name}", which is a classifier',
            "Only a detector finds the objects that carry a patch",
            f"Name a detector with --model, or use --object {ANYWHERE}",
        )


def scene_size_for(models: Sequence[LoadedModel]) -> SceneSize:
    """Return the size of scenes for ``models``: square, as large as the largest input of theirs.

    A model that crops its input counts with its size before the crop.
    """
    sides = [max(model.card.input_size or (64, 64)) for model in models]
    crops = [
        model.net.crop[1]
        for model in models
        if isinstance(model.net, Preprocessed) and model.net.crop is not None
    ]
    return SceneSize(max(sides + crops), models[0].card.task == "detect")
