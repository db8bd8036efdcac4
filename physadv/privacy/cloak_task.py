"""Cloaking of a photo or a folder: from a configuration to cloaked files and a manifest."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from physadv.core.process_group import ProcessGroup
from physadv.core.rows import Row
from physadv.models.faces.embedders import load_surrogates
from physadv.models.faces.face_detection import SlimFinder, default_finders
from physadv.privacy.batch import (
    SETTINGS,
    CarriedOptions,
    PhotoJob,
    PhotoOutcome,
    finished_rows,
    gather_manifests,
    ordered_by_content,
    plan_jobs,
    refuse_other_settings,
    run_folder,
    settings_key,
)
from physadv.privacy.cloak_faces import mode_named, mode_of_budget
from physadv.privacy.config import CloakConfig
from physadv.privacy.divided_cloak import DividedCloak
from physadv.privacy.face_choice import FaceChoice
from physadv.privacy.folder_survey import know_photos, survey_photo
from physadv.privacy.photo_cloaker import PhotoCloaker, cloaker_settings, write_settings

Surveyed = Callable[[int], None]
"""Called with the number of photos whose faces are known."""


@dataclass(frozen=True)
class CloakTask:
    """One run over photos, ready to start: photos listed, detectors and recognizers loaded.

    Attributes:
        config: The configuration.
        jobs: The photos, each with its target file.
        folder: Folder of the cloaked photos.
        cloaker: Detects and cloaks the faces of one photo.
        judge: Name of a recognizer at hand that has no part in the cloak; None where all have.

    Example:
        >>> def cloak_album(folder):  # needs the extra `faces`
        ...     task = CloakTask.from_config(CloakConfig(photos=folder, mode="mid"))
        ...     task.prepare()
        ...     return {outcome.job.name: outcome.status for outcome in task.run()}
    """

    config: CloakConfig
    jobs: list[PhotoJob]
    folder: Path
    cloaker: PhotoCloaker
    judge: str | None = None

    @classmethod
    def from_config(cls, config: CloakConfig, out: str | Path | None = None) -> CloakTask:
        """List the photos of ``config`` and load what it names.

        ``out`` is the folder for the cloaked photos; by default it lies beside the photos.

        Raises:
            ImageError: There is no photo.
            OptionError: ``out`` lies among the originals, or the choice of faces names none.
            ModelError: A detector or a recognizer is not at hand.
        """
        jobs, folder = plan_jobs(config.source, out)
        choice = FaceChoice.parse(
            config.only_faces, config.skip_faces, [job.name for job in jobs], config.face_mode
        )
        cloaker, judge = photo_cloaker(config, choice)
        return cls(config, jobs, folder, cloaker, judge)

    @property
    def has_slim_finder(self) -> bool:
        """Whether the slim network is among the face detectors."""
        return any(isinstance(finder, SlimFinder) for finder in self.cloaker.finders)

    def prepare(self, *, overwrite: bool = False) -> None:
        """Learn the decoys and the album, and check that no other result stands in the folder.

        Raises OptionError for fewer than eight decoys, an album without faces, and where ``folder``
        holds these photos cloaked with other settings, unless ``overwrite``.
        """
        if self.config.decoys is not None:
            self.cloaker.learn_others(self.config.decoys)
        if self.config.album is not None and not self.cloaker.album:
            self.cloaker.learn_album(self.config.album)
        if not overwrite:
            settings = cloaker_settings(self.cloaker)
            refuse_other_settings(
                self.jobs,
                self.folder,
                settings,
                settings_key(settings, **self._carried),
            )

    @property
    def _carried(self) -> CarriedOptions:
        """Options of what the files carry."""
        config = self.config
        return CarriedOptions(
            keep_metadata=config.keep_metadata, strip_dates=config.strip_dates, mark=config.mark
        )

    def run(
        self, *, overwrite: bool = False, surveyed: Surveyed | None = None
    ) -> Generator[PhotoOutcome]:
        """Cloak photo by photo and yield after each; what an earlier run finished is skipped.

        Where there are several photos, the faces of all are found and embedded first, so that each
        cloak moves away from what the person's photos share. They are cloaked in the order of their
        files' sha256, so that neither names nor an interruption change a result.

        Args:
            overwrite: Whether photos cloaked with other settings are replaced.
            surveyed: Called with the number of photos looked at, after each.

        Raises:
            OptionError: As :meth:`prepare` does, unless ``overwrite``.
        """
        settings = cloaker_settings(self.cloaker)
        gather_manifests(self.folder, [job.name for job in self.jobs])
        finished = finished_rows(self.jobs, self.folder, settings, **self._carried)
        jobs = ordered_by_content(self.jobs, finished)
        self._survey(jobs, finished, surveyed)
        outcomes = run_folder(
            jobs,
            self.folder,
            self.cloaker,
            settings=settings,
            **self._carried,
            recall=self.cloaker.recall,
            overwrite=overwrite,
        )
        write_settings(self.folder / SETTINGS, settings)
        yield from outcomes

    def _survey(
        self, jobs: Sequence[PhotoJob], finished: Mapping[str, Row], surveyed: Surveyed | None
    ) -> None:
        """Let the cloaker know the faces of all photos, where some are still to be cloaked."""
        if len(jobs) < 2 or len(finished) == len(jobs):
            return
        photos = []
        for job in jobs:
            photos.append(survey_photo(job, self.cloaker, finished))
            if surveyed is not None:
                surveyed(len(photos))
        know_photos(self.cloaker, jobs, photos)

    def divided(self, group: ProcessGroup) -> DividedCloak:
        """Return the run divided among the processes of ``group``, each of which calls this.

        The first one joins what processes of an earlier, interrupted run recorded.
        """
        settings = cloaker_settings(self.cloaker)
        if group.is_first:
            gather_manifests(self.folder, [job.name for job in self.jobs])
            write_settings(self.folder / SETTINGS, settings)
        group.wait()
        return DividedCloak(self.jobs, self.folder, self.cloaker, group, settings, self._carried)


def photo_cloaker(
    config: CloakConfig, choice: FaceChoice | None = None
) -> tuple[PhotoCloaker, str | None]:
    """Load the detectors and recognizers of a configuration.

    Args:
        config: The configuration.
        choice: Faces to cloak or to leave bare, by photo.

    Returns:
        The cloaker, and the name of a recognizer at hand that has no part in it; None where all
        have.

    Raises:
        ModelError: A detector or a recognizer is not at hand.
    """
    finders = default_finders(config.detector_weights)
    embedders, judge = load_surrogates(config.embedder, config.weights_files, device=config.device)
    mode = mode_named(config.mode) if config.budget is None else mode_of_budget(config.budget)
    cloaker = PhotoCloaker(finders, embedders, mode, seed=config.seed, choice=choice, in_place=True)
    return cloaker, judge
