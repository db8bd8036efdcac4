"""Face models: ports agree with their originals, detectors find faces, crops carry gradients,
cards match measurements."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from physadv.core.errors import ModelError
from physadv.core.image_io import list_images, read_rgba, to_tensor
from physadv.models.faces import embedders as embedders_module
from physadv.models.faces.embedders import (
    DLIB,
    EDGEFACE,
    MOBILEFACENET,
    embedding_similarity,
    load_embedder,
)
from physadv.models.faces.face_detection import (
    TEMPLATES,
    DetectedFace,
    DlibFinder,
    SlimFinder,
    _shrunk,
    crop_faces,
    default_finders,
    find_faces,
    model_file,
)
from physadv.models.faces.face_detection import similarity_transform as fitted


@pytest.fixture(scope="module")
def faces(shared_data: Path) -> list[np.ndarray]:
    return [
        np.ascontiguousarray(read_rgba(p)[..., :3])
        for p in list_images(shared_data / "faces")[::40]
    ]


@pytest.fixture(scope="module")
def slim_file(shared_data: Path) -> Path:
    return shared_data / "weights" / "facedet_slim_biubug6.pth"


def test_dlib_port_agrees_with_dlib(faces: list[np.ndarray]) -> None:
    """The torch port gives dlib's own descriptors: cosine 0.999 and more on real, aligned faces."""
    dlib = pytest.importorskip("dlib", reason="extra 'faces' is not installed")
    own = dlib.face_recognition_model_v1(
        str(model_file("dlib_face_recognition_resnet_model_v1.dat"))
    )
    find = dlib.get_frontal_face_detector()
    points = dlib.shape_predictor(str(model_file("shape_predictor_5_face_landmarks.dat")))
    port, seen = load_embedder("dlib"), 0
    for rgb in faces:
        for box in find(rgb, 1)[:1]:
            chip = dlib.get_face_chip(rgb, points(rgb, box), 150, 0.25)
            want = torch.tensor(list(own.compute_face_descriptor(chip)))
            got = port(to_tensor(chip)[None])[0]
            assert F.cosine_similarity(want, got, dim=0) >= 0.999
            assert torch.allclose(want, got, atol=1e-4)
            seen += 1
    assert seen >= 10


def test_our_alignment_agrees_with_dlibs(faces: list[np.ndarray]) -> None:
    """From photo to descriptor, our landmarks and crops stay within a tenth of dlib's threshold of
    its own chain."""
    dlib = pytest.importorskip("dlib", reason="extra 'faces' is not installed")
    own = dlib.face_recognition_model_v1(
        str(model_file("dlib_face_recognition_resnet_model_v1.dat"))
    )
    points = dlib.shape_predictor(str(model_file("shape_predictor_5_face_landmarks.dat")))
    port, finder, distances = load_embedder("dlib"), DlibFinder(), []
    for rgb in faces:
        boxes, found = dlib.get_frontal_face_detector()(rgb, 1), finder(rgb)
        if len(boxes) != 1 or len(found) != 1:
            continue
        want = torch.tensor(list(own.compute_face_descriptor(rgb, points(rgb, boxes[0]))))
        warp = torch.from_numpy(found[0].to_photo("dlib", 150))[None]
        distances.append(
            float((port(crop_faces(to_tensor(rgb)[None], warp, 150))[0] - want).norm())
        )
    assert len(distances) >= 8
    assert max(distances) < 0.06


def test_both_finders_see_the_same_faces(faces: list[np.ndarray], slim_file: Path) -> None:
    """Slim net and dlib find one face on (nearly) every photo, and the union merges the two
    findings into one."""
    pytest.importorskip("dlib", reason="extra 'faces' is not installed")
    both = default_finders(slim_file)
    merged = [find_faces(rgb, both) for rgb in faces]
    with_both = [f for found in merged for f in found if set(f.marks) == {"dlib5", "arc5"}]
    assert sum(bool(found) for found in merged) == len(faces)
    assert len(with_both) >= 0.9 * sum(len(found) for found in merged)
    for face in with_both:
        middles = [
            np.mean(
                face.to_photo("arcface", 1, s)[:, :2].sum(1) / 2
                + face.to_photo("arcface", 1, s)[:, 2]
            )
            for s in ("dlib5", "arc5")
        ]
        assert abs(middles[0] - middles[1]) < 6


def test_slim_finder_is_scale_and_position_true(faces: list[np.ndarray], slim_file: Path) -> None:
    """A photo pasted at twice its own size at a known place has its face there."""
    rgb = faces[0]
    height, width = rgb.shape[:2]
    finder = SlimFinder(slim_file)
    before = finder(rgb)[0].marks["arc5"]
    canvas = np.full((2 * height + 200, 2 * width + 400, 3), 128, np.uint8)
    canvas[100 : 100 + 2 * height, 300 : 300 + 2 * width] = cv2.resize(
        rgb, (2 * width, 2 * height), interpolation=cv2.INTER_CUBIC
    )
    after = finder(canvas)[0].marks["arc5"]
    assert np.abs(after - (before * 2 + [300, 100])).max() < 8


def test_photos_of_one_person_match(shared_data: Path, slim_file: Path) -> None:
    """At their cards' thresholds both embedders match photos of one person and not those of two."""
    pytest.importorskip("dlib", reason="extra 'faces' is not installed")
    weights = shared_data / "weights" / "mobilefacenet_foamliu.pt"
    finders = default_finders(slim_file)
    paths = [
        p
        for name in ("Al_Gore", "Albert_Costa", "Ana_Palacio")
        for p in sorted((shared_data / "faces" / name).iterdir())[:4]
    ]
    people = np.array([p.parent.name for p in paths])
    edgeface = shared_data / "weights" / "edgeface_xs_q.pt"
    for embedder in (
        load_embedder("dlib"),
        load_embedder("mobilefacenet", weights=weights),
        load_embedder("edgeface-xs", weights=edgeface),
    ):
        rows = []
        for path in paths:
            rgb = read_rgba(path)[..., :3]
            face = find_faces(rgb, finders)[0]
            warp = torch.from_numpy(face.to_photo(embedder.card.alignment, embedder.card.size))[
                None
            ]
            rows.append(embedder(crop_faces(to_tensor(rgb)[None], warp, embedder.card.size))[0])
        scores = embedder.similarity(torch.stack(rows), torch.stack(rows)).numpy()
        upper = np.triu_indices(len(paths), 1)
        same = (people[:, None] == people)[upper]
        accepted = scores[upper] >= embedder.card.thresholds[0.01]
        assert accepted[same].mean() > 0.9
        assert accepted[~same].mean() < 0.1


def test_cards_match_the_committed_measurement() -> None:
    """Accuracy and thresholds on the cards are those of the committed measurement."""
    table = Path(__file__).resolve().parents[2] / "benchmarks" / "cloak_embedders.json"
    for row in json.loads(table.read_text(encoding="utf-8")):
        card = {e.name: e for e in (DLIB, MOBILEFACENET, EDGEFACE)}[row["embedder"]]
        assert f"{100 * row['accuracy']['rate']:.1f} %" in card.accuracy
        for far, threshold in card.thresholds.items():
            assert threshold == pytest.approx(row["thresholds"][str(far)], abs=6e-4)


def test_crop_is_exact_for_a_shift_and_has_gradients() -> None:
    """A crop by a whole-pixel shift is the very pixels, and its gradient lands on them alone."""
    image = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    warp = torch.tensor([[[1.0, 0.0, 7.0], [0.0, 1.0, 4.0]]])
    crop = crop_faces(image, warp, 8)
    assert torch.allclose(crop[0], image[0, :, 4:12, 7:15], atol=1e-5)
    crop.sum().backward()
    assert image.grad is not None
    touched = image.grad[0, 0].abs() > 1e-4
    assert touched[4:12, 7:15].all()
    assert int(touched.sum()) == 64


def test_shrinking_crop_does_not_alias() -> None:
    """One-pixel stripes in a large photo become gray in a small crop instead of false stripes."""
    stripes = torch.zeros(1, 3, 400, 400)
    stripes[..., ::2] = 1
    warp = torch.tensor([[[4.1, 0.0, 30.0], [0.0, 4.1, 30.0]]])
    assert crop_faces(stripes, warp, 64).std() < 0.05


def test_similarity_transform_recovers_a_known_one() -> None:
    """Rotation, scale and shift are recovered exactly; all points at one place are refused."""
    source = TEMPLATES["arcface", "arc5"]
    turn = np.array([[0.8, -0.6], [0.6, 0.8]]) * 37.0
    found = fitted(source, source @ turn.T + [5, -2])
    assert np.allclose(found, np.concatenate([turn, [[5], [-2]]], 1))
    with pytest.raises(ModelError, match="one place"):
        fitted(np.zeros((5, 2)), source)


def test_face_box_stays_inside_the_photo() -> None:
    """The box of a face at the border is cut to the photo."""
    face = DetectedFace(1.0, {"arc5": TEMPLATES["arcface", "arc5"] * 100 - 40})
    assert face.box(50, 45) == (0, 0, 45, 50)
    assert face.moved(1.0, 60, 60).box(1000, 1000) == (20, 20, 120, 120)


class Tiny(nn.Module):
    """A stand-in embedder: the mean of each channel, and nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def make_tiny() -> nn.Module:
    return Tiny()


def test_a_ten_line_descriptor_is_an_embedder(tmp_path: Path) -> None:
    """TorchScript and ten lines of TOML: channel order, mean, std and threshold are honored."""
    torch.jit.script(Tiny()).save(str(tmp_path / "net.pt"))
    lines = [
        'name = "tiny"',
        'weights = "net.pt"',
        "size = 16",
        'channels = "bgr"',
        "mean = [0.5, 0.5, 0.5]",
        "std = [0.25, 0.25, 0.25]",
        "dimension = 3",
        'license = "mine"',
        "threshold = 0.4",
        "far = 0.01",
    ]
    descriptor = tmp_path / "tiny.toml"
    descriptor.write_text("\n".join(lines), encoding="utf-8")
    embedder = load_embedder(descriptor, weights=tmp_path / "net.pt")
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1
    assert torch.allclose(embedder(red), torch.tensor([[-2.0, -2.0, 2.0]]))
    assert embedder.card.thresholds == {0.01: 0.4}
    assert embedder.card.licence == "mine"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("colour = 1", "colour"),
        ('channels = "rbg"', "'rgb' or 'bgr'"),
        ("", "licence"),
        ("mean = [0.5, true]", "mean"),
        ('threshold = "x"', "thresholds"),
        ("= 1", "TOML"),
    ],
)
def test_wrong_descriptors_are_refused_by_name(tmp_path: Path, line: str, said: str) -> None:
    """An unknown key, a wrong choice and a missing field are each named."""
    licence = "" if said == "licence" else 'licence = "mine"'
    text = f'weights = "net.pt"\nsize = 16\ndimension = 3\n{licence}\n{line}\n'
    (tmp_path / "net.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        load_embedder(tmp_path / "net.toml")


def test_wrong_dimension_is_refused(tmp_path: Path) -> None:
    """An embedder that gives another number of values than stated is caught at its first use."""
    torch.jit.script(Tiny()).save(str(tmp_path / "net.pt"))
    text = 'weights = "net.pt"\nsize = 16\ndimension = 4\nlicence = "mine"\n'
    (tmp_path / "net.toml").write_text(text, encoding="utf-8")
    embedder = load_embedder(tmp_path / "net.toml", weights=tmp_path / "net.pt")
    with pytest.raises(ModelError, match="is stated"):
        embedder(torch.zeros(1, 3, 16, 16))


def test_missing_weights_name_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without weights at hand the error names the command that fetches them; so does a missing
    package."""
    monkeypatch.setattr(embedders_module, "cached_weights", lambda card: None)
    with pytest.raises(ModelError, match="models fetch mobilefacenet"):
        load_embedder("mobilefacenet")
    with pytest.raises(ModelError, match=r"physadv\[faces\]"):
        model_file("no_such_file.dat")
    with pytest.raises(ModelError, match="dlib, mobilefacenet"):
        load_embedder("arcfase")


def test_foreign_dat_file_is_refused(tmp_path: Path) -> None:
    """Something else than dlib's network is said to be so, not half loaded."""
    (tmp_path / "x.dat").write_bytes(b"\x01\x05con_4\x01\x02" + bytes(40))
    with pytest.raises(ModelError):
        load_embedder("dlib", weights=tmp_path / "x.dat")


def test_similarity_metrics() -> None:
    """Cosine of parallel vectors is 1; the Euclidean similarity is minus the distance."""
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])
    assert float(embedding_similarity("cosine", a, b)) == pytest.approx(1)
    assert float(embedding_similarity("euclidean", a, b)) == pytest.approx(-5)


def test_faces_weights_can_be_carried_into_the_cache(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`models fetch` knows both weights' files by sha256, and what it brought is found without
    naming it again."""
    from physadv.models.faces.embedders import FETCHABLE
    from physadv.models.fetch import fetch_weights

    monkeypatch.setenv("PHYSADV_CACHE", str(tmp_path))
    fetch_weights(
        FETCHABLE["mobilefacenet"], source=shared_data / "weights" / "mobilefacenet_foamliu.pt"
    )
    fetch_weights(
        FETCHABLE["facedet-slim"], source=shared_data / "weights" / "facedet_slim_biubug6.pth"
    )
    assert load_embedder("mobilefacenet").card.accuracy.startswith("98.7 %")
    assert SlimFinder()(np.zeros((64, 64, 3), np.uint8)) == []


@pytest.mark.parametrize(("height", "width"), [(300, 900), (900, 300)])
def test_photos_are_shrunk_without_being_squeezed(height: int, width: int) -> None:
    """The longer side comes to the limit, the other keeps the photo's aspect."""
    small, factor = _shrunk(np.zeros((height, width, 3), np.uint8), 450)
    assert small.shape[:2] == (height // 2, width // 2)
    assert factor == 0.5
