"""Files of every published layout through `restore apply`, and files that are almost one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from restore.cli import main
from restore.images.io import read_rgb
from restore.tools.bench import plain_ttsr
from tests.helpers import plain_attention
from tests.helpers.plain_single import srresnet
from tests.helpers.published import State, fresh

LAYOUTS = [
    "official_default",
    "official_small",
    "suite_3_1",
    "suite_3_2",
    "suite_6_1",
    "suite_8",
    "thesis_soft",
    "thesis_reduced",
    "thesis_projections",
    "srgan_generator",
]
# Of two variants whose files hold the same entries, the one that is not assumed has to be named.
NAMED = {"thesis_reduced": ["model=[attention=reduced_published]"]}


def resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    array = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(array).permute(2, 0, 1)


def attention(layout: str, state: State) -> tuple[Callable, dict]:
    """What is compared of the coarsest features, and how, as PROTOCOLS of each paper say."""
    if not layout.startswith("thesis"):
        return lambda x, side: x, {"best": 1}

    def reduced(x: torch.Tensor, side: str) -> torch.Tensor:
        weight, bias = (state[f"reduce_dimensionality.{kind}"] for kind in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=1)

    def projected(x: torch.Tensor, side: str) -> torch.Tensor:
        matrix = state[f"SearchTransfer.w_{side}s.weight"]
        flat = matrix @ F.unfold(reduced(x, side), 3, padding=1)
        return flat.view(1, -1, *x.shape[-2:])

    if layout == "thesis_soft":
        return reduced, {"cosine": False}
    return (projected, {"patch": 1, "best": 1}) if "proj" in layout else (reduced, {"best": 1})


def plainly(layout: str, state: State, low: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The published network, unfolded and without shortcuts: what 8-bit pixels come out."""
    if layout == "srgan_generator":
        image = srresnet(state, low[None] / 255, [2, 2])[0]
        return (image.clamp(0, 1) * 255).round()
    height, width = (side // 4 * 4 for side in reference.shape[1:])
    reference = reference[:, :height, :width].contiguous()
    blurred = resized(resized(reference, height // 4, width // 4), height, width)
    low_up = resized(low, 4 * low.shape[1], 4 * low.shape[2])
    query, key, value = (
        plain_ttsr.extract(state, x[None] / 255) for x in (low_up, blurred, reference)
    )
    embed, rule = attention(layout, state)
    values = value[::-1]
    if layout.startswith("thesis"):  # what is transferred at ×1 is reduced too
        weight, bias = (state[f"reduce_dimensionality.{kind}"] for kind in ("weight", "bias"))
        values = [F.conv2d(values[0], weight, bias, padding=1), *values[1:]]
    score, textures = plain_attention.attend(
        embed(query[-1], "q"), [embed(key[-1], "k")], [values], **rule
    )
    networks = {"suite_3_1": plain_ttsr.without_x2, "suite_3_2": plain_ttsr.without_x4_fusion}
    network = networks.get(layout, plain_ttsr.three_scales)
    image = network(state, low[None] / 127.5 - 1, dict(enumerate(textures, 1)), score)
    return ((image[0].clamp(-1, 1) + 1) * 127.5).round()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """The working folder, with `low.png` and `reference.png`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)
    for name, (height, width) in {"low": (7, 6), "reference": (30, 25)}.items():
        coarse = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        picture.save(tmp_path / f"{name}.png")
    return tmp_path


def apply(layout: str, file: str, output: str, *more: str) -> int:
    given = [] if layout == "srgan_generator" else ["reference=reference.png"]
    line = [f"weights={file}", "input=low.png", f"output={output}", "runtime.device=cpu"]
    return main(["apply", *line, *given, *NAMED.get(layout, []), *more])


@pytest.mark.parametrize(
    "layout",
    # Every other one each time; tests of the backbones hold all against golden files.
    [pytest.param(x, marks=[] if n % 2 == 0 else pytest.mark.slow) for n, x in enumerate(LAYOUTS)],
)
def test_weights_of_every_layout_restore_to_the_level(folder: Path, layout: str):
    state = fresh(layout, seed=LAYOUTS.index(layout))
    inside = {f"model.{key}": value for key, value in state.items()}
    beside = {"discriminator.conv.weight": torch.zeros(4), "vgg.0.bias": torch.zeros(2)}
    torch.save(state, "plain.pt")
    torch.save(
        {"state_dict": inside | beside, "epoch": 3, "hyper_parameters": {}}, "lightning.ckpt"
    )
    for file, output in (("plain.pt", "a.png"), ("lightning.ckpt", "b.png")):
        assert apply(layout, file, output) == 0
    low, reference = read_rgb(folder / "low.png"), read_rgb(folder / "reference.png")
    with torch.no_grad():
        expected = plainly(layout, state, low, reference)
    assert expected.std() > 5, "weights that say nothing test nothing"
    assert (read_rgb(folder / "a.png") - expected).abs().max() <= 1
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def largest(state: State) -> str:
    """A weight whose sides differ, of the network itself."""
    own = [k for k, v in state.items() if v.ndim == 4 and v.shape[0] != v.shape[1]]
    return max((k for k in own if not k.startswith("LTE")), key=lambda k: state[k].numel())


def broken(state: State, how: str) -> tuple[State, str]:
    """A state dict that is almost right, and what of it the sentence must name."""
    name = largest(state)
    if how == "missing":
        return {key: value for key, value in state.items() if key != name}, ""
    if how == "extra":
        return state | {"MainNet.unheard_of.weight": torch.zeros(3)}, "unheard_of"
    if how == "transposed":
        return state | {name: state[name].transpose(0, 1).contiguous()}, ""
    return {f"encoder.{key}": value for key, value in state.items()}, "encoder."


HOW = ("missing", "extra", "transposed", "another's")


# The first layout in each way, the others in one, every other one each time.
@pytest.mark.parametrize(
    ("layout", "how"),
    [
        pytest.param(layout, HOW[number % 4], marks=[pytest.mark.slow] * (number % 2))
        for number, layout in enumerate(LAYOUTS)
    ]
    + [(next(iter(LAYOUTS)), how) for how in HOW[1:]],
)
def test_what_is_almost_a_layout_is_refused_in_a_sentence(folder: Path, capfd, layout, how):
    state, named = broken(fresh(layout, seed=1), how)
    torch.save(state, "odd.pt")
    assert apply(layout, "odd.pt", "o.png") == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("restore apply: ")
    assert len(said.splitlines()) == 1, said
    assert "odd.pt" in said or "the file" in said
    assert named in said
    assert not Path("o.png").exists()


@pytest.mark.parametrize(
    "typed",
    [
        "[attention=reduced_published,backbone.blocks=[16,16,8,4]]",
        "['attention=reduced_published', backbone.blocks=[16,16,8,4]]",
        """["attention=reduced_published","backbone.blocks=[16,16,8,4]"]""",
    ],
)
def test_what_a_file_does_not_say_may_be_typed_as_a_list(folder: Path, capfd, typed: str):
    torch.save(fresh("thesis_soft", seed=1), "w.pt")
    line = ["weights=w.pt", "input=low.png", "output=o.png", "reference=none"]
    assert main(["apply", *line, f"model={typed}"]) == 2
    # Understood: the blocks are not the file's, which has fewer.
    assert "w.pt" in (said := capfd.readouterr().err)
    assert "another model" in said


def test_published_files_are_measured_by_their_tasks_own_protocol(folder: Path, capfd):
    torch.save(fresh("srgan_generator", seed=1), "single.pt")
    torch.save(fresh("suite_3_2", seed=1), "pairs.pt")
    Path("targets").mkdir()
    Image.open("reference.png").resize((24, 28)).save("targets/x.png")
    data = ["data=folder", "data.test=1"]
    data += [f"data.{kind}=targets" for kind in ("targets", "references")]
    quick = ["runtime.device=cpu", "wandb.mode=disabled", "metric=[psnr,ssim]", "pictures=0"]
    for kind, protocol, metric in (("single", "y", "psnr_y_s4"), ("pairs", "ttsr", "psnr_y_ttsr")):
        line = [f"weights={kind}.pt", f"folder={kind}", *data, *quick]
        assert main(["evaluate", *line]) == 0
        summary = json.loads((folder / kind / "summary.json").read_text())
        assert (summary["protocol"], next(iter(summary["restored"]))) == (protocol, metric)
        assert f"protocol {protocol}, as in the validation" in capfd.readouterr().out
        assert main(["evaluate", *line, "protocol=rgb", f"folder={kind}_rgb"]) == 0
        assert (
            json.loads((folder / f"{kind}_rgb" / "summary.json").read_text())["protocol"] == "rgb"
        )
