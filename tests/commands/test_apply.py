"""`restore apply` through the command line: any weights, any picture, nothing lost on the way."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from restore.cli import main
from restore.config.settings import Runtime
from restore.images.bicubic import resize
from restore.images.io import Picture, as_float, load, read_rgb, save
from restore.images.tiling import windows
from restore.inference.pipeline import automatic_tile
from restore.inference.restorer import Restorer
from restore.models import checkpoint, weights
from tests.helpers import published
from tests.helpers.disk import no_larger_than
from tests.helpers.untrained import write_run

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RUNTIME = Runtime("cpu", 1, "fp32", True, False, None)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def restorer(run: Path) -> Restorer:
    return Restorer(weights.load(run), RUNTIME, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An empty working folder with a reference picture `reference.png`."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "reference.png", 25, 34, seed=5)
    return tmp_path


def write(path: Path, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """An 8-bit colour picture that is neither flat nor noise; returns its pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3)).astype(np.uint8)
    array = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return torch.from_numpy(array).permute(2, 0, 1)


def apply(run: Path, *overrides: str, reference: str | None = "reference.png") -> int:
    given = [] if reference is None else [f"reference={reference}"]
    return main(["apply", f"weights={run}", "runtime.device=cpu", *given, *overrides])


def by_hand(restorer: Restorer, low: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The network's own forward pass, prepared by the published recipe: PIL, 8 bits."""

    def resized(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
        image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        array = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(array).permute(2, 0, 1)

    height, width = (side // 4 * 4 for side in reference.shape[1:])
    reference = reference[:, :height, :width]
    pictures = {
        "low": low,
        "low_up": resized(low, 4 * low.shape[1], 4 * low.shape[2]),
        "reference": reference,
        "reference_low_up": resized(resized(reference, height // 4, width // 4), height, width),
    }
    with torch.no_grad():
        return restorer.model(**{k: v[None].float() / 255 for k, v in pictures.items()}).image[0]


def levels(one: torch.Tensor, other: torch.Tensor) -> int:
    assert one.shape == other.shape
    return int((one.int() - other.int()).abs().max())


def eight(values: torch.Tensor) -> torch.Tensor:
    return (values * 255).round().to(torch.uint8)


def refused(capfd, *parts: str) -> None:
    """What was printed to stderr is one sentence with these parts."""
    said = capfd.readouterr().err.strip()
    assert len(said.splitlines()) == 1, said
    assert said.startswith("restore apply: ")
    for part in parts:
        assert part in said, said


# ---- where weights come from


def test_run_folder_and_checkpoint_give_what_the_network_gives(run, restorer, folder: Path):
    low = write(folder / "low.png", 13, 18)
    expected = by_hand(restorer, low, read_rgb(folder / "reference.png"))
    upsampled = Image.open("low.png").resize((72, 52), Image.Resampling.BICUBIC)
    change = eight(expected).permute(1, 2, 0).numpy().astype(int) - np.array(upsampled)
    assert np.abs(change).mean() > 3, "a network that hardly does anything shows nothing"
    assert apply(run, "input=low.png", "output=a.png") == 0
    assert levels(read_rgb(folder / "a.png"), eight(expected)) <= 1
    assert apply(run / "checkpoints" / "last.pt", "input=low.png", "output=b.png") == 0
    assert (folder / "a.png").read_bytes() == (folder / "b.png").read_bytes()


def test_the_average_of_training_is_what_is_applied(run, folder: Path):
    held = checkpoint.read(run / "checkpoints" / "last.pt")
    averaged = {name: x * 0.5 for name, x in held["models"]["backbone"].items()}
    del held["format"]
    checkpoint.write(folder / "averaged.pt", {**held, "ema": averaged})
    checkpoint.write(folder / "plain.pt", {**held, "models": {"backbone": averaged}})
    write(folder / "low.png", 8, 8)
    for name in ("averaged", "plain"):
        assert apply(folder / f"{name}.pt", "input=low.png", f"output={name}.png") == 0
    assert (folder / "averaged.png").read_bytes() == (folder / "plain.png").read_bytes()


def published_state() -> dict[str, torch.Tensor]:
    held = json.loads((published.GOLDEN / "official_small" / "case.json").read_text())
    keys = published.keys_with_blocks(held["keys"], [1, 1, 1, 1])
    return published.weights(keys, gain=1.0)


def test_published_weights_plain_and_within_a_lightning_checkpoint(folder: Path):
    state = published_state()
    torch.save(state, "plain.pt")
    torch.save({"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 2}, "l.ckpt")
    low = write(folder / "low.png", 6, 5)
    network = Restorer(weights.load("plain.pt"), RUNTIME, torch.device("cpu"))
    expected = by_hand(network, low, read_rgb(folder / "reference.png"))
    for file in ("plain.pt", "l.ckpt"):
        assert apply(Path(file), "input=low.png", "output=o.png", "overwrite=true") == 0
        assert levels(read_rgb(folder / "o.png"), eight(expected)) <= 1


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("missing", ["there is no weights file", "w.pt"]),
        ("other", ["w.pt", "no model known here", "classifier.weight"]),
        ("unlike", ["w.pt", "another model", "tail2"]),
        ("truncated", ["w.pt", "damaged"]),
        ("empty", ["w.pt", "damaged"]),
        ("picture", ["w.pt"]),
        ("code", ["w.pt", "plain weights"]),
        ("list", ["w.pt", "list"]),
    ],
)
def test_weights_that_cannot_be_used(run, folder: Path, capfd, content: str, parts: list[str]):
    write(folder / "low.png", 5, 5)
    path = folder / "w.pt"
    if content == "other":
        torch.save({"classifier.weight": torch.zeros(2)}, path)
    elif content == "unlike":
        held = checkpoint.read(run / "checkpoints" / "last.pt")
        del held["format"], held["models"]["backbone"]["merge.tail2.weight"]
        checkpoint.write(path, held)
    elif content == "truncated":
        whole = (run / "checkpoints" / "last.pt").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "code":
        torch.save({"state_dict": _Evil()}, path)
    elif content == "list":
        torch.save([torch.zeros(1)], path)
    elif content == "picture":
        path.write_bytes((folder / "low.png").read_bytes())
    elif content == "empty":
        path.touch()
    before = sorted(folder.rglob("*"))
    assert apply(path, "input=low.png", "output=o.png") == 2
    refused(capfd, *parts)
    assert sorted(folder.rglob("*")) == before


# ---- pictures of every size and kind


@pytest.mark.parametrize(
    ("size", "more"),
    [
        *(((h, w), []) for h, w in [(1, 1), (5, 3), (7, 513)]),
        *(pytest.param((h, w), [], marks=pytest.mark.slow) for h, w in [(1, 7), (7, 1)]),
        ((1, 1), ["ensemble=true"]),
        pytest.param((5, 3), ["ensemble=true"], marks=pytest.mark.slow),
        ((7, 513), ["tile=64"]),
        pytest.param((1, 7), ["tile=64"], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_any_size(run, restorer, folder: Path, size, more):
    low = write(folder / "low.png", *size)
    assert apply(run, "input=low.png", "output=o.png", *more) == 0
    result = read_rgb(folder / "o.png")
    assert result.shape == (3, 4 * size[0], 4 * size[1])
    if "ensemble=true" not in more:
        expected = by_hand(restorer, low, read_rgb(folder / "reference.png"))
        assert levels(result, eight(expected)) <= 1


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (3, 50), (5, 6)])
def test_references_of_any_size(run, restorer, folder: Path, size):
    reference = write(folder / "small.png", *size)
    low = write(folder / "low.png", 9, 8)
    assert apply(run, "input=low.png", "output=o.png", reference="small.png") == 0
    padded = np.pad(
        reference.numpy(), [(0, 0), *((0, max(0, 4 - side)) for side in size)], mode="edge"
    )
    expected = by_hand(restorer, low, torch.from_numpy(padded))
    assert levels(read_rgb(folder / "o.png"), eight(expected)) <= 1


def test_several_references_are_used_together(run, restorer, folder: Path):
    low = write(folder / "low.png", 6, 7)
    one = write(folder / "one.png", 16, 24, seed=1)
    two = write(folder / "two.png", 28, 12, seed=2)
    assert apply(run, "input=low.png", "output=out.png", reference="[one.png,two.png]") == 0
    memory = restorer.encode_reference(one) + restorer.encode_reference(two)
    expected = restorer.restore(low, memory, None)
    assert levels(read_rgb(folder / "out.png"), eight(expected)) <= 1
    apart = [restorer.restore(low, restorer.encode_reference(x), None) for x in (one, two)]
    assert all(not torch.equal(x, expected) for x in apart)


def test_ensemble_is_the_mean_over_eight_turns(run, restorer, folder: Path):
    low = write(folder / "low.png", 7, 10)
    reference = read_rgb(folder / "reference.png")
    assert apply(run, "input=low.png", "output=o.png", "ensemble=true") == 0
    turned_back = []
    for transposed in (False, True):
        for axes in ((), (1,), (2,), (1, 2)):
            turned = (low.transpose(1, 2) if transposed else low).flip(axes)
            back = by_hand(restorer, turned.contiguous(), reference).flip(axes)
            turned_back.append(back.transpose(1, 2) if transposed else back)
    expected = torch.stack(turned_back).double().mean(0)
    assert levels(read_rgb(folder / "o.png"), eight(expected)) <= 1
    assert (expected - turned_back[0]).abs().max() > 3 / 255


def test_tiles_show_no_seam(run, folder: Path):
    write(folder / "low.png", 48, 37)
    assert apply(run, "input=low.png", "output=tiles.png", "tile=24") == 0
    assert apply(run, "input=low.png", "output=whole.png", "tile=null") == 0
    assert levels(read_rgb(folder / "tiles.png"), read_rgb(folder / "whole.png")) <= 1


@pytest.mark.parametrize("size", [(200, 8000), (8000, 3), (512, 512), (513, 513)])
def test_large_pictures_go_by_tiles_unasked(restorer, size):
    height, width = size
    tile = automatic_tile(height, width, restorer.reach, restorer.whole)
    assert (tile is None) == (height * width <= 512 * 512)
    most = max(c.height * c.width for c, _ in windows(height, width, tile or 9999, restorer.reach))
    assert most <= 512 * 512
    assert automatic_tile(height, width, None, 400) is None, "tiles would change the result"


def test_tiles_where_the_network_takes_means_over_the_picture(folder: Path, capfd):
    run = write_run(folder / "channel", "fusion=channel")
    write(folder / "low.png", 5, 5)
    assert apply(run, "input=low.png", "output=o.png", "tile=16") == 2
    refused(capfd, "tile=16", "depends on the whole picture")
    assert apply(run, "input=low.png", "output=o.png") == 0


def test_grey_stays_grey(run, restorer, folder: Path):
    write(folder / "colour.png", 9, 11)
    Image.open("colour.png").convert("L").save("low.png")
    assert apply(run, "input=low.png", "output=o.png") == 0
    low = read_rgb(folder / "low.png")
    expected = by_hand(restorer, low, read_rgb(folder / "reference.png")).mean(0, keepdim=True)
    assert load(folder / "o.png").grey
    assert levels(read_rgb(folder / "o.png")[:1], eight(expected)) <= 1


def test_one_bit_and_palette_are_restored_as_what_they_show(run, folder: Path):
    write(folder / "colour.png", 9, 11)
    for name, mode, same in (("p", "P", "RGB"), ("b", "1", "L")):
        image = Image.open("colour.png").convert(mode)
        image.save(f"{name}.png")
        image.convert(same).save(f"{name}-same.png")
        for file in (name, f"{name}-same"):
            assert apply(run, f"input={file}.png", f"output=out/{file}.png") == 0
        one, other = (folder / "out" / f"{file}.png" for file in (name, f"{name}-same"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_restored_too(run, restorer, folder: Path, mode: str):
    low = write(folder / "colour.png", 12, 15)
    alpha = np.zeros((12, 15), np.uint8)
    alpha[:, 5:] = np.random.default_rng(1).integers(0, 256, (12, 10))
    alpha[:, 10:] = 255
    image = Image.open("colour.png")
    if mode == "P":  # a colour of the palette is transparent
        image = image.quantize(8)
        alpha = np.where(np.array(image) == 3, 0, 255).astype(np.uint8)
        low = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        image.save("low.png", transparency=3)
    else:
        low = torch.from_numpy(np.array(image.convert(mode[:-1]).convert("RGB"))).permute(2, 0, 1)
        image = image.convert(mode[:-1])
        image.putalpha(Image.fromarray(alpha))
        image.save("low.png")
    assert apply(run, "input=low.png", "output=o.png") == 0
    result = load(folder / "o.png")
    reference = read_rgb(folder / "reference.png")
    colour = by_hand(restorer, low, reference)
    colour = colour.mean(0, keepdim=True).expand(3, -1, -1) if mode == "LA" else colour
    assert levels(eight(as_float(result.colour)), eight(colour)) <= 1
    assert result.grey == (mode == "LA")
    # As a grey picture, within the range of each low pixel's neighbours.
    grey = torch.from_numpy(alpha).expand(3, -1, -1).contiguous()
    expected = by_hand(restorer, grey, reference).mean(0).numpy()
    for y in range(12):
        for x in range(15):
            near = alpha[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] / 255
            block = expected[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            expected[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = block.clip(near.min(), near.max())
    assert levels(eight(as_float(result.alpha[0])), eight(torch.from_numpy(expected))) <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_come_out_as_sixteen(run, restorer, folder: Path, suffix, channels):
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.integers(20000, 20900, (channels, 8, 9)) / 65535).float()
    alpha = values[3:] if channels == 4 else None
    low = Picture(values[:3].expand(3, -1, -1), alpha, 16, grey=channels == 1, icc=PROFILE)
    save(folder / f"low{suffix}", low)
    assert apply(run, f"input=low{suffix}", f"output=o{suffix}") == 0
    result = load(folder / f"o{suffix}")
    assert (result.bits, result.grey, result.icc) == (16, channels == 1, PROFILE)
    memory = restorer.encode_reference(read_rgb(folder / "reference.png"))
    expected = restorer.restore(load(folder / f"low{suffix}").colour, memory, None)
    expected = expected.mean(0, keepdim=True) if channels == 1 else expected
    assert (result.colour - expected).abs().max() < 1 / 65535
    steps = len(np.unique((result.colour.double() * 65535).round()))
    assert steps > 300, "only 8 bits' worth of levels came through"
    raw = cv2.imread(f"o{suffix}", cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_rotation_is_applied_and_not_said_again(run, folder: Path, orientation: int):
    write(folder / "low.png", 9, 14)
    upright = Image.open("low.png")
    turns = {3: 180, 6: 90, 8: 270}  # anticlockwise, to how the camera held it
    exif = Image.Exif()
    exif[274] = orientation
    upright.rotate(turns[orientation], expand=True).save("turned.png", exif=exif.tobytes())
    for name in ("low", "turned"):
        assert apply(run, f"input={name}.png", f"output=out-{name}.png") == 0
    assert Image.open("out-turned.png").getexif().get(274, 1) == 1
    assert torch.equal(read_rgb(folder / "out-turned.png"), read_rgb(folder / "out-low.png"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_output_kinds(run, folder: Path, suffix: str):
    write(folder / "in" / "low.png", 9, 11)
    Image.open("in/low.png").save("in/low.png", icc_profile=PROFILE)
    more = ["quality=100"] if suffix in (".jpg", ".webp") else []
    assert apply(run, "input=in", "output=out", f"suffix={suffix}", *more) == 0
    assert apply(run, "input=in/low.png", "output=plain.png") == 0
    (made,) = (folder / "out").iterdir()
    assert made.name == f"low{suffix}"
    kinds = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF"}
    with Image.open(made) as opened:
        assert opened.format == kinds[suffix]
        assert opened.info["icc_profile"] == PROFILE
    difference = read_rgb(made).int() - read_rgb(folder / "plain.png").int()
    assert difference.abs().float().mean() < (4 if more else 1e-9)


def test_a_kind_too_small_for_the_result(run, folder: Path, capfd):
    write(folder / "in" / "long.png", 1, 4100)
    write(folder / "in" / "short.png", 2, 3)
    assert apply(run, "input=in", "output=out", "suffix=.webp") == 1
    assert "WEBP holds at most 16383" in capfd.readouterr().out
    assert [path.name for path in (folder / "out").iterdir()] == ["short.webp"]
    assert apply(run, "input=in/long.png", "output=o.webp") == 2
    refused(capfd, "WEBP holds at most 16383", "suffix=.png")


# ---- folders


def test_folder_to_folder_keeps_names_and_the_tree(run, folder: Path):
    names = ["a.png", "b/c.JPG", "b/d.webp", "e.tif", "f.bmp"]
    for place, name in enumerate(names):
        write(folder / "in" / name, 4 + place, 5, seed=place)
    assert apply(run, "input=in", "output=out") == 0
    made = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*"))
    assert made == ["a.png", "b/c.jpg", "b/d.webp", "e.tif", "f.png"]
    for place, name in enumerate(["a.png", "b/c.jpg", "b/d.webp", "e.tif", "f.png"]):
        assert read_rgb(folder / "out" / name).shape == (3, 4 * (4 + place), 20)
    assert apply(run, "input=in/a.png", "output=one.png") == 0
    assert (folder / "one.png").read_bytes() == (folder / "out" / "a.png").read_bytes()


def test_a_file_into_a_folder(run, folder: Path):
    write(folder / "low.png", 4, 4)
    assert apply(run, "input=low.png", "output=made/here") == 0
    assert apply(run, "input=reference.png", "output=made/here") == 0
    assert {path.name for path in Path("made/here").iterdir()} == {"low.png", "reference.png"}


def test_references_by_name(run, folder: Path, capfd):
    for place, name in enumerate(["x.png", "y.png", "sub/x.png"]):
        write(folder / "in" / name, 6, 6, seed=1)
        write(folder / "refs" / Path(name).with_suffix(".jpg"), 20, 20, seed=10 + place)
    write(folder / "refs" / "unused.png", 8, 8)
    assert apply(run, "input=in", "output=out", reference="refs") == 0
    for name in ("x", "y", "sub/x"):
        single = [f"input=in/{name}.png", "output=single.png", "overwrite=true"]
        assert apply(run, *single, reference=f"refs/{name}.jpg") == 0
        assert Path("single.png").read_bytes() == Path(f"out/{name}.png").read_bytes()
    results = {Path(f"out/{name}.png").read_bytes() for name in ("x", "y", "sub/x")}
    assert len(results) == 3, "the same input with other references is restored otherwise"
    # A partner that is missing is said before anything is done.
    Path("refs/y.jpg").unlink()
    capfd.readouterr()
    assert apply(run, "input=in", "output=out2", reference="refs") == 2
    refused(capfd, "reference=refs", "1 of 3", "y.png")
    assert not Path("out2").exists()
    write(folder / "refs" / "y.png", 8, 8)
    write(folder / "refs" / "y.tif", 8, 8)
    assert apply(run, "input=in", "output=out2", reference="refs") == 2
    refused(capfd, "y.png", "y.tif", "the same name")


def test_the_others_are_finished_when_one_cannot_be_read(run, folder: Path, capfd):
    for name in ("a.png", "c.png", "e.png"):
        write(folder / "in" / name, 5, 5)
        write(folder / "refs" / name, 8, 8)
    for name in ("in/b.png", "in/d.png", "refs/b.png", "refs/d.png"):
        write(folder / name, 30, 30)
    for name in ("in/b.png", "refs/d.png"):
        Path(name).write_bytes(Path(name).read_bytes()[:400])
    assert apply(run, "input=in", "output=out", reference="refs") == 1
    told = capfd.readouterr().out
    assert "in/b.png" in told
    assert "refs/d.png" in told
    assert "3 of 5" in told
    assert {path.name for path in Path("out").iterdir()} == {"a.png", "c.png", "e.png"}


def test_the_only_input_or_reference_cannot_be_read(run, folder: Path, capfd):
    write(folder / "in" / "a.png", 5, 5)
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert apply(run, "input=broken.png", "output=o.png") == 2
    refused(capfd, "cannot read the image", "broken.png")
    assert apply(run, "input=in", "output=out", reference="broken.png") == 2
    refused(capfd, "cannot read the image", "broken.png")
    assert not Path("out").exists()
    assert not Path("o.png").exists()


def test_nothing_is_overwritten_unless_asked(run, folder: Path, capfd):
    for name in ("a", "b", "c"):
        write(folder / "in" / f"{name}.png", 5, 5)
    Path("out").mkdir()
    Path("out/c.png").write_bytes(b"precious")
    assert apply(run, "input=in", "output=out") == 2
    refused(capfd, "out/c.png", "overwrite=true")
    assert [path.name for path in Path("out").iterdir()] == ["c.png"], "work began before the check"
    assert Path("out/c.png").read_bytes() == b"precious"
    assert apply(run, "input=in/c.png", "output=out/c.png") == 2
    refused(capfd, "out/c.png", "overwrite=true")
    assert apply(run, "input=in", "output=out", "overwrite=true") == 0
    assert read_rgb(folder / "out" / "c.png").shape == (3, 20, 20)


def test_inputs_and_references_are_never_overwritten(run, folder: Path, capfd):
    write(folder / "in" / "a.png", 5, 5)
    before = Path("in/a.png").read_bytes(), Path("reference.png").read_bytes()
    for line in (
        ["input=in", "output=in"],
        ["input=in/a.png", "output=in/a.png"],
        ["input=in/a.png", "output=in/../in/a.png"],
        ["input=in/a.png", "output=reference.png"],
    ):
        assert apply(run, *line, "overwrite=true") == 2
        refused(capfd, "is itself an input, reference or mask")
    assert before == (Path("in/a.png").read_bytes(), Path("reference.png").read_bytes())


def test_output_within_the_input_folder(run, folder: Path):
    write(folder / "in" / "a.png", 5, 5)
    shutil.copytree("in", "in/refs")
    for _ in range(2):
        code = apply(run, "input=in", "output=in/restored", "overwrite=true", reference="in/refs")
        assert code == 0
    found = sorted(path.relative_to("in").as_posix() for path in Path("in").rglob("*.png"))
    assert found == ["a.png", "refs/a.png", "restored/a.png"]


BAD = [
    # overrides, parts of the sentence
    (["input=nowhere", "output=o"], ["input=nowhere", "no such file or folder"]),
    (["input=empty", "output=o"], ["no pictures below empty"]),
    (["input=low.png", "output=o.gif"], ["o.gif", ".png, .jpg"]),
    (["input=low.png", "output=o.png", "suffix=.gif"], ["suffix=.gif", ".webp"]),
    (["input=low.png", "output=o.png", "suffix=.jpg"], ["o.png", "suffix=.jpg"]),
    (["input=low.png", "output=o.png", "tile=8"], ["tile", "8", "16"]),
    (["input=low.png", "output=o.png", "tile=big"], ["tile", "big"]),
    (["input=low.png", "output=o.png", "quality=0"], ["quality=0"]),
    (["input=low.png", "output=o.png", "overwrite=perhaps"], ["overwrite=perhaps"]),
    (["input=low.png", "output=o.png", "runtime.devices=2"], ["runtime.devices=2", "one device"]),
    (["input=low.png", "output=o.png", "outptu=x"], ["'outptu' is not a setting", "output"]),
    (["output=o.png"], ["input has no value"]),
    (["input=pair", "output=o.png"], ["pair is a folder", "o.png must be one too"]),
    (["input=pair", "output=low.png"], ["pair is a folder", "low.png must be one too"]),
    (["input=low.png", "output=low.png/o.png"], ["low.png/o.png", "nothing can be written"]),
    (["input=pair", "output=o", "suffix=.png"], ["both be written to o/a.png"]),
]


@pytest.mark.parametrize(("line", "parts"), BAD, ids=[" ".join(line) for line, _ in BAD])
def test_mistakes_are_told_before_anything_is_done(run, folder: Path, capfd, line, parts):
    write(folder / "low.png", 5, 5)
    write(folder / "pair" / "a.png", 5, 5)
    write(folder / "pair" / "a.jpg", 5, 5)
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    assert apply(run, *line) == 2
    refused(capfd, *parts)
    assert sorted(folder.rglob("*")) == before


def test_a_missing_reference(run, folder: Path, capfd):
    write(folder / "low.png", 5, 5)
    line = ["input=low.png", "output=o.png"]
    assert apply(run, *line, reference="nowhere.png") == 2
    refused(capfd, "reference=nowhere.png", "no such file or folder")
    assert apply(run, *line, reference=None) == 2
    refused(capfd, "need a reference", "give reference=", "black, noise, self, none")


# ---- what stands in for a reference


def stood_in(kind: str, key: str, low: torch.Tensor) -> torch.Tensor:
    """The reference that a kind means, made plainly."""
    height, width = (4 * side for side in low.shape[1:])
    if kind == "noise":
        rng = np.random.default_rng(zlib.crc32(key.encode()))
        return torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8))
    if kind == "self":
        image = Image.fromarray(low.permute(1, 2, 0).contiguous().numpy())
        array = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
        return torch.from_numpy(array).permute(2, 0, 1)
    return torch.zeros(3, height, width, dtype=torch.uint8)


@pytest.mark.parametrize("kind", ["black", "noise", "self"])
def test_what_stands_in_for_a_reference_is_a_picture(run, restorer, folder: Path, kind: str):
    for place, name in enumerate(("a", "deeper/b")):
        write(folder / "in" / f"{name}.png", 9 + place, 12, seed=place)
    assert apply(run, "input=in", "output=out", reference=kind) == 0
    for name in ("a", "deeper/b"):
        low = read_rgb(folder / "in" / f"{name}.png")
        expected = by_hand(restorer, low, stood_in(kind, name, low))
        assert levels(read_rgb(folder / "out" / f"{name}.png"), eight(expected)) <= 1


def test_no_reference_means_no_texture(run, restorer, folder: Path):
    low = write(folder / "low.png", 9, 12)
    assert apply(run, "input=low.png", "output=o.png", reference="none") == 0
    pictures = low[None] / 255, stood_in("self", "", low)[None] / 255
    with torch.no_grad():
        expected = restorer.model(*pictures).image[0]
    assert levels(read_rgb(folder / "o.png"), eight(expected)) <= 1


def test_files_of_such_names_are_reached_by_their_paths(run, folder: Path, capfd):
    write(folder / "low.png", 9, 12)
    shutil.copy("reference.png", "black")
    for place, reference in enumerate(("./black", "reference.png", "black")):
        assert apply(run, "input=low.png", f"output={place}.png", reference=reference) == 0
    results = [Path(f"{place}.png").read_bytes() for place in range(3)]
    assert results[0] == results[1] != results[2]
    assert apply(run, "input=low.png", "output=o.png", reference="[reference.png,black]") == 2
    refused(capfd, "reference=black is not a picture", "./black")


def test_weights_trained_without_references_are_applied_without(folder: Path, capfd):
    own = write_run(folder / "own", "reference=self")
    write(folder / "low.png", 9, 12)
    assert apply(own, "input=low.png", "output=a.png", reference=None) == 0
    assert "reference=self, as these weights were trained" in capfd.readouterr().out
    assert apply(own, "input=low.png", "output=b.png", reference="self") == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_a_task_without_references_leaves_a_network_without(folder: Path, capfd):
    """TTSR trained for single images: textures of zero, and nothing to give or compare."""
    single = write_run(folder / "single", "backbone=ttsr", "task=single_sr", "task.crop=32")
    low = write(folder / "low.png", 9, 12)
    network = weights.load(single).backbone()
    with torch.no_grad():
        expected = network(low[None] / 255, resize(low, 4)[None] / 255).image[0]
    assert apply(single, "input=low.png", "output=o.png", reference=None) == 0
    assert levels(read_rgb(folder / "o.png"), eight(expected)) <= 1
    for reference in ("reference.png", "black"):
        assert apply(single, "input=low.png", "output=x.png", reference=reference) == 2
        refused(capfd, "reference: these weights are of a network or task that takes none")
    line = [f"weights={single}", "folder=compared", "references=[black,given]"]
    assert main(["evaluate", *line, "runtime.device=cpu", "wandb.mode=disabled"]) == 2
    assert "'black' has no effect: this task uses no reference" in capfd.readouterr().err
    assert not Path("compared").exists()


def test_compiling_is_for_training(run, folder: Path, capfd):
    write(folder / "low.png", 5, 5)
    assert apply(run, "input=low.png", "output=o.png", "runtime.compile=true") == 2
    refused(capfd, "runtime.compile=true", "leave it out")
    assert main(["evaluate", f"weights={run}", "folder=e", "runtime.compile=true"]) == 2
    assert "runtime.compile=true" in capfd.readouterr().err
    assert not Path("e").exists()


def test_an_empty_folder_survives_a_mistake(run, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert apply(run, "input=nowhere", "output=o") == 2
    assert tmp_path.is_dir()


def test_cuda_on_a_machine_without_it(run, folder: Path):
    write(folder / "low.png", 5, 5)
    command = [sys.executable, "-m", "restore", "apply", f"weights={run}", "input=low.png"]
    command += ["reference=reference.png", "output=o.png", "runtime.device=cuda"]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["IMG (1).png", "a,b.png", "a=b.png", "é ü.png", "it's.png"])
def test_file_names_that_cameras_and_people_make(run, folder: Path, name: str):
    write(folder / name, 4, 4)
    assert apply(run, f"input={name}", f"output=out {name.replace(',', ' ')}") == 0
    assert read_rgb(folder / f"out {name.replace(',', ' ')}").shape == (3, 16, 16)


def test_what_is_said(run, folder: Path, capfd):
    write(folder / "low.png", 5, 5)
    assert apply(run, "input=low.png", "output=o.png") == 0
    told = capfd.readouterr()
    assert checkpoint.fingerprint(run / "checkpoints" / "last.pt") in told.out
    assert "RANDOM" in told.out
    assert "1 of 1" in told.out
    assert told.err == ""


def test_what_a_full_disk_cut_short_goes_on(run: Path, folder: Path, capfd):
    write(folder / "in" / "a.png", 8, 8)
    write(folder / "in" / "b.png", 24, 24)
    line = [run, "input=in", "output=out"]
    with no_larger_than(6000):
        assert apply(*line) == 2
    assert "out/b.png: the file would become larger than files may be" in capfd.readouterr().err
    assert sorted(path.name for path in (folder / "out").iterdir()) == [".unfinished", "a.png"]
    assert apply(*line, "ensemble=true") == 2, "that is something else"
    assert "a.png is there already" in capfd.readouterr().err
    before = (folder / "out" / "a.png").stat().st_mtime_ns
    assert apply(*line) == 0
    assert "resuming: 1 of 2 are done already" in capfd.readouterr().out
    assert before == (folder / "out" / "a.png").stat().st_mtime_ns
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.png", "b.png"]
    assert apply(*line) == 2, "it is done"
