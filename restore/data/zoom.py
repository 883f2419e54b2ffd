"""Two focal lengths: the picture of the shorter one, brought to the size of the longer's."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from restore.errors import UserError
from restore.images.resize import pil_resize
from restore.images.zoom import zoomed_out
from restore.types import Sample, map_tensors

Ratio = Annotated[float, Field(ge=1)]


class Zoomed:
    """A degradation whose `low_up` is a wide picture of the same place.

    Where the data bring none, the wide picture is the target shrunk by the zoom and enlarged again;
    `low` is the wide picture ÷scale, not the target. All by PIL's bicubic in 8 bits.

    Args:
        zoom: ratio of the focal lengths, where the wide picture is to be made; [least, most]: drawn
            for each item in training, uniformly in its logarithm, and the middle in evaluation.
    """

    def __init__(self, zoom: Ratio | tuple[Ratio, Ratio] = 1.4):
        least, most = zoom if isinstance(zoom, list | tuple) else (zoom, zoom)
        if least > most:
            raise UserError(f"degradation.zoom={[least, most]}: the smallest comes first")
        self.least, self.most = least, most

    def zoom(self, rng: np.random.Generator | None = None) -> float:
        """The ratio of an item."""
        if self.least == self.most:
            return self.least
        share = 0.5 if rng is None else rng.random()
        return float(self.least ** (1 - share) * self.most**share)

    def worker(self, sample: Sample, scale: int, rng: np.random.Generator | None = None) -> Sample:
        """Adds the low pictures."""
        out = sample.copy()
        if "low_up" not in out:
            out["low_up"] = zoomed_out(out["target"], self.zoom(rng))
        if "low" not in out:
            height, width = out["low_up"].shape[-2:]
            if height % scale or width % scale:
                raise UserError(
                    f"{out['key']}: {width}×{height} pixels do not divide by the scale {scale}"
                )
            out["low"] = pil_resize(out["low_up"], height // scale, width // scale)
        if "reference" in out and "reference_low_up" not in out:
            zoom = self.zoom()
            out["reference_low_up"] = map_tensors(lambda x: zoomed_out(x, zoom), out["reference"])
        return out

    def device(self, batch: dict[str, Any], scale: int) -> dict[str, Any]:
        """Nothing is left to do."""
        return batch
