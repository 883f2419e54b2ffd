"""MASA-SR, C2-Matching and DATSR beside tensors of the published networks."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from restore.config import registry
from restore.errors import UserError
from restore.models import weights
from restore.models.attention import TextureAttention, windows
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import HardInside, MatchingRule
from restore.models.attention.windows import Windows
from restore.models.backbones.reference import ReferenceBackbone
from restore.models.backbones.transfer import DeformableTransfer, around
from restore.tools import contract
from restore.tools.bench import plain_family
from tests import GOLDEN, SHARED
from tests.helpers.published import drawn

FILES = {"masa": "masa", "c2_matching": "c2", "datsr": "datsr"}
COMPUTED = ("relative_position_index", "attn_mask")


class Case:
    """A golden file: its tensors, and the published networks' files made anew."""

    def __init__(self, name: str, folder: Path):
        self.tensors = np.load(GOLDEN / "family" / f"{FILES[name]}_small.npz")
        meta = json.loads(str(self["meta"]))
        self.files = {}
        for network, keys in meta["keys"].items():
            kept = {key: shape for key, shape in keys.items() if not key.endswith(COMPUTED)}
            self.files[network] = folder / f"{network}.pth"
            torch.save(drawn(kept, meta["gains"][network], meta.get("tie")), self.files[network])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self[name])

    def network(self) -> ReferenceBackbone:
        files = {name: str(path) for name, path in self.files.items()}
        main = files.get("masa") or files["restoration"]
        pretrained = {"vgg19": files.get("vgg19"), "contrastive": files.get("extractor")}
        network = weights.load(main, [], pretrained).backbone()
        assert isinstance(network, ReferenceBackbone)
        return network


def unbound(network: ReferenceBackbone) -> ReferenceBackbone:
    """Its picture not kept within [0, 1], as published; nothing else is as in training."""
    network.training = True
    return network


@torch.no_grad()
def test_masa_is_the_published_network(tmp_path: Path):
    case = Case("masa", tmp_path)
    network = unbound(case.network())
    low, reference, reference_low = (
        case.tensor(name).flip(1) for name in ("in_lr", "in_ref", "in_ref_down")
    )
    result = network(low, low, reference, reference_low, reference_low)
    assert (result.image.flip(1) - case.tensor("out")).abs().max() < 1e-4
    for scale, texture in zip((1, 2, 4), result.textures, strict=True):
        expected = case.tensor(f"warp_x{scale}_mean")
        assert (texture.mean(1) - expected).abs().max() < 1e-4
    score = result.score[:, 0].view(1, 2, 8, 3, 8).transpose(2, 3).reshape(6, 8, 8)
    assert (score - case.tensor("fine_corr")).abs().max() < 1e-5
    # Positions in the windows, of which only the difference to the first is known.
    index = result.index.view(1, 2, 8, 3, 8).transpose(2, 3).reshape(6, 64)
    fine = case.tensor("fine_index").view(6, 64).long()
    side = 13
    rows, columns = (index // 28, index % 28), (fine // side, fine % side)
    for ours, theirs in zip(rows, columns, strict=True):
        assert torch.equal(ours - ours[:, :1], theirs - theirs[:, :1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["c2_matching", "datsr"])
def test_deformable_networks_are_the_published_ones(name: str, tmp_path: Path):
    case = Case(name, tmp_path)
    network = unbound(case.network())
    low, low_up, reference = (case.tensor(key) for key in ("in_lq", "in_up", "in_ref"))
    result = network(low, low_up, reference, reference)
    assert (result.image - case.tensor("out")).abs().max() < 1e-4
    inner = result.index[:, 1:-1, 1:-1]
    width = result.index.shape[-1]
    index = (inner // width - 1) * (width - 2) + inner % width - 1
    assert torch.equal(index, case.tensor("match_index").long())
    assert (result.index[:, 0] == -1).all()
    found = result.score[:, 0, 1:-1, 1:-1]
    assert (found - case.tensor("match_value")).abs().max() < 1e-4
    flow = network.find(low, low_up, reference, reference).flow
    for scale, layer in ((1, "relu3_1"), (2, "relu2_1"), (4, "relu1_1")):
        expected = case.tensor(f"offset_{layer}").permute(0, 1, 4, 2, 3).flip(2).flatten(1, 2)
        ours = around(flow.float()) * scale
        ours = ours.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        assert torch.equal(ours, expected.float())


@pytest.mark.parametrize(
    ("name", "count"), [("masa", 4_028_291), ("c2_matching", 8_865_547), ("datsr", 18_026_971)]
)
def test_parameters_are_as_many_as_published(name: str, count: int):
    with torch.device("meta"):
        network = registry.build(
            "backbone", name, "pretrained.vgg19=random", "pretrained.contrastive=random"
        )
    apart = 0
    if name != "masa":
        apart = sum(x.numel() for x in network.extractor.parameters())
        assert sum(x.numel() for x in network.extractor.matching.parameters()) == 1_110_656
    assert sum(x.numel() for x in network.parameters()) - apart == count


def test_a_sentence_says_which_files_are_missing(tmp_path: Path):
    case = Case("c2_matching", tmp_path)
    with pytest.raises(UserError, match="extractor=FILE"):
        weights.load(case.files["restoration"], [], {"vgg19": str(case.files["vgg19"])})
    with pytest.raises(UserError, match="holds no matching extractor"):
        weights.load(
            case.files["restoration"],
            [],
            {"vgg19": str(case.files["vgg19"]), "contrastive": str(case.files["vgg19"])},
        )


SMALL = {
    "ttsr": ["backbone.blocks=[1,1,1,1]", "backbone.features=8"],
    "masa": ["backbone.blocks=[1,1,1,1,1,1]", "backbone.features=8"],
    "c2_matching": ["backbone.blocks=1", "backbone.content_blocks=1", "backbone.features=8"],
    "datsr": [
        "backbone.blocks=1",
        "backbone.features=8",
        "trunk.heads=2",
        "trunk.depth=2",
        "backbone.unused_blocks=null",
    ],
}
RANDOM = ["pretrained.vgg19=random", "pretrained.contrastive=random"]


@settings(max_examples=4, deadline=None)
@given(
    name=st.sampled_from(["masa", "c2_matching", "datsr"]),
    sides=st.tuples(*[st.integers(9, 22)] * 2),
    reference_sides=st.tuples(*[st.integers(4, 24)] * 2),
    batch=st.integers(1, 2),
    groups=st.sampled_from([1, 4, 8]),
    table=st.sampled_from([1, 1 << 21]),
    largest_map=st.sampled_from([1, 1 << 26]),
    gain=st.sampled_from([0.7, 1.0, 1.4]),
    seed=st.integers(0, 2**31),
)
@torch.no_grad()
def test_they_are_the_plain_formulation(
    name, sides, reference_sides, batch, groups, table, largest_map, gain, seed
):
    torch.manual_seed(seed)
    words = [*SMALL[name], *RANDOM, *([] if name == "masa" else [f"transfer.groups={groups}"])]
    network = registry.build("backbone", name, *words).eval()
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.weight.mul_(gain)
        if isinstance(part, DeformableTransfer):  # which begin without offsets
            torch.nn.init.normal_(part.offset_mask.weight, std=0.05)
            part.table = {"cpu": table}  # how many rows at a time changes nothing
    network.largest_map = largest_map
    inputs = {}
    for of, (high, wide) in (("", sides), ("reference_", reference_sides)):
        inputs[f"{of}low"] = torch.rand(batch, 3, high, wide)
        inputs[f"{of}low_up"] = torch.rand(batch, 3, 4 * high, 4 * wide)
    inputs["reference"] = torch.rand_like(inputs["reference_low_up"])
    ours = network(**inputs)
    plain = plain_family.published(network, "windows" if name == "masa" else "inside")(**inputs)
    torch.testing.assert_close(ours.image, plain.image, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.score, plain.score, atol=1e-4, rtol=0)


LIGHT = ["extractor=pyramid", "extractor.features=8", "extractor.blocks=[1,1,1]"]
PARTS = [
    ["attention=topk"],
    ["attention=windows"],
    ["attention=inside", "transfer=folded"],
    ["attention=reduced", "attention.embedding.channels=4", "transfer=warped"],
    ["transfer=deformable"],
    ["transfer=warped_deformable", "attention=straight_through"],
    ["transfer=warped", "attention=reduced_published", "attention.embedding.channels=4"],
    ["fusion=adapted"],
]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        # Each part once and each network twice; the other pairs are slow together.
        pytest.param(name, parts, marks=[] if n % len(SMALL) == m else pytest.mark.slow)
        for n, parts in enumerate(PARTS)
        for m, name in enumerate(SMALL)
    ],
    ids=str,
)
def test_every_part_goes_with_every_network(name: str, parts: list[str]):
    network = registry.build("backbone", name, *SMALL[name], *LIGHT, *parts)
    inputs = contract.inputs(network, 8, 11, (28, 36))
    network.train()
    result = network(**inputs)
    assert result.image.shape == (2, 3, 32, 44)
    result.image.square().mean().backward()
    taken = [n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()]
    assert taken
    with torch.no_grad():
        network.eval()
        alone = network(inputs["low"], inputs["low_up"]).image
        with_it = network(**inputs).image
        memory = network.encode_reference(
            *(inputs[key] for key in ("reference", "reference_low_up", "reference_low"))
        )
        assert torch.equal(network(inputs["low"], inputs["low_up"], memory=memory).image, with_it)
    assert not torch.equal(alone, with_it), "the reference is not looked at"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ttsr", ["backbone.details=true"]),
        ("ttsr", ["backbone.exchange=null", "transfer=deformable", "fusion=merged"]),
        ("masa", ["transfer=warped_deformable"]),
        ("c2_matching", ["fusion=score", "transfer=warped_deformable"]),
        ("datsr", ["transfer=folded", "attention=topk"]),
    ],
    ids=str,
)
@settings(max_examples=2, deadline=None)
@given(sides=st.tuples(st.integers(40, 61), st.integers(3, 9)), seed=st.integers(0, 2**31))
@torch.no_grad()
def test_bands_of_rows_are_the_whole(name: str, parts: list[str], sides, seed: int):
    torch.manual_seed(seed)
    network = registry.build("backbone", name, *SMALL[name], *LIGHT, *parts).eval()
    low, reference = torch.rand(1, 3, *sides), torch.rand(1, 3, 44, 20)
    lows = F.interpolate(reference, scale_factor=0.25)
    inputs = (low, F.interpolate(low, scale_factor=4), reference, reference, lows)
    whole = network(*inputs).image
    network.largest_map = 1
    torch.testing.assert_close(network(*inputs).image, whole, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.skipif(not SHARED.is_dir(), reason="the whole layouts are not here")
def test_whole_published_layouts_are_recognised(name: str, tmp_path: Path):
    file = {"masa": "masa", "c2_matching": "c2_matching_restoration"}.get(
        name, f"{name}_restoration"
    )
    keys = json.loads((SHARED / "formats" / f"{file}.json").read_text())["keys"]
    state = {key: torch.zeros(shape) for key, shape in keys.items()}
    found = weights.recognise(state, tmp_path)
    network = registry.build(
        "backbone",
        name,
        *found.overrides[1:],
        "pretrained.vgg19=random",
        "pretrained.contrastive=random",
    )
    own = {
        k: v
        for k, v in network.state_dict().items()
        if not k.startswith("extractor.") or name == "masa"
    }
    computed = {k for k in own if k.endswith(COMPUTED)}
    assert {k: v.shape for k, v in own.items() if k not in computed} == {
        k: v.shape for k, v in found.state.items()
    }


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(16, 30), st.integers(16, 30))
def test_searches_choose_as_the_published_formulation(a: int, b: int, high: int, wide: int):
    generator = torch.Generator().manual_seed(high)
    query = torch.randn(1, 6, 8 * a, 8 * b, generator=generator)
    key = torch.randn(1, 6, high, wide, generator=generator)
    blocks = TextureAttention(Pixels(), Windows())
    expected = plain_family.windows(query, key, [])[2]
    for together in (1, 1 << 20):  # how many blocks at a time changes nothing
        with patch.dict(windows._TOGETHER, cpu=together), patch.object(windows, "_LEAST", 1):
            found = blocks(query, blocks.encode_reference(key, [])).index
        assert torch.equal(found, expected)
    inner = TextureAttention(Pixels(), HardInside())
    _, expected = plain_family.inside(query, key)
    norms = F.normalize(query, dim=1), F.normalize(key, dim=1)
    found = inner(norms[0], inner.encode_reference(norms[1], [])).index[:, 1:-1, 1:-1]
    assert torch.equal((found // wide - 1) * (wide - 2) + found % wide - 1, expected)


@pytest.mark.parametrize("rule", [HardInside(), Windows()], ids=["inside", "windows"])
def test_the_score_has_the_gradient_of_the_chosen_cosine(rule: MatchingRule):
    generator = torch.Generator().manual_seed(3)
    query = torch.randn(2, 5, 8, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 5, 10, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    attention = TextureAttention(Pixels(), rule)
    found = attention(query, attention.encode_reference(key, []))
    weight = torch.randn(found.score.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad((found.score * weight).sum(), [query, key])
    mode = "constant" if isinstance(rule, HardInside) else "replicate"
    patches = F.unfold(F.pad(query, (1, 1, 1, 1), mode), 3)
    keys = F.unfold(key, 3, padding=1)
    index = found.index.flatten(1)
    chosen = keys.gather(2, index.clamp_min(0)[:, None].expand(-1, 45, -1))
    cosine = torch.cosine_similarity(patches, chosen, dim=1).where(index >= 0, 0)
    torch.testing.assert_close(found.score.flatten(1), cosine)
    expected = torch.autograd.grad((cosine * weight.flatten(1)).sum(), [query, key])
    for ours, plain in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, plain)
