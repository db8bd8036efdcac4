"""Devices that cannot be used end in one sentence, whatever torch says of them."""

from __future__ import annotations

import pytest
import torch

from physadv.core.errors import ModelError
from physadv.models.loading import pick_device


@pytest.mark.parametrize("name", ["meta", "é", "cpu:x", "", "gpu", "cuda:-1", "cuda:99", "fpga"])
def test_a_device_that_computes_nothing_is_refused(name: str) -> None:
    """Unknown words, devices that are not there, and torch's "meta", whose tensors hold nothing."""
    with pytest.raises(ModelError, match="not usable"):
        pick_device(name)


def test_the_processor_is_always_there() -> None:
    """By its name, and where nothing better is found."""
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}
