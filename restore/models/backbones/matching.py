"""The matching network by itself: the target put together from pieces of the reference."""

from torch import Tensor

from restore.models.attention import Memory, TextureAttention
from restore.models.matching_network import Matcher
from restore.models.protocol import Backbone
from restore.types import Pictures, Restoration


class Matching(Backbone):
    """Shows what matching finds, and is trained to find it (`loss=correspondence`).

    Its picture is the reference's own pixels at the places that were chosen, so a glance at a
    comparison sheet, or the PSNR, tells how good the choice is. What it learns is used by
    `extractor=matching`.

    Args:
        network: makes the vectors.
        attention: chooses by them; its embedding must leave them as they are.
    """

    scale = 4
    takes_reference = True
    reach = None

    def __init__(self, network: Matcher, attention: TextureAttention):
        super().__init__()
        self.network, self.attention = network, attention

    def encode_reference(
        self,
        reference: Pictures,
        reference_low_up: Pictures,
        reference_low: Pictures | None = None,
    ) -> Memory:
        """The reference's vectors, and its pixels; of several, all of them."""
        if isinstance(reference, list):
            memories = [self.encode_reference(one, one) for one in reference]
            return sum(memories[1:], memories[0])
        return self.attention.encode_reference(self.network.key(reference), [reference])

    def forward(
        self,
        low: Tensor,
        low_up: Tensor,
        reference: Pictures | None = None,
        reference_low_up: Pictures | None = None,
        reference_low: Pictures | None = None,
        memory: Memory | None = None,
    ) -> Restoration:
        """The picture N3(4H)(4W) in [0, 1] that the chosen pieces make; `low_up` without any."""
        query = self.network.query(low, low_up)
        if memory is None:
            if reference is None:
                return Restoration(low_up)
            memory = self.encode_reference(reference, reference)
        transfer = self.attention(query, memory)
        return Restoration(
            transfer.textures[0].float(),
            score=transfer.score,
            index=transfer.index,
            grids=[(key.shape[-2], key.shape[-1]) for key in memory.keys],
            query=query,
            key=memory.keys[0],
            sharpness=self.network.sharpness,
        )
