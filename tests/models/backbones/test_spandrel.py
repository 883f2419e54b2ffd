"""Networks that the package spandrel knows, in our protocols."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from spandrel.architectures.SwinIR import SwinIR

from restore.cli import main
from restore.config import registry
from restore.errors import UserError
from restore.images.io import read_rgb
from restore.models import checkpoint, weights
from tests.helpers import published
from tests.helpers.pictures import photo, write

QUIET = ["runtime.device=cpu", "runtime.threads=1"]


def compact(scale: int = 2, channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(scale)
    made = Compact(
        num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=2, upscale=scale
    ).eval()
    with torch.no_grad():
        made.body[-1].weight.mul_(3)
    return made


def swinir() -> torch.nn.Module:
    """Takes sides of multiples of its window alone."""
    torch.manual_seed(0)
    return SwinIR(
        img_size=16,
        embed_dim=8,
        depths=[2],
        num_heads=[2],
        window_size=8,
        mlp_ratio=2,
        upscale=2,
        upsampler="pixelshuffledirect",
    ).eval()


@pytest.mark.parametrize("wrapping", ["plain", "params_ema", "safetensors"])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_file_becomes_the_network_that_it_is(tmp_path: Path, wrapping, scale):
    network = compact(scale)
    state = network.state_dict()
    path = tmp_path / ("it's w.safetensors" if wrapping == "safetensors" else "w, 2.pth")
    if wrapping == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if wrapping == "plain" else {wrapping: state}, path)
    loaded = weights.load(path)
    assert "RealESRGAN Compact (spandrel)" in loaded.sentence()
    model = loaded.backbone()
    assert model.scale == loaded.task().scale == scale
    low = torch.rand(2, 3, 9, 14)
    with torch.no_grad():
        expected = network(low).clamp(0, 1)
        torch.testing.assert_close(model(low).image, expected, atol=1e-6, rtol=0)
    assert expected.std() > 0.02, "weights that say nothing test nothing"


@pytest.mark.parametrize("size", [(1, 1), (5, 21), (16, 16)])
def test_any_size_though_the_network_takes_few(tmp_path: Path, size):
    network = swinir()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model = weights.load(tmp_path / "w.pth").backbone()
    low = torch.rand(1, 3, *size)
    with torch.no_grad():
        image = model(low).image
        assert image.shape == (1, 3, 2 * size[0], 2 * size[1])
        if size == (16, 16):
            torch.testing.assert_close(image, network(low).clamp(0, 1), atol=1e-5, rtol=0)


def test_a_published_network_of_ours_stays_ours(tmp_path: Path):
    keys = json.loads((published.GOLDEN / "srgan_generator.json").read_text())["keys"]
    torch.save(published.weights(keys, gain=1.0), tmp_path / "w.pt")
    assert weights.load(tmp_path / "w.pt").config["backbone"]["_target_"].endswith(".SRResNet")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("peer") / "w.pth"
    torch.save(compact(2).state_dict(), path)
    return path


def test_measured_and_applied_as_others_are(file: Path, tmp_path: Path):
    source = write(tmp_path / "Set5" / "HR" / "a.png", photo(height=40, width=44))
    data = ["data=benchmark", f"data.root={tmp_path}", "protocol=y8", "wandb.mode=disabled"]
    line = [f"weights={file}", f"folder={tmp_path / 'out'}", "data.scale=2", "loader.workers=0"]
    assert main(["evaluate", *line, *data, "pictures=0", "save=true", *QUIET]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["protocol"] == "y8"
    assert np.isfinite(summary["restored"]["psnr_y8_s2"])
    with torch.no_grad():
        low = read_rgb(tmp_path / "out" / "low" / "a.png")[None].float() / 255
        expected = compact(2)(low).clamp(0, 1)[0] * 255
    assert (read_rgb(tmp_path / "out" / "restored" / "a.png") - expected).abs().max() <= 0.51
    goal = tmp_path / "large.png"
    assert main(["apply", f"weights={file}", f"input={source}", f"output={goal}", *QUIET]) == 0
    with torch.no_grad():
        expected = compact(2)(read_rgb(source)[None].float() / 255).clamp(0, 1)[0] * 255
    assert (read_rgb(goal) - expected).abs().max() <= 0.51


def test_it_is_a_backbone_by_name(file: Path):
    model = registry.build("backbone", "spandrel", f"backbone.file={file}", "task.scale=2").eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 4, 6)).image.shape == (1, 3, 8, 12)


def test_its_state_dict_goes_round(file: Path):
    other = registry.build("backbone", "spandrel", f"backbone.file={file}", "task.scale=2")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    loaded = weights.load(file)
    checkpoint.load_into(other, loaded.state, "here")
    low = torch.rand(1, 3, 5, 6)
    with torch.no_grad():
        assert torch.equal(other.eval()(low).image, loaded.backbone()(low).image)


def test_what_does_not_fit_is_a_sentence(file: Path, tmp_path: Path, monkeypatch):
    build = ("backbone", "spandrel")
    with pytest.raises(UserError, match=r"backbone\.file has no value"):
        registry.build(*build)
    with pytest.raises(UserError, match=r"enlarges by 2.*task\.scale=2"):
        registry.build(*build, f"backbone.file={file}")
    grey, strange, cut = (tmp_path / f"{name}.pth" for name in ("grey", "strange", "cut"))
    torch.save(compact(2, channels=1).state_dict(), grey)
    with pytest.raises(UserError, match="1 channels to 1"):
        weights.load(grey)
    torch.save({"a": torch.zeros(1)}, strange)
    with pytest.raises(UserError, match=r"no model known here.*known are .*spandrel"):
        weights.load(strange)
    state = compact(2).state_dict()
    torch.save({**state, "body.0.weight": torch.zeros(8, 3, 5, 5)}, cut)
    with pytest.raises(UserError, match="spandrel cannot load"):
        weights.load(cut)
    (tmp_path / "bad.safetensors").write_bytes(b"not one")
    with pytest.raises(UserError, match="damaged"):
        weights.load(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="cannot be trained"):
        registry.build(*build, f"backbone.file={file}", "task.scale=2").train()(
            torch.rand(1, 3, 4, 4)
        )


def test_without_the_package_it_says_how_to_get_it(file: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    with pytest.raises(UserError, match=r"pip install 'restore\[peers\]'"):
        registry.build("backbone", "spandrel", f"backbone.file={file}", "task.scale=2")
    with pytest.raises(UserError, match=r"no model known here.*pip install 'restore\[peers\]'"):
        weights.load(file)
