"""An adapter with the calls of the package ``autoattack`` (Croce & Hein 2020): code written for it
runs with another import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from physadv.attacks._classifier_step import frozen_eval
from physadv.core.errors import OptionError
from physadv.core.files import write_text
from physadv.evaluation.ensemble import AUTOATTACK_NAMES, autoattack_stage, standard_stages
from physadv.evaluation.evaluate import EvaluationResult, EvaluationTask, prepare_evaluation
from physadv.evaluation.stages import AttackStage
from physadv.models.cards import LoadedModel
from physadv.models.preserved_state import preserved_state
from physadv.threat.constraints import LpBall
from physadv.threat.parsing import NormLike, parse_eps, parse_norm

_ATTACKS: dict[str, tuple[str, ...]] = {
    "standard": (),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
_DRAWS = 20
"""Draws of a random model that a gradient of the version "rand" is the mean of, as there."""


class AutoAttack:
    """Attacks with the calls of the package ``autoattack``.

    The version "standard" is the ensemble of :func:`physadv.evaluate`, which spends more on close
    calls than on others; "plus" and "custom" run attacks with AutoAttack's own budgets (FAB from
    one start), and "rand" attacks the mean of 20 draws. Nothing of the model's changes, and nothing
    is printed: rates, intervals and findings are in ``result`` after a run.

    Args:
        model: Module from images (b, c, h, w) in [0, 1] to logits (b, classes); or the name or file
            of a model.
        norm: "Linf", "L2" or "L1".
        eps: Radius of the ball.
        seed: Seed of the attacks; None is 0, so that runs can be repeated.
        verbose: Taken for the sake of the calls; nothing is printed.
        attacks_to_run: Names for the version "custom": apgd-ce, apgd-dlr, apgd-t, fab, fab-t,
            square.
        version: "standard", "plus", "rand" or "custom".
        is_tf_model: Must be False.
        device: Where to compute; None is the model's own device.
        log_path: File that gets the result in words; None for none.

    Attributes:
        result: Result of the last run; None before.

    Raises:
        OptionError: A norm, radius, version or attack is unknown, or ``is_tf_model`` is set.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> images = torch.rand(4, 3, 4, 4)
        >>> adversary = AutoAttack(net, norm="Linf", eps=8 / 255, version="standard")
        >>> adversarial = adversary.run_standard_evaluation(images, net(images).argmax(1), bs=4)
        >>> adversarial.shape, adversary.result.complete
        (torch.Size([4, 3, 4, 4]), True)
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        norm: NormLike = "Linf",
        eps: str | float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        is_tf_model: bool = False,
        device: str | torch.device | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        if is_tf_model:
            raise OptionError("is_tf_model", "Models of torch are attacked", "Export it to ONNX")
        if version not in (*_ATTACKS, "custom"):
            known = ", ".join((*_ATTACKS, "custom"))
            raise OptionError(f"version {version!r}", known, "Choose one of these")
        if (version == "custom") != bool(attacks_to_run):
            raise OptionError(
                f"version {version!r} with {len(attacks_to_run)} attacks_to_run",
                "attacks are named for the version 'custom', and only for it",
                f"Name some of {', '.join(AUTOATTACK_NAMES)} with version='custom'",
            )
        self.model, self.norm, self.version = model, parse_norm(norm), version
        self.epsilon, self.seed, self.verbose = parse_eps(eps, self.norm), seed or 0, verbose
        self.attacks_to_run = list(attacks_to_run or _ATTACKS[version])
        self.device, self.log_path = device, log_path
        self.result: EvaluationResult | None = None
        self._stages()  # a wrong name is refused before the work

    def run_standard_evaluation(
        self,
        x_orig: Tensor,
        y_orig: Tensor,
        bs: int = 250,
        return_labels: bool = False,
        state_path: str | Path | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attack images, each attack on what those before did not break.

        Args:
            x_orig: Images (n, c, h, w) in [0, 1], or uint8, which is divided by 255.
            y_orig: True classes (n,).
            bs: Images at a time.
            return_labels: Return the predicted classes, too.
            state_path: Folder that records the run, and that an interrupted one goes on from. Of a
                run that goes on, only the adversarial images of its last part are returned.

        Returns:
            The images (n, c, h, w) in [0, 1], adversarial where an attack succeeded; with
            ``return_labels`` also the classes (n,) that the model predicts for them.

        Raises:
            ImageError: Images outside [0, 1].
            OptionError: ``state_path`` holds another run.
        """
        return self._run(self._stages(), x_orig, y_orig, bs, return_labels, state_path)

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """Run each attack alone on all images.

        Args:
            x_orig: Images (n, c, h, w) in [0, 1].
            y_orig: True classes (n,).
            bs: Images at a time.
            return_labels: Return the predicted classes, too.

        Returns:
            By the name of the attack, what :meth:`run_standard_evaluation` returns of it.
        """
        names = self.attacks_to_run or ["apgd-ce", "apgd-t", "fab-t", "square"]
        return {
            name: self._run([self._stage(name)], x_orig, y_orig, bs, return_labels, None)
            for name in names
        }

    def _stages(self) -> list[AttackStage]:
        if self.version == "standard" and not self.attacks_to_run:
            return standard_stages(self.norm)
        return [self._stage(name) for name in self.attacks_to_run]

    def _stage(self, name: str) -> AttackStage:
        return autoattack_stage(name, self.norm, restarts=5 if self.version == "plus" else 1)

    def _run(
        self,
        stages: Sequence[AttackStage],
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        return_labels: bool,
        state_path: str | Path | None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        task = self._task(stages, images, labels, batch_size)
        evaluation = task.start(None if state_path is None else Path(state_path))
        own_keep = evaluation.keep
        # As they were read: 8-bit images cannot hold what is found.
        home = images.device if isinstance(images, Tensor) else None
        adversarial = task.samples.images(range(len(task.samples))).to(home, copy=True)

        def keep(positions: Sequence[int], clean: Tensor, broken: Tensor) -> None:
            adversarial[list(positions)] = broken.to(adversarial)
            if own_keep is not None:
                own_keep(positions, clean, broken)

        evaluation.keep = keep
        with preserved_state(device=task.model.device):
            for _ in evaluation.run():
                pass
        self.result = EvaluationResult.of(evaluation, task.facts)
        if self.log_path is not None:
            write_text(self.log_path, f"{self.result}\n")
        if not return_labels:
            return adversarial
        predicted = _predicted(task.model, adversarial, batch_size)
        return adversarial, predicted.to(labels) if isinstance(labels, Tensor) else predicted

    def _task(
        self, stages: Sequence[AttackStage], images: Tensor, labels: Tensor, batch_size: int
    ) -> EvaluationTask:
        with preserved_state():
            task = prepare_evaluation(
                self.model,
                (images, labels),
                LpBall(self.norm, self.epsilon),
                batch_size=batch_size,
                device=self.device,
                eot_draws=_DRAWS if self.version == "rand" else 0,
                seed=self.seed,
            )
        names = ", ".join(stage.name for stage in stages)
        words = {"attacks": f"AutoAttack {self.version}: {names}"}
        return replace(task, plan=tuple(stages), facts={**task.facts, **words})


def _predicted(model: LoadedModel, images: Tensor, batch_size: int) -> Tensor:
    """Classes (n,) that the model predicts."""
    with preserved_state(model, device=model.device), frozen_eval(model), torch.no_grad():
        parts = [
            model(part.to(model.device)).argmax(1).cpu() for part in torch.split(images, batch_size)
        ]
    return torch.cat(parts)
