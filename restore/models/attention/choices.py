"""A file of where in the reference each place of a restored picture took its texture from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from restore.types import Restoration
from restore.utils import foreign
from restore.utils.files import whole

FOLDER = "attention"  # beside the folder of restored pictures


@dataclass(frozen=True)
class Choices:
    """What matching chose for one picture.

    `index` hw, row-major positions in the grid of the reference's coarsest features, counted on
    through several references, as `restore.models.attention.Transfer` has them; `score` hw; `grids`
    n2, height and width of each reference's grid.
    """

    index: np.ndarray
    score: np.ndarray
    grids: np.ndarray

    def places(self) -> np.ndarray:
        """hw3: number of the reference (from 0), row and column in its grid."""
        ends = np.cumsum(self.grids.prod(1))
        reference = np.searchsorted(ends, self.index, side="right")
        inside = self.index - (ends - self.grids.prod(1))[reference]
        row, column = np.divmod(inside, self.grids[reference, 1])
        return np.stack([reference, row, column], -1)


def write(path: Path, restored: Restoration) -> None:
    """Keeps what matching chose for a batch's first picture, as an npz file."""
    assert restored.index is not None
    assert restored.score is not None
    index = restored.index[0]
    if (index < 0).any():  # the border's positions have no match: shown is their neighbour's
        rows, columns = (torch.arange(side).clamp(1, side - 2) for side in index.shape)
        index = index[rows.to(index.device)][:, columns.to(index.device)]
    with whole(path) as temporary:
        np.savez_compressed(
            temporary,
            index=index.cpu().numpy().astype(np.int32),
            score=restored.score[0, 0].float().cpu().numpy().astype(np.float16),
            grids=np.array(restored.grids, np.int32),
        )


def read(path: Path) -> Choices:
    """Reads such a file; UserError when it is damaged."""
    arrays = foreign.read_npz(path, ("index", "score", "grids"))
    index, score, grids = arrays["index"], arrays["score"], arrays["grids"]
    with foreign.reading(path):
        whole = index.dtype.kind in "iu" and grids.dtype.kind in "iu" and score.dtype.kind == "f"
        if not whole or index.ndim != 2 or score.shape != index.shape:
            raise ValueError("index and score are not of one picture")
        if grids.ndim != 2 or grids.shape[1] != 2 or (grids < 1).any() or (grids > 1 << 20).any():
            raise ValueError("grids are not of pictures")
        most = int(grids.astype(np.int64).prod(1).sum())
        if index.size and (index.min() < 0 or index.max() >= most):
            raise ValueError("index leads outside the references")
    return Choices(index, score.astype(np.float32), grids)
