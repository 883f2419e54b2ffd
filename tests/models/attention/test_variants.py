"""Every attention variant against the plain formulation, and what the variants promise."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from restore.cli import main
from restore.config import registry
from restore.errors import UserError
from restore.models import weights
from restore.models.attention import TextureAttention, soft
from restore.models.attention.embedding import Pixels, Projection, Reduced
from restore.models.attention.rules import Hard, StraightThrough
from restore.models.attention.soft import Soft
from tests.helpers import published
from tests.helpers.plain_attention import attend

side = st.integers(1, 10)
SHAPES = ((5, 1), (3, 2), (2, 4))


class Single(Pixels):
    """Compares single positions."""

    patch = 1


def normal(seed: int):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    return draw


def reference(draw, batch, channels, size):
    h, w = size
    return draw(batch, channels, h, w), [draw(batch, c, h * s, w * s) for c, s in SHAPES]


def union(attention, references):
    memories = [attention.encode_reference(key, values) for key, values in references]
    return sum(memories[1:], memories[0])


def assert_same(got, expected, inputs):
    """Score, textures and all gradients."""
    outputs, plain = [got.score, *got.textures], [expected[0], *expected[1]]
    for one, other in zip(outputs, plain, strict=True):
        torch.testing.assert_close(one, other)
    factors = [torch.randn_like(x) for x in plain]
    gradients = [
        torch.autograd.grad(
            sum((w * x).sum() for w, x in zip(factors, xs) if x.requires_grad),
            inputs,
            materialize_grads=True,
            allow_unused=True,
        )
        for xs in (outputs, plain)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(side, side),
    key_sizes=st.lists(st.tuples(side, side), min_size=1, max_size=2),
    batch=st.integers(1, 2),
    patch=st.sampled_from([1, 3]),
    cosine=st.booleans(),
    temperature=st.sampled_from([None, 0.1]),
    best=st.sampled_from([None, 3]),
    tile=st.sampled_from([200, 3000, 1 << 22]),
)
def test_soft_equals_the_plain_formulation_with_gradients(
    seed, size, key_sizes, batch, patch, cosine, temperature, best, tile
):
    draw = normal(seed)
    query = draw(batch, 4, *size)
    references = [reference(draw, batch, 4, key_size) for key_size in key_sizes]
    attention = TextureAttention(
        Pixels() if patch == 3 else Single(), Soft(cosine, temperature, best)
    )
    before = soft._TILE["cpu"]
    soft._TILE["cpu"] = tile  # every way to cut the work into tiles gives the same
    try:
        got = attention(query, union(attention, references))
        keys, values = zip(*references)
        expected = attend(query, list(keys), list(values), patch, cosine, temperature, best)
        inputs = [query, *keys, *(value for group in values for value in group)]
        assert_same(got, expected, inputs)
    finally:
        soft._TILE["cpu"] = before


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.tuples(side, side),
    key_sizes=st.lists(st.tuples(side, side), min_size=1, max_size=3),
    batch=st.integers(1, 2),
    patch=st.sampled_from([1, 3]),
)
def test_hard_is_exact_over_the_union_of_references(seed, size, key_sizes, batch, patch):
    draw = normal(seed)
    query = draw(batch, 4, *size)
    references = [reference(draw, batch, 4, key_size) for key_size in key_sizes]
    attention = TextureAttention(Pixels() if patch == 3 else Single(), Hard())
    got = attention(query, union(attention, references))
    keys, values = zip(*references)
    expected = attend(query, list(keys), list(values), patch, best=1)
    assert_same(got, expected, [query, *keys, *(v for group in values for v in group)])


def test_references_of_a_union_win_in_their_order():
    draw = normal(0)
    key, values = reference(draw, 1, 4, (5, 6))
    attention = TextureAttention(Pixels(), Hard())
    alone = attention(key, attention.encode_reference(key, values))
    doubled = attention(key, union(attention, [(key, values)] * 2))
    assert torch.equal(alone.index, doubled.index)


def test_projection_is_a_linear_map_of_unfolded_patches():
    draw = normal(1)
    features, width = draw(2, 3, 5, 6), 7
    embedding = Projection(inputs=3, channels=3, width=width, start="random").double()
    for made, layer in (
        (embedding.query(features), embedding.project_query),
        (embedding.key(features), embedding.project_key),
    ):
        flat = layer.weight.flatten(1) @ F.unfold(features, 3, padding=1)
        torch.testing.assert_close(made.flatten(2), flat)
    assert not torch.equal(embedding.query(features), embedding.key(features))


def test_projections_from_the_identity_begin_as_the_patches_themselves():
    draw = normal(2)
    query, (key, values) = draw(1, 6, 7, 8), reference(draw, 1, 6, (9, 5))
    projected = TextureAttention(Projection(6, 6), Hard()).double()
    plain = TextureAttention(Pixels(), Hard())
    one = projected(query, projected.encode_reference(key, values))
    other = plain(query, plain.encode_reference(key, values))
    assert torch.equal(one.index, other.index)
    torch.testing.assert_close(one.score, other.score)


@pytest.mark.parametrize("rule", [Hard(), Soft()], ids=["hard", "soft"])
def test_heads_are_attentions_of_their_own(rule):
    draw = normal(3)
    channels, heads = 8, 2
    query, key = draw(2, channels, 6, 5), draw(2, channels, 4, 7)
    values = [draw(2, 4, 4 * s, 7 * s) for s in (1, 2)]
    embedding = Projection(channels, channels, width=6, heads=heads, start="random").double()
    attention = TextureAttention(embedding, rule)
    got = attention(query, attention.encode_reference(key, values))
    single = TextureAttention(Single(), rule)
    made = embedding.query(query).chunk(heads, 1), embedding.key(key).chunk(heads, 1)
    parts = [
        single(q, single.encode_reference(k, [value.chunk(heads, 1)[i] for value in values]))
        for i, (q, k) in enumerate(zip(*made))
    ]
    torch.testing.assert_close(got.score, sum(part.score for part in parts) / heads)
    for place, texture in enumerate(got.textures):
        expected = torch.cat([part.textures[place] for part in parts], 1)
        torch.testing.assert_close(texture, expected)


def test_straight_through_has_the_one_rules_result_and_the_others_gradient():
    draw = normal(4)
    query, (key, values) = draw(1, 4, 6, 6), reference(draw, 1, 4, (5, 5))
    results = {}
    for name, rule in (
        ("hard", Hard()),
        ("soft", Soft()),
        ("both", StraightThrough(Hard(), Soft())),
    ):
        attention = TextureAttention(Pixels(), rule)
        textures = attention(query, attention.encode_reference(key, values)).textures
        factors = [torch.ones_like(x).cumsum(-1) for x in textures]
        loss = sum((w * x).sum() for w, x in zip(factors, textures))
        gradient = torch.autograd.grad(loss, query, allow_unused=True)[0]
        results[name] = textures, gradient
    for one, other in zip(results["both"][0], results["hard"][0]):
        torch.testing.assert_close(one, other)
    assert results["hard"][1] is None
    torch.testing.assert_close(results["both"][1], results["soft"][1])


@pytest.mark.parametrize("channels", [256, 128, 64, 32])
def test_reduced_embeddings_compare_nine_times_their_channels(channels):
    attention = registry.build(
        "attention", "reduced", f"attention.embedding.channels={channels}", RANDOM
    )
    features = torch.rand(1, 256, 4, 5)
    assert attention.embedding.query(features).shape == (1, channels, 4, 5)
    assert sum(p.numel() for p in attention.parameters()) == (
        0 if channels == 256 else 9 * 256 * channels + channels
    )


RANDOM = "pretrained.vgg19=random"
VARIANTS = registry.names("attention")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_in_half_precision(name):
    attention = registry.build("attention", name, RANDOM)
    torch.manual_seed(0)
    query, key = torch.rand(2, 1, 256, 6, 5)
    values = [torch.rand(1, c, 6 * s, 5 * s, requires_grad=True) for c, s in ((256, 1), (64, 2))]
    exact = attention(query, attention.encode_reference(key, values)).textures
    with torch.autocast("cpu", torch.bfloat16):
        half = [value.bfloat16() for value in values]
        textures = attention(query, attention.encode_reference(key, half)).textures
    for one, other in zip(textures, exact):
        torch.testing.assert_close(one.float(), other, atol=0.03, rtol=0.02)
    sum(x.float().sum() for x in textures).backward()
    # With values=true the coarsest one passes through a convolution.
    assert values[1].grad.isfinite().all()
    assert values[1].grad.sum() > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs_in_the_network_and_trains_what_it_says(name):
    network = registry.build(
        *("backbone", "ttsr", f"attention={name}", "backbone.features=4"),
        *("backbone.blocks=[1,1,1,1]", RANDOM),
    )
    torch.manual_seed(0)
    low, low_up = torch.rand(1, 3, 5, 6), torch.rand(1, 3, 20, 24)
    pair = torch.rand(1, 3, 24, 16), torch.rand(1, 3, 24, 16)
    restored = network(low, low_up, *pair)
    assert restored.image.shape == (1, 3, 20, 24)
    restored.image.sum().backward()
    own = dict(network.attention.named_parameters())
    trained = {key for key, p in own.items() if p.grad is not None and p.grad.abs().sum() > 0}
    if name.endswith("published"):
        assert own
        assert not trained, "the thesis's optimizer did not know them"
    else:
        assert trained == set(own)


def test_reduced_values_without_textures_at_one_are_refused():
    with pytest.raises(UserError, match="reduces the textures at ×1"):
        registry.build(
            "backbone", "ttsr", "attention=soft_published", "backbone.textures=[2,4]", RANDOM
        )


def test_widths_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="does not divide by 5 heads"):
        Projection(heads=5)
    with pytest.raises(UserError, match="needs a width of 9 · channels = 576, not 100"):
        Projection(width=100)
    assert Reduced(8, 8).channels([8, 4]) == [8, 4]


# The thesis's published layouts -------------------------------------------------------------


def test_soft_attention_of_the_thesis_to_the_level(tmp_path: Path):
    torch.save(published.case("thesis_soft"), tmp_path / "weights.pt")
    folder, output = published.GOLDEN / "thesis_soft", tmp_path / "restored.png"
    code = main(
        [
            *("apply", f"weights={tmp_path / 'weights.pt'}", f"input={folder / 'low.png'}"),
            *(f"reference={folder / 'reference.png'}", f"output={output}"),
        ]
    )
    assert code == 0
    restored, expected = (
        np.asarray(Image.open(path)).astype(int) for path in (output, folder / "expected.png")
    )
    assert np.abs(restored - expected).max() <= 1


def layout(name: str) -> dict[str, list[int]]:
    return json.loads((published.GOLDEN / name).read_text())["keys"]


def test_reduced_and_projection_layouts_load_and_do_as_they_say(tmp_path: Path):
    file = tmp_path / "weights.pt"
    projections = published.weights(layout("thesis_projections.json"), gain=0.95)
    torch.save(projections, file)
    network = weights.load(file).backbone()
    features = torch.rand(1, 256, 4, 5)
    reduced = F.conv2d(
        features,
        projections["reduce_dimensionality.weight"],
        projections["reduce_dimensionality.bias"],
        padding=1,
    )
    with torch.no_grad():
        query = network.attention.embedding.query(features)
    unfolded = F.unfold(reduced, 3, padding=1)
    expected = projections["SearchTransfer.w_qs.weight"] @ unfolded
    torch.testing.assert_close(query.flatten(2), expected, atol=1e-4, rtol=1e-4)

    torch.save(published.case("thesis_soft"), file)  # the reduced variant has the same entries
    loaded = weights.load(file, ["attention=reduced_published"])
    assert isinstance(loaded.backbone().attention.matching, Hard)
    assert "attention=reduced_published" in loaded.sentence()
    assert isinstance(weights.load(file).backbone().attention.matching, Soft)


@pytest.mark.slow
def test_gradients_of_soft_attention_at_256_pixels_stay_below_4_gb():
    program = (
        "import resource, torch\n"
        "from restore.models.attention import TextureAttention\n"
        "from restore.models.attention.embedding import Pixels\n"
        "from restore.models.attention.soft import Soft\n"
        "def draw(c, s): return torch.rand(1, c, 64 * s, 64 * s, requires_grad=True)\n"
        "query, key = draw(64, 1), draw(64, 1)\n"
        "values = [draw(64, 1), draw(128, 2), draw(64, 4)]\n"
        "attention = TextureAttention(Pixels(), Soft())\n"
        "transfer = attention(query, attention.encode_reference(key, values))\n"
        "(transfer.score.sum() + sum(x.sum() for x in transfer.textures)).backward()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 4 * 2**30
