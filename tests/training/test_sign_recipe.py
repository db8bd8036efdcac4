"""The sign recipe end to end on a toy: balanced repeatable batches, a resumable command, a card
true of its weights."""

from __future__ import annotations

import io
import json
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from physadv.core.errors import DataError, ModelError, OptionError
from physadv.core.files import sha256_of
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import read_rows
from physadv.datasets import read_dataset
from physadv.eot.scenes.sign_faces import HELD_OUT_FACES
from physadv.models.architectures.signnet import BACKGROUND, NAMES, STOP, SignNet
from physadv.training.config import TrainSignsConfig
from physadv.training.sign_classifier.batches import BatchMix, SignBatches
from physadv.training.sign_classifier.canvases import (
    BackgroundPhotos,
    SignCanvases,
    sign_canvases,
    sign_outline,
    sign_outline_mask,
)
from physadv.training.sign_classifier.recipe import CARD, ROWS, WEIGHTS, SignRecipe, load_sign_data
from physadv.training.sign_classifier.validation import (
    DRAWN_SETS,
    accuracy_rates,
    judge_crops,
    judge_drawn_faces,
    judge_stop_photos,
    predict_images,
    read_sign_boxes,
    sign_crop,
    stop_rate_by_face,
    stop_share_by_sign,
)
from physadv_cli.main import app

COLORS = {1: (200, 200, 200), STOP: (180, 20, 30), 33: (20, 40, 200)}
FAST = ["--epochs", "2", "--steps", "2", "--batch", "8", "--precision", "fp32", "--faces", "plain"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GTSRB: three classes of colored discs, four tracks each, two frames a track."""
    path = tmp_path_factory.mktemp("toy") / "toy.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for label, color in COLORS.items():
            lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
            for track in range(4):
                for frame in range(2):
                    name = f"{track:05d}_{frame:05d}.ppm"
                    picture = np.full((20, 20, 3), 20 * track, np.uint8)
                    cv2.circle(picture, (10, 10), 8, color, -1)
                    buffer = io.BytesIO(cv2.imencode(".ppm", picture[..., ::-1])[1].tobytes())
                    archive.writestr(f"GTSRB/{label:05d}/{name}", buffer.getvalue())
                    lines.append(f"{name};20;20;2;2;18;18;{label}")
            archive.writestr(f"GTSRB/{label:05d}/GT-{label:05d}.csv", "\n".join(lines))
    return path


@pytest.fixture(scope="module")
def photos() -> BackgroundPhotos:
    return BackgroundPhotos([np.full((40, 60, 3), 128, np.uint8)], 0)


def test_batches_are_balanced_repeatable_and_in_range(toy: Path, photos: BackgroundPhotos) -> None:
    """Step and seed decide a batch; classes come in the mix's shares and only those that have
    data."""
    canvases = sign_canvases(read_dataset(toy))
    batches = SignBatches(canvases, photos, size=256, mix=BatchMix(background=0.25, stop=0.25))
    images, labels = batches(5)
    assert images.shape == (256, 3, 64, 64)
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert torch.equal(images, batches(5)[0])
    assert not torch.equal(images, batches(6)[0])
    shares = {c: float((labels == c).float().mean()) for c in (1, STOP, 33, BACKGROUND)}
    assert sum(shares.values()) == 1
    assert all(0.15 < share < 0.35 for share in shares.values()), shares


def test_augmentation_eases_in(toy: Path, photos: BackgroundPhotos) -> None:
    """At the first step poses are milder than later: more of a sign's own color is in the middle of
    the crop."""
    canvases = sign_canvases(read_dataset(toy))
    batches = SignBatches(canvases, photos, size=200, mix=BatchMix(ease=0.0, easing=100))

    def off(step: int) -> float:
        images, labels = batches(step)
        middle = images[labels == 33][:, :, 28:36, 28:36].mean((2, 3))
        return float((middle - torch.tensor(COLORS[33]) / 255).abs().mean())

    assert off(0) < 0.02 < off(100)
    mild = SignBatches(canvases, photos, size=4, mix=BatchMix(ease=0.0, easing=100, hardest=0.5))
    half = SignBatches(canvases, photos, size=4, mix=BatchMix(ease=0.5, easing=10**9))
    assert torch.allclose(mild(100)[0], half(100)[0], atol=1e-3)
    with pytest.raises(OptionError):
        BatchMix(hardest=1.5)


def test_stop_is_an_octagon_and_yield_points_down() -> None:
    """Outlines are those of the classes: widths at the top and bottom of the mask tell."""
    box = (-1.0, -1.0, 1.0, 1.0)
    stop, yields, warning = (sign_outline_mask(sign_outline(c), box) > 127 for c in (STOP, 13, 18))
    assert stop.mean() == pytest.approx(0.828, abs=0.02)
    assert yields[:40].sum() > 2 * yields[40:].sum()
    assert warning[40:].sum() > 2 * warning[:40].sum()


class Redness(nn.Module):
    """Calls stop what is red, background what is not."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((2, 3))
        logits = torch.zeros(len(images), 44)
        logits[:, STOP] = 20 * (mean[:, 0] - mean[:, 1] - 0.3)
        return logits.index_add(1, torch.tensor([BACKGROUND]), torch.full((len(images), 1), 0.01))


def test_judging_counts_what_it_should(tmp_path: Path) -> None:
    """A red square in a gray photo: its crops are stop, those of a gray photo are not; rates carry
    n and groups."""
    photo = np.full((100, 140, 3), 128, np.uint8)
    photo[20:60, 100:140] = (255, 0, 0)
    cv2.imwrite(str(tmp_path / "a.png"), photo[..., ::-1])
    (tmp_path / "b.csv").write_text("file,x0,y0,x1,y1,note\na.png,100,20,140,60,at the edge\n")
    boxes = read_sign_boxes(tmp_path / "b.csv")
    rows = judge_stop_photos(Redness(), tmp_path, boxes, 10, 0)
    rows += judge_crops(Redness(), "grey", [("g", np.full((90, 90, 3), 99, np.uint8))], 10, 0)
    found = accuracy_rates(rows)
    assert found["stop photos"]["right"].rate == 1.0  # type: ignore[union-attr]
    assert found["stop photos"]["groups"] == 1
    assert stop_share_by_sign(rows) == {"a.png@100,20": 1.0}
    assert found["grey"]["called_stop"].n == 10  # type: ignore[union-attr]
    assert found["grey"]["right"].rate == 1.0  # type: ignore[union-attr]


def test_sign_crops_hold_the_sign() -> None:
    """Every jittered crop is square and holds at least nine tenths of the sign, also at the photo's
    edge."""
    picture = np.zeros((80, 120, 3), np.uint8)
    picture[0:30, 90:120] = 255
    rng = numpy_generator(0, "test")
    for _ in range(200):
        crop = sign_crop(picture, (90, 0, 120, 30), rng)
        assert crop.shape[0] == crop.shape[1]
        assert (crop[..., 0] > 0).sum() >= 0.9 * 30 * 30


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("file,x0,y0\na,1,2", "lacks the column x1"),
        ("file,x0,y0,x1,y1\na,5,5,1,9", "empty"),
        ("file,x0,y0,x1,y1\na,b,5,1,9", "2"),
    ],
)
def test_bad_boxes_are_named(tmp_path: Path, text: str, reason: str) -> None:
    """A malformed box file is a DataError that names the line."""
    (tmp_path / "b.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_sign_boxes(tmp_path / "b.csv")


def test_predict_resizes_as_the_net_does() -> None:
    """Batching pictures of several sizes gives the same predictions as each alone."""
    net = SignNet().eval()
    pictures = [
        np.random.default_rng(i).integers(0, 256, (20 + 9 * i, 50, 3), np.uint8) for i in range(5)
    ]
    found = predict_images(net, pictures, batch=2)
    with torch.no_grad():
        alone = [
            net(torch.from_numpy(p).permute(2, 0, 1)[None] / 255).softmax(1).max(1)
            for p in pictures
        ]
    assert [f[0] for f in found] == [int(a.indices) for a in alone]
    assert [f[1] for f in found] == pytest.approx([float(a.values) for a in alone], abs=1e-4)


def test_material_is_divided_by_track_and_photo(toy: Path, tmp_path: Path) -> None:
    """No track is on both sides; a fifth of the photos is held out; data without boxes is
    refused."""
    for i in range(10):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((30, 30, 3), i, np.uint8))
    material = load_sign_data(SignRecipe(toy, (tmp_path,)))
    assert not set(material.signs.groups) & set(material.validation_signs.groups)
    assert (len(material.photos), len(material.validation_photos)) == (8, 2)
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 9, 9), np.uint8), labels=[0, 1, 0, 1])
    with pytest.raises(DataError, match="without boxes"):
        load_sign_data(SignRecipe(tmp_path / "x.npz"))
    with pytest.raises(OptionError, match="batch 1"):
        load_sign_data(SignRecipe(toy, batch=1))


def test_varied_faces_and_decoys_are_drawn_anew() -> None:
    """With varied faces every drawn stop sign differs and stays red, a batch repeats, and decoys
    are among the samples without a sign."""
    rows = torch.arange(86) % 43
    canvases = SignCanvases(
        torch.zeros(86, 3, 80, 80, dtype=torch.uint8),
        torch.tensor([-0.9, -0.9, 0.9, 0.9]).repeat(86, 1),
        rows,
    )
    shares = BatchMix.of_faces("varied")
    assert (shares.faces, BatchMix.of_faces("plain")) == ("varied", BatchMix())
    only = replace(shares, background=0.5, stop=0.5, drawn=1.0, decoys=1.0, ease=0.0, easing=10**9)
    batches = SignBatches(canvases, BackgroundPhotos([]), size=24, mix=only)
    images, labels = batches(0)
    again, _ = batches(0)
    assert torch.equal(images, again)
    assert not torch.equal(images, batches(1)[0])

    stops = images[labels == STOP]
    assert len({image.numpy().tobytes() for image in stops}) == len(stops) > 4
    middle = stops[:, :, 16:48, 16:48].mean((2, 3))
    assert bool((middle[:, 0] > middle[:, 1:].amax(1)).all())
    decoys = images[labels == BACKGROUND]
    assert float(decoys.flatten(1).std(1).min()) > 0.02


def test_each_drawn_face_is_judged() -> None:
    """A network that calls everything stop, or nothing, is right on all draws of each face or on
    none, and every face has its line."""
    faces = HELD_OUT_FACES[:3]
    ground = [np.full((60, 60, 3), 128, np.uint8)]
    for label, rate in ((STOP, 1.0), (BACKGROUND, 0.0)):

        class Always(torch.nn.Module):
            def forward(self, images: torch.Tensor, label: int = label) -> torch.Tensor:
                return torch.nn.functional.one_hot(torch.full((len(images),), label), 44).float()

        rows = judge_drawn_faces(Always(), DRAWN_SETS[0], faces, ground, 7, 0)
        rates = stop_rate_by_face(rows)
        assert list(rates) == [face.name for face in faces]
        assert {(each.rate, each.n) for each in rates.values()} == {(rate, 7)}


def test_command_writes_weights_card_and_rows(toy: Path, tmp_path: Path) -> None:
    """Two runs of one seed give the same weights; the card names their sha256; --json is one object
    on stdout."""
    digests = []
    for name in ("one", "two"):
        arguments = [
            "train",
            "signs",
            "--data",
            str(toy),
            *FAST,
            "--threads",
            "1",
            "--out",
            str(tmp_path / name),
            "--json",
        ]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        digests.append(sha256_of(tmp_path / name / WEIGHTS))
    found = json.loads(result.stdout)
    recorded = (tmp_path / "two" / "config.toml").read_text()
    assert TrainSignsConfig.from_toml(tmp_path / "two" / "config.toml").epoch_steps == 2
    other = CliRunner().invoke(app, [*arguments, "--seed", "1"])
    assert isinstance(other.exception, OptionError)
    assert (tmp_path / "two" / "config.toml").read_text() == recorded
    card = tomllib.loads((tmp_path / "two" / CARD).read_text())
    assert digests[0] == digests[1] == card["sha256"] == found["sha256"]
    assert card["classes"] == list(NAMES)
    assert card["data_summary"]["layout"] == "GTSRB"
    assert card["data_summary"]["class_mapping"]["14"] == "stop"
    assert str(tmp_path) not in (tmp_path / "two" / CARD).read_text()
    assert card["measured"]["held-out tracks"]["right"]["n"] == 6
    assert len(list(read_rows(tmp_path / "two" / ROWS))) == 6
    assert (tmp_path / "two" / WEIGHTS).stat().st_size < 4_000_000


def test_a_defense_and_weights_to_begin_with(toy: Path, tmp_path: Path) -> None:
    """`--defense masked --from` begins with the weights named, and the card names what they were
    trained."""
    from physadv.training.methods.occlusion import OcclusionTraining
    from physadv.training.sign_classifier.recipe import first_net

    own = tmp_path / "own.safetensors"
    save_file(SignNet().state_dict(), own)
    start, origin = first_net(SignRecipe(toy, start=str(own), defense=OcclusionTraining()))
    assert all(torch.equal(v, start.state_dict()[k]) for k, v in load_file(own).items())
    assert sha256_of(own) in origin
    arguments = [
        "train",
        "signs",
        "--data",
        str(toy),
        *FAST,
        "--defense",
        "masked",
        "--plain",
        "0.5",
    ]
    more = [
        "--kept",
        "0.3",
        "--covers",
        "0.2",
        "0.3",
        "--from",
        str(own),
        "--out",
        str(tmp_path / "m"),
    ]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, result.output
    card = tomllib.loads((tmp_path / "m" / CARD).read_text())
    assert card["name"] == "signs-masked"
    assert card["recipe"]["start"] == "own.safetensors"
    said = card["recipe"]["defence"]
    assert (said["defence"], said["plain"], said["covers"]) == ("Masked", 0.5, [0.2, 0.3])
    with pytest.raises(ModelError, match="no weights of the model signs"):
        first_net(SignRecipe(toy, start=f"{__name__}:Redness"))
    alone = CliRunner().invoke(app, ["train", "signs", "--data", str(toy), "--plain", "0.5"])
    assert isinstance(alone.exception, OptionError)


def test_half_a_judge_is_refused(toy: Path, tmp_path: Path) -> None:
    """Photos without their boxes are an error before anything is trained."""
    result = CliRunner().invoke(
        app, ["train", "signs", "--data", str(toy), "--judge-stop", str(tmp_path)]
    )
    assert isinstance(result.exception, OptionError)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["signs", "signs-masked"])
def test_embedded_model_is_as_good_as_its_card(shared_data: Path, name: str) -> None:
    """Judged anew on held-out tracks and street photos, the embedded weights keep what their card
    says."""
    from physadv.defenses.load_model import load_model

    model = load_model(name)
    material = load_sign_data(
        SignRecipe(
            shared_data / "gtsrb-train-third.zip",
            (shared_data / "backgrounds", shared_data / "imagenet-photos"),
        )
    )
    from physadv.training.sign_classifier.recipe import StreetPhotos, judge_held_out

    boxes = Path(__file__).resolve().parents[2] / "benchmarks" / "stop-photos-boxes.csv"
    street = StreetPhotos(
        shared_data / "stop-photos" / "stop", boxes, (shared_data / "stop-photos" / "other",)
    )
    found = accuracy_rates(judge_held_out(model, material, street))
    said = model.card.extra["measured"]
    for kind in (
        "held-out tracks",
        "held-out tracks, stop",
        "held-out photos",
        "stop photos",
        "photos stop-photos/other",
    ):
        now = found[kind]["right"].rate  # type: ignore[union-attr]
        assert now == pytest.approx(said[kind]["right"]["rate"], abs=0.005), kind
