"""Smooth continuation into holes: each pixel the mean of its neighbours."""

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import splu
from torch import Tensor


class Membrane:
    """Values inside holes from those around: each pixel the mean of its four neighbours.

    The equations depend on the hole alone and are factorised once.
    """

    def __init__(self, hole_HW: Tensor):
        self.hole = hole_HW.numpy()
        number = np.cumsum(self.hole).reshape(self.hole.shape) - 1  # of each pixel in the hole
        at = np.argwhere(self.hole)
        rows, columns, values = [number[self.hole]], [number[self.hole]], []
        degree = np.zeros(len(at))
        self.around: list[tuple[np.ndarray, np.ndarray]] = []  # pixels, their known neighbours
        for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            near = at + step
            inside = ((near >= 0) & (near < self.hole.shape)).all(1)
            degree += inside
            own, near = np.flatnonzero(inside), near[inside]
            unknown = self.hole[tuple(near.T)]
            rows.append(own[unknown])
            columns.append(number[tuple(near[unknown].T)])
            values.append(np.full(int(unknown.sum()), -1.0))
            self.around.append((own[~unknown], near[~unknown]))
        entries = np.concatenate([degree, *values])
        table = csr_array((entries, (np.concatenate(rows), np.concatenate(columns))))
        self.solver = splu(table.tocsc())

    def over(self, values_CHW: Tensor) -> Tensor:
        """The values with those inside the holes replaced; what stood there is not looked at."""
        values = values_CHW.double().numpy().copy()
        sums = np.zeros((int(self.hole.sum()), len(values)))
        for own, near in self.around:
            sums[own] += values[:, near[:, 0], near[:, 1]].T
        values[:, self.hole] = self.solver.solve(sums).T
        return torch.from_numpy(values).float()
