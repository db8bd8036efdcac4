"""Classes of data become the model's by name or by a known set's numbers, or are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physadv.core.errors import DataError
from physadv.core.names import natural_key, plain_name
from physadv.datasets.class_matching import match_classes, read_label_map, relabeled_classes
from physadv.datasets.known_sets import known_set, known_sets
from physadv.models.architectures.signnet import NAMES

DIGITS = tuple("0123456789")
GTSRB = known_set("GTSRB")
MNIST = known_set("MNIST")
CIFAR = known_set("CIFAR-10")
IMAGENET = known_set("ImageNet")


def test_known_sets_number_every_class_once() -> None:
    """Each name of a class finds that class alone, and the sets have their published sizes."""
    sizes = {known.name: len(known.classes) for known in known_sets()}
    assert sizes == {
        "GTSRB": 43,
        "CIFAR-10": 10,
        "CIFAR-100": 100,
        "MNIST": 10,
        "Fashion-MNIST": 10,
        "ImageNet": 1000,
    }
    for known in known_sets():
        for number, names in enumerate(known.aliases):
            assert {known.find(name) for name in names} == {number}


def test_synsets_are_sorted_as_their_numbers_are() -> None:
    """ImageNet's class numbers are the order of its WordNet ids, by definition of the challenge."""
    synsets = [names[-1] for names in IMAGENET.aliases]
    assert synsets == sorted(synsets)
    assert len(set(synsets)) == 1000


@pytest.mark.parametrize(
    ("classes", "model", "numbers"),
    [
        (["Stop_Sign", "YIELD"], ["yield", "stop sign"], (1, 0)),
        (["no-entry", "StopSign"], ["stop sign", "No Entry"], (1, 0)),
        (["01", "00002", "10"], ["10", "2", "1"], (2, 1, 0)),
        (["A", "a"], ["a", "A"], (1, 0)),
        (["-1", "1"], ["1", "-1"], (1, 0)),
        (["+", "C++"], ["C++", "C", "+"], (2, 0)),
        ([str(i) for i in range(43)], NAMES, tuple(range(43))),
        ([f"{i:05d}" for i in (14, 3)], NAMES, (14, 3)),
        (["Speed limit (20km/h)", "stop", "background"], NAMES, (0, 14, 43)),
        (["14", "3"], GTSRB.classes[::-1], (42 - 14, 42 - 3)),
        (list(GTSRB.classes), [f"{i:02d}" for i in range(43)], tuple(range(43))),
        (DIGITS, MNIST.classes, tuple(range(10))),
        (MNIST.classes, DIGITS, tuple(range(10))),
        (["7 - seven"], MNIST.classes, (7,)),
        (["plane", "car"], CIFAR.classes, (0, 1)),
        (["n01491361", "n01496331_electric_ray"], IMAGENET.classes, (3, 5)),
        (["1", "0"], ["cat", "dog", "bird"], (1, 0)),
    ],
)
def test_classes_find_the_models(
    classes: list[str], model: list[str], numbers: tuple[int, ...]
) -> None:
    """Spelling, zeros before a number, and the label maps of known sets do not matter."""
    assert match_classes(classes, model).numbers == numbers


@given(st.randoms(use_true_random=False), st.sampled_from([NAMES, CIFAR.classes, DIGITS]))
def test_any_order_and_spelling_gives_the_same_classes(
    source: random.Random, model: tuple[str, ...]
) -> None:
    """Shuffled, respelled names always find their own class."""
    order = source.sample(range(len(model)), len(model))
    respell = [str.upper, str.title, lambda n: n.replace(" ", "_"), lambda n: n.replace(" ", "-")]
    names = [source.choice(respell)(model[i]) for i in order]
    assert match_classes(names, model).numbers == tuple(order)


@pytest.mark.parametrize(
    ("classes", "model", "text"),
    [
        (["stop", "other"], ["stop", "yield"], r"'other' = \?.*has stop, yield.*'stop' = stop"),
        (["Stop Sign", "Give Way"], NAMES, r"'Stop Sign' = \? \(is it 'stop'\?\)"),
        (["42", "43"], NAMES, r"'43' = \?"),
        (["0", "1"], ["20", "30"], r"'0' = \?"),
        (["0", "2"], ["cat", "dog"], r"'2' = \?"),
        (["c++"], ["C++", "c ++"], r"'c\+\+' = \?"),
        (["A", "a"], ["a"], "both stand for 'a'"),
        (["cat", "CAT"], ["cat", "dog"], "both stand for 'cat'"),
        (["seven"], ["cat", "dog"], r"'seven' = \?"),
        (MNIST.classes[:9], DIGITS, r"'zero' = \?"),
    ],
)
def test_what_does_not_agree_is_refused_with_the_mapping(
    classes: list[str], model: list[str], text: str
) -> None:
    """One line names what was not found, what the model has, and what agrees."""
    with pytest.raises(DataError, match=text) as refused:
        match_classes(classes, model)
    assert "\n" not in str(refused.value)
    assert "--labels" in refused.value.remedy


def test_a_refusal_of_many_classes_is_short() -> None:
    """A thousand unknown folders are named by a few and their number."""
    with pytest.raises(DataError, match=r"\(1000 in all\)") as refused:
        match_classes([f"folder {i}" for i in range(1000)], IMAGENET.classes)
    assert len(str(refused.value)) < 900


def test_a_thousand_synsets_are_matched() -> None:
    """The WordNet ids of ImageNet are its classes, whether the model has names or none."""
    synsets = [names[-1] for names in IMAGENET.aliases]
    assert match_classes(synsets, IMAGENET.classes).numbers == tuple(range(1000))
    assert match_classes(synsets[5:15], [], count=1000).numbers == tuple(range(5, 15))


@pytest.mark.parametrize(
    ("classes", "count", "text"),
    [
        (["a", "c", "d"], 4, r"3 classes in the data \(a = 0, c = 1, d = 2\).*has 4 classes"),
        (["a", "b", "c"], 2, "has 2 classes without names"),
        (["cat", "dog"], 10, "has 10 classes without names"),
        (["0", "1", "4"], 4, r"'4' = \?"),
        ([f"c{i}" for i in range(1, 11)], 10, r"that of text \(10 before 2\)"),
        (sorted(MNIST.classes), 10, "such as MNIST's"),
        ([str(i) for i in range(1, 11)], 10, "counts its classes from 0"),
    ],
)
def test_folders_are_not_numbered_by_guess_for_a_model_without_names(
    classes: list[str], count: int, text: str
) -> None:
    """Another number of classes, or an order that may be another, is refused."""
    with pytest.raises(DataError, match=text):
        match_classes(classes, [], count=count, sorted_names=True)


@pytest.mark.parametrize(
    ("classes", "count", "rule"),
    [
        (["a", "b", "c"], 3, "in order, since the model has no names"),
        (list(CIFAR.classes), 10, "by the names of CIFAR-10"),
        (["0", "1", "2"], 4, "by number, 3 of the model's 4"),
        (["000", "002"], 3, "by number, 2 of the model's 3"),
    ],
)
def test_a_model_without_names_takes_numbers_and_a_sure_order(
    classes: list[str], count: int, rule: str
) -> None:
    """Numbers are class numbers; as many names as classes are numbered in order, and it is said."""
    match = match_classes(classes, [], count=count, sorted_names=True)
    assert match.rule == rule
    if rule.startswith("by number"):
        assert match.numbers == tuple(int(name) for name in classes)
    else:
        assert match.numbers == tuple(range(count))


def test_folders_counted_from_one_are_refused() -> None:
    """1 to 42 may be 0 to 41; a gap shows that they are numbers as they are."""
    with pytest.raises(DataError, match="counts its classes from 0"):
        match_classes([str(i) for i in range(1, 43)], NAMES, sorted_names=True)
    assert match_classes(["1", "3"], NAMES, sorted_names=True).numbers == (1, 3)
    with pytest.raises(DataError, match="counts its classes from 0"):
        match_classes([str(i) for i in range(1, 44)], NAMES, sorted_names=True)


def test_a_class_without_an_image_needs_no_match() -> None:
    """A label that no image has is let go; one that an image has is not."""
    assert match_classes(["cat", "unicorn"], ["dog", "cat"], needed=[0]).numbers == (1, None)
    with pytest.raises(DataError, match="unicorn"):
        match_classes(["cat", "unicorn"], ["dog", "cat"], needed=[1])


def test_the_user_decides(tmp_path: Path) -> None:
    """A map gives names or numbers, many to one; in-order numbers what is there; both are said."""
    file = tmp_path / "map.toml"
    file.write_text('"Give Way" = "yield"\nstop_a = "Stop"\n"stop b" = 14\n', encoding="utf-8")
    match = match_classes(["Give Way", "stop a", "stop_b"], NAMES, labels=str(file))
    assert match.numbers == (13, 14, 14)
    assert match.rule.startswith("by the label map")
    ordered = match_classes(["x", "y"], ["a", "b", "c"], labels="in-order")
    assert (ordered.numbers, ordered.rule) == ((0, 1), "in order, as asked for, 2 of the model's 3")
    assert match_classes(["0"], [], count=5, labels={"0": 4}).numbers == (4,)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('"a" = "no such"', "has no such class"),
        ('"a" = 7', "has no such class"),
        ('"a" = -1', "has no such class"),
        ('"a" = 0.5', "the name or the number of a class"),
        ('"a" = true', "the name or the number of a class"),
        ('"c" = "cat"', "'a', 'b'.*has no line for them"),
        ("", "names no class"),
        ("a = [", "map.toml"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(tmp_path: Path, text: str, error: str) -> None:
    """Every fault of a map is one error that names it."""
    file = tmp_path / "map.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=error):
        match_classes(["a", "b"], ["cat", "dog"], labels=file)


def test_a_map_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """The remedy names the other value of the option."""
    with pytest.raises(DataError, match="in-order"):
        read_label_map(tmp_path / "none.toml")


def test_in_order_refuses_more_classes_than_the_model_has() -> None:
    """Three folders do not fit two classes in any order."""
    with pytest.raises(DataError, match="3 classes in the data"):
        match_classes(["a", "b", "c"], ["x", "y"], labels="in-order")


def test_training_data_are_renamed_and_merged() -> None:
    """Labels follow the new names; two classes of one name become one."""
    assert relabeled_classes(["0", "1", "2"], {"00": "cat", "1": "dog", "2": "cat"}) == (
        [0, 1, 0],
        ["cat", "dog"],
    )
    with pytest.raises(DataError, match="classes '1'"):
        relabeled_classes(["0", "1"], {"0": "cat"})


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_sort_by_value(numbers: list[int]) -> None:
    """Natural order of numbers is their order, with or without words around them."""
    names = [f"class{n}x" for n in numbers]
    assert sorted(names, key=natural_key) == [f"class{n}x" for n in sorted(numbers)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1 1", "11", False),
        ("1.05", "1.5", False),
        ("000", "0", True),
        ("hot dog", "HotDog", True),
        ("-1", "1", False),
        ("T-shirt/top", "t shirt/top", True),
        ("ﬁsh", "fish", True),
    ],
)
def test_spellings(one: str, other: str, same: bool) -> None:
    """What people type differently is one name, what means something else is not."""
    assert (plain_name(one) == plain_name(other)) is same
