"""Results in notebooks: what they show, and that no text of others is markup."""

from __future__ import annotations

import torch

import physadv
from physadv.core.notebook_html import MOST_PICTURES, result_html


def test_texts_of_others_are_no_markup() -> None:
    """Headings, figures, remarks and captions are escaped, and escape sequences written out."""
    bad = "<script>x</script>\x1b[2J"
    page = result_html(bad, {bad: bad}, notes=[bad], pictures=[(bad, torch.zeros(3, 2, 2))])
    assert "<script" not in page
    assert "\x1b" not in page


def test_results_show_rates_and_pictures() -> None:
    """An attack shows its first images, an evaluation both rates, a bundle both controls."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    images = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = net(images).argmax(1)
    attacked = physadv.attacks.fgsm(net, images, labels, eps=0.1)._repr_html_()
    assert attacked.count("<img") == MOST_PICTURES
    assert "of 12 images became adversarial" in attacked

    result = physadv.evaluate(net, (images, labels), threat="linf:1/255", attack="fgsm")
    assert str(result.robust_accuracy) in result._repr_html_()
    bundle = physadv.read_bundle("stop-sticker-signs-v1")._repr_html_()
    assert "Blank control" in bundle
    assert "Clean control" in bundle
