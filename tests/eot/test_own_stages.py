"""Stages from elsewhere: a user's class, kornia augmentations, any module; files and import
paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import kornia.augmentation as augmentation
import pytest
import torch
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.core.random_streams import generator, numpy_generator
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.eot import (
    STAGES,
    Draw,
    DrawStream,
    EotRanges,
    LensBlur,
    Pipeline,
    Place,
    Placement,
    Printer,
    Range,
    Stage,
    StageRanges,
    ToneCurve,
    eot_preset,
    pipeline_from,
    ranges_from_toml,
    span,
)
from physadv.eot.presets import PRESETS, ranges_from_table
from physadv.eot.ranges import NOTHING
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import DrawnScenes, SceneSize

EOT = Path(__file__).parents[2] / "physadv" / "eot"
PLACED = Placement(190, 150, (0.0, 95.0))
MASK = torch.ones(1, 1, 24, 30)


@dataclass(frozen=True)
class FogRanges(StageRanges):
    fog_share: Range = span(0.1, 0.5)


class Fog(Stage[FogRanges, Tensor]):
    """A gray veil over the picture."""

    def sample(self, batch: SceneBatch, ranges: FogRanges, stream: DrawStream) -> Tensor | None:
        if not ranges.acts("fog_share"):
            return None
        return stream.uniform("fog", ranges.fog_share, len(batch.images))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        return torch.lerp(images, torch.full_like(images, 0.5), params[:, None, None, None])


class LinearFog(Fog):
    """The same in linear light, in a crop."""

    encoding = "linear"
    windowed = True


class Noisy(nn.Module):
    """A module that draws at random while it runs."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.rand_like(images)


class Squared(nn.Module):
    """A module that draws nothing."""

    def forward(self, images: Tensor) -> Tensor:
        return images.square()


class Halved(nn.Module):
    """A module that returns another shape."""

    def forward(self, images: Tensor) -> Tensor:
        return images[..., ::2, ::2]


@pytest.fixture(scope="module")
def scenes() -> SceneBatch:
    source = DrawnScenes([sign_face(width_px=128)], [synthetic_background(0, 0)], 457)
    view = SceneSize(96, True)
    return source.sample(4, view, EotRanges(), numpy_generator(0, "scenes"))


@pytest.fixture
def patch() -> Tensor:
    return torch.rand(1, 3, 24, 30, generator=generator(0, "patch")).requires_grad_()


def draw_of(pipeline: Pipeline, scenes: SceneBatch, seed: int = 1) -> Draw:
    return pipeline.sample(scenes, generator(seed, "eot"))


def shown(pipeline: Pipeline, patch: Tensor, scenes: SceneBatch, draw: Draw) -> Tensor:
    return pipeline.apply(patch, MASK, PLACED, scenes, draw)


FOREIGN: dict[str, Callable[[], nn.Module | Stage[FogRanges, Tensor]]] = {
    "geometric": lambda: augmentation.RandomAffine(15.0, p=0.7),
    "intensity": lambda: augmentation.RandomMotionBlur(3, 35.0, 0.5, p=1.0),
    "intensity that draws while it runs": lambda: augmentation.RandomGaussianNoise(0.0, 0.1, p=1.0),
    "mix": lambda: augmentation.RandomMixUpV2(data_keys=["input"], p=1.0),
    "container": lambda: augmentation.ImageSequential(
        augmentation.RandomRotation(10.0, p=1.0), augmentation.RandomGamma((0.6, 0.9), p=1.0)
    ),
    "random policy": lambda: augmentation.auto.RandAugment(n=2, m=5),
    "random module": Noisy,
    "dropout": lambda: nn.Dropout(0.2),
    "stage": lambda: Fog(FogRanges()),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_whatever_is_put_in_replays_and_passes_gradients(
    kind: str, patch: Tensor, scenes: SceneBatch
) -> None:
    """A draw gives the same picture each time, another draw another one; the global generator and
    the object itself stay as they were."""
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    item = FOREIGN[kind]()
    held = {k: v for k, v in vars(item).items() if k == "_params"}
    torch.random.set_rng_state(state)
    pipeline = Pipeline.from_ranges(EotRanges(), extra=[item])
    draw = draw_of(pipeline, scenes)
    picture = shown(pipeline, patch, scenes, draw)
    assert torch.equal(picture, shown(pipeline, patch, scenes, draw))
    assert torch.equal(picture, shown(pipeline, patch, scenes, draw_of(pipeline, scenes)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert {k: v for k, v in vars(item).items() if k == "_params"} == held

    # Only the own randomness differs here: the other stages keep their parameters.
    name = pipeline.names[-1]
    other = draw_of(pipeline, scenes, seed=2)
    changed = shown(pipeline, patch, scenes, Draw({**draw.params, name: other[name]}))
    assert not torch.equal(picture, changed)
    (gradient,) = torch.autograd.grad(picture.sum(), patch)
    assert bool(torch.isfinite(gradient).all())
    # A policy may draw an operation without a gradient, such as posterize.
    assert float(gradient.abs().max()) > 0 or kind == "random policy"


def test_a_plain_module_sees_the_encoded_picture(patch: Tensor, scenes: SceneBatch) -> None:
    """A module at the end gets what the pipeline without it returns."""
    plain = Pipeline.from_ranges(EotRanges())
    own = Pipeline.from_ranges(EotRanges(), extra=[Squared()])
    draw = draw_of(plain, scenes)
    both = Draw({**draw.params, "Squared": draw_of(own, scenes)["Squared"]})
    torch.testing.assert_close(
        shown(own, patch, scenes, both), shown(plain, patch, scenes, draw).square()
    )


def test_the_clean_control_goes_the_same_way(scenes: SceneBatch) -> None:
    """Without the patch the picture is that of a patch which covers nothing."""
    pipeline = Pipeline.from_ranges(EotRanges(), extra=[Noisy()]).inserted(
        Fog(FogRanges()), before=LensBlur
    )
    draw = draw_of(pipeline, scenes)
    nothing = pipeline.apply(torch.rand(1, 3, 24, 30), 0 * MASK, PLACED, scenes, draw)
    torch.testing.assert_close(nothing, pipeline.without_patch(scenes, draw), atol=1e-3, rtol=0)


def test_a_stage_moves_no_other_draw(scenes: SceneBatch) -> None:
    """Putting a stage in leaves the parameters of all others bit for bit."""
    plain = draw_of(Pipeline.from_ranges(eot_preset("camera")), scenes)
    more = draw_of(
        Pipeline.from_ranges(eot_preset("camera"), extra=[Noisy()]).inserted(
            Fog(FogRanges()), before=LensBlur
        ),
        scenes,
    )
    assert set(more.params) == {*plain.params, "Fog", "Noisy"}
    assert torch.equal(plain[ToneCurve], more[ToneCurve])
    assert torch.equal(plain[LensBlur].sigma_px, more[LensBlur].sigma_px)


def test_a_stage_that_may_be_cropped_shows_the_same(patch: Tensor, scenes: SceneBatch) -> None:
    """Rendered in a crop or whole, a stage gives the same picture and gradient."""

    class Whole(LinearFog):
        windowed = False

        @property
        def name(self) -> str:
            return "LinearFog"

    pictures, gradients = [], []
    for stage in (LinearFog, Whole):
        pipeline = Pipeline([Printer(EotRanges()), Place(EotRanges()), stage(FogRanges())])
        picture = shown(pipeline, patch, scenes, draw_of(pipeline, scenes))
        pictures.append(picture.detach())
        gradients += torch.autograd.grad(picture.square().sum(), patch)
    torch.testing.assert_close(pictures[0], pictures[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-4)


def test_two_stages_of_one_class_keep_apart(scenes: SceneBatch) -> None:
    """A second stage of a class has a name and a stream of its own."""
    pipeline = Pipeline.from_ranges(EotRanges(), extra=[Noisy(), Noisy()])
    draw = draw_of(pipeline, scenes)
    assert pipeline.names[-2:] == ("Noisy", "Noisy#2")
    assert draw["Noisy"].seed != draw["Noisy#2"].seed


def test_before_place_a_stage_changes_the_patch_alone(patch: Tensor, scenes: SceneBatch) -> None:
    """A module before Place acts on the patch; the clean picture is untouched."""
    pipeline = Pipeline.from_ranges(EotRanges())
    own = pipeline.inserted(Squared(), before=Printer)
    draw = draw_of(own, scenes)
    torch.testing.assert_close(
        shown(own, patch, scenes, draw), shown(pipeline, patch.square(), scenes, draw)
    )
    assert torch.equal(own.without_patch(scenes, draw), pipeline.without_patch(scenes, draw))


def test_what_is_no_pipeline_is_refused(patch: Tensor, scenes: SceneBatch) -> None:
    """No Place, two of them, something that is no stage, another shape, an unknown place:
    errors."""
    place = Place(EotRanges())
    for stages in ([], [place, place]):
        with pytest.raises(OptionError, match="exactly one"):
            Pipeline(stages)
    with pytest.raises(OptionError, match="kornia"):
        Pipeline([place, "blur"])  # type: ignore[list-item]
    pipeline = Pipeline([place, Halved()])
    draw = draw_of(pipeline, scenes)
    with pytest.raises(OptionError, match="shape"):
        shown(pipeline, patch, scenes, draw)
    with pytest.raises(OptionError, match="LensBlur"):
        Pipeline.from_ranges(EotRanges()).inserted(Squared(), before="Blur")


def test_an_effect_is_one_file() -> None:
    """Outside of presets and of the list of stages no file but a stage's own names its ranges, its
    class or its parameters."""
    shared = {"ranges.py", "presets.py", "__init__.py"}
    pose = {"place.py", "signs.py", "photos.py", "load.py"}  # drawn with the scenes
    used_by_pipeline = {"LensDistortion", "StickerBend", "Place"}
    files = {path: ast.parse(path.read_text()) for path in EOT.rglob("*.py")}
    names = {
        path: {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for path, tree in files.items()
    }
    bases = {base.__name__: base for base in EotRanges.__mro__ if base.__name__ != "EotRanges"}
    owners = {name: path for path in files for name in bases if _defines(files[path], name)}
    for name, base in bases.items():
        if name in {"StageRanges", "PoseRanges", "object"}:
            continue
        for declared in fields(base):
            use = re.compile(rf"ranges\.{declared.name}\b")
            users = {p.name for p in files if use.search(p.read_text())}
            assert users - shared - pose <= {owners[name].name}, declared.name
    for stage in STAGES:
        users = {path.name for path, used in names.items() if stage.__name__ in used}
        allowed = shared | {Path(f"{stage.__module__.rsplit('.')[-1]}.py").name}
        allowed |= {"pipeline.py"} if stage.__name__ in used_by_pipeline else set()
        assert users <= allowed, stage.__name__


def _defines(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def test_ranges_are_read_from_toml(tmp_path: Path) -> None:
    """A file changes the ranges it states, at the top or under [eot]; a number has equal ends."""
    file = tmp_path / "my.toml"
    file.write_text("yaw_deg = [-5, 5]\njpeg_quality = 80\n")
    ranges = ranges_from_toml(file, eot_preset("camera"))
    assert (ranges.yaw_deg, ranges.jpeg_quality) == ((-5.0, 5.0), (80.0, 80.0))
    assert ranges.bend_mm == eot_preset("camera").bend_mm
    file.write_text("[eot]\nyaw_deg = [-5, 5]\n")
    assert ranges_from_toml(file, EotRanges()).yaw_deg == (-5.0, 5.0)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("yaw_degs = [0, 1]", "Did you mean yaw_deg"),
        ("yaw_deg = [5, -5]", "low <= high"),
        ("yaw_deg = [0, 1, 2]", "low, high"),
        ("yaw_deg = 'wide'", "finite number"),
        ("yaw_deg = [0, inf]", "finite"),
        ("shadow_probability = 1.5", "0 to 1"),
        ("size_px = [0, 0]", "more than 0"),
        ("frame_share = [-1, 1]", "more than 0"),
        ("frame_aspect = 0", "more than 0"),
        ("frame_place = [-1, 3]", "0 to 1"),
        ("jpeg_quality = 200", "1 to 101"),
        ("video_qp = [20, 52]", "0 to 51"),
        ("yaw_deg = [0, 90]", "-89 to 89"),
        ("temperature_k = 0", "1000 to 40000"),
        ("read_noise_e = -1", "at least 0"),
        ("defocus_px = [-0.5, 1]", "at least 0"),
        ("gamma = [0, 1]", "more than 0"),
        ("paper_white = 1.2", "0 to 1"),
        ("eot = 3", "table"),
        ("yaw_deg = [", "no valid TOML"),
    ],
)
def test_what_is_no_range_is_refused(text: str, named: str, tmp_path: Path) -> None:
    """Unknown names are refused with near ones, and values that are no range with what is one."""
    file = tmp_path / "my.toml"
    file.write_text(text)
    with pytest.raises(OptionError, match=named):
        ranges_from_toml(file, EotRanges())
    with pytest.raises(OptionError, match="no such file"):
        ranges_from_toml(tmp_path / "none.toml", EotRanges())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_lie_within_what_a_file_may_state(name: str) -> None:
    """What is off by default and what every preset draws is within the declared limits."""
    for ranges in (PRESETS[name], NOTHING):
        stated = {key: getattr(ranges, key) for key in EotRanges.limits()}
        assert ranges_from_table(stated, name) == stated


def test_a_factory_gives_stages_or_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """module:factory returns stages to append, or a pipeline to take; a preset's name its
    stages."""
    (tmp_path / "listed_stages.py").write_text(
        "from torch import nn\n"
        "from physadv.eot import EotRanges, Pipeline, Place\n"
        "def stages(): return [nn.Identity()]\n"
        "def one(): return nn.Identity()\n"
        "def whole(): return Pipeline([Place(EotRanges()), nn.Identity()])\n"
    )
    monkeypatch.chdir(tmp_path)
    built_in = Pipeline.from_ranges(eot_preset("brown")).names
    assert pipeline_from("brown").names == built_in
    assert pipeline_from("listed_stages:stages").names == (*built_in, "Identity")
    assert pipeline_from("listed_stages:whole").names == ("Place", "Identity")
    with pytest.raises(OptionError, match="athalye"):
        pipeline_from("sunny")
