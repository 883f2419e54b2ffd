"""Terms that train a matching network as C2-Matching does, by its hardest mistakes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from restore.losses.correspondence import known, mean_over_pictures
from restore.models.extractors.contrastive import ContrastiveStems
from restore.types import Problem, Restoration


@dataclass(frozen=True)
class Points:
    """Positions of one picture's grid whose true place in the reference's is known.

    `own` and `there` are K2 columns and rows; `query` and `key` K, C the unit vectors at both.
    """

    own: Tensor
    there: Tensor
    query: Tensor
    key: Tensor


def points(query_CHW: Tensor, key_CHW: Tensor, places_K2: Tensor, border: float) -> Points:
    """Those whose place lies inside the reference.

    Args:
        query_CHW, key_CHW: unit vectors.
        places_K2: column and row in the key's grid of each position of the query's, row-major.
        border: least distance from the reference's border, in positions.
    """
    _, H, W = query_CHW.shape
    height, width = key_CHW.shape[1:]
    size = places_K2.new_tensor([width, height])
    inside = ((places_K2 > border) & (places_K2 < size - border)).all(-1)
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    own = torch.stack([columns, rows], -1).view(-1, 2).to(query_CHW.device)[inside]
    # The place may round to just outside where the border is less than half a position.
    there = places_K2[inside].round().long().minimum(size.long() - 1).clamp_min(0)
    return Points(
        own, there, query_CHW.flatten(1).T[inside], key_CHW[:, there[:, 1], there[:, 0]].T
    )


def hardest(pairs: Points, query_CHW: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Squared distance 2 − 2cos of each true pair, and of the most alike false one (inf: none).

    False are, for a query, the other points' places beyond the radius of its own; and for a place,
    the positions of the query's grid beyond the radius of its point.
    """
    _, H, W = query_CHW.shape
    device = query_CHW.device
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    everywhere = torch.stack([columns, rows], -1).view(-1, 2).to(device)
    positive = 2 - 2 * (pairs.query * pairs.key).sum(1)
    with torch.autocast(device.type, enabled=False):
        least = [
            (2 - 2 * vectors @ others.T).masked_fill(_near(at, places, radius), math.inf).amin(1)
            for vectors, at, others, places in (
                (pairs.query, pairs.there, pairs.key, pairs.there),
                (pairs.key, pairs.own, query_CHW.flatten(1).T, everywhere),
            )
        ]
    return positive, torch.minimum(*least)


def _near(one_K2: Tensor, other_L2: Tensor, radius: int) -> Tensor:
    return (one_K2[:, None] - other_L2).abs().amax(-1) <= radius


class Triplet(nn.Module):
    """max(0, margin + d(true pair) − d(hardest false pair)), the mean over points, then pictures.

    Dusmanu et al., "D2-Net", CVPR 2019, equation 6 without its weights, as C2-Matching trains.
    The answer must bring `query` and `key` vectors (`backbone=matching`), and the data
    the correspondence (`data=warped`). Pictures with too few points do not count.

    Args:
        margin: see above.
        radius: how far, in positions, what is near the truth is not false.
        border: least distance of a true place from the reference's border, in pixels.
        least: number of points.
    """

    def __init__(
        self,
        margin: Annotated[float, Field(ge=0)] = 1.0,
        radius: Annotated[int, Field(ge=0)] = 4,
        border: Annotated[float, Field(ge=0)] = 10.0,
        least: Annotated[int, Field(ge=1)] = 128,
    ):
        super().__init__()
        self.margin, self.radius, self.border, self.least = margin, radius, border, least

    def forward(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        query, key, places, step = known(restored, problem, at=0.0)
        return self.measured(query, key, places, self.border / step)

    def measured(self, query: Tensor, key: Tensor, places: Tensor, border: float) -> Tensor:
        """Of vectors NCHW and places N(H·W)2; see `points`."""
        losses = []
        for own, other, place in zip(query, key, places):
            pairs = points(own, other, place, border)
            if len(pairs.own) >= self.least:
                positive, negative = hardest(pairs, own, self.radius)
                losses.append(F.relu(self.margin + positive - negative).mean())
        return mean_over_pictures(losses, query)


class Distillation(nn.Module):
    """KL(teacher ‖ student) of how alike the points' queries and true places are.

    A teacher that sees the target sharp tells the student, which sees it low, how alike each point
    is to all others' places (C2-Matching, equation 4).

    Args:
        weights: the teacher's, see `ContrastiveStems`.
        temperature: of both softmaxes.
        border, least: see `Triplet`.
    """

    def __init__(
        self,
        weights: str | None,
        temperature: Annotated[float, Field(gt=0)] = 0.15,
        border: Annotated[float, Field(ge=0)] = 10.0,
        least: Annotated[int, Field(ge=1)] = 128,
    ):
        super().__init__()
        self.teacher = ContrastiveStems(weights).requires_grad_(False)
        self.provenance = self.teacher.provenance
        self.temperature, self.border, self.least = temperature, border, least

    def forward(
        self, restored: Restoration, problem: Problem, models: Mapping[str, nn.Module]
    ) -> Tensor:
        query, key, places, step = known(restored, problem, at=0.0)
        assert problem.target is not None, "training problems have a target"
        with torch.no_grad():
            wanted = self.teacher.query(problem.target, problem.target)
            known_key = self.teacher.key(problem.inputs["reference"])
        teacher = wanted.float(), known_key.float()
        return self.measured((query, key), teacher, places, self.border / step)

    def measured(
        self,
        student: tuple[Tensor, Tensor],
        teacher: tuple[Tensor, Tensor],
        places: Tensor,
        border: float,
    ) -> Tensor:
        """Of queries and keys NCHW of both, and places N(H·W)2; see `points`."""
        losses = []
        for *vectors, place in zip(*student, *teacher, places):
            student_points = points(vectors[0], vectors[1], place, border)
            teacher_points = points(vectors[2], vectors[3], place, border)
            if len(student_points.own) >= self.least:
                with torch.autocast(places.device.type, enabled=False):
                    own, wanted = (
                        pairs.query @ pairs.key.T / self.temperature
                        for pairs in (student_points, teacher_points)
                    )
                losses.append(
                    F.kl_div(own.log_softmax(1), wanted.softmax(1), reduction="batchmean")
                )
        return mean_over_pictures(losses, student[0])
