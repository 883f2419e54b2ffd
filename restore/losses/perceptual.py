"""Terms that compare features of a fixed VGG19."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from restore.errors import UserError
from restore.models.normalisation import Normalising
from restore.models.pretrained import vgg19_features
from restore.types import Problem, Restoration
from restore.utils import distributed

# Convolutions in each of VGG19's five blocks, which max-pooling separates.
_CONVS = (2, 2, 4, 4, 4)


def layer_count(name: str) -> int:
    """How many layers of torchvision's `vgg19().features` end with the named one.

    Args:
        name: `convB_C` or `reluB_C`: convolution C of block B, before or after its ReLU.

    Raises:
        ValueError: VGG19 has no such layer.
    """
    match = re.fullmatch(r"(conv|relu)([1-5])_([1-4])", name)
    if match is None or int(match[3]) > _CONVS[int(match[2]) - 1]:
        raise ValueError("a layer of VGG19 is conv1_1, relu1_1, conv1_2, … or relu5_4")
    block, place = int(match[2]), int(match[3])
    before = sum(2 * convs + 1 for convs in _CONVS[: block - 1])
    return before + 2 * place - (match[1] == "conv")


def _known(name: str) -> str:
    layer_count(name)
    return name


class Perceptual(Normalising):
    """Mean |difference|^power of the features of answer and target at one layer of VGG19.

    Johnson, Alahi, Fei-Fei: "Perceptual Losses for Real-Time Style Transfer and Super-Resolution",
    ECCV 2016; TTSR (relu5_1, squared), SRGAN (relu5_4, squared), ESRGAN (conv5_4, absolute).
    Pictures are normalised by ImageNet's mean and deviation. A problem's weight map has no say, as
    features see more than a pixel.

    Args:
        weights: `imagenet`, `random`, or a VGG19 state dict's path (`restore.models.pretrained`).
        layer: where the features are taken, see `layer_count`.
        power: 1 absolute, 2 squared.
        cache, download: see `restore.models.pretrained.file_of`.
        bgr: VGG19 is given blue for red, and red for blue, as MASA-SR's code does.
    """

    def __init__(
        self,
        weights: str,
        layer: Annotated[str, AfterValidator(_known)],
        power: Literal[1, 2] = 2,
        cache: str | None = None,
        download: bool = True,
        bgr: bool = False,
    ):
        super().__init__()
        count = layer_count(layer)
        self.layers, self.provenance = vgg19_features(weights, count, cache, download)
        self.layers.requires_grad_(False)
        self.set_normalisation()
        self.layer, self.power, self.bgr = layer, power, bgr

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for pictures that max-pooling leaves nothing of."""
        least = 2 ** sum(isinstance(layer, nn.MaxPool2d) for layer in self.layers)
        if min(height, width) < least:
            raise UserError(
                f"the perceptual loss at {self.layer} needs pictures of at least {least} pixels a "
                f"side, not {width}×{height}: make task.crop larger"
            )

    def features(self, image: Tensor) -> Tensor:
        """Features of a picture N3HW in [0, 1]; see `check_size`."""
        self.check_size(*image.shape[-2:])
        return self.layers(self.normalised(image.flip(1) if self.bgr else image))

    def reduced(self, error: Tensor) -> Tensor:
        """The loss of a batch's differences."""
        return error.abs().pow(self.power).mean()

    def forward(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        assert problem.target is not None, "training problems have a target"
        with torch.no_grad():
            wanted = self.features(problem.target)
        return self.reduced(self.features(restored.image).float() - wanted.float())


class FrobeniusPerceptual(Perceptual):
    """The Frobenius norm of all differences of a batch together, neither a mean nor squared.

    So C2-Matching and DATSR have it: it grows with the root of the batch's and the pictures' size.
    The batch is that of all processes.

    Args:
        weights, layer: see `Perceptual`.
    """

    def __init__(self, weights: str, layer: Annotated[str, AfterValidator(_known)] = "relu5_1"):
        super().__init__(weights, layer)

    def reduced(self, error: Tensor) -> Tensor:
        squares = distributed.mean(error.square().sum()) * distributed.world()
        # The root's slope at 0 is infinite.
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
