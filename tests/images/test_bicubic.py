"""MATLAB's bicubic: against stored MATLAB results, and against loops over single pixels."""

import csv
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from restore.config import registry
from restore.data.loading import EvalItems, collate
from restore.errors import UserError
from restore.images.bicubic import resize
from restore.images.io import read_rgb
from restore.metrics.fidelity import PSNR, SSIM
from tests import GOLDEN, SHARED
from tests.helpers.pictures import chw, photo

MATLAB = GOLDEN / "matlab_bicubic.npz"
BENCHMARK = SHARED / "data" / "benchmark"
stored = pytest.mark.skipif(not BENCHMARK.is_dir(), reason="needs the stored benchmark pictures")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def noise(seed: int, *shape: int) -> np.ndarray:
    """Half of it black and white, so that the kernel's overshoot is cut off often."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, shape)
    return np.where(rng.random(shape) < 0.5, values, 255 * (values > 127)).astype(np.uint8)


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * (x * x * x) - 2.5 * (x * x) + 1
    return -0.5 * (x * x * x) + 2.5 * (x * x) - 4 * x + 2 if x <= 2 else 0.0


def slow_column(column: list[int], factor: float, edges: str) -> list[int]:
    """One side of one line, pixel by pixel, as MATLAB's manual describes `imresize`."""
    side, shrinking = len(column), min(factor, 1.0)
    result = []
    for i in range(1, math.ceil(side * factor) + 1):
        middle = i / factor + 0.5 * (1 - 1 / factor)
        first = math.floor(middle - 4 / shrinking / 2)
        places = range(first, first + math.ceil(4 / shrinking) + 2)
        weights = [shrinking * cubic(shrinking * (middle - place)) for place in places]
        norm = total = 0.0
        for weight in weights:
            norm += weight
        for place, weight in zip(places, weights):
            at = place - 1
            if edges == "replicate":
                at = min(max(at, 0), side - 1)
            else:
                while not 0 <= at < side:
                    at = -1 - at if at < 0 else 2 * side - 1 - at
            total += weight / norm * column[at]
        result.append(min(max(math.floor(total + 0.5), 0), 255))
    return result


def slow(picture_HW: np.ndarray, factor: float, edges: str) -> np.ndarray:
    rows = [slow_column(column, factor, edges) for column in picture_HW.T.tolist()]
    lines = [slow_column(line, factor, edges) for line in np.array(rows).T.tolist()]
    return np.array(lines, np.uint8)


factors = st.one_of(
    st.sampled_from([1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 1.2, 1 / 1.5, 1.5, 2, 3, 4, 6, 1]),
    st.floats(1 / 32, 1),
    st.floats(1, 5),
)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    factor=factors,
    edges=st.sampled_from(["replicate", "mirror"]),
    seed=st.integers(0, 2**31),
)
@example(size=(1, 1), factor=1 / 31.9, edges="mirror", seed=0)
@example(size=(1, 1), factor=2.7, edges="replicate", seed=0)
@example(size=(3, 100), factor=1 / 31.9, edges="mirror", seed=0)
@example(size=(7, 150), factor=1 / 1.01, edges="replicate", seed=0)
@example(size=(70, 13), factor=1 / 2.7, edges="mirror", seed=0)
@example(size=(96, 80), factor=1 / 6, edges="replicate", seed=0)
@pytest.mark.parametrize("device", DEVICES)
def test_every_pixel_as_loops_make_it(device, size, factor, edges, seed):
    picture = noise(seed, *size)
    result = resize(torch.from_numpy(picture).to(device), factor, edges)
    assert result.shape == tuple(math.ceil(side * factor) for side in size)
    np.testing.assert_array_equal(result.cpu().numpy(), slow(picture, factor, edges))


@pytest.mark.parametrize("device", DEVICES)
def test_open_roundings_are_settled_in_order(device):
    """At ×1/6 sums meet half a level exactly, but for float64's errors: their order decides."""
    # In 20736ths the weights are whole numbers.
    taps = [round(20736 * cubic((2 * k - 23) / 12) / 6) for k in range(24)]
    assert sum(taps) == 20736
    lines = np.random.default_rng(0).integers(0, 256, (400_000, 30))
    lines = lines[lines[:, 3:27] @ taps % 20736 == 10368].astype(np.uint8)
    assert len(lines) > 9
    result = resize(torch.from_numpy(lines[:, :, None]).to(device), 1 / 6).cpu().numpy()
    expected = np.stack([slow(line[:, None], 1 / 6, "replicate") for line in lines]).astype(int)
    above = expected[:, 2, 0] * 20736 > lines[:, 3:27].astype(int) @ taps
    assert set(above.tolist()) == {True, False}, "errors never decide here"
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("factor", [1 / 2, 1 / 3, 1 / 4])
def test_stored_matlab_results(device, factor):
    """Two corners of a benchmark picture and of its stored low pictures."""
    held, scale = np.load(MATLAB), round(1 / factor)
    for corner, part in (("first", slice(None, -2)), ("last", slice(2, None))):
        picture = torch.from_numpy(held[f"{corner}_{scale}"]).to(device)
        low = resize(picture, factor)[:, part, part]
        np.testing.assert_array_equal(low.cpu().numpy(), held[f"{corner}_{scale}_low"])


def test_the_edges_differ_and_the_middle_does_not():
    picture = torch.from_numpy(noise(0, 64, 64))
    one, other = (resize(picture, 1 / 4, edges) for edges in ("replicate", "mirror"))
    assert torch.equal(one[2:-2, 2:-2], other[2:-2, 2:-2])
    assert not torch.equal(one, other)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("factor", [1 / 4, 1 / 6, 2.7])
def test_no_bit_depends_on_the_batch_its_layout_or_autocast(device, factor):
    pictures = torch.from_numpy(noise(1, 4, 3, 70, 90)).to(device)
    single = torch.stack([torch.stack([resize(p, factor) for p in each]) for each in pictures])
    assert torch.equal(resize(pictures, factor), single)
    strided = pictures.to(memory_format=torch.channels_last)
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(resize(strided, factor), single)
    assert resize(strided, factor).is_contiguous()
    with torch.inference_mode():
        part = resize(pictures[..., :69, :], factor)
    assert torch.equal(resize(pictures[..., :69, :], factor), part), "what it kept is of no use"
    assert torch.equal(resize(pictures.cpu(), factor), single.cpu())


def test_a_flat_picture_stays_flat():
    for value in (0, 1, 127, 255):
        picture = torch.full((3, 17, 31), value, dtype=torch.uint8)
        for factor in (1 / 31.9, 1 / 1.01, 1, 1.3, 4):
            assert (resize(picture, factor) == value).all()


# As a degradation ---------------------------------------------------------------------------


def degraded(scale: float, *overrides: str, **pictures: np.ndarray) -> dict:
    part = registry.build("degradation", "matlab_bicubic", *overrides)
    batch = {name: chw(array)[None].float() / 255 for name, array in pictures.items()}
    assert part.worker({"key": "rock"}, scale) == {"key": "rock"}
    return part.device({"key": ["rock"], **batch}, scale)


def levels(picture: torch.Tensor) -> torch.Tensor:
    values = picture[0] * 255
    assert (values - values.round()).abs().max() < 1e-4
    return values.round().to(torch.uint8)


@pytest.mark.parametrize("scale", [1, 2, 4, 1.01, 2.7, 31.9])
def test_the_degradation_is_down_and_up(scale):
    target, reference = photo("chelsea", 64, 48), photo("coffee", 33, 70)
    out = degraded(scale, target=target, reference=reference)
    low = resize(chw(target), 1 / scale)
    assert torch.equal(levels(out["low"]), low)
    assert torch.equal(levels(out["low_up"]), resize(low, scale)[:, :64, :48])
    again = resize(resize(chw(reference), 1 / scale), scale)[:, :33, :70]
    assert torch.equal(levels(out["reference_low_up"]), again)


def test_a_low_picture_that_is_given_stays():
    low = photo("chelsea", 12, 16)
    out = degraded(4, target=photo("coffee", 48, 64), low=low)
    assert torch.equal(levels(out["low"]), chw(low))
    assert torch.equal(levels(out["low_up"]), resize(chw(low), 4))
    assert torch.equal(levels(degraded(4, low=low)["low_up"]), resize(chw(low), 4))


@pytest.mark.parametrize("size", [(11, 16), (14, 16), (12, 8)])
def test_a_low_picture_of_another_size_is_refused(size):
    with pytest.raises(UserError, match=r"rock.*low picture times 4.*target \(64×48\)"):
        degraded(4, target=photo("coffee", 48, 64), low=photo("chelsea", *size))


# Everything that is stored ------------------------------------------------------------------


def published() -> dict[tuple[str, int, str], tuple[float, float]]:
    with open(BENCHMARK / "published_bicubic.csv", newline="") as file:
        return {
            (row["set"], int(row["scale"]), row["image"]): (
                float(row["psnr_y"]),
                float(row["ssim_y"]),
            )
            for row in csv.DictReader(file)
        }


SETS = [(name, scale) for name in ("Set5", "Set14") for scale in (2, 3, 4)] + [("BSD100", 4)]


@stored
@pytest.mark.parametrize(("name", "scale"), SETS)
def test_every_stored_low_picture_to_the_bit(name, scale):
    lows = sorted((BENCHMARK / name / "LR_bicubic" / f"X{scale}").glob("*.png"))
    assert len(lows) == {"Set5": 5, "Set14": 14, "BSD100": 100}[name]
    for path in lows:
        low = read_rgb(path)
        target = read_rgb(BENCHMARK / name / "HR" / path.name.replace(f"x{scale}.", "."))
        height, width = (scale * side for side in low.shape[-2:])
        assert torch.equal(resize(target[:, :height, :width], 1 / scale), low), path


@stored
@pytest.mark.parametrize(("name", "scale"), SETS[:-1])
@pytest.mark.slow
def test_published_psnr_and_ssim_of_every_picture(name, scale):
    values = {key[2]: value for key, value in published().items() if key[:2] == (name, scale)}
    assert len(values) == {"Set5": 5, "Set14": 14}[name]
    task = registry.build(
        "task", "single_sr", f"task.scale={scale}", "task.crop=48", "degradation=matlab_bicubic"
    )
    data = registry.build(
        "data", "benchmark", f"data.root={BENCHMARK}", f"data.name={name}", f"data.scale={scale}"
    )
    protocol = registry.build("protocol", "y8")
    items = EvalItems(data.split("test"), task, "raise")
    assert len(items) == len(values)
    for i in range(len(items)):
        problem = task.prepare(collate([items[i]]))
        title, up = task.baseline(problem)
        assert title == "bicubic"
        measured = [
            metric(protocol)(up, problem.target, scale=scale, grey=problem.grey).item()
            for metric in (PSNR, SSIM)
        ]
        psnr, ssim = values[problem.keys[0]]
        assert measured[0] == pytest.approx(psnr, abs=1e-3), problem.keys
        assert measured[1] == pytest.approx(ssim, abs=1e-5), problem.keys
