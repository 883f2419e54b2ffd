"""Texture attention against the plain published formulation."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.models.attention import TextureAttention, search
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import Hard
from restore.models.attention.transfer import some_rows
from restore.models.attention.windows import Windows
from restore.tools.bench.plain import attend

side = st.integers(1, 12)


def hard() -> TextureAttention:
    return registry.build("attention", "hard", "pretrained.vgg19=random")


def draw(seed, size, key_size, batch=1, channels=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    (H, W), (h, w) = size, key_size
    values = [normal(batch, c, h * s, w * s) for c, s in ((5, 1), (3, 2), (2, 4))]
    return normal(batch, channels, H, W), normal(batch, channels, h, w), values


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(side, side),
    key_size=st.tuples(side, side),
    batch=st.integers(1, 3),
    block=st.sampled_from([1, 300, 5000, 1 << 20]),
)
def test_equals_the_plain_formulation_with_gradients(seed, size, key_size, batch, block):
    query, key, values = draw(seed, size, key_size, batch)
    before = search._BLOCK["cpu"]
    search._BLOCK["cpu"] = block  # every way to cut the work into blocks gives the same
    try:
        attention = hard()
        got = attention(query, attention.encode_reference(key, values))
    finally:
        search._BLOCK["cpu"] = before
    score, textures, index = attend(query, key, values)
    assert torch.equal(got.index, index)
    torch.testing.assert_close(got.score, score)
    outputs, expected = [got.score, *got.textures], [score, *textures]
    for one, other in zip(got.textures, textures):
        torch.testing.assert_close(one, other)
    weights = [torch.randn_like(x) for x in expected]
    inputs = [query, key, *values]
    gradients = [
        torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, xs)), inputs)
        for xs in (outputs, expected)
    ]
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_picks_the_same_or_an_equal(seed):
    query, key, values = draw(seed, (24, 17), (19, 30), 2, 32, torch.float32)
    attention = hard()
    with torch.no_grad():
        got = attention(query, attention.encode_reference(key, values))
        score, _, index = attend(query, key, values)
        exact, _, _ = attend(query.double(), key.double(), [])
    torch.testing.assert_close(got.score, score, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.score.double(), exact, atol=1e-5, rtol=0)
    assert (got.index != index).float().mean() < 0.01


def test_of_equal_maxima_the_first_and_of_zeros_score_zero():
    attention = hard()
    flat = torch.ones(1, 4, 6, 7)
    got = attention(flat, attention.encode_reference(flat, [flat]))
    inner = got.index[:, 1:-1, 1:-1]
    assert (inner == 7 + 1).all(), "all inner patches are alike: the first is at row 1, column 1"
    nothing = torch.zeros(1, 4, 3, 3)
    got = attention(nothing, attention.encode_reference(flat, [flat]))
    assert torch.equal(got.score, torch.zeros(1, 1, 3, 3))


def test_matching_stays_exact_under_autocast():
    query, key, values = draw(7, (9, 8), (10, 6), 1, 16, torch.float32)
    attention = hard()
    with torch.no_grad():
        plain = attention(query, attention.encode_reference(key, values))
        with torch.autocast("cpu", torch.bfloat16):
            inside = attention(query, attention.encode_reference(key, values))
    assert torch.equal(plain.index, inside.index)
    assert torch.equal(plain.score, inside.score)


@pytest.mark.slow
def test_compiles_without_a_break():
    query, key, values = draw(3, (6, 5), (7, 4), 1, 8, torch.float32)
    attention = hard()

    def whole(query, key, *values):
        transfer = attention(query, attention.encode_reference(key, list(values)))
        return transfer.score, *transfer.textures

    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(query, key, *values), whole(query, key, *values)):
        torch.testing.assert_close(one, other)


def test_memory_grows_with_the_positions_not_their_square():
    program = (
        "import resource, torch\n"
        "from restore.models.attention.search import nearest_patch\n"
        "x = torch.rand(1, 8, 96, 96)\n"
        "nearest_patch(x[..., :8, :8], x[..., :8, :8])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "nearest_patch(x, x)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout)
    assert kilobytes * 1024 < 0.15 * (96 * 96) ** 2 * 4, "a part of the table of all pairs"


@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (4, 5, 40, 12, 9, 8))),
    count=st.integers(2, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_threads_choose_as_one_does(sizes, count, seed):
    """Also among equals, of which there are many where values are few."""
    N, C, H, W, Hk, Wk = sizes
    generator = torch.Generator().manual_seed(seed)
    query, key = (
        torch.randint(-1, 2, (N, C, *size), generator=generator).float()
        for size in ((H, W), (Hk, Wk))
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        score, index = search.nearest_patch(query, key)
        torch.set_num_threads(count)
        with torch.inference_mode(bool(seed % 2)):
            found = search.nearest_patch(query, key)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[1], index)
    torch.testing.assert_close(found[0], score)


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(3, 18), st.integers(3, 18)),
    rows=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    rule=st.sampled_from([Hard(), Windows()]),
)
def test_some_rows_of_a_texture_are_those_of_the_whole(seed, size, rows, rule):
    query, key, values = draw(seed, size, (9, 7), 2)
    attention = TextureAttention(Pixels(), rule)
    memory = attention.encode_reference(key, values)
    at_once = attention(query, memory).textures
    with torch.no_grad():
        textures = attention(query, memory).textures
        for part, whole, again in zip(textures.parts, at_once, textures, strict=True):
            top, bottom = sorted(int(share * whole.shape[-2]) for share in rows)
            torch.testing.assert_close(some_rows(part, top, bottom), whole[..., top:bottom, :])
            torch.testing.assert_close(again, whole)
