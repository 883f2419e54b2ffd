"""Palette: a network that draws what is missing, by diffusion.

Saharia et al., "Palette: Image-to-Image Diffusion Models", SIGGRAPH 2022; network, schedules and
sampling are those of the public implementation by L. Jiang.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.models.diffusion.sampler import Sampler
from restore.models.diffusion.schedule import Schedule
from restore.models.diffusion.unet import UNet
from restore.models.protocol import Backbone, Recognised
from restore.types import Restoration
from restore.utils import distributed
from restore.utils.progress import bar


class Palette(Backbone):
    """Draws pictures that go with a damaged one.

    The network sees the damaged picture, its holes full of noise, beside a noisy picture, and
    predicts the latter's noise. In training the noisy picture is made of the target, and the answer
    is the estimate of it with the predicted noise; otherwise the answer is drawn by the sampler,
    from a chance of each picture's own (its key, the sampler's seed, the sample's number): the same
    in any batch, order or process.

    Args:
        network: predicts the noise.
        schedule: of the noise in training.
        sampler: how results are drawn.
        size: side of the pictures that it learns from. Larger ones are drawn as a whole whose noise
            is predicted in windows of this side, which overlap by half and are averaged.
        known: what is outside the holes: `kept`: only holes are drawn; `restored`: all is drawn,
            given the damaged picture.
        predicts: what the network is trained to give, of a picture x, noise ε and √γ·x + √(1−γ)·ε:
            `noise`: ε, as published; `velocity`: √γ·ε − √(1−γ)·x (Salimans, Ho, "Progressive
            Distillation for Fast Sampling of Diffusion Models", ICLR 2022), whose errors are not
            magnified where little of the picture is left.
        residual: what is drawn: None: the picture, as published; a number: its difference from the
            task's smooth filling, which the network is shown instead of noise in the holes, as Li
            et al., "SRDiff" (Neurocomputing 2022), do it for super-resolution. Differences of more
            than the number are cut off; it is in units of [-1, 1].
    """

    scale = 1
    reach = None
    takes_mask = True
    generative = True

    def __init__(
        self,
        network: UNet,
        schedule: Schedule,
        sampler: Sampler,
        size: Annotated[int, Field(ge=1)] = 256,
        known: Literal["kept", "restored"] = "kept",
        predicts: Literal["noise", "velocity"] = "noise",
        residual: Annotated[float, Field(gt=0, le=2)] | None = None,
    ):
        super().__init__()
        if size % network.multiple:
            raise UserError(
                f"backbone.size={size} does not divide by {network.multiple}, as patch and "
                "multipliers of backbone.network need it"
            )
        self.denoise_fn = network
        self.schedule, self.sampler, self.size, self.known = schedule, sampler, size, known
        self.predicts, self.residual, self.at_once = predicts, residual, sampler.batch_size
        self.needs_mask = known == "kept"

    def forward(
        self,
        low_up: Tensor,
        mask_up: Tensor | None = None,
        keys: Sequence[str] | None = None,
        target: Tensor | None = None,
        frames: int = 0,
        **others: Any,
    ) -> Restoration:
        """A picture N3HW in [0, 1] that goes with `low_up` N3HW and its holes `mask_up` N1HW.

        Args:
            low_up: the damaged picture.
            mask_up: its holes, 1 = hole; None: there are none.
            keys: the pictures' names, of which their chance is made.
            target: in training, what the noisy picture is made of.
            frames: how many pictures of the way are asked for, evenly spaced, besides its start.
            others: what networks of other kinds take.
        """
        hole = torch.zeros_like(low_up[:, :1]) if mask_up is None else mask_up
        hole = hole > 0
        region = hole if self.known == "kept" else torch.ones_like(hole)
        if self.training:
            assert target is not None, "a target to learn from"
            return self._learn(low_up, hole, region, target)
        keys = ["picture"] * len(low_up) if keys is None else keys
        wanted = [(k, place) for k in range(self.sampler.samples) for place in range(len(keys))]
        at_once = self.at_once if max(low_up.shape[-2:]) <= self.size else 1
        drawn: list[list[Tensor]] = []
        for first in range(0, len(wanted), at_once):
            some = wanted[first : first + at_once]
            chances = [chance(self.sampler.seed, keys[place], k) for k, place in some]
            places = [place for _, place in some]
            way = self._draw(low_up[places], hole[places], region[places], chances, frames)
            drawn += map(list, zip(*way))
        samples = [*torch.stack([way[-1] for way in drawn]).split(len(keys))]
        return Restoration(
            samples[0],
            samples=samples if len(samples) > 1 else [],
            frames=[torch.stack(x) for x in zip(*drawn[: len(keys)])] if frames else [],
        )

    # Training -------------------------------------------------------------------------------

    def _learn(self, low_up: Tensor, hole: Tensor, region: Tensor, target: Tensor) -> Restoration:
        """Chance is torch's own, which the loop seeds for each step."""
        N, device = len(target), target.device
        clean = self._drawn_of(target, low_up).clamp(-1, 1)
        condition = self._condition(low_up, hole, torch.randn_like(clean))
        step = torch.randint(1, len(self.schedule), (N,), device=device)
        share, noise = torch.rand(N, 1, device=device), torch.randn_like(clean)
        restored = self.denoised(condition, clean, region, step, share, noise)
        restored.image = self._picture_of(restored.image, low_up)
        return restored

    # What is drawn, in [-1, 1], is the picture or its difference from what is given.

    def _condition(self, low_up: Tensor, hole: Tensor, noise: Tensor) -> Tensor:
        given = 2 * low_up.float() - 1
        return torch.where(hole, noise, given) if self.residual is None else given

    def _drawn_of(self, picture: Tensor, low_up: Tensor) -> Tensor:
        if self.residual is None:
            return 2 * picture.float() - 1
        return 2 * (picture.float() - low_up.float()) / self.residual

    def _picture_of(self, drawn: Tensor, low_up: Tensor) -> Tensor:
        if self.residual is None:
            return (drawn + 1) / 2
        return low_up.float() + drawn * self.residual / 2

    def denoised(
        self,
        condition: Tensor,
        clean: Tensor,
        region: Tensor,
        step_N: Tensor,
        share_N1: Tensor,
        noise: Tensor,
    ) -> Restoration:
        """The estimate of what is drawn, of what it is with noise; all N3HW in [-1, 1].

        Args:
            condition: the damaged picture, noise in its holes.
            clean: the picture, or its difference from what is given.
            region: N1HW, true where it is to be drawn; elsewhere it stays clean.
            step_N: of the schedule, from 1.
            share_N1: how far from γ of the step before (0) to that of the step (1) γ is.
            noise: standard normal.
        """
        gammas = torch.from_numpy(self.schedule.gammas).float().to(clean.device)
        before, after = gammas[step_N - 1][:, None], gammas[step_N][:, None]
        gamma_N1 = before + (after - before) * share_N1
        kept, added = _shares(gamma_N1)
        noisy = torch.where(region, kept * clean + added * noise, clean)
        predicted = self._predicted(torch.cat([condition, noisy], 1), gamma_N1)
        target = noise if self.predicts == "noise" else kept * noise - added * clean
        estimate = (noisy - added * self._noise(predicted, noisy, gamma_N1)) / kept
        estimate = torch.where(region, estimate.clamp(-1, 1), clean)
        return Restoration(estimate, predicted=predicted * region, to_predict=target * region)

    # Sampling -------------------------------------------------------------------------------

    def _draw(
        self,
        low_up: Tensor,
        hole: Tensor,
        region: Tensor,
        chances: Sequence[torch.Generator],
        frames: int,
    ) -> list[Tensor]:
        """A result of each picture by its own chance, N3HW in [0, 1], behind what led to it."""
        if not region.any():
            return [low_up.float()] * (frames + 1)

        def noise() -> Tensor:
            # On the CPU, so that every device draws the same.
            shape = low_up.shape[1:]
            return torch.stack([torch.randn(shape, generator=c) for c in chances]).to(low_up.device)

        known = self._drawn_of(low_up, low_up)
        begun = noise()
        condition = self._condition(low_up, hole, begun)
        # As published: holes begin with the very noise that the network is shown there.
        start = torch.where(hole, begun, known) if self.known == "kept" else noise()
        steps = bar(
            self.frames(condition, known, region, start, noise),
            "sample",
            total=len(self.sampler.places),
            unit="step",
            leave=False,
            disable=True if distributed.rank() else None,
        )
        total = len(self.sampler.places)
        shown = [-(-total * number // frames) for number in range(1, frames)]
        way = [torch.where(region, start, known)] if frames else []
        for number, y in enumerate(steps, 1):
            way += [y] * (shown.count(number) + (number == total))
        return [
            torch.where(region, self._picture_of(y, low_up), low_up.float()).clamp(0, 1)
            for y in way
        ]

    def frames(
        self, condition: Tensor, known: Tensor, region: Tensor, start: Tensor, noise: Any
    ) -> Iterator[Tensor]:
        """What each step of the sampler gives of what is drawn, N3HW in [-1, 1] but for the noise.

        Args:
            condition: what the network is shown, N3HW.
            known: what there is outside the region, N3HW.
            region: N1HW, true where the picture is drawn.
            start: the noise to begin with.
            noise: draws more, as for `Sampler.frames`.
        """

        def estimate(y: Tensor, gamma_N1: Tensor) -> Tensor:
            noisy = torch.where(region, y, known)
            predicted = self.predicted(torch.cat([condition, noisy], 1), gamma_N1, region)
            return self._noise(predicted, noisy, gamma_N1)

        for y in self.sampler.frames(estimate, start, noise):
            yield torch.where(region, y, known)

    def _noise(self, predicted: Tensor, noisy: Tensor, gamma_N1: Tensor) -> Tensor:
        """The noise in `noisy` that follows from what the network predicts."""
        if self.predicts == "noise":
            return predicted
        kept, added = _shares(gamma_N1)
        return kept * predicted + added * noisy

    def predicted(self, given_NCHW: Tensor, gamma_N1: Tensor, region: Tensor) -> Tensor:
        """What the network predicts; of pictures larger than `size`, in windows."""
        height, width = given_NCHW.shape[-2:]
        rows, columns = (_starts(side, self.size) for side in (height, width))
        if len(rows) == len(columns) == 1:
            return self._predicted(given_NCHW, gamma_N1)
        total = given_NCHW.new_zeros(len(given_NCHW), 3, height, width)
        weights = given_NCHW.new_zeros(1, 1, height, width)
        for top in rows:
            for left in columns:
                place = ..., slice(top, top + self.size), slice(left, left + self.size)
                part, inside = given_NCHW[place], region[place]
                if not inside.any():
                    continue  # nothing is drawn there
                weight = torch.outer(_tent(part.shape[-2]), _tent(part.shape[-1])).to(total.device)
                total[place] += weight * self._predicted(part, gamma_N1)
                weights[place] += weight
        return total / weights.clamp_min(1e-6)

    def _predicted(self, given_NCHW: Tensor, gamma_N1: Tensor) -> Tensor:
        """The same at once; sides are continued to what the resolutions need."""
        height, width = given_NCHW.shape[-2:]
        down, right = (-side % self.denoise_fn.multiple for side in (height, width))
        given = F.pad(given_NCHW, (0, right, 0, down), mode="replicate")
        return self.denoise_fn(given, gamma_N1)[..., :height, :width].float()

    def prepare_export(self) -> None:
        """See `restore.models.protocol.PreparesExport`."""
        raise UserError(
            "Palette draws its results step by step, from chance, which a file for other programs "
            "cannot hold"
        )

    # Published files ------------------------------------------------------------------------

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`; known are `…_Network.pth` and `…_Network_ema.pth`.

        They do not hold the number of channels of an attention head, which is taken to be that of
        the published configurations.
        """
        first = published.get(f"{_PREFIX}input_blocks.0.0.weight")
        if first is None or f"{_PREFIX}cond_embed.0.weight" not in published:
            return None
        state = {name: x for name, x in published.items() if name.startswith(_PREFIX)}
        features = len(published[f"{_PREFIX}cond_embed.0.weight"].mT)
        inputs = _places(state, "input_blocks")
        raised = sum(
            any(re.match(rf"output_blocks\.{place}\.[12]\.in_layers", name) for name in names)
            for place, names in _places(state, "output_blocks").items()
        )
        resolutions = raised + 1
        blocks, rest = divmod(len(inputs), resolutions)
        blocks -= 1
        odd = f"{path} is of a Palette that is not known here"
        if rest or blocks < 1 or first.shape[1] != 6:
            raise UserError(
                f"{odd}: {len(inputs)} blocks on the way down, {raised} times enlarged on the way "
                f"up, {first.shape[1]} channels of input"
            )
        multipliers, attention = [], []
        for number in range(resolutions):
            place = 1 + number * (blocks + 1)
            width = published.get(f"{_PREFIX}input_blocks.{place}.0.out_layers.3.weight")
            if width is None or len(width) % features:
                raise UserError(f"{odd}: input block {place} is none of its blocks")
            multipliers.append(len(width) // features)
            if any(".1.qkv." in name for name in inputs[place]):
                attention.append(2**number)
        head = "backbone.network.head=32"
        overrides = [
            "backbone=palette",
            "sampler=ancestral",
            f"backbone.network.features={features}",
            f"backbone.network.multipliers={multipliers}".replace(" ", ""),
            f"backbone.network.blocks={blocks}",
            f"backbone.network.attention={attention}".replace(" ", ""),
            head,
        ]
        beside = [name for name in published if name not in state]
        return Recognised(overrides, state, assumed=[head], beside=beside)


_PREFIX = "denoise_fn."


def _places(state: Mapping[str, Tensor], part: str) -> dict[int, list[str]]:
    """The names within a list of blocks, by their place."""
    places: dict[int, list[str]] = {}
    for name in state:
        match = re.match(rf"{re.escape(_PREFIX)}({part}\.(\d+)\..*)", name)
        if match:
            places.setdefault(int(match[2]), []).append(match[1])
    return places


def _shares(gamma_N1: Tensor) -> tuple[Tensor, Tensor]:
    """What a noisy picture has of the picture and of the noise, √γ and √(1 − γ), as N111."""
    gamma = gamma_N1[:, :, None, None]
    return gamma.sqrt(), (1 - gamma).sqrt()


def chance(seed: int, key: str, sample: int) -> torch.Generator:
    """The chance of a picture's sample, the same wherever it is drawn."""
    mixed = np.random.SeedSequence([seed, zlib.crc32(key.encode()), sample])
    return torch.Generator().manual_seed(int(mixed.generate_state(1, np.uint64)[0] >> 1))


def _starts(side: int, size: int) -> list[int]:
    """Where windows of a size begin, that overlap by half of it or more."""
    if side <= size:
        return [0]
    count = -(-2 * (side - size) // size) + 1
    return np.linspace(0, side - size, count).round().astype(int).tolist()


def _tent(side: int) -> Tensor:
    """Weights that rise from a window's edges to its middle."""
    places = torch.arange(1, side + 1, dtype=torch.float32)
    return torch.minimum(places, places.flip(0))
