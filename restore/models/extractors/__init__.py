"""Texture extractors: the features by which a network compares pictures and takes textures over."""

from torch import Tensor, nn

from restore.models.backbones.rows import quartered


class Extractor(nn.Module):
    """Features of a picture at three resolutions: the contract.

    One of one's own is a class and a yaml in `conf/extractor`.

    Attributes:
        channels: of the features at full, half and quarter resolution.
        reach: how far, in positions of the quarter resolution, a pixel is felt in the features, at
            most; None: everywhere, or unknown, so that large pictures are not cut into tiles.
    """

    channels: tuple[int, int, int]
    reach: int | None

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of a picture N3HW in [0, 1]: N, C, H, W; N, C', H/2, W/2; N, C'', H/4, W/4.

        H and W divide by 4.
        """
        raise NotImplementedError

    @property
    def matched(self) -> int:
        """Channels of what is compared, `query` and `key`."""
        return self.channels[-1]

    def query(self, low: Tensor, low_up: Tensor) -> Tensor:
        """What is looked for, N, `matched`, H/4, W/4, of a low picture and the same enlarged.

        TTSR: the coarsest features of the enlarged one.
        """
        return self.coarsest(low_up)

    def key(
        self, reference: Tensor, reference_low_up: Tensor, reference_low: Tensor | None = None
    ) -> Tensor:
        """What it is compared with, N, `matched`, H/4, W/4, of a reference and the same blurred.

        `reference_low` is the reference at the low picture's resolution.

        TTSR: the coarsest features of the blurred one, since those of a sharp picture would be
        unlike those of the low one.
        """
        return self.coarsest(reference_low_up)

    def coarsest(self, image: Tensor) -> Tensor:
        """The features at a quarter of the resolution alone."""
        return quartered(lambda some: self(some)[-1], image, self.reach, self.channels[0])
