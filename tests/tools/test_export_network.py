"""Networks written for other programs compute what they did, at any size."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch

from restore.cli import main
from restore.config import compose, plain, registry
from restore.errors import UserError
from restore.models import weights
from restore.models.attention import AllPairsAttention
from restore.models.checkpoint import write as write_checkpoint
from restore.tools.export.network import TorchScript
from tests.helpers.disk import no_larger_than

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "torch_export": ".pt2"}
SMALL = ["backbone.blocks=1", "backbone.features=8"]
TRUNK = [f"backbone.mapping.{part}=2" for part in ("blocks", "width", "growth", "convolutions")]
TTSR = ["backbone.blocks=[0,0,0]", "backbone.features=4", "pretrained.vgg19=random"]
TTSR += ["backbone.scales=[1,4]", "backbone.textures=[1,4]"]
SIZES = [(1, 1, 1), (3, 5, 31), (1, 40, 17)]


def checkpoint(folder: Path, name: str, *overrides: str) -> Path:
    """One of our checkpoints, of a network as it is made, moved off its beginning."""
    chosen = [f"backbone={name}", *overrides]
    torch.manual_seed(0)
    model = registry.build("backbone", name, *overrides)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.mul_(1.5)
            elif value.is_floating_point():
                value.add_(0.02 * torch.randn_like(value))
    config = plain(compose("train", chosen))
    folder.mkdir(parents=True, exist_ok=True)
    state = {"config": config, "models": {"backbone": model.state_dict()}, "ema": None, "step": 1}
    write_checkpoint(folder / "w.pt", state)
    return folder / "w.pt"


def export(path: Path, form: str, folder: Path, *more: str) -> int:
    return main(["export", f"weights={path}", f"format={form}", f"folder={folder}", *more])


def run(form: str, folder: Path, *pictures: torch.Tensor) -> torch.Tensor:
    """What the file makes of pictures, by its own program."""
    path = folder / f"network{FORMATS[form]}"
    if form == "onnx":
        session = onnxruntime.InferenceSession(path)
        names = [entry.name for entry in session.get_inputs()]
        assert names == json.loads((folder / "network.json").read_text())["inputs"]
        arrays = {name: x.numpy() for name, x in zip(names, pictures)}
        return torch.from_numpy(session.run(None, arrays)[0])
    if form == "torchscript":
        return torch.jit.load(str(path))(*pictures)
    return torch.export.load(path).module()(*pictures)


@pytest.mark.parametrize(
    ("name", "overrides", "form"),
    [
        ("wdsr_b", [*SMALL, "task.scale=2"], "onnx"),
        ("wdsr_b", [*SMALL, "task.scale=2"], "torch_export"),
        ("edsr", [*SMALL, "task.scale=3"], "torchscript"),
        ("srresnet", SMALL, "torch_export"),
        ("srresnet", SMALL, "torchscript"),
        pytest.param("fsdn", [*TRUNK, "task.scale=3"], "onnx", marks=pytest.mark.slow),
        ("fsdn", [*TRUNK, "task.scale=4"], "torchscript"),
    ],
)
def test_the_file_computes_the_same_at_any_size(form, name, overrides, tmp_path: Path):
    path = checkpoint(tmp_path, name, *overrides)
    assert export(path, form, tmp_path / "out") == 0
    model = weights.load(path).backbone()
    for size in SIZES:
        low = torch.rand(size[0], 3, *size[1:])
        with torch.no_grad():
            expected = model(low).image
            found = run(form, tmp_path / "out", low)
        assert expected.std() > 0.005
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    facts = json.loads((tmp_path / "out" / "network.json").read_text())
    assert facts["scale"] == model.scale
    assert 0 <= facts["largest difference"] < 1e-4


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.slow), "torchscript"])
def test_a_network_of_any_scale_writes_a_step(form, tmp_path: Path):
    path = checkpoint(tmp_path, "asdn", *TRUNK)
    assert export(path, form, tmp_path / "out", "format.ratio=1.37") == 0
    model = weights.load(path).backbone()
    for size in SIZES:
        picture = torch.rand(size[0], 3, *size[1:])
        with torch.no_grad():
            expected = model.level(picture, 1.37).clamp(0, 1)
            found = run(form, tmp_path / "out", picture)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


WITHOUT_A_FORM = ("windows",)


@pytest.mark.parametrize("name", registry.names("attention"))
def test_attention_over_all_pairs_at_once_is_the_same(name):
    torch.manual_seed(0)
    attention = registry.build("attention", name).double().eval()
    query, key = torch.randn(2, 256, 5, 7).double(), torch.randn(2, 256, 6, 4).double()
    values = [torch.randn(2, 256 // s, 6 * s, 4 * s).double() for s in (1, 2, 4)]
    if name in WITHOUT_A_FORM:
        with pytest.raises(UserError, match="cannot be exported"):
            AllPairsAttention(attention, [1, 2, 4])
        return
    whole = AllPairsAttention(attention, [1, 2, 4])
    if attention.matching.chooses_one and attention.embedding.heads == 1:
        with torch.no_grad():
            expected = attention.locate(query, attention.remember(key, values))
            found = whole.locate(query, whole.remember(key, values))
        torch.testing.assert_close(found.score, expected.score)
        assert torch.equal(found.flow, expected.flow)
        torch.testing.assert_close(found.textures, expected.textures)
    with torch.no_grad():
        expected = attention(query, attention.encode_reference(key, values))
        found = whole(query, whole.encode_reference(key, values))
    torch.testing.assert_close(found.score, expected.score)
    for got, texture in zip(found.textures, expected.textures, strict=True):
        assert texture.std() > 0.05
        torch.testing.assert_close(got, texture)
    if attention.embedding.heads == 1 and not attention.embedding.in_values:  # else no view
        with torch.no_grad():
            (expected,) = attention.places(query, attention.remember(key, []))
            (found,) = whole.places(query, whole.remember(key, []))
        torch.testing.assert_close(found.textures, expected.textures)


DETAILS = ["backbone.inputs=4", "backbone.details=true"]
VIEW = [
    "attention=aligned",
    "extractor=matching",
    "backbone.global_skip=true",
    "backbone.view={_target_: restore.models.backbones.view.MatchedView, window: 1}",
    "backbone.gate={_target_: restore.models.backbones.fusion.Gate}",
]


C2_MATCHING = ["backbone.blocks=0", "backbone.content_blocks=0", "backbone.features=4"]
C2_MATCHING += ["extractor=matching", "extractor.matching.weights=random", "transfer.groups=2"]
MASA = ["backbone.blocks=[0,0,0,0,0,0]", "backbone.features=4"]
MASA += ["extractor.blocks=[0,0,0]", "extractor.features=4"]
# Positions of both pictures.
REFERRED = {
    "ttsr": [(1, 3, 8, 5, 2), (3, 4, 2, 2, 7)],
    "c2_matching": [(1, 4, 8, 5, 4), (3, 7, 4, 4, 6)],
}


@pytest.mark.parametrize(
    ("name", "form", "more"),
    [
        pytest.param("ttsr", "onnx", TTSR, marks=pytest.mark.slow),
        ("ttsr", "torchscript", [*TTSR, "attention=soft", *DETAILS]),
        (
            "ttsr",
            "torchscript",
            [*TTSR, "trunk=dynamic", "fusion=channel", "backbone.blocks=[1,1,1]"],
        ),
        ("ttsr", "torchscript", [*TTSR, *VIEW]),
        pytest.param("ttsr", "onnx", [*TTSR, *VIEW], marks=pytest.mark.slow),
        pytest.param("c2_matching", "torchscript", C2_MATCHING, marks=pytest.mark.slow),
        pytest.param("c2_matching", "onnx", C2_MATCHING, marks=pytest.mark.slow),
    ],
)
def test_a_network_with_a_reference_is_written_for_any_two_sizes(name, form, more, tmp_path: Path):
    path = checkpoint(tmp_path, name, *more)
    assert export(path, form, tmp_path / "out") == 0
    model = weights.load(path).backbone()
    names = json.loads((tmp_path / "out" / "network.json").read_text())["inputs"]
    assert names[:4] == ["low", "low_up", "reference", "reference_low_up"]
    for count, h, w, high, wide in REFERRED[name]:
        pictures = []
        for kind in names:
            sides = (high, wide) if kind.startswith("reference") else (h, w)
            s, channels = 1 if kind in ("low", "mask") else 4, 1 if "mask" in kind else 3
            pictures.append(torch.rand(count, channels, *(s * side for side in sides)))
        with torch.no_grad():
            expected = model(**dict(zip(names, pictures, strict=True))).image
            found = run(form, tmp_path / "out", *pictures)
            other = run(
                form,
                tmp_path / "out",
                *pictures[:2],
                *(1 - x for x in pictures[2:4]),
                *pictures[4:],
            )
        assert expected.shape[-2:] == (4 * h, 4 * w)
        assert expected.std() > 0.005
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (found - other).abs().max() > 1e-4, "the reference is felt"


def test_a_file_that_computes_something_else_is_not_left(tmp_path: Path):
    class Off(TorchScript):
        def make(self, example, path):
            sound = super().make(example, path)
            return lambda low: sound(low) + 1e-3 * (low.shape[-1] > 20)

    form = Off(str(checkpoint(tmp_path, "edsr", *SMALL)))
    with pytest.raises(UserError, match="differs from the network's"):
        form.write(tmp_path)


@pytest.mark.parametrize(
    ("name", "overrides", "form", "more", "said"),
    [
        ("ttsr", TTSR, "onnx", ["format.ratio=1.5"], "has one scale"),
        ("masa", MASA, "torchscript", [], "the rule Windows cannot be exported"),
        ("c2_matching", [*C2_MATCHING, "trunk=swin"], "onnx", [], "trunk=swin has no form"),
        ("edsr", SMALL, "torchscript", ["format.ratio=1.5"], "has one scale"),
        ("asdn", TRUNK, "torchscript", ["format.ratio=2.5"], "beyond the network's last, 2"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(
    name, overrides, form, more, said, tmp_path: Path, capfd
):
    path = checkpoint(tmp_path, name, *overrides)
    assert export(path, form, tmp_path / "out", *more) == 2
    told = capfd.readouterr().err.strip().splitlines()[-1]
    assert said in told
    assert not (tmp_path / "out").exists()


def test_without_weights_it_says_so(tmp_path: Path, capfd):
    assert main(["export", "format=torchscript", f"folder={tmp_path / 'out'}"]) == 2
    assert "give weights=" in capfd.readouterr().err


@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_that_refuses_is_one_sentence_and_leaves_no_half(form, tmp_path: Path, capfd):
    path = checkpoint(tmp_path, "edsr", *SMALL)
    with no_larger_than(9000):
        assert export(path, form, tmp_path / "out") == 2
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.endswith("the file would become larger than files may be (ulimit -f)")
    assert not (tmp_path / "out").exists()
