"""Texture extractors: what each promises, and any network of timm as one."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F

from restore.config import compose, plain, registry, renames
from restore.errors import UserError
from restore.models import pretrained
from restore.models.extractors import Extractor
from restore.models.pretrained import MissingWeights, pretrained_parts
from restore.models.weights import without_downloads
from restore.types import Problem, Restoration
from tests import SHARED

NETWORK = ["backbone.blocks=[1,1,1,1]", "backbone.features=8"]


# What makes the weights of each random; one that is always trained anew needs nothing.
RANDOM = {
    "vgg19": ["pretrained.vgg19=random"],
    "contrastive": ["pretrained.vgg19=random", "pretrained.contrastive=random"],
    "matching": ["extractor.matching.weights=random"],
    "matching_vgg19": ["pretrained.vgg19=random", "extractor.matching.weights=random"],
    "details": [],
    "pyramid": [],
}


def random(name: str) -> list[str]:
    return RANDOM.get(name, ["extractor.weights=random"])


def extractor(name: str, *overrides: str) -> Extractor:
    return registry.build("extractor", name, *random(name), *overrides)


def ttsr(*overrides: str):
    torch.manual_seed(0)
    return registry.build("backbone", "ttsr", *NETWORK, *overrides).eval()


@pytest.mark.parametrize("name", registry.names("extractor"))
class TestContract:
    def test_features_have_the_sizes_and_channels_that_it_says(self, name):
        made = extractor(name)
        assert isinstance(made, Extractor)
        features = made(torch.rand(2, 3, 20, 28))
        sizes = [(20, 28), (10, 14), (5, 7)]
        for feature, channels, size in zip(features, made.channels, sizes, strict=True):
            assert feature.shape == (2, channels, *size)
            assert feature.std() > 0

    def test_random_weights_are_said_and_always_the_same(self, name):
        if not random(name):
            assert not [*pretrained_parts(extractor(name))], "there is no file to speak of"
            return
        torch.manual_seed(3)
        one, other = extractor(name), extractor(name)
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key
        said = [provenance for _, provenance in pretrained_parts(one)]
        assert said
        assert all("RANDOM" in provenance.sentence() for provenance in said)

    def test_frozen_where_asked(self, name):
        trained = extractor(name, "extractor.trainable=true")
        assert any(p.requires_grad for p in trained.parameters())
        frozen = extractor(name, "extractor.trainable=false")
        assert not any(p.requires_grad for p in frozen.parameters())

    def test_the_transferal_loss_takes_it(self, name):
        model = ttsr(f"extractor={name}", *random(name))
        loss = registry.instantiate(
            {"_target_": "restore.losses.transferal.TransferalPerceptual"}, "loss"
        )
        reference = torch.rand(1, 3, 24, 20)
        low, low_up, small = (torch.rand(1, 3, *size) for size in ((5, 6), (20, 24), (6, 5)))
        restored: Restoration = model(low, low_up, reference, reference, small)
        problem = Problem(inputs={}, target=None, keys=[])
        value = loss(restored, problem, {"backbone": model})
        assert value.isfinite()
        assert value > 0


@pytest.mark.parametrize(
    "model",
    [
        "resnet10t",
        "mobilenetv3_small_050",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("vgg11", "convnext_atto")),
    ],
)
def test_any_network_of_timm_gives_its_features(model):
    made = extractor("timm", f"extractor.model={model}").eval()
    plainly = timm.create_model(model, features_only=True).eval()
    assert not plainly.load_state_dict(made.network.state_dict(), strict=False).unexpected_keys
    image = torch.rand(1, 3, 32, 48)
    mean, std = (torch.tensor(plainly.pretrained_cfg[n]).view(3, 1, 1) for n in ("mean", "std"))
    with torch.no_grad():
        wholes = plainly((image - mean) / std)
        features = made(image)
    strides = plainly.feature_info.reduction()
    for feature, target in zip(features, (1, 2, 4), strict=True):
        nearest = min(strides, key=lambda stride: (max(stride / target, target / stride), stride))
        expected = wholes[strides.index(nearest)]
        size = (32 // target, 48 // target)
        if expected.shape[-2:] != size:
            expected = F.interpolate(expected, size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(feature, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("model", ["local-dir:here", "hf-hub:some/network", "hf_hub:a"])
def test_other_networks_than_timms_own_are_refused(model, tmp_path: Path, monkeypatch):
    """It would make what the file in a folder, or on the hub, says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text('{"architecture": "resnet10t"}')
    with pytest.raises(UserError, match="only networks of timm's own are known"):
        extractor("timm", f"extractor.model='{model}'")


def test_levels_may_be_chosen():
    made = extractor("timm", "extractor.model=resnet10t", "extractor.levels=[0,1,2]")
    assert made.channels == (64, 64, 128)
    assert [x.shape[-2:] for x in made(torch.rand(1, 3, 32, 32))] == [(32, 32), (16, 16), (8, 8)]
    with pytest.raises(UserError, match=r"extractor\.levels=\[0, 1, 9\]: resnet10t has 5"):
        extractor("timm", "extractor.model=resnet10t", "extractor.levels=[0,1,9]")


def test_batch_statistics_stay_while_it_trains():
    made = extractor("timm", "extractor.model=resnet10t").train()
    before = {name: value.clone() for name, value in made.named_buffers()}
    one = made(torch.rand(2, 3, 16, 16))[-1]
    one.sum().backward()
    for name, value in made.named_buffers():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("attention", ["hard", "soft", "projection", "reduced"])
def test_an_attention_takes_its_channels_from_the_extractor(attention):
    model = ttsr(
        *("extractor=timm", "extractor.model=vgg11", "extractor.weights=random"),
        *(f"attention={attention}", "attention.embedding.channels=16")
        if attention not in ("hard", "aligned")
        else (f"attention={attention}",),
    )
    reference = torch.rand(1, 3, 16, 20)
    with torch.inference_mode():
        image = model(torch.rand(1, 3, 4, 6), torch.rand(1, 3, 16, 24), reference, reference).image
    assert image.shape == (1, 3, 16, 24)
    assert model.reach is None


def test_channels_that_are_stated_must_be_the_extractors():
    with pytest.raises(UserError, match=r"embedding\.inputs=100.*have 256 channels"):
        ttsr("pretrained.vgg19=random", "attention=reduced", "attention.embedding.inputs=100")


def test_a_file_of_the_whole_network_is_taken(tmp_path: Path):
    whole = timm.create_model("resnet10t")
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    file = f"extractor.weights={tmp_path / 'w.pth'}"
    made = registry.build("extractor", "timm", "extractor.model=resnet10t", file)
    for name, value in made.network.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert str(tmp_path / "w.pth") in made.provenance.sentence()
    with pytest.raises(UserError, match=r"extractor\.model=resnet18: timm gives no inner features"):
        registry.build("extractor", "timm", "extractor.model=resnet18", file)
    with pytest.raises(UserError, match="no weights file"):
        registry.build("extractor", "timm", "extractor.weights=nothing.pth")


def test_an_unknown_network_is_a_sentence_with_near_ones():
    with pytest.raises(UserError, match=r"extractor\.model=resnet81.*did you mean.*resnet"):
        extractor("timm", "extractor.model=resnet81")


def test_published_weights_out_of_reach_are_one_sentence_at_once(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(pretrained, "_failure", "no network here")
    build = ("extractor", "timm", f"pretrained.cache={tmp_path}")
    began = time.monotonic()
    with pytest.raises(MissingWeights, match=r"resnet18.*no network here.*extractor\.weights=FILE"):
        registry.build(*build)
    with pytest.raises(MissingWeights, match=r"pretrained\.download=false"):
        registry.build(*build, "pretrained.download=false")
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_without_a_network_it_waits_a_moment_only(tmp_path: Path):
    program = (
        "from restore.config import registry\n"
        "from restore.errors import UserError\n"
        "try:\n"
        f"    registry.build('extractor', 'timm', 'pretrained.cache={tmp_path}')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "", "https_proxy": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)},
    )
    assert "the weights that timm publishes for resnet18 cannot be downloaded" in done.stdout
    assert "Retry" not in done.stderr


def test_stored_runs_with_the_extractor_inside_the_backbone_go_on():
    config = plain(compose("train", [*NETWORK, "pretrained.vgg19=random"]))
    node = config["backbone"]
    for old in ("restore.backbones.extractor", "restore.models.backbones.extractor"):
        stored = {"_target_": f"{old}.TextureExtractor", "weights": "imagenet", "trainable": [1]}
        backbone = renames.current({"backbone": node | {"extractor": stored}})["backbone"]
        model = registry.instantiate(without_downloads(backbone), "backbone")
        today = registry.instantiate(without_downloads(node), "backbone")
        assert [*model.state_dict()] == [*today.state_dict()]
        assert {"extractor.layers.0.weight", "extractor.factor"} <= {*model.state_dict()}


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="real weights are not here")
def test_a_file_of_the_first_layers_is_taken():
    file = SHARED / "weights" / "vgg19_to_relu3_1.pth"
    made = registry.build("extractor", "vgg19", f"pretrained.vgg19={file}")
    assert torch.equal(made.layers[10].weight, torch.load(file)["features.10.weight"])


def test_an_extractor_of_no_channels_is_refused():
    with pytest.raises(UserError, match=r"channels\[0\]"):
        extractor("matching", "extractor.textures.channels=[0,8,8]")
