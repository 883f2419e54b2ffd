"""Aligned attention against the alignment that its pictures were made with."""

import pytest
import torch
import torch.nn.functional as F

from restore.models.attention import TextureAttention
from restore.models.attention.aligned import Aligned
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import Hard


def field(channels: int, height: int, width: int, seed: int, finer: int = 1) -> torch.Tensor:
    """Something smooth and different everywhere."""
    noise = torch.randn(
        1, channels, height // 2, width // 2, generator=torch.Generator().manual_seed(seed)
    )
    size = height * finer, width * finer
    return F.interpolate(noise, size, mode="bicubic", align_corners=False)


def seen(picture: torch.Tensor, matrix: torch.Tensor, shift: torch.Tensor, size: tuple[int, int]):
    """The picture through an affine map of positions of the coarsest grid, and where that lies."""
    height, width = size
    scale = picture.shape[-1] / 24
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    own = (torch.stack([x, y], -1) + 0.5) / scale - 0.5
    there = own @ matrix.T + shift
    sides = torch.tensor([24.0, 24.0])
    grid = (2 * there + 1) / sides - 1
    return F.grid_sample(picture, grid[None], "bicubic", "border", align_corners=False), there


def transfer(rule: torch.nn.Module, query, keys, values):
    attention = TextureAttention(Pixels(), rule)
    memories = [attention.encode_reference(k, v) for k, v in zip(keys, values, strict=True)]
    return attention(query, sum(memories[1:], memories[0]))


@pytest.mark.parametrize(
    ("turn", "size", "shift"),
    [(0.0, 1.0, (1.3, -0.6)), (0.15, 1.1, (0.4, 2.7)), (0.0, 0.8, (3, 3))],
)
def test_textures_lie_where_the_reference_shows_the_same(turn, size, shift):
    angle = torch.tensor(turn)
    rows = [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]
    matrix = torch.stack([torch.stack(row) for row in rows]) * size
    key, value = field(32, 24, 24, seed=0), field(3, 24, 24, seed=1, finer=4)
    query, there = seen(key, matrix, torch.tensor(shift), (24, 24))
    expected, _ = seen(value, matrix, torch.tensor(shift), (96, 96))
    inside = ((there > 2) & (there < 21)).all(-1)[None, None]
    assert inside.float().mean() > 0.4
    fine = inside.repeat_interleave(4, -1).repeat_interleave(4, -2).expand_as(expected)
    errors = {}
    for rule in (Hard(), Aligned()):
        made = transfer(rule, query, [key], [[value]])
        assert made.textures[0].shape == expected.shape
        errors[type(rule)] = (made.textures[0] - expected)[fine].square().mean()
        if isinstance(rule, Aligned):
            assert made.score[inside].quantile(0.1) > 0.8
    assert errors[Aligned] < 0.25 * errors[Hard]


def test_pictures_with_nothing_in_common_have_low_scores():
    query, value = field(32, 24, 24, seed=0), field(3, 24, 24, seed=1)
    for other in (field(32, 24, 24, seed=2), torch.ones(1, 32, 24, 24)):
        score = transfer(Aligned(), query, [other], [[value]]).score
        assert score.min() >= 0
        assert score.quantile(0.95) < 0.3
        assert transfer(Hard(), query, [other], [[value]]).score.mean() > 2 * score.mean()


def test_of_several_references_each_position_takes_the_better():
    query = field(32, 24, 24, seed=0)
    left, right = query.clone(), query[..., :20].clone()
    left[..., 12:], right[..., :12] = field(32, 24, 12, seed=3), field(32, 24, 12, seed=4)
    values = [field(3, 24, 24, seed=1), field(3, 24, 20, seed=2)]
    alone = [
        transfer(Aligned(), query, [k], [[v]]) for k, v in zip((left, right), values, strict=True)
    ]
    both = transfer(Aligned(), query, [left, right], [[value] for value in values])
    assert torch.equal(both.score, torch.maximum(alone[0].score, alone[1].score))
    first = alone[0].score >= alone[1].score
    assert 0.2 < first.float().mean() < 0.8
    expected = torch.where(first, alone[0].textures[0], alone[1].textures[0])
    torch.testing.assert_close(both.textures[0], expected)
    assert both.index[first[:, 0]].max() < 24 * 24 <= both.index[~first[:, 0]].min()


def test_gradients_reach_what_is_transferred_and_what_is_compared():
    key = field(16, 12, 12, seed=0).requires_grad_()
    value = field(3, 12, 12, seed=1, finer=2).requires_grad_()
    query = (key.detach() + 0.1 * field(16, 12, 12, seed=2)).requires_grad_()
    made = transfer(Aligned(), query, [key], [[value]])
    (made.textures[0].square().sum() + made.score.sum()).backward()
    for one in (query, key, value):
        assert one.grad.isfinite().all()
        assert one.grad.abs().sum() > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_number_in_the_end_and_no_place(bad):
    query, value = field(8, 8, 8, seed=0), field(3, 8, 8, seed=1)
    query[:, 3] = bad
    assert (
        not transfer(Aligned(), query, [field(8, 8, 8, seed=2)], [[value]]).score.isfinite().all()
    )
