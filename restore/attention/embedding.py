"""Embeddings: what is compared of the features."""

from torch import Tensor, nn


class Pixels(nn.Module):
    """The features as they are; compared are their 3×3 patches, 9 · C numbers (TTSR 3.2)."""

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """The same features."""
        return features_NCHW
