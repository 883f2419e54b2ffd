"""The matching network: its vectors, its training by the loop, and TTSR with it."""

import shutil
from pathlib import Path

import pytest
import torch

from restore.cli import main
from restore.config import registry
from restore.errors import UserError
from restore.models import checkpoint, matching_network
from restore.models.backbones.fusion import GatedFusion
from restore.models.extractors.contrastive import ContrastiveStems
from restore.models.extractors.matching import MatchingExtractor
from restore.models.matching_network import MatchingNetwork
from restore.types import Problem
from tests.helpers.pictures import photo, write
from tests.helpers.tiny import ALONE


def test_vectors_have_length_one_and_a_grid_of_the_low_picture():
    network = MatchingNetwork(channels=16, dilations=[1, 2])
    low, sharp = torch.rand(2, 3, 6, 9), torch.rand(2, 3, 24, 36)
    for vectors in (network.query(low), network.key(sharp)):
        assert vectors.shape == (2, 16, 6, 9)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2, 6, 9))


@pytest.mark.parametrize("dilations", [[1], [1, 3], [2, 1, 2]])
def test_reach_is_as_far_as_a_low_pixel_is_felt(dilations):
    torch.manual_seed(0)
    network = MatchingNetwork(channels=8, dilations=dilations).double()
    for part in network.modules():  # the blocks begin as the identity
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.3)
    side = 2 * network.reach + 7
    low = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    middle = side // 2
    network.low_features = network.last(network.shared(network.low(low - 0.5)))
    network.low_features[0, :, middle, middle].sum().backward()
    felt = low.grad[0].abs().amax(0).nonzero()
    assert (felt - middle).abs().max() == network.reach


def test_the_gate_is_its_formula():
    torch.manual_seed(0)
    fusion = GatedFusion(4, 3, gain=8.0, threshold=0.5)
    x, texture, score = torch.rand(1, 4, 8, 8), torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8)
    gate = 1 / (1 + torch.exp(-8 * (score - 0.5)))
    expected = x + fusion.conv(torch.cat([x, texture], 1)) * gate
    torch.testing.assert_close(fusion(x, texture, score), expected)
    closed = fusion(x, texture, torch.full_like(score, -1.0))
    torch.testing.assert_close(closed, x, atol=1e-4, rtol=0)


def test_ttsr_matches_with_it_and_transfers_what_it_trains():
    words = ["extractor=matching", "fusion=gated", "backbone.blocks=[1,1,1,1]"]
    model = registry.build("backbone", "ttsr", *words, "backbone.features=8").train()
    assert isinstance(model.extractor, MatchingExtractor)
    low, low_up = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    reference = torch.rand(1, 3, 48, 80)
    restored = model(low, low_up, reference, reference)
    assert restored.image.shape == (1, 3, 64, 64)
    query, key = model.extractor.matching.query(low), model.extractor.matching.key(reference)
    expected = model.attention(query, model.attention.encode_reference(key, []))
    assert torch.equal(restored.index, expected.index)
    restored.image.sum().backward()
    assert model.extractor.textures.at_full.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.extractor.matching.parameters()), "it is fixed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("matching")
    for number in range(3):
        write(folder / "photos" / f"{number}.png", photo(height=90, width=100, at=70 * number))
    words = [
        "experiment=matching",
        f"data.photos.targets={folder / 'photos'}",
        "data.photos.valid=1",
        "data.size=64",
        "task.crop=64",
        "task.reference_crop=64",
        "trainer.batch_size=2",
        "stages.reconstruction.steps=2",
        "runtime.precision=fp32",
        f"folder={folder / 'run'}",
        *ALONE,
    ]
    assert main(["train", *words]) == 0
    return folder / "run"


def test_the_loop_trains_it_and_the_extractor_takes_the_run(trained):
    extractor = registry.build("extractor", "matching", f"extractor.matching.weights={trained}")
    state = checkpoint.read(trained / "checkpoints" / "last.pt")["models"]["backbone"]
    for name, value in extractor.matching.state_dict().items():
        assert torch.equal(value, state[f"network.{name}"]), name
    torch.manual_seed(0)
    start = MatchingNetwork().state_dict()
    moved = [n for n, x in extractor.matching.state_dict().items() if not torch.equal(x, start[n])]
    assert len(moved) > len(start) // 2


def test_its_picture_is_made_of_the_reference(trained):
    model = registry.build("backbone", "matching").eval()
    reference = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        problem = Problem({"low": torch.rand(1, 3, 8, 8)}, None, ["a"])
        restored = model(problem.inputs["low"], torch.rand(1, 3, 32, 32), reference, reference)
    assert restored.image.shape == (1, 3, 32, 32)
    assert restored.image.min() >= 0
    assert restored.image.max() <= reference.max()


def test_the_output_says_which_weights_came_with_the_package(tmp_path):
    bundled = MatchingNetwork(weights="bundled")
    assert "ships with restore" in bundled.provenance.sentence()
    copy = tmp_path / "w.pt"
    shutil.copy(matching_network.BUNDLED, copy)
    assert "not the published file" in MatchingNetwork(weights=str(copy)).provenance.sentence()
    assert "RANDOM" in MatchingNetwork(weights="random").provenance.sentence()


def test_weights_of_something_else_are_refused(tmp_path):
    torch.save({"head.weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="backbone=matching"):
        MatchingNetwork(weights=str(tmp_path / "w.pt"))


def test_the_stems_begin_from_a_vgg16_and_refuse_a_vgg19(tmp_path):
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 28: (1, 1)}
    state = {}
    for place, (outputs, inputs) in shapes.items():
        state[f"features.{place}.weight"] = torch.randn(outputs, inputs, 3, 3)
        state[f"features.{place}.bias"] = torch.randn(outputs)
    torch.save(state, tmp_path / "vgg16.pth")
    stems = ContrastiveStems(str(tmp_path / "vgg16.pth"))
    for place in (0, 2, 5, 7, 10):
        for stem in (stems.low, stems.sharp):
            assert torch.equal(stem[place].weight, state[f"features.{place}.weight"])
            assert torch.equal(stem[place].bias, state[f"features.{place}.bias"])
    torch.save(state | {"features.30.weight": torch.ones(1)}, tmp_path / "vgg19.pth")
    with pytest.raises(UserError, match="torchvision's VGG16"):
        ContrastiveStems(str(tmp_path / "vgg19.pth"))
