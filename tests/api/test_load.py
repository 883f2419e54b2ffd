"""`restore.load`: any picture in, the same kind out, as `restore apply` makes it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

import restore
from restore.cli import main
from restore.images.io import load, to_image
from tests.helpers.pictures import photo, write
from tests.helpers.untrained import write_run

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def net() -> restore.Pipeline:
    return restore.load("wdsr_b_x4", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two run folders: of a network with references, and of one that fills holes."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "ttsr")
    write_run(
        folder / "inpainting", "task=partial_sr", "task.coding=mask_channel", "backbone.inputs=4"
    )
    return folder


@pytest.fixture(scope="module")
def by_reference(folder: Path) -> restore.Pipeline:
    return restore.load(folder / "ttsr", device="cpu")


@pytest.fixture(scope="module")
def inpainting(folder: Path) -> restore.Pipeline:
    return restore.load(folder / "inpainting", device="cpu")


def applied(folder: Path, source: Path, *overrides: str) -> np.ndarray:
    """What the command makes of a file, as PIL reads it."""
    goal = folder / "applied.png"
    line = [f"input={source}", f"output={goal}", "overwrite=true", "runtime.device=cpu"]
    assert main(["apply", *line, *overrides]) == 0
    with Image.open(goal) as image:
        return np.array(image)


# Weights


@pytest.mark.parametrize("scale", [None, 4])
def test_a_bundled_network_has_a_name(net: restore.Pipeline, scale: int | None):
    named = restore.load("wdsr_b_x4", scale=scale, device="cpu")
    assert named.loaded.path == net.loaded.path
    assert (named.scale, named.takes_reference, named.fills_holes) == (4, False, False)
    assert named.loaded.fingerprint in repr(named)


def test_without_a_name_the_scale_chooses():
    assert restore.load(scale=3, device="cpu").loaded.path.parent.name == "wdsr_b_x3"
    free = restore.load(scale=2.5, device="cpu")
    assert free.loaded.path.parent.name == "asdn"
    assert free(RED).shape == (23, 33, 3)


def test_a_run_folder_and_its_checkpoint_are_the_same(folder: Path):
    run = restore.load(folder / "ttsr", device="cpu")
    checkpoint = restore.load(str(folder / "ttsr" / "checkpoints" / "last.pt"), device="cpu")
    assert np.array_equal(run(RED, reference=RED), checkpoint(RED, reference=RED))


def test_the_command_takes_a_name_too(net: restore.Pipeline, tmp_path: Path):
    Image.fromarray(RED).save(tmp_path / "low.png")
    made = applied(tmp_path, tmp_path / "low.png", "weights=wdsr_b_x4")
    assert np.array_equal(made, net(RED))


BAD = [
    (lambda: restore.load("wdsr"), "no network of that name: asdn, ttsr_partial, ttsr_x4"),
    (lambda: restore.load(), "scale"),
    (lambda: restore.load("wdsr_b_x4", scale=3), "enlarges by 4"),
    (lambda: restore.load("wdsr_b_x4", precision="fp8"), "precision=fp8"),  # type: ignore[arg-type]
    (lambda: restore.load("wdsr_b_x4", device="gpu"), "device=gpu"),
    (lambda: restore.load("wdsr_b_x4", device="cuda:99"), "device=cuda:99"),
]


@pytest.mark.parametrize(("call", "part"), BAD, ids=[part for _, part in BAD])
def test_what_cannot_be_loaded_is_a_sentence(call: Any, part: str):
    with pytest.raises(restore.UserError, match=part) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


# Kinds of pictures


KINDS: dict[str, tuple[Any, float]] = {
    "PIL": (Image.fromarray(RED), 0),
    "uint8 array": (RED, 0),
    "uint8 tensor": (torch.from_numpy(RED).permute(2, 0, 1), 0),
    # What comes back is not rounded to 8 bits.
    "uint16 array": (RED.astype(np.uint16) * 257, 0.51),
    "float64 array": (RED / 255, 0.51),
    "float32 array": ((RED / 255).astype(np.float32), 0.51),
    "float tensor": (torch.from_numpy(RED).permute(2, 0, 1) / 255, 0.51),
    "float64 tensor": (torch.from_numpy(RED).permute(2, 0, 1).double() / 255, 0.51),
}


def levels(value: Any) -> np.ndarray:
    """A result's pixels HWC from 0 to 255."""
    if isinstance(value, torch.Tensor):
        value = value.permute(1, 2, 0).numpy()
    array = np.array(value)
    if array.dtype == np.uint16:
        return array / 257
    return array * 255.0 if array.dtype.kind == "f" else array.astype(float)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_picture_comes_back_as_the_kind_that_was_given(
    net: restore.Pipeline, by_reference: restore.Pipeline, kind: str
):
    picture, tolerance = KINDS[kind]
    sharp = photo("astronaut", 33, 41)
    # Matching takes other places where the enlarged picture is not rounded as that of 8 bits is.
    for network, more in ((net, {}), (by_reference, {"reference": sharp})):
        result = network(picture, **more)
        assert type(result) is type(picture) or isinstance(result, Image.Image)
        if not isinstance(picture, Image.Image):
            assert result.dtype == picture.dtype
        assert levels(result).shape == (36, 52, 3)
        assert np.abs(levels(result) - network(RED, **more).astype(float)).max() <= tolerance


def test_a_path_gives_a_pil_picture_of_what_the_command_writes(net: restore.Pipeline, tmp_path):
    path = tmp_path / "low.png"
    Image.fromarray(RED).save(path, icc_profile=PROFILE)
    for given_path in (path, str(path)):
        result = net(given_path)
        assert result.info["icc_profile"] == PROFILE
        assert np.array_equal(np.array(result), applied(tmp_path, path, "weights=wdsr_b_x4"))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_grey_and_transparent_pictures_are_as_the_command_has_them(net, tmp_path: Path, mode: str):
    if mode == "I;16":
        image = Image.fromarray(RED[..., 0].astype(np.uint16) * 200)
    else:
        image = Image.fromarray(np.dstack([RED, RED[..., :1]])).convert(mode)
    image.save(tmp_path / "low.png")
    result = net(image)
    assert result.mode == mode
    assert np.array_equal(
        np.array(result), applied(tmp_path, tmp_path / "low.png", "weights=wdsr_b_x4")
    )
    array = np.array(image)
    assert np.array_equal(net(array), np.array(result))
    assert np.array_equal(net(array).shape, [36, 52, *array.shape[2:]])


@pytest.mark.parametrize(("mode", "back"), [("P", "RGB"), ("1", "L"), ("CMYK", "RGB")])
def test_modes_that_pictures_are_not_restored_in(net, mode: str, back: str):
    image = Image.fromarray(RED).convert(mode)
    assert net(image).mode == back
    assert np.array_equal(np.array(net(image)), np.array(net(image.convert(back))))


def test_a_picture_that_is_turned_by_its_exif_comes_back_upright(net: restore.Pipeline, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(RED).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert net(image).size == (36, 52)
        assert np.array_equal(np.array(net(image)), net(np.ascontiguousarray(np.rot90(RED, 3))))


@settings(max_examples=15)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([None, 1, 2, 3, 4]),
    seed=st.integers(0, 99),
)
def test_shape_and_transparency_are_kept_for_any_array(net, height, width, channels, seed):
    shape = (height, width) if channels is None else (height, width, channels)
    array = np.random.default_rng(seed).random(shape)
    if channels in (2, 4):
        array[..., -1] = 1
    result = net(array)
    assert result.shape == (4 * height, 4 * width, *shape[2:])
    assert 0 <= result.min() <= result.max() <= 1
    if channels in (2, 4):
        assert (result[..., -1] == 1).all()
    tensor = torch.from_numpy(array if channels is None else array.transpose(2, 0, 1).copy())
    turned = net(tensor).numpy()
    assert np.array_equal(turned if channels is None else turned.transpose(1, 2, 0), result)


REFUSED = [
    (np.zeros((3, 8, 8)), "arrays are HW or HWC"),
    (torch.zeros(8, 8, 3), "tensors are HW, CHW or NCHW"),
    (np.full((4, 4), 255.0), r"values from 255 to 255; float pictures are in \[0, 1\]"),
    (np.full((4, 4), np.nan), "values from nan"),
    (np.zeros((4, 4), int), "uint8, uint16 or float"),
    (torch.zeros(3, 4, 4, dtype=torch.long), "uint8 or float"),
    (np.zeros((0, 4), np.uint8), "no pixels"),
    (torch.zeros(0, 3, 4, 4), "none in the batch"),
    (5, "not int"),
    ("nowhere.png", "there is no such file"),
    (Image.new("F", (3, 3)), "32 bits"),
]


@pytest.mark.parametrize(("picture", "part"), REFUSED, ids=[part for _, part in REFUSED])
def test_what_is_no_picture_is_a_sentence(net: restore.Pipeline, picture: Any, part: str):
    with pytest.raises(restore.UserError, match=part) as error:
        net(picture)
    assert len(str(error.value).splitlines()) == 1


# Several


def test_a_list_in_a_list_out(net: restore.Pipeline, tmp_path: Path):
    Image.fromarray(RED).save(tmp_path / "low.png")
    results = net([RED, Image.fromarray(RED), tmp_path / "low.png", RED[:3]])
    assert [type(result) for result in results] == [
        np.ndarray,
        Image.Image,
        Image.Image,
        np.ndarray,
    ]
    assert all(np.array_equal(np.array(result), net(RED)) for result in results[:3])
    assert results[3].shape == (12, 52, 3)
    assert net([]) == []


def test_a_batch_is_its_pictures_and_gradients_run_through_what_is_made_of_it(net):
    batch = torch.rand(2, 3, 5, 6)
    result = net(batch)
    assert torch.equal(result, torch.stack([net(batch[0]), net(batch[1])]))
    weight = torch.ones(1, requires_grad=True)
    (result * weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(result.sum().item(), rel=1e-4)


# Tiles, turns


def test_tiles_are_chosen_by_size_and_show_no_seam(net: restore.Pipeline, monkeypatch):
    picture = photo("coffee", 64, 80)
    whole = net(picture, tile=None)
    assert np.abs(net(picture, tile=24).astype(int) - whole).max() <= 1
    seen: list[int | None] = []

    def instead(low: torch.Tensor, memory: Any, tile: int | None, *_: Any) -> list[torch.Tensor]:
        seen.append(tile)
        return [torch.zeros(3, *net.restorer.size(*low.shape[-2:]))]

    monkeypatch.setattr(net.restorer, "bands", instead)
    net(picture)
    net(np.zeros((401, 401), np.uint8))
    assert seen[0] is None
    assert seen[1] is not None
    assert 16 <= seen[1] <= 400


def test_an_ensemble_is_what_the_command_makes(net: restore.Pipeline, tmp_path: Path):
    Image.fromarray(RED).save(tmp_path / "low.png")
    made = applied(tmp_path, tmp_path / "low.png", "weights=wdsr_b_x4", "ensemble=true")
    assert np.array_equal(net(RED, ensemble=True), made)
    assert not np.array_equal(net(RED), made)


@pytest.mark.parametrize("tile", [8, 0, "all"])
def test_tiles_that_are_none(net: restore.Pipeline, tile: Any):
    with pytest.raises(restore.UserError, match="tile="):
        net(RED, tile=tile)


# References


def test_a_reference_of_any_kind(by_reference: restore.Pipeline, folder: Path, tmp_path: Path):
    sharp = photo("astronaut", 33, 41)
    write(tmp_path / "sharp.png", sharp)
    write(tmp_path / "low.png", RED)
    line = [f"weights={folder / 'ttsr'}", f"reference={tmp_path / 'sharp.png'}"]
    made = applied(tmp_path, tmp_path / "low.png", *line)
    kinds = [sharp, Image.fromarray(sharp), tmp_path / "sharp.png", str(tmp_path / "sharp.png")]
    deep = sharp.astype(np.uint16) * 257
    between = deep + np.random.default_rng(0).integers(-128, 129, deep.shape)
    kinds += [deep, sharp / 255, between.clip(0, 65535).astype(np.uint16)]  # all of 8 bits to it
    for reference in [*kinds, torch.from_numpy(sharp).permute(2, 0, 1)]:
        assert np.array_equal(by_reference(RED, reference=reference), made)
    other = by_reference(RED, reference=photo("coffee", 33, 41))
    assert not np.array_equal(other, made)


@pytest.mark.parametrize("kind", ["black", "noise", "self", "none"])
def test_what_stands_in_for_a_reference(by_reference, folder: Path, tmp_path: Path, kind: str):
    write(tmp_path / "low.png", RED)
    line = [f"weights={folder / 'ttsr'}", f"reference={kind}"]
    made = applied(tmp_path, tmp_path / "low.png", *line)
    assert np.array_equal(np.array(by_reference(tmp_path / "low.png", reference=kind)), made)


def test_several_references_are_used_together(by_reference, folder: Path, tmp_path: Path):
    write(tmp_path / "low.png", RED)
    sharp = [photo("astronaut", 33, 41), photo("coffee", 20, 24)]
    for number, picture in enumerate(sharp):
        write(tmp_path / f"{number}.png", picture)
    line = [f"weights={folder / 'ttsr'}", f"reference=[{tmp_path / '0.png'},{tmp_path / '1.png'}]"]
    made = applied(tmp_path, tmp_path / "low.png", *line)
    assert np.array_equal(by_reference(RED, reference=sharp), made)


def test_a_reference_is_encoded_once(by_reference: restore.Pipeline, tmp_path, monkeypatch):
    calls: list[int] = []
    encode = by_reference.restorer.encode_reference
    monkeypatch.setattr(
        by_reference.restorer, "encode_reference", lambda x: calls.append(1) or encode(x)
    )
    sharp = photo("astronaut", 33, 41)
    first = by_reference(RED, reference=sharp)
    by_reference([RED, RED], reference=sharp.copy())
    by_reference(RED, reference=Image.fromarray(sharp))
    assert len(calls) == 1
    sharp[0, 0] ^= 1  # another picture in the same array
    assert not np.array_equal(by_reference(RED, reference=sharp), first) or len(calls) == 2
    assert len(calls) == 2
    prepared = by_reference.encode_reference(sharp)
    by_reference(RED, reference=photo("coffee", 33, 41))
    assert len(calls) == 3
    assert by_reference(RED, reference=prepared).shape == (36, 52, 3)
    assert len(calls) == 3
    path = tmp_path / "sharp.png"
    for expected in (4, 4):
        if not path.exists():
            write(path, sharp)
        by_reference(RED, reference=path)
        assert len(calls) == expected
    write(path, photo("chelsea", 30, 30))
    by_reference(RED, reference=path)
    assert len(calls) == 5


def test_a_batch_may_bring_a_reference_for_each(by_reference: restore.Pipeline):
    batch, sharp = torch.rand(2, 3, 6, 7), torch.rand(2, 3, 24, 20)
    result = by_reference(batch, reference=sharp)
    apart = [by_reference(batch[i], reference=sharp[i]) for i in (0, 1)]
    assert torch.equal(result, torch.stack(apart))
    with pytest.raises(restore.UserError, match="a batch of 2 for one of 1"):
        by_reference(batch[:1], reference=sharp)


def test_references_that_do_not_fit(net: restore.Pipeline, by_reference: restore.Pipeline, folder):
    with pytest.raises(restore.UserError, match="takes none"):
        net(RED, reference=RED)
    with pytest.raises(restore.UserError, match="takes none"):
        net.encode_reference(RED)
    with pytest.raises(restore.UserError, match="need a reference picture: give reference="):
        by_reference(RED)
    with pytest.raises(restore.UserError, match="empty"):
        by_reference(RED, reference=[])
    write_run(folder / "other", "backbone.global_skip=false")
    other = restore.load(folder / "other", device="cpu").encode_reference(RED)
    with pytest.raises(restore.UserError, match="another network"):
        by_reference(RED, reference=other)


def test_weights_that_were_trained_without_references_need_none(tmp_path: Path):
    own = restore.load(write_run(tmp_path / "own", "reference=self"), device="cpu")
    assert own.stand_in == "self"
    assert np.array_equal(own(RED), own(RED, reference="self"))


# Masks


def test_masks_of_any_kind(inpainting: restore.Pipeline, folder: Path, tmp_path: Path):
    holes = np.zeros((9, 13), np.uint8)
    holes[2:5, 3:9] = 255
    write(tmp_path / "low.png", RED)
    write(tmp_path / "holes.png", holes)
    line = [f"weights={folder / 'inpainting'}", "reference=none"]
    made = applied(tmp_path, tmp_path / "low.png", *line, f"mask={tmp_path / 'holes.png'}")
    kinds = [holes, holes > 0, Image.fromarray(holes), tmp_path / "holes.png", holes[..., None]]
    kinds += [torch.from_numpy(holes > 0), torch.from_numpy(holes)[None], holes / 255.0]
    for mask in kinds:
        assert np.array_equal(inpainting(RED, reference="none", mask=mask), made)
    black = inpainting(RED, reference="none", mask=255 - holes, holes_are="black")
    assert np.array_equal(black, made)
    true = inpainting(RED, reference="none", mask=holes > 0, holes_are="black")
    assert np.array_equal(true, made)
    assert not np.array_equal(inpainting(RED, reference="none"), made)
    pair = inpainting([RED, RED], reference="none", mask=[holes, 0 * holes])
    assert np.array_equal(pair[0], made)
    assert np.array_equal(pair[1], inpainting(RED, reference="none", mask=0 * holes))


def test_masks_that_do_not_fit(net: restore.Pipeline, inpainting: restore.Pipeline):
    with pytest.raises(restore.UserError, match="fills no holes"):
        net(RED, mask=RED[..., 0])
    with pytest.raises(restore.UserError, match=r"mask \(4×3\) is not of the size of the picture"):
        inpainting(RED, reference="none", mask=np.zeros((3, 4), bool))
    with pytest.raises(restore.UserError, match="neither black nor white"):
        inpainting(RED, reference="none", mask=RED)
    with pytest.raises(restore.UserError, match="1 masks for 2 pictures"):
        inpainting([RED, RED], reference="none", mask=[RED])


# The package


def test_importing_it_costs_nothing():
    code = (
        "import sys, time; before = time.perf_counter(); import restore; restore.__version__; "
        "print(time.perf_counter() - before, {'torch', 'numpy', 'hydra'} & set(sys.modules))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    told = [run.stdout.split(maxsplit=1) for run in runs]
    assert min(float(seconds) for seconds, _ in told) < 0.1
    assert {loaded.strip() for _, loaded in told} == {"set()"}


def test_every_name_is_there_and_no_other():
    assert set(restore.__all__) <= set(dir(restore))
    assert all(getattr(restore, name) is not None for name in restore.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        restore.lode  # type: ignore[attr-defined]  # noqa: B018


def test_pil_pictures_are_written_as_they_are(tmp_path: Path):
    """What a path gives is what the file would hold, 16 bits of a grey picture included."""
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(np.array(to_image(load(tmp_path / "deep.png"))), deep)
