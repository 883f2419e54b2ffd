"""TTSR's texture extractor: the first layers of VGG19."""

from typing import Literal

from torch import Tensor, nn

from restore.models.extractors import Extractor
from restore.models.normalisation import Normalising
from restore.models.pretrained import vgg19_features

# Outputs of relu1_1, relu2_1 and relu3_1, by their place in torchvision's `vgg19().features`.
_TAPS = (1, 6, 11)


class VGG19Extractor(Normalising, Extractor):
    """VGG19 up to relu3_1, its input normalised by ImageNet's colour mean and deviation.

    TTSR section 3.1 ("LTE"); its weights are trained along with the main network.

    Args:
        weights: `imagenet`, `random`, or a VGG19 state dict's path (`restore.models.pretrained`).
        trainable: whether training may change it; a list of scales (1, 2, 4: coarse to fine): only
            the layers between the next finer output and theirs.
        cache, download: see `restore.models.pretrained.file_of`.
    """

    channels = (64, 128, 256)
    reach = 4

    def __init__(
        self,
        weights: str,
        trainable: bool | list[Literal[1, 2, 4]] = True,
        cache: str | None = None,
        download: bool = True,
    ):
        super().__init__()
        count = _TAPS[-1] + 1
        self.layers, self.provenance = vgg19_features(weights, count, cache, download)
        for layer in self.layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = True  # nothing else reads a convolution's raw output
        self.set_normalisation()
        trained = trainable if isinstance(trainable, list) else [1, 2, 4] if trainable else []
        for place, layer in enumerate(self.layers):
            scale = next(s for s, tap in zip((4, 2, 1), _TAPS) if place <= tap)
            layer.requires_grad_(scale in trained)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.normalised(image)
        outputs = []
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in _TAPS:
                outputs.append(x)
        return outputs
