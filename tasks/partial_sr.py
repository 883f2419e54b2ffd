"""Partial super-resolution and inpainting at once: a wide picture with holes, part of it sharp."""

import copy
import zlib
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.data.zoom import Zoomed
from restore.errors import UserError
from restore.images.augment import turn, turned
from restore.images.filling import blended, filled
from restore.images.io import as_float, to_uint8
from restore.images.overlap import Overlap, pair, share
from restore.images.tiling import Window
from restore.images.zoom import zoomed_out
from restore.types import Problem, Restoration, Sample, map_tensors

# The thesis's code: a crop's place and its reference's are at most 192 of 256 pixels apart.
_PUBLISHED = Overlap(0, 1, 0.75)
_LEVEL = 1 / 255

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[list[Share], Field(min_length=2, max_length=2)]


class Masks(Protocol):
    """A kind of masks."""

    def draw(
        self, split: str, key: str, height: int, width: int, shrink: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """A mask 1HW and, made on its own, its small version; bool, true = hole."""
        ...


class PartialItem(Sample, total=False):
    """What is made of a sample: besides its pictures the holes of the low one, and more.

    `low_up` has its holes filled, `whole` is the same before it was damaged; `overlap` is the share
    of the input that its reference shows too.
    """

    low_mask: Tensor
    whole: Tensor
    overlap: float


class PartialSR:
    """Crops of a wide picture, damaged, beside sharp crops near them (Romanus 2022, chapter 5).

    A sample is a sharp picture, `target`, and the wide one of the same place and size, `low_up` or
    `low`; without that it is made (see `degradation`). Both an input crop and a reference crop are
    cut from it. A sample with a `reference` of its own has that cut instead, and no overlap.

    What lies under the holes never reaches the network, but for `low_holes: as_published`.

    Args:
        degradation: makes what the data lack.
        masks: where holes come from, for samples that bring no `mask`.
        crop: side of the crops, also in evaluation (smaller pictures are then taken whole).
        overlap: share of the input that the reference shows too: [least, most]; `as_published`: any
            place not farther than three quarters of the crop along each axis.
        holes: share of the items that are damaged.
        coding: how the network learns where holes are: `zero_reserved`: values of 0 become 1 of 255
            levels, holes are 0; `mask_channel`: holes are filled smoothly, and the low picture's
            mask is an input of its own (a backbone with `inputs: 4`).
        low_holes: which of the low picture are holes: `damaged`: every pixel that holds some hole,
            and the others are made without it; `as_published`: those of the mask's own small
            version, and the others show what is under thin strokes.
        known: what the result is outside holes: `restored`, or `kept` as it was given.
        border: half the width, in pixels outside the holes, of the passage from one to the other.
        augment: flips and quarter turns, of an item's pictures alike.
        shrink: how many times smaller the low picture is.
    """

    scale = 1  # a result is as large as what is given
    takes_reference = True

    def __init__(
        self,
        degradation: Zoomed,
        masks: Masks,
        crop: Annotated[int, Field(ge=1)] = 256,
        overlap: Literal["as_published"] | Shares = "as_published",
        holes: Share = 0.6,
        coding: Literal["zero_reserved", "mask_channel"] = "zero_reserved",
        low_holes: Literal["damaged", "as_published"] = "damaged",
        known: Literal["restored", "kept"] = "restored",
        border: Annotated[int, Field(ge=0)] = 2,
        augment: bool = False,
        shrink: Annotated[int, Field(ge=1)] = 4,
    ):
        if crop % shrink:
            raise UserError(f"task.crop={crop} does not divide by task.shrink={shrink}")
        if overlap == "as_published":
            self.overlap = _PUBLISHED
        else:
            if overlap[0] > overlap[1]:
                raise UserError(f"task.overlap={overlap}: give the smaller share first")
            self.overlap = Overlap(float(overlap[0]), float(overlap[1]), 1)
        self.degradation, self.masks = degradation, masks
        self.crop, self.holes, self.augment, self.shrink = crop, holes, augment, shrink
        self.coding, self.low_holes, self.known, self.border = coding, low_holes, known, border
        # Bicubic's support, and the passage from kept pixels to restored ones.
        self.margin = 2 - (-2 * border // shrink)
        self.evaluated = "valid"

    def for_split(self, name: str) -> "PartialSR":
        """The task whose evaluation takes the masks of a split; at first it is `valid`."""
        other = copy.copy(self)
        other.evaluated = name
        return other

    # Items ----------------------------------------------------------------------------------

    def train_item(self, sample: Sample, rng: np.random.Generator) -> PartialItem:
        """Two crops and a mask; a pure function of the sample and the generator's state."""
        masks, noise = rng.spawn(2)  # masks and noise change neither crops nor turns
        height, width = _size(sample)
        if min(height, width) < self.crop:
            raise UserError(
                f"{sample['key']}: {width}×{height} pixels are smaller than task.crop={self.crop}"
            )
        cut = self._cut(sample, rng)
        own = cut.get("reference", [])
        for picture in own if isinstance(own, list) else [own]:
            if picture.shape[-2:] != (self.crop, self.crop):
                raise UserError(
                    f"{sample['key']}: the reference is smaller than task.crop={self.crop}"
                )
        item = self._item(cut, "train", masks, noise)
        if self.augment:
            how = turn(rng)
            for name, value in item.items():
                item[name] = map_tensors(lambda x: turned(x, how), value)  # type: ignore[literal-required]
        return item

    def eval_item(self, sample: Sample) -> PartialItem:
        """The same, random through the sample's key alone.

        A sample without a target (a user's picture) is taken whole, its sides continued to
        multiples of `shrink`, with its own mask or none.
        """
        seed = zlib.crc32(sample["key"].encode())
        if "target" in sample:
            cut = self._cut(sample, np.random.default_rng([seed, 1]))
            item = self._item(cut, self.evaluated, np.random.default_rng([seed, 2]), None)
        else:
            item = self._item(
                self.fill_holes(sample), self.evaluated, np.random.default_rng(0), None
            )
        return item

    def fill_holes(self, sample: Sample | PartialItem) -> PartialItem:
        """See `restore.types.InpaintingTask`; what is opened already stays as it is."""
        if "whole" in sample:
            return PartialItem(**sample)
        picture = self._continued(_wide(sample))
        if "mask" in sample:
            mask = self._continued(sample["mask"]).bool()
        else:
            mask = torch.zeros(1, *picture.shape[-2:], dtype=torch.bool)
        start = _filled(picture, mask)
        # What a user's holes are painted with is not what lies under them, for `as_published`.
        item = PartialItem(key=sample["key"], low_up=start, whole=start, mask=mask)
        if "reference" in sample:
            item["reference"] = map_tensors(self._continued, sample["reference"])
        return item

    def _cut(self, sample: Sample, rng: np.random.Generator) -> PartialItem:
        """Crops of the input and of its reference."""
        height, width = _size(sample)
        size = tuple(min(self.crop, side // self.shrink * self.shrink) for side in (height, width))
        if min(size) == 0:
            raise UserError(f"{sample['key']}: the target is smaller than {self.shrink} pixels")
        windows = pair(height, width, (size[0], size[1]), self.overlap, rng)
        if windows is None:
            least, most, _ = self.overlap
            raise UserError(
                f"{sample['key']}: in {width}×{height} pixels there is no room for two crops of "
                f"{size[1]}×{size[0]} that overlap by {least:g} to {most:g} (task.overlap): "
                "give a smaller task.crop"
            )
        there, here = windows
        out = PartialItem(key=sample["key"], target=here.of(sample["target"]))
        if "low" in sample or "low_up" in sample:
            out["low_up"] = here.of(_wide(sample))
        if "mask" in sample:
            out["mask"] = here.of(sample["mask"])
        if "reference" in sample:
            for name in ("reference", "reference_low_up"):
                if name in sample:
                    out[name] = map_tensors(lambda x: self._inside(there, x), sample[name])
        else:
            out["reference"] = there.of(sample["target"])
            if "low_up" in out:
                out["reference_low_up"] = there.of(_wide(sample))
            out["overlap"] = share(here, there)
        return out

    def _inside(self, wish: Window, picture: Tensor) -> Tensor:
        """The part of another picture at a place, or as near to it as its size allows."""
        height, width = picture.shape[-2:]
        rows, columns = (
            min(length, side // self.shrink * self.shrink)
            for length, side in ((wish.height, height), (wish.width, width))
        )
        top, left = min(wish.top, height - rows), min(wish.left, width - columns)
        return Window(top, left, rows, columns).of(picture)

    def _continued(self, picture: Tensor) -> Tensor:
        """The picture with its last pixels repeated until its sides divide by `shrink`."""
        for axis in (-2, -1):
            side = picture.shape[axis]
            places = torch.arange(-(-side // self.shrink) * self.shrink)
            picture = picture.index_select(axis, places.clamp(max=side - 1))
        return picture

    def _item(
        self,
        cut: PartialItem,
        split: str,
        rng: np.random.Generator,
        noise: np.random.Generator | None,
    ) -> PartialItem:
        """Everything else that is made of the crops."""
        if "low_up" not in cut:
            cut["low_up"] = zoomed_out(cut["target"], self.degradation.zoom(noise))
        mask, small = self._holes(cut, split, rng)
        whole = cut.get("whole", cut["low_up"])
        item: PartialItem = {**cut} if "whole" in cut else {**cut, "low_up": _filled(whole, mask)}
        degraded = self.degradation.worker(item, self.shrink, noise)
        item = PartialItem(**{**degraded, "whole": whole, "mask": mask})
        if self.low_holes == "damaged":
            item["low_mask"] = F.max_pool2d(mask.float(), self.shrink) > 0
        else:
            intact = self.degradation.worker(
                Sample(key=cut["key"], low_up=whole), self.shrink, noise
            )["low"]
            item["low_mask"] = small
            item["low"] = torch.where(small, degraded["low"], intact)
        return PartialItem(
            **{k: map_tensors(lambda x: x.contiguous(), v) for k, v in item.items()}  # type: ignore[typeddict-item]
        )

    def _holes(
        self, cut: PartialItem, split: str, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        height, width = cut["low_up"].shape[-2:]
        if "mask" in cut:
            mask = cut["mask"].bool()
            return mask, mask[..., self.shrink // 2 :: self.shrink, self.shrink // 2 :: self.shrink]
        # Drawn first, so that those who have holes keep them when more items have some.
        if rng.random() < self.holes:
            return self.masks.draw(split, cut["key"], height, width, self.shrink, rng)
        none = torch.zeros(1, height, width, dtype=torch.bool)
        return none, none[..., :: self.shrink, :: self.shrink]

    # Batches --------------------------------------------------------------------------------

    def prepare(self, batch: dict[str, Any], generator: torch.Generator | None = None) -> Problem:
        """Pictures as float in [0, 1], their holes coded."""
        batch = {name: map_tensors(as_float, value) for name, value in batch.items()}
        batch = self.degradation.device(batch, self.shrink)
        mask, low_mask = (batch[name].float() for name in ("mask", "low_mask"))
        inputs = {name: batch[name] for name in ("low", "low_up")}
        inputs |= {k: batch[k] for k in ("reference", "reference_low_up") if k in batch}
        if self.coding == "zero_reserved":
            inputs["low"] = _reserved(batch["low"], low_mask)
            inputs["low_up"] = _reserved(batch["low_up"], mask)
        else:
            inputs |= {"mask": low_mask, "mask_up": mask}
        return Problem(
            inputs,
            batch.get("target"),
            batch["key"],
            hole_mask=mask,
            filled=batch["low_up"],
            undamaged=batch["whole"],
            overlap=batch.get("overlap"),
        )

    def postprocess(self, restored: Restoration, problem: Problem) -> Restoration:
        """With `known: kept`, what was given outside the holes."""
        if self.known == "kept":
            assert problem.filled is not None
            assert problem.hole_mask is not None
            restored.image = blended(restored.image, problem.filled, problem.hole_mask, self.border)
        return restored

    def baseline(self, problem: Problem) -> tuple[str, Tensor]:
        """The wide picture, its holes filled smoothly."""
        assert problem.filled is not None
        return "filled", problem.filled


def _wide(sample: Sample) -> Tensor:
    return sample["low_up"] if "low_up" in sample else sample["low"]


def _size(sample: Sample) -> tuple[int, int]:
    """Height and width of a sample's pictures; UserError when they differ or the target lacks."""
    if "target" not in sample:
        raise UserError(f"{sample['key']}: training needs a target picture")
    height, width = sample["target"].shape[-2:]
    for name in ("low", "low_up", "mask"):
        if name in sample and sample[name].shape[-2:] != (height, width):
            other = sample[name].shape
            raise UserError(
                f"{sample['key']}: the picture '{name}' ({other[-1]}×{other[-2]}) is not of the "
                f"target's size ({width}×{height}), as this task needs it"
            )
    return height, width


def _filled(picture: Tensor, mask: Tensor) -> Tensor:
    if not mask.any():
        return picture
    fill = filled(as_float(picture)[None], mask[None])[0]
    return torch.where(mask, to_uint8(fill) if picture.dtype == torch.uint8 else fill, picture)


def _reserved(picture: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0, 0, picture.clamp_min(_LEVEL))
