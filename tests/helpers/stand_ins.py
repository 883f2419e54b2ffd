"""What the commands of the pages work on, in small: made when a command first names it.

A command is run exactly as it stands, in an empty folder where whatever it names lies under the
very name (`PHOTOS`, `runs/demo`); only the settings of `smaller` are added behind it.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from restore.cli import main
from restore.config import compose
from restore.datasets.shares import position
from tests.helpers import published
from tests.helpers.pictures import photo, resized, write

# What else is added to a command, by its name.
QUIET = ["runtime.device=cpu", "runtime.threads=1"]
_UNSEEN = ["loader.workers=0", "wandb.mode=disabled"]
MORE = {
    "train": [*QUIET, *_UNSEEN, "trainer.pictures=1", "trainer.log_every=1"],
    "evaluate": [*QUIET, *_UNSEEN, "limit=1", "pictures=1"],
    "apply": QUIET,
    "scales": [*QUIET, "loader.workers=0", "scales=[1.5]", "limit=1"],
    "compare": [*QUIET, "resamples=99", "pictures=1"],
    "report": ["resamples=99", "pictures=1"],
    "bench": [*QUIET, "benchmark.repeats=1", "benchmark.sizes=[32]", "benchmark.shares=[0.0,1.0]"],
}
# Numbers that make a network or its pictures large, and what they are in small; a list of blocks
# becomes as many ones.
_SIZES = {
    "backbone.blocks": 1,
    "backbone.features": 8,
    "backbone.mapping.blocks": 1,
    "backbone.mapping.width": 8,
    "backbone.mapping.growth": 8,
    "task.crop": 32,
    "task.reference_crop": 32,
    "trainer.batch_size": 2,
    "trainer.accumulate_steps": 1,
}


def smaller(overrides: Sequence[str]) -> list[str]:
    """Overrides that make a training as small as it can be: two steps, or one of each stage."""
    if any(override.startswith("resume=") for override in overrides):
        return MORE["train"]
    choice = [o for o in overrides if not o.startswith("-")]
    config = compose("train", choice)
    steps = 2 if len(config.schedule) == 1 else 1
    found = [*MORE["train"], "pretrained.vgg19=random"]
    if any(override.startswith("wandb.") for override in overrides):
        found.remove("wandb.mode=disabled")  # what is shown is the dashboard
    for key, value in _SIZES.items():
        node: Any = config
        for step in key.split("."):
            node = node.get(step) if hasattr(node, "get") else None
        if isinstance(node, int | str):  # a number, or batch_size=auto
            found.append(f"{key}={value}")
        elif node is not None:
            found.append(f"{key}={[value] * len(node)}")
    for stage in config.schedule:
        found += [f"stages.{stage}.epochs=null", f"stages.{stage}.steps={steps}"]
    return found


def trained(*overrides: str) -> Callable[[Path], None]:
    """Makes a run folder of a training in small."""

    def make(path: Path) -> None:
        typed = [*overrides, *smaller(overrides), f"folder={path}"]
        assert main(["train", *typed]) == 0

    return make


def evaluated(*overrides: str, run: str) -> Callable[[Path], None]:
    """Makes the folder of an evaluation that keeps its pictures; `run` lies beside it."""

    def make(path: Path) -> None:
        _MAKERS[run](path.parent / "run")
        typed = [f"weights={path.parent / 'run'}", "save=true", *overrides, *MORE["evaluate"]]
        assert main(["evaluate", *typed, f"folder={path}"]) == 0

    return make


def exported(run: str) -> Callable[[Path], None]:
    """Makes a folder of networks as they ship, of one network."""

    def make(path: Path) -> None:
        _MAKERS[run](path.parent / "run")
        line = [f"weights={path.parent / 'run'}", "format=package", f"folder={path / 'one'}"]
        assert main(["export", *line]) == 0

    return make


def _numbers() -> list[int]:
    """Names of pictures of which two fall into each split of a folder, however small its share."""
    at = {number: position(f"{number:03d}") for number in range(1000)}
    shares = ((0.0, 0.01), (0.1, 0.11), (0.2, 1.0))
    return [n for least, most in shares for n in [m for m in at if least <= at[m] < most][:2]]


def pictures(path: Path) -> None:
    for number in _numbers():
        write(path / f"{number:03d}.png", photo("astronaut", 40, 48, number % 400))


def picture(path: Path) -> None:
    write(path, photo("coffee", 24, 32))


def sharp(path: Path) -> None:
    write(path, photo("coffee", 64, 72))


def holes(path: Path) -> None:
    """For `picture`: a white box."""
    mask = np.zeros((24, 32), np.uint8)
    mask[8:12, 10:20] = 255
    write(path, mask)


def faces(path: Path) -> None:
    """Large enough for two crops of 256 pixels beside each other."""
    for number in range(2):
        write(path / f"{number:05d}.png", photo("astronaut", 512, 512, 0)[:: 1 - 2 * number])


def array(path: Path) -> None:
    np.save(path, np.stack([photo("astronaut", 40, 48, number) for number in range(6)]))


def lows(path: Path) -> None:
    """Of `pictures`, a quarter as large."""
    for number in _numbers():
        shown = photo("astronaut", 40, 48, number % 400)
        write(path / f"{number:03d}.png", resized(shown, 10, 12))


def white_holes(path: Path) -> None:
    """Masks of any size, a white box in each."""
    for number in range(24):
        mask = np.zeros((60, 60), np.uint8)
        mask[number : number + 10, 20:30] = 255
        write(path / f"{number:03d}.png", mask)


def benchmarks(path: Path) -> None:
    for name in ("Set5", "Set14", "BSD100"):
        for number in range(2):
            write(path / name / "HR" / f"img_{number:03d}.png", photo("coffee", 48, 56, number))


def div2k(path: Path) -> None:
    for part, first in (("train", 1), ("valid", 801)):
        for number in range(first, first + 3):
            shown = photo("astronaut", 48, 64, number % 100)
            write(path / f"DIV2K_{part}_HR" / f"{number:04d}.png", shown)
            for scale in (2, 3, 4):
                low = resized(shown, 48 // scale, 64 // scale)
                folder = path / f"DIV2K_{part}_LR_bicubic" / f"X{scale}"
                write(folder / f"{number:04d}x{scale}.png", low)


def cufed(path: Path) -> None:
    for number in range(2):
        for part in ("input", "ref"):
            write(path / "train" / part / f"{number}.png", photo("chelsea", 40, 40, 50 * number))
    for number in range(6):
        write(path / "test" / "CUFED5" / f"000_{number}.png", photo("chelsea", 32, 40, number))


def sr_raw(path: Path) -> None:
    """As `restore prepare data=sr_raw` leaves it: pairs of thirty scenes."""
    keys = [f"{number:05d}/1" for number in range(30)]
    for number, key in enumerate(keys):
        for kind in ("target", "low_up"):
            (path / "pairs" / key).mkdir(parents=True, exist_ok=True)
            np.save(path / "pairs" / key / f"{kind}.npy", photo("coffee", 80, 80, number))
    (path / "pairs.json").write_text(json.dumps([{"key": k, "kept": True} for k in keys]), "utf-8")


def masks(path: Path) -> None:
    """QD-IMD's: 1 bit, 512×512, a black bar in each."""
    path.mkdir(parents=True)
    for number in range(24):
        plate = np.ones((512, 512), bool)
        plate[10 * number : 10 * number + 80, 100:400] = False
        kind = "test" if number % 4 == 0 else "train"
        Image.fromarray(plate).save(path / f"{number:05d}_{kind}.png")


def ttsr_file(path: Path) -> None:
    """A TTSR file as its authors publish it, of fewer blocks."""
    torch.save(published.case("official_small"), path)


def peer(path: Path) -> None:
    """A small network of a kind that spandrel knows."""
    from safetensors.torch import save_file
    from spandrel.architectures.Compact import Compact

    state = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def sweep(path: Path) -> None:
    """The folder of a sweep with one job."""
    line = ["train", "experiment=demo", "seed=1"]
    job = path / "seed=1"
    _MAKERS["runs/demo"](job)
    about = {"identity": "0" * 16, "parameters": {"seed": "1"}, "overrides": line[1:]}
    (job / "job.json").write_text(json.dumps(about), "utf-8")


_MAKERS: dict[str, Callable[[Path], None]] = {
    "RUN": trained("experiment=demo"),
    "runs/demo": trained("experiment=demo"),
    "runs/demo_inpainting": trained("experiment=demo_inpainting"),
    "ASDN_RUN": trained("backbone=asdn"),
    "WDSR_RUN": trained("backbone=wdsr_b"),
    "EDSR_X2": trained("backbone=edsr", "task.scale=2"),
    "SRRESNET_RUN": trained("backbone=srresnet"),
    "runs/demo/test": evaluated(run="runs/demo"),
    "NETWORKS": exported("ASDN_RUN"),
    "runs/sweeps/NAME": sweep,
    "PHOTOS": pictures,
    "PHOTOS.npy": array,
    "LOWS": lows,
    "MASKS": white_holes,
    "photo.jpg": picture,
    "sharp.png": sharp,
    "holes.png": holes,
    "BENCHMARKS": benchmarks,
    "DIV2K": div2k,
    "CUFED": cufed,
    "FACES": faces,
    "PREPARED": sr_raw,
    "QDIMD": masks,
    "TTSR.pt": ttsr_file,
    "SWINIR.pth": peer,
    "ESRGAN.safetensors": peer,
}
# Other names for the same; a page's own meaning comes first.
_SAME = {
    "photos": "PHOTOS",
    "others": "PHOTOS",
    "OTHERS": "PHOTOS",
    "FOLDER": "PHOTOS",
    "FFHQ": "FACES",
    "photo.png": "photo.jpg",
    "other.jpg": "sharp.png",
    "prepared": "PREPARED",
    "runs/ours": "runs/demo_inpainting",
    "runs/x4": "WDSR_RUN",
    "networks/wdsr_b_x4": "WDSR_RUN",
    "runs/sweep/a": "runs/demo",
    "runs/sweep": "runs/sweeps/NAME",
    "runs/tests": "runs/demo/test",
    "EDSR_X2.pt": "EDSR_X2",
    "RUN_X4": "WDSR_RUN",
}
_ON_PAGE = {
    ("docs/any_scale.md", "RUN"): "ASDN_RUN",
    ("docs/experiments.md", "RUN"): "runs/demo_inpainting",
    ("docs/protocols.md", "RUN"): "WDSR_RUN",
    ("docs/backbones.md", "RUN"): "WDSR_RUN",
    ("docs/srgan.md", "RUN"): "SRRESNET_RUN",
}


def named(text: str) -> list[str]:
    """The stand-ins that a command names, those that lie in another's folder after it."""
    every = {*_MAKERS, *_SAME}
    text = re.sub(r"\b(?:folder|output)=\S+", "", text)  # what it makes itself
    found = [n for n in every if re.search(rf"(?<![\w./-]){re.escape(n)}(?![\w-]|\.\w)", text)]
    return sorted(found)


def _copy(source: Path, goal: Path) -> None:
    goal.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, goal, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, goal)


class StandIns:
    """Keeps what has been made in a folder, and copies it to where a command is run."""

    def __init__(self, root: Path):
        self.root = root

    def place(self, page: str, text: str, into: Path) -> None:
        """Lays all that a command names into the folder, under the name that it uses."""
        for name in named(text):
            source = self._made(_ON_PAGE.get((page, name)) or _SAME.get(name, name))
            _copy(source, into / name)

    def keep(self, page: str, name: str) -> None:
        """Keeps what a command of a page has made here, for those after it."""
        if not self._kept(page, name).exists():
            _copy(Path(name), self._kept(page, name))

    def again(self, page: str, name: str) -> bool:
        """Lays here what an earlier command of the page made, where that is known."""
        if not Path(name).exists() and self._kept(page, name).exists():
            _copy(self._kept(page, name), Path(name))
        return Path(name).exists()

    def _kept(self, page: str, name: str) -> Path:
        return self.root / page.replace("/", "_") / name

    def _made(self, name: str) -> Path:
        path = self.root / name.replace("/", "_") / Path(name).name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _MAKERS[name](path)
        return path
