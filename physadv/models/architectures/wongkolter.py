"""The small convolutional networks of Wong and Kolter (2018), trained to a certified bound in the
l_inf ball.

The layers stand in the order of the published ``Sequential`` files, so that their keys
(``0.weight`` ...) load as they are. Their published certificates make them a check on attacks: none
may break more than the certificate allows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physadv.models.cards import ModelCard

SOURCE = "https://github.com/locuslab/convex_adversarial (Wong & Kolter, 2018)"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), 0.225


class WongKolterNet(nn.Sequential):
    """conv 16, conv 32 (4x4, stride 2, pad 1), linear 100, linear ``classes``, ReLU between;
    images in [0, 1].

    A network of one channel also takes RGB images, by the mean of their channels. The images must
    have the network's size.
    """

    def __init__(
        self, channels: int, side: int, mean: tuple[float, ...], std: float, classes: int = 10
    ) -> None:
        flat = 32 * (side // 4) ** 2
        super().__init__(
            nn.Conv2d(channels, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, 100),
            nn.ReLU(),
            nn.Linear(100, classes),
        )

        self.channels, self.std = channels, std
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (b, classes) of ``images`` (b, 1 or 3, side, side) in [0, 1]."""
        if self.channels == 1 and images.shape[1] == 3:
            images = images.mean(1, keepdim=True)
        mean: Tensor = self.get_buffer("mean")
        x = (images - mean.to(images.dtype)) / self.std
        for layer in self:
            x = layer(x)
        return x


def mnist_network() -> WongKolterNet:
    """Build the network for 28x28 gray images, without normalization.

    Published: error 1.80 %, certified error at l_inf 0.1 <= 5.8 %.
    """
    return WongKolterNet(1, 28, (0.0,), 1.0)


def cifar_network() -> WongKolterNet:
    """Build the network for 32x32 color images: first stage of the published cascade, l_inf
    8/255."""
    return WongKolterNet(3, 32, CIFAR_MEAN, CIFAR_STD)


def mnist_card() -> ModelCard:
    """Return the card of the MNIST network as published, trained for l_inf 0.1."""
    return ModelCard(
        name="wongkolter-mnist",
        classes=tuple("0123456789"),
        input_size=(28, 28),
        licence="MIT",
        source=SOURCE,
        data="MNIST",
        sha256="95014ab0c04c73f48b3be0cb7acc42aff60ce4420c6c43bec25e9a1447279e08",
        accuracy="error 1.80 %, certified error <= 5.8 % and PGD error about 4.1 % at l_inf 0.1, "
        "as published",
        extra={"channels": 1, "clean_accuracy": 0.982},
    )


def cifar_card() -> ModelCard:
    """Return the card of the first stage of the CIFAR-10 cascade, trained for l_inf 8/255."""
    classes = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    return ModelCard(
        name="wongkolter-cifar",
        classes=classes,
        input_size=(32, 32),
        licence="MIT",
        source=SOURCE,
        data="CIFAR-10",
        sha256="f07c615f58616cbc7667974f146c4baa851bf0e71df8431a150abea8b7901f37",
        accuracy="first stage of a cascade; robust error of the cascade 71.7 % at l_inf 8/255 by "
        "its own file",
    )
