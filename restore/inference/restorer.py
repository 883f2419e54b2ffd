"""Trained weights as something that restores one picture."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from restore.config.settings import Runtime, StandIn
from restore.data.frames import framed
from restore.data.references import changed, picture
from restore.images.tiling import Window, bands
from restore.inference.runner import Runner, evaluating
from restore.models.weights import Loaded
from restore.types import InpaintingTask, Problem, Sample


class Restorer:
    """Restores pictures of any size with one reference at a time.

    Args:
        loaded: weights with their task and network.
        runtime: precision and layout.
        device: where it runs.
    """

    def __init__(self, loaded: Loaded, runtime: Runtime, device: torch.device):
        self.task = loaded.task()
        self.model = loaded.backbone().to(device)
        self.runner = Runner(self.model, runtime, device)
        self.device = device
        self.scale: int = self.task.scale
        self.takes_reference = self.task.takes_reference and self.model.takes_reference
        # How far an input pixel is felt, in low pixels; None: everywhere, so tiles would differ.
        self.reach, self.whole = self.model.reach, self.model.whole
        self.inpainting = self.task if isinstance(self.task, InpaintingTask) else None
        self.fills = self.inpainting is not None
        self.needs_mask = self.model.needs_mask
        # How many times smaller than what is given the network's low picture is.
        self.shrink = self.inpainting.shrink if self.inpainting else 1

    def encode_reference(self, reference: Tensor) -> Any:
        """What the network makes of a reference; good for many pictures.

        Args:
            reference: 3HW, uint8 or in [0, 1]. Its sides are cropped to multiples of the scale
                (see `Backbone.reference_multiple`); one that is shorter than the scale is continued
                with its last pixels.
        """
        for axis in (-2, -1):
            places = torch.arange(max(reference.shape[axis], self.scale))
            reference = reference.index_select(axis, places.clamp(max=reference.shape[axis] - 1))
        sample = Sample(key="picture", low=torch.zeros(3, 1, 1), reference=reference)
        return self._memory(sample, framed(self.task, None, self.model.reference_multiple))

    def stand_in(self, kind: StandIn, low: Tensor, key: str, mask: Tensor | None = None) -> Any:
        """The same of what stands in for a picture's reference, see `restore.data.references`.

        Args:
            kind: None is what `none` gives.
            low, mask: as for `restore`.
            key: of the picture, for the noise.
        """
        if kind == "none":
            return None
        blank = picture(kind, key, *self.size(*low.shape[-2:]))
        sample = Sample(key=key, low=low, reference=blank)
        if mask is not None:
            sample["mask"] = mask
        return self._memory(sample, changed(kind, self.task))

    def _memory(self, sample: Sample, task: Any) -> Any:
        inputs = self._prepared(sample, task).inputs
        with evaluating(self.model), self.runner.autocast():
            return self.model.encode_reference(
                **{name: x for name, x in inputs.items() if name.startswith("reference")}
            )

    def restore(
        self,
        low: Tensor,
        memory: Any,
        tile: int | None,
        ensemble: bool = False,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The picture, enlarged and with its holes filled.

        Args:
            low: 3HW, uint8 or in [0, 1].
            memory: from `encode_reference`, or None for networks without a reference.
            tile: largest side of tiles in pixels of the network's low picture, None for the whole
                at once (and where `reach` is None).
            ensemble: mean over the eight flips and turns of the picture (Lim et al., "Enhanced
                Deep Residual Networks", CVPRW 2017: geometric self-ensemble).
            mask: 1HW bool, true = hole, for a task that fills holes; None: there are none.

        Returns:
            3, scale·H, scale·W in [0, 1], on the CPU.
        """
        return joined(self.bands(low, memory, tile, ensemble, mask), self.size(*low.shape[-2:])[0])

    def together(
        self, lows: Sequence[Tensor], masks: Sequence[Tensor | None], keys: Sequence[str]
    ) -> list[Tensor]:
        """What `bands` gives of several pictures, whole, where the network takes them `at_once`."""
        problems = []
        for low, mask, key in zip(lows, masks, keys):
            sample = (
                Sample(key=key, low=low) if mask is None else Sample(key=key, low=low, mask=mask)
            )
            opened = self.inpainting.fill_holes(sample) if self.inpainting else sample
            problems.append(self._problem(opened))
        with evaluating(self.model):
            answers = self.runner.each(problems)
        images = [self.task.postprocess(a, p).image[0] for a, p in zip(answers, problems)]
        sides = [self.size(*low.shape[-2:]) for low in lows]
        return [x[:, :height, :width].cpu() for x, (height, width) in zip(images, sides)]

    def bands(
        self,
        low: Tensor,
        memory: Any,
        tile: int | None,
        ensemble: bool = False,
        mask: Tensor | None = None,
        key: str = "picture",
    ) -> Iterator[Tensor]:
        """What `restore` returns, some rows at a time from the top, each 3, h, scale·W.

        `key` is the picture's name, of which a network that draws its answer makes its chance.
        """
        assert tile is None or self.reach is not None, "tiles would differ from the whole"
        more = {} if memory is None else {"memory": memory}
        sample = Sample(key=key, low=low)
        if mask is not None:
            sample["mask"] = mask
        overlap = self.reach or 0
        if self.inpainting:
            # Holes are filled from all of the picture, so before it is cut.
            sample = self.inpainting.fill_holes(sample)
            overlap += self.inpainting.margin
        pictures = {name: x for name, x in sample.items() if isinstance(x, Tensor)}
        # One over the other, to be cut and turned as one.
        layers = [x.to(low.dtype) for x in pictures.values()]
        stack = torch.cat(layers) if len(layers) > 1 else layers[0]
        names, sizes = [*pictures], [len(x) for x in layers]
        del layers, pictures, sample

        def once(part: Tensor) -> Tensor:
            cut = part.split(sizes)
            layer = {name: x.contiguous() for name, x in zip(names, cut)}
            problem = self._problem(Sample(key=key, **layer))  # type: ignore[typeddict-item]
            return self.task.postprocess(self.runner(problem, **more), problem).image

        def part(window: Window) -> Tensor:
            cut = window.of(stack, self.shrink)
            with evaluating(self.model):
                return mean_over_turns(once, cut) if ensemble else once(cut)

        rows, columns = (side // self.shrink for side in stack.shape[-2:])
        scale = self.scale * self.shrink
        left, width = (side * self.scale for side in low.shape[-2:])  # the rest was continued
        for band in bands(part, rows, columns, tile=tile, overlap=overlap, scale=scale):
            if left > 0:
                yield band[0, :, :left, :width]
            left -= band.shape[-2]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the result for a picture of these sides."""
        return height * self.scale, width * self.scale

    def works_on(self, height: int, width: int) -> tuple[int, int]:
        """Sides of what is cut into tiles, the network's low picture."""
        return -(-height // self.shrink), -(-width // self.shrink)

    def _problem(self, sample: Sample) -> Problem:
        """A picture's, without its reference, which is remembered."""
        if self.takes_reference:
            sample["reference"] = torch.zeros(3, self.scale, self.scale)
        problem = self._prepared(sample, self.task)
        inputs = {k: x for k, x in problem.inputs.items() if not k.startswith("reference")}
        return replace(problem, inputs=inputs)

    def _prepared(self, sample: Sample, task: Any) -> Problem:
        """The task's own preparation, so that a picture meets what training met."""
        item = task.eval_item(sample)
        batch: dict[str, Any] = {
            name: [value] if name == "key" else value[None].to(self.device)
            for name, value in item.items()
        }
        return task.prepare(batch)


def joined(bands_CHW: Iterable[Tensor], height: int) -> Tensor:
    """Bands one below the other, without holding all of them beside the result."""
    coming = iter(bands_CHW)
    first = next(coming)
    if first.shape[-2] == height:
        return first
    result = first.new_empty(first.shape[0], height, first.shape[-1])
    top = 0
    for band in chain([first], coming):
        result[:, top : top + band.shape[-2]] = band
        top += band.shape[-2]
    assert top == height, (top, height)
    return result


def mean_over_turns(function: Callable[[Tensor], Tensor], picture: Tensor) -> Tensor:
    """Mean of a function's results on the eight flips and quarter turns, each turned back.

    They are added in pairs: sums of two, four and eight are then no more than as many times the
    greatest, whatever is rounded, so that the mean stays within the range of the results.
    """

    def once(number: int) -> Tensor:
        quarters, flip = divmod(number, 2)
        turned = picture.rot90(quarters, (-2, -1))
        result = function(turned.flip(-1) if flip else turned)
        return (result.flip(-1) if flip else result).rot90(-quarters, (-2, -1))

    def total(first: int, count: int) -> Tensor:
        if count == 1:
            return once(first)
        return total(first, count // 2) + total(first + count // 2, count // 2)

    return total(0, 8) / 8
