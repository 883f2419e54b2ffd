"""`restore compare` with a diffusion network's weights: what is missing is drawn and kept."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from restore.cli import main
from restore.config.settings import Runtime
from restore.images.io import read_rgb
from restore.images.masks import agreement
from restore.models import weights
from restore.models.backbones.palette import Palette
from restore.tools.compare.methods import Asked, Drawn
from restore.tools.compare.palette import PaletteFolder, from_noise
from tests.helpers import palette


def test_what_is_missing_is_drawn_and_kept_as_palette_s_own(tmp_path: Path, monkeypatch):
    rng = np.random.default_rng(0)
    for place, name in enumerate("ab"):
        coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3)).astype(np.uint8))
        mask = np.zeros((20, 24), np.uint8)
        mask[6 + place : 14, 5:15] = 255
        pictures = {"truth": coarse.resize((24, 20)), "masks": Image.fromarray(mask)}
        for kind, picture in pictures.items():
            (tmp_path / kind).mkdir(exist_ok=True)
            picture.save(tmp_path / kind / f"{name}.png")
    torch.save(palette.tiny().state_dict(), tmp_path / "60_Network.pth")
    drawn = []
    draw = Palette._draw
    monkeypatch.setattr(
        Palette, "_draw", lambda self, *given: drawn.append(1) or draw(self, *given)
    )

    def compare(folder: str, method: str, *words: str) -> list[dict[str, str]]:
        line = [f"methods.palette={tmp_path / method}", "methods.telea=telea", "metric=[psnr]"]
        line += [f"truth={tmp_path / 'truth'}", f"holes={tmp_path / 'masks'}", "resamples=99"]
        line += [f"drawn={tmp_path / 'drawn'}", "runtime.device=cpu", "runtime.threads=1", *words]
        assert main(["compare", f"folder={tmp_path / folder}", *line]) == 0
        with open(tmp_path / folder / "images.csv", newline="") as file:
            return list(csv.DictReader(file))

    few = ["sampler=ddim", "sampler.steps=2"]
    first = compare("first", "60_Network.pth", *few)
    assert len(drawn) == 1, "both in one batch"
    (kept,) = (tmp_path / "drawn").iterdir()
    assert sorted(path.name for path in (kept / "results" / "test" / "0").iterdir()) == [
        f"{part}_{name}.png" for part in ("GT", "Mask", "Out", "Process") for name in "ab"
    ]
    assert compare("folder", f"drawn/{kept.name}") == first, "one kind of thing"
    written = PaletteFolder(kept / "results" / "test" / "0")
    hole = read_rgb(tmp_path / "masks" / "a.png")[0] > 0
    assert agreement(from_noise(written.frames("a"), lossy=False), hole) > 0.9
    assert torch.equal(written.frames("a")[-1], written.result("a"))

    def method(**sampler: int) -> Drawn:
        loaded = weights.load(tmp_path / "60_Network.pth", ["sampler=ddim", "sampler.steps=2"])
        node = loaded.config["sampler"] | sampler
        runtime = Runtime("cpu", 1, "fp32", True, False, 1)
        return Drawn(loaded.sampled_by(node), runtime, torch.device("cpu"), tmp_path / "drawn")

    given = read_rgb(tmp_path / "truth" / "a.png")
    result = read_rgb(kept / "results" / "test" / "0" / "Out_a.png")
    assert torch.equal(method().make(Asked(given, hole, None, "a")), result)
    assert len(drawn) == 1, "what is there is not drawn again"
    assert torch.equal(method(batch_size=1).make(Asked(given, hole, None, "a")), result)
    assert len(drawn) == 1, "nor for another batch size"
    for part in ("GT", "Out"):
        path = kept / "results" / "test" / "0" / f"{part}_a.png"
        path.write_bytes(path.read_bytes()[:60])
        again = method().make(Asked(given, hole, None, "a"))
        assert (again.int() - result.int()).abs().max() <= 1
    assert len(drawn) == 3, "but where a file of it is damaged"
    assert not torch.equal(method().make(Asked(given.flip(1), hole, None, "a")), result)
    assert len(drawn) == 4, "and for another picture of the same name"
    assert not torch.equal(method(seed=5).make(Asked(given, hole, None, "a")), result)
    assert len(list((tmp_path / "drawn").iterdir())) == 2, "other samplers keep theirs elsewhere"
