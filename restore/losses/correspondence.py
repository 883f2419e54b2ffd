"""A term that trains matching itself, where the true correspondence is known."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restore.errors import UserError
from restore.types import Problem, Restoration
from restore.utils import distributed


def true_places(
    homography_N33: Tensor, height: int, width: int, step: float, at: float | None = None
) -> Tensor:
    """Where in the reference's grid each position of the target's grid belongs.

    Args:
        homography_N33: takes the target's pixels to the reference's.
        height: of the target's grid.
        width: of the target's grid.
        step: pixels between two positions of either grid.
        at: the pixel of the first position, along both sides; None: the middle of its square.

    Returns:
        N(H·W)2 real-valued columns and rows of the reference's grid, which may lie outside it.
    """
    device = homography_N33.device
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    middle = (step - 1) / 2 if at is None else at
    points = torch.stack([columns, rows, torch.zeros_like(rows)], -1).view(-1, 3).double()
    points = points * step + middle
    points[:, 2] = 1
    there = points @ homography_N33.double().mT
    return ((there[..., :2] / there[..., 2:]) - middle) / step


def known(
    restored: Restoration, problem: Problem, at: float | None = None
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Queries and keys, true places in the key's grid, and the pixels between two positions.

    Vectors are in float32, and are to be compared in it: near 1, bfloat16 has steps of 1/256.

    Args:
        restored, problem: as losses are called with.
        at: see `true_places`; C2-Matching takes a position for the place of its first pixel, 0.

    Raises:
        UserError: a backbone without vectors, or pairs of which nothing is known.
    """
    query, key = restored.query, restored.key
    if query is None or key is None:
        raise UserError(
            "a loss of correspondence needs a backbone that returns its query and key vectors "
            "(backbone=matching or matching_contrastive)"
        )
    if problem.homography is None:
        raise UserError(
            "a loss of correspondence needs pairs whose correspondence is known (data=warped)"
        )
    height, width = query.shape[-2:]
    step = problem.inputs["low_up"].shape[-1] / width
    places = true_places(problem.homography, height, width, step, at).float()
    return query.float(), key.float(), places, step


def mean_over_pictures(losses: list[Tensor], vectors: Tensor) -> Tensor:
    """Mean over those pictures, of all processes, of which something is known; else 0.

    Args:
        losses: of this process's pictures that count.
        vectors: of this process; a loss of 0 has their graph.
    """
    count = distributed.mean(vectors.new_tensor(float(len(losses))))
    total = torch.stack(losses).sum() if losses else vectors.sum() * 0
    return total / count.clamp_min(1e-12)


class Correspondence(nn.Module):
    """Cross-entropy of the true place among all places of the reference, as a softmax has it.

    The place is the mean over the four positions around the true one, by their nearness. Queries
    whose place lies outside the reference do not count. (InfoNCE, van den Oord et al. 2018, with
    all positions of the reference as negatives; the hardest ones weigh most by themselves.)

    The answer must bring `query` and `key` vectors, and the backbone its `sharpness`.
    """

    def forward(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        query, key, places, _ = known(restored, problem)
        rows, columns = key.shape[-2:]
        limit = places.new_tensor([columns - 1, rows - 1])
        inside = ((places >= 0) & (places <= limit)).all(-1)
        sharpness = restored.sharpness
        losses = []
        for image in range(len(query)):
            here, there = inside[image], places[image][inside[image]]
            if not len(there):
                continue
            vectors = query[image].flatten(1).T[here]
            with torch.autocast(query.device.type, enabled=False):
                likeness = F.log_softmax(vectors @ key[image].flatten(1) * sharpness, dim=1)
            start = there.floor().minimum(limit - 1).clamp_min(0)
            share = there - start
            column, row = start.long().unbind(1)
            total = likeness.new_zeros(len(there))
            for down in (0, 1):
                for right in (0, 1):
                    weight = (share[:, 0] if right else 1 - share[:, 0]) * (
                        share[:, 1] if down else 1 - share[:, 1]
                    )
                    at = ((row + down).clamp_max(rows - 1)) * columns
                    at = at + (column + right).clamp_max(columns - 1)
                    total = total + weight * likeness.gather(1, at[:, None])[:, 0]
            losses.append(-total.mean())
        return mean_over_pictures(losses, query)
