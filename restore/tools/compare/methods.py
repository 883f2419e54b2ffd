"""Methods that are run here rather than read from a folder: baselines and trained weights."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from restore.config.settings import Runtime
from restore.errors import UnreadableImage, UserError
from restore.images.io import read_rgb, save_png, to_uint8
from restore.images.resize import pil_resize
from restore.inference.inpainting import Inpainter
from restore.inference.runner import Runner, evaluating
from restore.models.weights import Loaded
from restore.tools.compare.sources import flat
from restore.types import Sample
from restore.utils.files import make_folder


class Method(Protocol):
    """Makes a result of a picture with holes.

    `needs_holes` and `needs_reference` say what it cannot do without.
    """

    needs_holes: bool
    needs_reference: bool

    def make(
        self,
        given_3HW: Tensor,
        hole_HW: Tensor | None,
        reference_3HW: Tensor | None,
        key: str = "picture",
    ) -> Tensor:
        """The result, uint8 3HW, as large as the holes where there are any.

        Args:
            given_3HW: uint8; nothing of it from inside the holes is looked at.
            hole_HW: bool, or None.
            reference_3HW: uint8, of any size, or None.
            key: the image's name, of which a network that draws its results makes its chance.

        Raises:
            UserError: the sizes do not fit each other, or nothing is known of the picture.
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

    def make(
        self,
        given_3HW: Tensor,
        hole_HW: Tensor | None,
        reference_3HW: Tensor | None,
        key: str = "picture",
    ) -> Tensor:
        """See `Method.make`."""
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
        self.runner = Runner(model, runtime, device)

    def make(
        self,
        given_3HW: Tensor,
        hole_HW: Tensor | None,
        reference_3HW: Tensor | None,
        key: str = "picture",
    ) -> Tensor:
        """See `Method.make`."""
        sample = Sample(key=key, low=given_3HW.contiguous())
        if self.needs_reference and reference_3HW is not None:
            sample["reference"] = reference_3HW
        if hole_HW is not None:
            if hole_HW.shape != given_3HW.shape[-2:]:
                raise UserError(f"the input is {size(given_3HW)}, the mask {size(hole_HW)}")
            sample["mask"] = hole_HW[None]
            sample["low"] = torch.where(hole_HW, 0, sample["low"])
        batch: dict[str, Any] = {
            name: value[None].to(self.device) if isinstance(value, Tensor) else [value]
            for name, value in self.task.eval_item(sample).items()
        }
        problem = self.task.prepare(batch)
        if hole_HW is not None and problem.hole_mask is None:
            raise UserError(f"{self.loaded.path} holds weights of a task that knows no holes")
        with evaluating(self.runner.model):
            restored = self.task.postprocess(self.runner(problem), problem).image[0]
        height, width = (round(side * self.task.scale) for side in given_3HW.shape[-2:])
        return to_uint8(restored[:, :height, :width]).cpu()

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
        settings = [loaded.config["backbone"], loaded.config["task"], runtime.precision]
        described = json.dumps(settings, sort_keys=True).encode()
        mark = f"{loaded.fingerprint}_{hashlib.sha256(described).hexdigest()[:8]}"
        self.folder = folder / mark / "results" / "test" / "0"

    def make(
        self,
        given_3HW: Tensor,
        hole_HW: Tensor | None,
        reference_3HW: Tensor | None,
        key: str = "picture",
    ) -> Tensor:
        """See `Method.make`."""
        hole = torch.zeros(given_3HW.shape[-2:], dtype=torch.bool) if hole_HW is None else hole_HW
        if hole.shape != given_3HW.shape[-2:]:
            raise UserError(f"the input is {size(given_3HW)}, the mask {size(hole)}")
        asked = {"GT": given_3HW, "Mask": torch.where(hole, 255, given_3HW)}
        paths = {part: self.folder / f"{part}_{flat(key)}.png" for part in ("GT", "Mask", "Out")}
        if all(path.exists() for path in paths.values()):
            with suppress(UnreadableImage):  # drawn again
                kept = read_rgb(paths["Out"])
                alike = (torch.equal(read_rgb(paths[part]), asked[part]) for part in asked)
                if kept.shape == given_3HW.shape and all(alike):
                    return kept
        drawn = super().make(given_3HW, hole_HW, reference_3HW, key)
        make_folder(self.folder)
        paths["Out"].unlink(missing_ok=True)  # of another picture
        for part, picture in (*asked.items(), ("Out", drawn)):
            save_png(paths[part], picture)
        return drawn

    def sentence(self) -> str:
        """See `Method.sentence`."""
        sampler = self.loaded.config["backbone"]["sampler"]
        arguments = ", ".join(
            f"{k}={v}" for k, v in sampler.items() if k not in ("_target_", "schedule")
        )
        return f"{super().sentence()}, drawn with {arguments}, kept in {self.folder}"


def size(x: Tensor) -> str:
    """Width × height of a picture."""
    return f"{x.shape[-1]}×{x.shape[-2]}"
