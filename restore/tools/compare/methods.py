"""Methods that are run here rather than read from a folder: baselines and trained weights."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from restore.config.settings import Runtime
from restore.data.frames import framed
from restore.errors import UnreadableImage, UserError
from restore.images.io import read_rgb, save_png, to_uint8
from restore.images.resize import pil_resize
from restore.inference.inpainting import Inpainter
from restore.inference.runner import Runner, evaluating
from restore.metrics import samples
from restore.models.weights import Loaded
from restore.tools.compare import palette
from restore.tools.compare.sources import flat
from restore.types import Problem, Sample
from restore.utils import files
from restore.utils.files import make_folder


@dataclass(frozen=True)
class Asked:
    """What a method makes a result of.

    Args:
        given_3HW: uint8; nothing of it from inside the holes is looked at.
        hole_HW: bool, or None.
        reference_3HW: uint8, of any size, or None.
        key: the image's name, which seeds a network that draws its results.
    """

    given_3HW: Tensor
    hole_HW: Tensor | None = None
    reference_3HW: Tensor | None = None
    key: str = "picture"


class Method(Protocol):
    """Makes a result of a picture with holes.

    `needs_holes` and `needs_reference` say what it cannot do without.
    """

    needs_holes: bool
    needs_reference: bool

    def make(self, asked: Asked) -> Tensor:
        """The result, uint8 3HW, as large as the holes where there are any.

        Raises UserError when the sizes do not fit each other, or nothing is known of the picture.
        """
        ...

    def sentence(self) -> str:
        """What it is, for the output."""
        ...


class Filled:
    """A method of filling holes, also of pictures smaller than the result.

    A picture smaller by a whole factor is filled at its own size, with every pixel a hole that
    covers any of one, and enlarged by PIL's bicubic: nothing from inside the holes gets in.
    """

    needs_holes = True

    def __init__(self, inpainter: Inpainter):
        self.inpainter = inpainter
        self.needs_reference = inpainter.needs_reference

    def make(self, asked: Asked) -> Tensor:
        """See `Method.make`."""
        given_3HW, hole_HW, reference_3HW = asked.given_3HW, asked.hole_HW, asked.reference_3HW
        assert hole_HW is not None
        (height, width), own = hole_HW.shape, given_3HW.shape[-2:]
        factor = height // own[0]
        if factor < 1 or tuple(own) != (height / factor, width / factor):
            raise UserError(f"the input is {size(given_3HW)}, the mask {size(hole_HW)}")
        small = hole_HW
        if factor > 1:
            small = F.max_pool2d(hole_HW[None].float(), factor)[0] > 0
        reference = None if reference_3HW is None else reference_3HW.float() / 255
        filled = to_uint8(self.inpainter.fill(given_3HW.float() / 255, small, reference))
        return filled if factor == 1 else pil_resize(filled, height, width)

    def sentence(self) -> str:
        """See `Method.sentence`."""
        about = ", ".join(f"{name}={value}" for name, value in vars(self.inpainter).items())
        return type(self.inpainter).__name__ + (f" ({about})" if about else "")


class Bicubic:
    """PIL's bicubic enlargement of 8-bit pictures.

    Args:
        scale: how many times each side becomes longer.
    """

    needs_holes = needs_reference = False

    def __init__(self, scale: int):
        self.scale = scale

    def make(self, asked: Asked) -> Tensor:
        """See `Method.make`."""
        height, width = asked.given_3HW.shape[-2:]
        return pil_resize(asked.given_3HW, height * self.scale, width * self.scale)

    def sentence(self) -> str:
        """See `Method.sentence`."""
        return f"PIL's bicubic ×{self.scale}"


class Trained:
    """Trained weights with the task that they were trained for.

    Args:
        loaded: the weights.
        runtime: precision and layout.
        device: where the network runs.
    """

    needs_holes = False

    def __init__(self, loaded: Loaded, runtime: Runtime, device: torch.device):
        self.loaded, self.device = loaded, device
        self.task = loaded.task()
        model = loaded.backbone().to(device)
        self.needs_reference = model.takes_reference and self.task.takes_reference
        self.evaluated = framed(self.task, None, model.reference_multiple)
        self.runner = Runner(model, runtime, device)

    def make(self, asked: Asked) -> Tensor:
        """See `Method.make`."""
        problem = self.problem(asked)
        with evaluating(self.runner.model):
            restored = self.task.postprocess(self.runner(problem), problem).image[0]
        return self.as_given(restored, asked.given_3HW)

    def problem(self, asked: Asked) -> Problem:
        """The same as the network takes it: a batch of one."""
        given_3HW, hole_HW = asked.given_3HW, asked.hole_HW
        sample = Sample(key=asked.key, low=given_3HW.contiguous())
        if self.needs_reference and asked.reference_3HW is not None:
            sample["reference"] = asked.reference_3HW
        if hole_HW is not None:
            if hole_HW.shape != given_3HW.shape[-2:]:
                raise UserError(f"the input is {size(given_3HW)}, the mask {size(hole_HW)}")
            sample["mask"] = hole_HW[None]
            sample["low"] = torch.where(hole_HW, 0, sample["low"])
        batch: dict[str, Any] = {
            name: value[None].to(self.device) if isinstance(value, Tensor) else [value]
            for name, value in self.evaluated.eval_item(sample).items()
        }
        problem = self.task.prepare(batch)
        if hole_HW is not None and problem.hole_mask is None:
            raise UserError(f"{self.loaded.path} holds weights of a task that knows no holes")
        return problem

    def as_given(self, restored_3HW: Tensor, given_3HW: Tensor) -> Tensor:
        """A result as uint8, without what its sides were continued by."""
        height, width = (round(side * self.task.scale) for side in given_3HW.shape[-2:])
        return to_uint8(restored_3HW[:, :height, :width]).cpu()

    def sentence(self) -> str:
        """See `Method.sentence`."""
        return self.loaded.sentence()


class Drawn(Trained):
    """Weights of a network that draws its results, which are kept in Palette's own layout.

    What lies there is not drawn again, if it was drawn of the same picture with the same holes.

    Args:
        loaded, runtime, device: see `Trained`.
        folder: of all that was ever drawn; these weights and their sampler have their own in it.
    """

    def __init__(self, loaded: Loaded, runtime: Runtime, device: torch.device, folder: Path):
        super().__init__(loaded, runtime, device)
        self.needs_holes = bool(self.runner.model.needs_mask)
        self.sampler = loaded.config["backbone"]["sampler"]
        backbone = {**loaded.config["backbone"], "sampler": _without_batch_size(self.sampler)}
        settings = json.dumps([backbone, loaded.config["task"], runtime.precision], sort_keys=True)
        mark = f"{loaded.fingerprint}_{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
        self.folder = folder / mark / "results" / "test" / "0"
        self._about = folder / mark / "drawn.json"

    def make(self, asked: Asked) -> Tensor:
        """See `Method.make`."""
        self.draw([asked])
        return read_rgb(self.folder / palette.file_name("Out", flat(asked.key)))

    def draw(self, every: Iterable[Asked]) -> None:
        """Draws what is missing, as many results at once as the network is best asked for."""
        waiting: list[Asked] = []
        for asked in every:
            if not self._there(asked):
                waiting.append(asked)
            if len(waiting) == self.runner.at_once:
                self._draw(waiting)
                waiting = []
        self._draw(waiting)

    def _shown(self, asked: Asked) -> dict[palette.Part, Tensor]:
        """The pictures that say what was asked, as Palette writes them."""
        given, hole = asked.given_3HW, asked.hole_HW
        if hole is not None and hole.shape != given.shape[-2:]:
            raise UserError(f"{asked.key}: the input is {size(given)}, the mask {size(hole)}")
        return {"GT": given, "Mask": given if hole is None else torch.where(hole, 255, given)}

    def _there(self, asked: Asked) -> bool:
        paths = {
            part: self.folder / palette.file_name(part, flat(asked.key)) for part in palette.PARTS
        }
        shown = self._shown(asked)
        if not all(path.exists() for path in paths.values()):
            return False
        with suppress(UnreadableImage):  # drawn again
            written = {part: read_rgb(path) for part, path in paths.items()}
            alike = (torch.equal(written[part], picture) for part, picture in shown.items())
            return all(alike) and written["Out"].shape == asked.given_3HW.shape
        return False

    def _draw(self, some: Sequence[Asked]) -> None:
        if not some:
            return
        begun = time.perf_counter()
        problems = [self.problem(asked) for asked in some]
        with evaluating(self.runner.model):
            answers = self.runner.each(problems, frames=palette.FRAMES - 1)
        seconds = (time.perf_counter() - begun) / len(some)
        about = self._drawn()
        for asked, problem, answer in zip(some, problems, answers):
            frames = [self.as_given(frame[0], asked.given_3HW) for frame in answer.frames]
            result = self.task.postprocess(answer, problem).image[0]
            pictures = self._shown(asked) | {
                "Process": palette.sheet(frames),
                "Out": self.as_given(result, asked.given_3HW),
            }
            make_folder(self.folder)
            # Last comes what says that all is there; one of another picture must not say so.
            last = self.folder / palette.file_name("Out", flat(asked.key))
            last.unlink(missing_ok=True)
            for part, picture in pictures.items():
                save_png(self.folder / palette.file_name(part, flat(asked.key)), picture)
            about[flat(asked.key)] = {"seconds": seconds}
            if answer.samples:
                spread = samples.spread(answer.samples, problem.hole_mask)
                about[flat(asked.key)]["spread"] = spread
        files.write_text(self._about, files.to_json(about))

    def _drawn(self) -> dict[str, dict[str, float]]:
        """By picture, what is known of its drawing besides the pictures themselves."""
        return json.loads(self._about.read_text()) if self._about.is_file() else {}

    def about(self, key: str) -> dict[str, float]:
        """`seconds` that a picture took; `spread` of its samples, where there are several."""
        return self._drawn().get(flat(key), {})

    def sentence(self) -> str:
        """See `Method.sentence`."""
        options = ", ".join(
            f"{name}={value}"
            for name, value in _without_batch_size(self.sampler).items()
            if name not in ("_target_", "schedule")
        )
        return f"{super().sentence()}, drawn with {options}, kept in {self.folder}"


def _without_batch_size(sampler: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's settings but for the one that changes no result."""
    return {name: value for name, value in sampler.items() if name != "batch_size"}


def size(x: Tensor) -> str:
    """Width × height of a picture."""
    return f"{x.shape[-1]}×{x.shape[-2]}"
