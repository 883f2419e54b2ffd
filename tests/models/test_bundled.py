"""Networks that come with the package: exported, found by their scale, applied without weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.transform
import torch
from skimage.metrics import peak_signal_noise_ratio

import restore
from restore.cli import main
from restore.datasets.sample import SamplePhotos
from restore.errors import UserError
from restore.images import bicubic
from restore.images.io import read_rgb
from restore.images.resize import pil_resize
from restore.models import bundled, checkpoint, weights
from tests.helpers.pictures import photo, write

QUIET = ["runtime.device=cpu", "runtime.threads=1"]
TINY = [
    "trainer.batch_size=2",
    "trainer.pictures=0",
    "wandb.mode=disabled",
    "loader.workers=0",
    "stages.reconstruction.steps=2",
]
WDSR = ["experiment=shipped/wdsr_b_x2", "backbone.blocks=1", "backbone.features=5", "task.crop=24"]
ASDN = ["experiment=shipped/asdn", "task.crop=24"]
ASDN += [f"backbone.mapping.{part}=2" for part in ("blocks", "width", "growth", "convolutions")]


def exported(root: Path, name: str, options: list[str], *more: str) -> tuple[Path, Path]:
    """A run of two steps, and the folder that ships of it."""
    for number in range(3):
        write(root / "photos" / f"{number}.png", photo(height=40, width=40, at=60 * number))
    run = root / f"run_{name}"
    data = [f"data.targets={root / 'photos'}", "data.valid=1"]
    assert main(["train", f"folder={run}", *options, *data, *TINY, *QUIET]) == 0
    folder = root / "networks" / name
    line = ["export", f"weights={run}", "format=package", f"folder={folder}", *more]
    assert main(line) == 0
    return run, folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder of two networks, `small` of ×2 and `any` of any scale, and their runs."""
    root = tmp_path_factory.mktemp("shipped")
    exported(root, "small", WDSR, "format.about='three photos, two steps'")
    exported(root, "any", ASDN)
    return root


def test_the_file_is_the_averaged_network_in_half_precision(root: Path):
    held = checkpoint.read(root / "networks" / "small" / bundled.WEIGHTS)
    run = weights.load(root / "run_small")
    averaged = checkpoint.read(run.path)["ema"]
    state = held["models"]["backbone"]
    assert state.keys() == averaged.keys()
    for name, value in averaged.items():
        assert torch.equal(state[name], value.half())
    loaded = weights.load(root / "networks" / "small")
    low = torch.rand(1, 3, 7, 9)
    with torch.no_grad():
        before, after = (w.backbone()(low).image for w in (run, loaded))
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, atol=2e-3, rtol=0)


def test_nothing_of_its_owner_is_in_the_files(root: Path):
    for name in ("small", "any"):
        folder = root / "networks" / name
        assert str(root).encode() not in (folder / bundled.WEIGHTS).read_bytes()
        config = checkpoint.read(folder / bundled.WEIGHTS)["config"]
        assert not {"data", "folder", "init", "wandb"} & config.keys()
        assert str(root) not in (folder / bundled.CARD).read_text(encoding="utf-8")


def test_what_ships_is_not_said_to_be_trained_here(root: Path):
    assert "trained here" in weights.load(root / "networks" / "small").sentence()
    assert "ships with restore" in weights.load(Path("asdn")).sentence()


def test_the_card_says_what_it_is(root: Path):
    card = json.loads((root / "networks" / "small" / bundled.CARD).read_text(encoding="utf-8"))
    own = weights.load(root / "networks" / "small")
    assert card["network"] == "WDSR"
    assert (card["scale"], card["step"], card["averaged"]) == (2, 2, True)
    assert card["parameters"] == sum(p.numel() for p in own.backbone().parameters())
    assert card["about"] == "three photos, two steps"
    assert card["sha256"] == own.fingerprint
    assert card["from"] == weights.load(root / "run_small").fingerprint
    assert card["recipe"]["stages"]["reconstruction"]["steps"] == 2
    objective = card["recipe"]["stages"]["reconstruction"]["objectives"]["restoration"]
    assert objective["losses"]["reconstruction"]["weight"] == 1.0
    assert card["command"][:2] == ["restore", "train"]
    assert json.loads((root / "networks" / "any" / bundled.CARD).read_text())["scale"] is None


def test_numbers_of_evaluations_are_on_the_card(root: Path, tmp_path: Path):
    write(tmp_path / "sets" / "Set5" / "HR" / "a.png", photo(height=24, width=24))
    folder = root / "networks" / "small"
    line = [f"weights={folder}", "data=benchmark", f"data.root={tmp_path / 'sets'}"]
    line += ["data.scale=2", "protocol=y8", "wandb.mode=disabled", "loader.workers=0"]
    assert main(["evaluate", f"folder={tmp_path / 'test'}", "pictures=0", *line, *QUIET]) == 0
    summary = tmp_path / "test" / "summary.json"  # as of references in two folders
    facts = {**json.loads(summary.read_text()), "references": f"{tmp_path}/one+{tmp_path}/two"}
    summary.write_text(json.dumps(facts))
    line = [f"weights={root / 'run_small'}", "format=package", f"folder={tmp_path / 'again'}"]
    assert main(["export", *line, f"format.measured=[{tmp_path / 'test'}]"]) == 0
    card = json.loads((tmp_path / "again" / bundled.CARD).read_text())
    (measured,) = card["measured"]
    assert (measured["data"], measured["protocol"], measured["images"]) == ("Set5", "y8", 1)
    assert {"restored", "bicubic"} <= measured.keys()
    assert measured["references"] == "one+two"
    assert measured["sha256"] == card["sha256"], "the same weights make the same file"
    assert str(tmp_path) not in json.dumps(card["measured"])


@pytest.mark.parametrize(
    ("scale", "name"), [(2, "small"), (2.0, "small"), (3, "any"), (2.5, "any"), (31.9, "any")]
)
def test_the_network_is_chosen_by_the_scale(root: Path, scale, name):
    path = bundled.choose(scale, root / "networks")
    assert path == root / "networks" / name / bundled.WEIGHTS


def test_holes_choose_the_network_that_fills_them(tmp_path: Path):
    own = bundled.FOLDER / "ttsr_partial" / bundled.WEIGHTS
    for takes_reference in (True, False):
        assert bundled.choose(None, None, takes_reference, fills_holes=True) == own
    assert bundled.choose(1, takes_reference=True) == own
    assert bundled.choose(4, takes_reference=True).parent.name == "ttsr_x4"
    with pytest.raises(UserError, match="scale=4: no network that takes a reference and fills"):
        bundled.choose(4, takes_reference=True, fills_holes=True)


def test_apply_needs_no_weights_and_no_output(root: Path, tmp_path: Path, capfd):
    source = write(tmp_path / "photo.jpg", photo(height=16, width=21))
    line = [f"input={source}", f"networks={root / 'networks'}", *QUIET]
    assert main(["apply", *line, "scale=2"]) == 0
    goal = tmp_path / "photo_restored.jpg"
    assert read_rgb(goal).shape == (3, 32, 42)
    assert main(["apply", *line, "scale=2.5"]) == 2
    assert "overwrite=true" in capfd.readouterr().err
    assert main(["apply", *line, "scale=2.5", "suffix=.png"]) == 0
    assert read_rgb(tmp_path / "photo_restored.png").shape == (3, 40, 53)
    same = [f"weights={root / 'networks' / 'any'}", f"output={tmp_path / 'same.png'}"]
    assert main(["apply", *line, *same, "scale=2.5"]) == 0
    made = (read_rgb(tmp_path / f"{name}.png") for name in ("photo_restored", "same"))
    assert torch.equal(*made)


def test_where_a_reference_is_given_the_network_is_one_that_takes_it(
    root: Path, tmp_path: Path, capfd
):
    small = ["backbone.blocks=[0,0,0,0]", "backbone.features=4", "pretrained.vgg19=random"]
    small += ["stages.reconstruction.epochs=null"]
    data = ["data=folder", f"data.references={tmp_path / 'photos'}"]
    exported(tmp_path, "both", [*data, "task.crop=24", "task.reference_crop=24", *small])
    assert json.loads((tmp_path / "networks" / "both" / bundled.CARD).read_text())[
        "takes_reference"
    ]
    (root / "networks" / "small").rename(tmp_path / "networks" / "small")
    source = write(tmp_path / "photo.png", photo(height=16, width=20))
    line = ["apply", f"input={source}", f"networks={tmp_path / 'networks'}", *QUIET]
    try:
        for scale, more, shape in [(4, [f"reference={source}"], (64, 80)), (2, [], (32, 40))]:
            goal = tmp_path / f"{scale}.png"
            assert main([*line, f"scale={scale}", f"output={goal}", *more]) == 0
            assert read_rgb(goal).shape[1:] == shape
        for scale, more in [(2, ["reference=black"]), (4, [])]:
            assert main([*line, f"scale={scale}", f"output={tmp_path / 'no.png'}", *more]) == 2
            told = capfd.readouterr().err
            assert ("no network that takes a reference for it" in told) == bool(more)
            assert "both (×4 with a reference), small (×2)" in told
    finally:
        (tmp_path / "networks" / "small").rename(root / "networks" / "small")


def test_a_folder_goes_beside_itself(root: Path, tmp_path: Path):
    write(tmp_path / "in.v1" / "sub" / "a.bmp", photo(height=8, width=8))
    line = [f"input={tmp_path / 'in.v1'}", f"networks={root / 'networks'}", "scale=3", *QUIET]
    assert main(["apply", *line]) == 0
    assert read_rgb(tmp_path / "in.v1_restored" / "sub" / "a.png").shape == (3, 24, 24)


def test_what_is_not_there_is_one_sentence(root: Path, tmp_path: Path, capfd):
    source = write(tmp_path / "photo.png", photo(height=8, width=8))
    (tmp_path / "none").mkdir()
    for options, said in [
        ([f"networks={tmp_path / 'none'}", "scale=2"], "no network for it comes with this"),
        ([f"networks={tmp_path / 'nowhere'}", "scale=2"], "there is no such folder"),
        ([f"networks={root / 'networks'}"], "give scale="),
    ]:
        assert main(["apply", f"input={source}", *options, *QUIET]) == 2
        told = capfd.readouterr().err.strip()
        assert said in told
        assert "\n" not in told
    only = tmp_path / "only" / "small"
    only.mkdir(parents=True)
    (only / bundled.CARD).write_bytes((root / "networks" / "small" / bundled.CARD).read_bytes())
    with pytest.raises(UserError, match=r"weights\.pt is missing"):
        bundled.choose(2, tmp_path / "only")
    (only / bundled.CARD).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        bundled.choose(2, tmp_path / "only")
    assert [path.name for path in tmp_path.iterdir() if "restored" in path.name] == []


def test_what_does_not_ship_is_refused(root: Path, tmp_path: Path, capfd):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    for given, said in [
        ([], "weights has no value"),
        ([f"weights={root / 'networks' / 'small'}"], "already"),
        ([f"weights={tmp_path / 'w.pt'}"], "no model known"),
        ([f"weights={root / 'run_small'}", f"format.measured=[{tmp_path}]"], "no evaluation"),
    ]:
        assert main(["export", "format=package", f"folder={tmp_path / 'out'}", *given]) == 2
        assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_comes_with_the_package_fits_its_card():
    """Each loads, is small, and is of its card's scale; there is one for 1, 2, 3, 4 and any."""
    networks = bundled.networks(bundled.FOLDER)
    assert {network.scale for network in networks} == {1, 2, 3, 4, None}
    for network in networks:
        small = network.scale and not network.takes_reference
        assert network.path.stat().st_size <= (1e6 if small else 4e6)
        loaded = weights.load(network.path)
        assert loaded.takes_scale() == (network.scale is None)
        model = loaded.backbone()
        assert model.takes_reference == network.takes_reference
        assert model.takes_mask == network.fills_holes
        if network.scale:
            assert loaded.task().scale == network.scale
        card = json.loads(network.path.with_name(bundled.CARD).read_text(encoding="utf-8"))
        assert card["sha256"] == loaded.fingerprint
        base = "filled" if network.fills_holes else "bicubic"
        assert all(base in measured for measured in card["measured"])


@pytest.mark.parametrize(
    ("scale", "gain"),
    [
        *[(2, 1.5), (4, 1.0), (2.5, 1.0)],
        *(pytest.param(*x, marks=pytest.mark.slow) for x in [(3, 1.5), (5.4, 0.5)]),
    ],
)
def test_what_comes_with_the_package_is_better_than_bicubic(scale: float, gain: float, tmp_path):
    """On a photo that it has never seen, by the command as a newcomer types it; gain in dB."""
    small = int(216 / scale)
    side = round(small * scale)
    target = skimage.data.astronaut()[:side, 120 : 120 + side]
    low = bicubic.resize(torch.from_numpy(target.copy()).permute(2, 0, 1)[None], 1 / scale)
    assert low.shape[-1] == small
    up = bicubic.resize(low, scale)[0].permute(1, 2, 0).numpy()
    write(tmp_path / "low.png", low[0].permute(1, 2, 0).numpy())
    line = ["apply", f"input={tmp_path / 'low.png'}", f"scale={scale}", "runtime.threads=1"]
    assert main([*line, f"output={tmp_path / 'high.png'}"]) == 0
    restored = read_rgb(tmp_path / "high.png").permute(1, 2, 0).numpy()
    assert restored.shape == target.shape
    margin = 8
    cut = slice(margin, side - margin)
    found, base = (
        peak_signal_noise_ratio(target[cut, cut], picture[cut, cut]) for picture in (restored, up)
    )
    assert found > base + gain


def test_the_network_with_a_reference_takes_a_true_one_and_leaves_others():
    """On the right-hand part of a stereo pair that nothing was trained on; differences in dB."""
    net = restore.load(scale=4, takes_reference=True, device="cpu")
    alone = restore.load("wdsr_b_x4", device="cpu")
    split = SamplePhotos().split("test")
    gains = []
    lights = {"brighter": [2**0.5] * 3, "darker": [0.5**0.5] * 3, "tinted": [1.1, 1.0, 0.9]}
    for index in (0, 1):
        sample = split[index]
        target, true = sample["target"], sample["reference"][..., :252]
        low = pil_resize(target, target.shape[-2] // 4, target.shape[-1] // 4)

        def found(picture: torch.Tensor, target: torch.Tensor = target) -> float:
            return peak_signal_noise_ratio(target.numpy(), picture.numpy())

        references = {"true": true, "black": "black", "none": "none"}
        references["unrelated"] = split[3]["target"]
        if index:
            for kind, factors in lights.items():
                lit = (true / 255) ** 2.2 * torch.tensor(factors).view(3, 1, 1)
                references[kind] = (lit.clamp(max=1) ** (1 / 2.2) * 255).round().byte()
        values = {kind: found(net(low, reference=one)) for kind, one in references.items()}
        best = found(alone(low))
        gains.append(values["true"] - best)
        for kind in ("none", "black", "unrelated"):
            assert values[kind] > best - 0.05, kind
        for kind in lights if index else ():
            # What is cut off in the brighter one is known from nowhere.
            assert values[kind] > values["true"] - (0.15 if kind == "brighter" else 0.1), kind
    assert min(gains) > 0.5
    assert sum(gains) / 2 > 1.5


def test_the_network_that_fills_holes_takes_a_true_reference_and_leaves_others(tmp_path: Path):
    """On a photo with holes and another view of the scene; and by the command, without one."""
    photos = skimage.data.astronaut()
    whole, holes = photos[60:156, 160:272], np.zeros((96, 112), bool)
    holes[30:54, 40:66] = holes[72:77, 10:90] = True
    picture = np.where(holes[..., None], np.uint8(255), whole)
    turn = skimage.transform.AffineTransform(rotation=0.06, translation=(156, 50), scale=0.96)
    view = skimage.transform.warp(photos, turn, output_shape=(112, 128), order=3).clip(0, 1)
    references = {"true": (view * 0.9 * 255).round().astype(np.uint8), "black": "black"}
    references |= {"unrelated": skimage.data.coffee()[100:196, 200:312], "none": "none"}
    net = restore.load(fills_holes=True, device="cpu")
    made = {kind: net(picture, mask=holes, reference=one) for kind, one in references.items()}
    for place, gain in ((holes, 5), (~holes, 0.3)):
        none, true, *others = (
            peak_signal_noise_ratio(whole[place], made[kind][place])
            for kind in ("none", "true", "black", "unrelated")
        )
        assert true > none + gain
        assert min(others) > none - 0.05
    write(tmp_path / "photo.png", picture)
    write(tmp_path / "mask.png", holes.astype(np.uint8) * 255)
    line = [f"input={tmp_path / 'photo.png'}", f"mask={tmp_path / 'mask.png'}", *QUIET]
    assert main(["apply", *line]) == 0
    written = read_rgb(tmp_path / "photo_restored.png").permute(1, 2, 0).numpy()
    assert np.array_equal(written, made["none"])
