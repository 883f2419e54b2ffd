"""What a comparison needs, found and checked before any of it is measured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from restore.config import registry, settings
from restore.errors import UnreadableImage, UserError
from restore.images import masks
from restore.images.io import by_name
from restore.metrics import selection
from restore.metrics.legend import Legend
from restore.metrics.protocol import MeasurementProtocol
from restore.models import bundled, weights
from restore.models.weights import Loaded
from restore.tools.compare import sources
from restore.tools.compare.degraded import Degraded
from restore.tools.compare.measuring import REGIONS, MethodResults, Pictures, usable
from restore.tools.compare.methods import Bicubic, Drawn, Filled, Method, Trained
from restore.tools.compare.sources import MatchedPictures, PictureFolder, Problems
from restore.tools.compare.tables import Layout
from restore.types import Dataset

_LOOKED_AT = 16  # images whose masks are held against Palette's before work begins
DEGRADED = "degraded"  # inputs that are made of the targets
SAME = 0.9  # intersection over union above which holes count as the same


@dataclass
class Compare:
    """`restore compare`."""

    methods: dict[str, str | settings.Node]
    problems: str | None
    truth: str | None
    truths: dict[str, str]
    holes: str | None
    holes_are: masks.Polarity
    inputs: str | None
    references: str | None
    against: str | None
    rank: str | None
    bins: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2)]
    level: Annotated[float, Field(gt=0, lt=1)]
    resamples: Annotated[int, Field(ge=99)]
    pictures: settings.Count
    seed: settings.Count
    on_error: Literal["raise", "skip"]
    layout: settings.Node
    protocol: settings.Node
    pretrained: settings.Node
    runtime: settings.Runtime
    folder: str
    method: settings.Node | None = None
    metric: dict[str, settings.Node] | None = None
    sampler: settings.Node | None = None
    drawn: str = "runs/drawn"
    data: settings.Node | None = None
    task: settings.Node | None = None
    masks: settings.Node | None = None
    degradation: settings.Node | None = None
    crops: settings.Positive = 1


class CompareJob:
    """What a comparison needs, found to be there before anything is written.

    Args:
        setting: what was asked for.
        device: where networks run.

    Raises:
        UserError: something is missing, does not fit or cannot be read.
    """

    def __init__(self, setting: Compare, device: torch.device):
        if sorted(set(setting.bins)) != setting.bins:
            raise UserError(f"bins={setting.bins}: the edges must rise")
        self.setting, self.device = setting, device
        self.methods = _methods(setting, device)
        self.against = setting.against or list(self.methods)[-1]
        if self.against not in self.methods:
            raise UserError(
                f"against={self.against}: no such method; choose one of {', '.join(self.methods)}"
            )
        self.folders = {t: m for t, m in self.methods.items() if isinstance(m, PictureFolder)}
        self.palettes = {t: s for t, s in self.folders.items() if s.palette is not None}
        self.problems = self._problems()
        self.truths = self._truths()
        self.masks = self._masks()
        self.masker = self._masker()
        self.inputs, self.references = self._for_makers()
        self.matching = self._matching()
        self.protocol: MeasurementProtocol = registry.instantiate(setting.protocol, "protocol")
        self.degraded = self._degraded()
        self.pictures = self._pictures()
        self.layout: Layout = registry.instantiate(setting.layout, "layout")
        self.metrics = selection.build(setting.metric, self.protocol, setting.pretrained)
        self.legend = Legend(self.metrics.directions())
        self.rank = self._rank()
        self._check_polarity()
        self.keys, self.left_out = usable(
            self.pictures, list(self.matching.names), setting.on_error
        )

    @property
    def lower_is_better(self) -> bool:
        """Of the measure that ranks."""
        return self.legend.higher_is_better(self.rank) is False

    def _problems(self) -> Problems | None:
        """Where truths, masks and references come from together."""
        setting = self.setting
        if setting.data is not None:
            if setting.problems is not None:
                raise UserError("problems and data both say what is compared; give one of them")
            assert setting.task is not None
            data: Dataset = registry.instantiate(setting.data, "data")
            return sources.drawn_problems(
                data, registry.instantiate(setting.task, "task"), setting.crops
            )
        folder = next((s.problems for s in self.folders.values() if s.problems is not None), None)
        if setting.problems is not None:
            folder = sources.existing("problems", setting.problems)
        return None if folder is None else sources.written_problems(folder)

    def _truths(self) -> dict[str, PictureFolder]:
        given = dict(self.setting.truths)
        if self.setting.truth is not None:
            if "target" in given:
                raise UserError("truth and truths.target name the same truth; give one of them")
            given = {"target": self.setting.truth, **given}
        if given:
            return {
                title: sources.truths("truth" if title == "target" else f"truths.{title}", folder)
                for title, folder in given.items()
            }
        if self.problems is not None:
            if self.problems.whole is None:
                return {"target": self.problems.target}
            return {"high": self.problems.target, "low": self.problems.whole}
        for title, source in self.palettes.items():
            assert source.palette is not None
            if source.palette.having("GT"):
                return {"GT_": sources.truths(f"methods.{title}", source.palette.folder)}
        raise UserError("there is no truth to measure against: give truth=FOLDER")

    def _masks(self) -> Mapping[str, Callable[[], Tensor]]:
        """By name what gives the holes that are measured on, where they are given."""
        if self.setting.holes is not None:
            paths = by_name(sources.existing("holes", self.setting.holes))
            how = self.setting.holes_are
            return {name: partial(masks.read, path, how) for name, path in paths.items()}
        return {} if self.problems is None else self.problems.mask

    @property
    def masks_from(self) -> str:
        """Where they come from and how they are painted, for the output."""
        if self.setting.holes is not None:
            return f"{self.setting.holes}, holes are {self.setting.holes_are}"
        assert self.problems is not None
        return self.problems.where

    def _masker(self) -> str | None:
        """The Palette method whose pictures show the holes, where no masks are given."""
        if self.masks:
            return None
        for title, source in self.palettes.items():
            assert source.palette is not None
            if source.palette.having("Mask", "Process"):
                return title
        return None

    def _for_makers(self) -> tuple[PictureFolder | None, PictureFolder | None]:
        """Inputs and references, where methods that are run here ask for them."""
        setting = self.setting
        own: dict[str, Method] = {
            t: m for t, m in self.methods.items() if not isinstance(m, PictureFolder)
        }
        if not own:
            return None, None
        holey = next((title for title, maker in own.items() if maker.needs_holes), None)
        if holey is not None and not self.masks and self.masker is None:
            raise UserError(f"{holey} fills holes: give holes=FOLDER")
        needing = next((title for title, maker in own.items() if maker.needs_reference), None)
        references = None
        if needing is not None:
            if setting.references is not None:
                references = sources.plain("references", setting.references)
            elif self.problems is not None:
                references = self.problems.reference
            if references is None:
                raise UserError(f"{needing} needs references: give references=FOLDER")
        if setting.inputs == DEGRADED:
            if references is None and setting.references is not None:
                references = sources.plain("references", setting.references)
            return next(iter(self.truths.values())), references
        if setting.inputs is not None:
            return sources.plain("inputs", setting.inputs), references
        if self.problems is not None and self.problems.low is not None and not self.masks:
            return self.problems.low, references
        return self.truths.get("low", next(iter(self.truths.values()))), references

    def _matching(self) -> MatchedPictures:
        named: dict[str, Iterable[str]] = {t: s.read for t, s in self.folders.items()}
        measured = list(named)
        for title, source in self.truths.items():
            named[f"truth {title}"] = source.read
            measured.append(f"truth {title}")
        if self.masks:
            named["masks"] = self.masks
        if self.masker is not None:
            palette = self.palettes[self.masker].palette
            assert palette is not None
            named["masks"] = palette.having("Mask", "Process")
        if self.inputs is not None:
            named["inputs"] = self.inputs.read
        if self.references is not None:
            named["references"] = self.references.read
        return sources.match(named, measured)

    def _read(self, source: PictureFolder, title: str) -> Callable[[str], Tensor]:
        return lambda key: source.read[self.matching.names[key][title]]()

    def _degraded(self) -> Degraded | None:
        """Where inputs are made of the targets, what makes them."""
        setting = self.setting
        if setting.inputs != DEGRADED:
            return None
        if self.inputs is None or self.masks or self.masker or len(self.truths) > 1:
            raise UserError(
                f"inputs={DEGRADED} is for methods that are run here, and one folder of targets "
                "without holes: give truth=FOLDER"
            )
        truth, source = next(iter(self.truths.items()))
        if setting.degradation is None:
            raise UserError(f"inputs={DEGRADED}: how is not said; give degradation=pil_bicubic")
        references = None
        if self.references is not None:
            references = self._read(self.references, "references")
        return Degraded(
            self._read(source, f"truth {truth}"),
            references,
            registry.instantiate(setting.degradation, "degradation"),
            self.protocol.frame,
            _scale(self.methods),
        )

    def _pictures(self) -> Pictures:
        methods: dict[str, Any] = {}
        degraded = self.degraded
        for title, method in self.methods.items():
            if isinstance(method, PictureFolder):
                methods[title] = self._read(method, title)
                continue
            assert self.inputs is not None
            references: Callable[[str], Tensor] | None = None
            if degraded is not None:
                if method.needs_reference:
                    references = degraded.reference
                methods[title] = MethodResults(method, degraded.low, references, degraded.measured)
                continue
            if method.needs_reference:
                assert self.references is not None
                references = self._read(self.references, "references")
            methods[title] = MethodResults(method, self._read(self.inputs, "inputs"), references)
        shown = {}
        for title, source in self.palettes.items():
            if title != self.masker and source.palette is not None:
                there = {key: name[title] for key, name in self.matching.names.items()}
                shown[title] = (source.palette, there)
        truths: dict[str, Any] = {t: self._read(s, f"truth {t}") for t, s in self.truths.items()}
        if degraded is not None:
            truths = dict.fromkeys(truths, degraded.target)
        return Pictures(
            methods,
            truths,
            self._mask if self.masks or self.masker is not None else None,
            shown,
        )

    def _mask(self, key: str) -> tuple[Tensor, int]:
        name = self.matching.names[key]["masks"]
        if self.masks:
            return self.masks[name](), 0
        assert self.masker is not None
        palette = self.palettes[self.masker].palette
        assert palette is not None
        recovered = palette.mask(name)
        if recovered is None:
            raise UserError("no Mask_ or Process_ shows its holes")
        return recovered.hole_HW, recovered.doubtful

    def _rank(self) -> str:
        """The measure that ranks pictures; UserError for one that is not taken, or no column."""
        measured = self.metrics.image_names(REGIONS if self.pictures.mask is not None else [""])
        every = [*measured, *self.metrics.set_names()]
        if not self.layout.columns(every):
            raise UserError(
                f"layout: none of its measures is measured here; there are {', '.join(every)}"
            )
        if not measured:
            raise UserError("metric: one at least must be of single images, to rank them by")
        rank = self.setting.rank
        if rank is not None and rank not in measured:
            raise UserError(f"rank={rank}: no such measure; choose one of {', '.join(measured)}")
        return rank or measured[0]

    def _check_polarity(self) -> None:
        """Raises UserError when what Palette shows says that white and black are the other way."""
        if self.setting.holes is None:
            return
        same, turned = [], []
        for key in list(self.matching.names)[:_LOOKED_AT]:
            for palette, there in self.pictures.palettes.values():
                try:
                    hole, shown = self._mask(key)[0], palette.mask(there[key])
                except UnreadableImage:
                    continue  # said with its reason when all are read
                if shown is not None and shown.hole_HW.shape == hole.shape:
                    same.append(masks.agreement(hole, shown.hole_HW))
                    turned.append(masks.agreement(~hole, shown.hole_HW))
        if same and np.median(turned) > SAME > np.median(same):
            other = "black" if self.setting.holes_are == "white" else "white"
            raise UserError(
                f"holes={self.setting.holes}: the holes that Palette's pictures show are "
                f"{other} there; give holes_are={other}"
            )


def _trained(loaded: Loaded, setting: Compare, device: torch.device) -> Trained:
    if not loaded.generative():
        return Trained(loaded, setting.runtime, device)
    loaded = loaded.sampled_by(setting.sampler)
    return Drawn(loaded, setting.runtime, device, Path(setting.drawn))


def _methods(setting: Compare, device: torch.device) -> dict[str, Any]:
    """Every method by name: a `PictureFolder`, or a `Method`."""
    nodes: dict[str, str | dict[str, Any]] = dict(setting.methods)
    if setting.method is not None:
        name = str(setting.method["_target_"]).rpartition(".")[2].lower()
        nodes.setdefault(name, setting.method)
    if not nodes:
        raise UserError("there is nothing to compare: give methods.NAME=FOLDER")
    methods: dict[str, Any] = {}
    bicubic: list[str] = []
    for title, node in nodes.items():
        if not isinstance(node, str):
            methods[title] = Filled(registry.instantiate(node, f"methods.{title}"))
            continue
        path = Path(node)
        if node == "bicubic":
            bicubic.append(title)
            methods[title] = None  # in its place, until the scale is known
        elif node in registry.names("method"):
            methods[title] = Filled(registry.build("method", node, command="compare"))
        elif bundled.named(node) or path.is_file() or (path / "checkpoints").is_dir():
            loaded = weights.load(node, pretrained=setting.pretrained)
            methods[title] = _trained(loaded, setting, device)
        elif not path.exists() and "/" not in node:
            raise UserError(
                f"methods.{title}={node}: there is no such folder, nor a baseline of that name; "
                f"baselines are bicubic, {', '.join(registry.names('method'))}"
            )
        else:
            methods[title] = sources.results(f"methods.{title}", node)
    if bicubic:
        scale = _scale({title: method for title, method in methods.items() if method is not None})
        methods |= dict.fromkeys(bicubic, Bicubic(scale))
    return methods


def _scale(methods: Mapping[str, Any]) -> int:
    """The one that all networks enlarge by."""
    scales = {title: m.task.scale for title, m in methods.items() if isinstance(m, Trained)}
    if len({*scales.values()}) != 1:
        given = ", ".join(f"{title} ×{scale}" for title, scale in scales.items()) or "none"
        raise UserError(
            f"how large the inputs are is told by networks that enlarge, all alike; given: {given}"
        )
    return int(next(iter(scales.values())))
