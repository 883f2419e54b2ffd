"""A network without a reference that another one begins from."""

from torch import Tensor, nn

from restore.models import checkpoint, weights
from restore.models.protocol import Backbone


class Base(nn.Module):
    """A network with its weights, whose picture another one improves.

    With it a network with a reference need not learn again what a picture shows by itself, and
    gives the picture of the network without one, at least, where a reference does not fit.

    Args:
        network: takes the low picture alone.
        weights: as `restore apply` takes them: the name of a bundled network, a run or a file; or
            `random`.
        trainable: whether training changes it.
    """

    def __init__(self, network: Backbone, weights: str, trainable: bool = False):
        super().__init__()
        self.network = network
        self.scale, self.reach = network.scale, network.reach
        if weights != "random":
            _fill(network, weights)
        self.requires_grad_(trainable)

    def forward(self, low: Tensor) -> Tensor:
        """The picture N3(sH)(sW) in [0, 1] of one N3HW."""
        return self.network(low).image


def _fill(network: Backbone, source: str) -> None:
    loaded = weights.load(source)
    checkpoint.load_into(network, dict(loaded.state), f"backbone.base.weights={source}")
