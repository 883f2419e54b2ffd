"""A trained network as a file that needs no restore: ONNX, TorchScript, torch.export.

Pictures of any size and number go in and out as float32 NCHW in [0, 1]. Each file is run beside the
network that it was made of, on pictures of several sizes, before it is left to anyone.
"""

import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models import weights
from restore.models.protocol import Backbone, ExportForm, PictureInput, PreparesExport
from restore.utils import files

# Largest difference of values in [0, 1] that rounding in another order may make.
_NEAR = 1e-4

Run = Callable[..., Tensor]


class Exported(nn.Module):
    """A network as a function of tensors to one tensor, in the form that a file can hold.

    Args:
        network: what is written; a copy of it is prepared.
        form: its inputs.

    Attributes:
        scale: of what comes out, relative to the first input.
        traced: sides that the file is made with; `tried`: those that it is tried on. Of the low
            picture, then of one as many times smaller as the reference's sides divide by.
    """

    scale = 1
    ratio: float | None = None

    def __init__(self, network: Backbone, form: ExportForm):
        super().__init__()
        self.network = copy.deepcopy(network)
        # The network as it is: a file may need it written another way.
        self.original = network
        for part in [*self.network.modules()]:
            if isinstance(part, PreparesExport):
                part.prepare_export()
        self.inputs, self.note, self.least = form.inputs, form.note, form.least
        self.traced: tuple[int, ...] = (12, 15)
        self.tried: tuple[tuple[int, ...], ...] = ((12, 15), (33, 9), (7, 40))
        if self.refers:
            self.traced = (6, 5, 4, 7)
            self.tried = ((6, 5, 4, 7), (9, 4, 11, max(3, form.least)), (5, 12, 6, 6))

    @property
    def refers(self) -> bool:
        """Whether a picture goes in whose sides are not the low picture's."""
        return any(picture.sides == "reference" for picture in self.inputs.values())

    def drawn(self, sizes: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
        """Random pictures of such sizes."""
        generator = torch.Generator().manual_seed(seed + sum(sizes))
        pictures = []
        for about in self.inputs.values():
            height, width = sizes[2:] if about.sides == "reference" else sizes[:2]
            sides = (about.times * height, about.times * width)
            picture = torch.rand(count, about.channels, *sides, generator=generator)
            pictures.append(picture.round() if about.channels == 1 else picture)
        return pictures

    def dynamic(self) -> tuple[Any, ...]:
        """Which sides of the inputs may be any: number, height and width."""
        if len(self.inputs) == 1:
            return ((dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),),)
        names = ("h", "w", "reference_h", "reference_w")
        sides = [torch.export.Dim(name, min=self.least) for name in names]
        count, low = torch.export.Dim("n"), sides[:2]
        shapes = []
        for about in self.inputs.values():
            height, width = sides[2:] if about.sides == "reference" else low
            shapes.append({0: count, 2: about.times * height, 3: about.times * width})
        return (tuple(shapes),)

    def forward(self, *pictures: Tensor) -> Tensor:
        return self.run(self.network, pictures)

    def wanted(self, pictures: list[Tensor]) -> Tensor:
        """What the network itself makes of the inputs."""
        return self.run(self.original, pictures)

    def run(self, network: Backbone, pictures: Sequence[Tensor]) -> Tensor:
        """The picture that comes out."""
        raise NotImplementedError


class _Whole(Exported):
    """A network of one scale, with whatever pictures it takes."""

    def __init__(self, network: Backbone):
        super().__init__(network, network.export_form())
        self.scale = network.scale

    def run(self, network: Backbone, pictures: Sequence[Tensor]) -> Tensor:
        return network(**dict(zip(self.inputs, pictures))).image


class _Step(Exported):
    """One step of a network of any scale."""

    def __init__(self, network: Backbone, ratio: float):
        form = ExportForm({"picture": PictureInput(f"what bicubic has enlarged by {ratio:g}")})
        super().__init__(network, form)
        self.ratio = ratio

    def run(self, network: Backbone, pictures: Sequence[Tensor]) -> Tensor:
        assert self.ratio is not None
        return network.level(pictures[0], self.ratio).clamp(0, 1)


class NetworkFormat:
    """What the formats have in common.

    Args:
        weights: a run folder, one of our checkpoints, or a published file.
        model: overrides for a published file that fits several models.
        ratio: of a network of any scale, whose file does one step: it is given the picture that
            bicubic has enlarged by this ratio, and sharpens it; None: the largest.
    """

    suffix: str

    def __init__(
        self,
        weights: str | None,
        model: list[str] | None = None,
        ratio: Annotated[float, Field(ge=1)] | None = None,
    ):
        self.loaded = _loaded(weights, model or [])
        self.exported = _exported(self.loaded, ratio).eval()
        self.ready()

    def ready(self) -> None:
        """Raises UserError for what keeps this network from being written in this format."""

    def make(self, example: list[Tensor], path: Path) -> Run:
        """Writes the file; returns what runs it."""
        raise NotImplementedError

    def write(self, folder: Path) -> list[str]:
        """See `restore.tools.export.Format.write`."""
        path, exported = folder / f"network{self.suffix}", self.exported
        with torch.no_grad(), _quiet():
            run = self.make(exported.drawn(exported.traced, count=2), path)
            far = max(self._difference(run, size, n) for size in exported.tried for n in (1, 2))
        facts = {
            "network": type(exported.network).__name__,
            "weights": self.loaded.sentence(),
            "inputs": [*exported.inputs],
            "pictures": "float32 NCHW in [0, 1], any N, H and W",
            "about": {name: picture.about for name, picture in exported.inputs.items()},
            "scale": exported.scale,
            "ratio": exported.ratio,
            "largest difference": far,
        }
        files.write_text(folder / "network.json", json.dumps(facts, indent=2) + "\n")
        said = f"{path.name}: within {far:.1e} of the original on pictures of several sizes"
        return [said, exported.note] if exported.note else [said]

    def _difference(self, run: Run, sizes: tuple[int, ...], count: int) -> float:
        # Where two places of a reference are alike to the last bit, rounding chooses between them,
        # and the picture differs; drawn anew, only a file that is wrong differs again.
        least = math.inf
        for seed in range(2 if self.exported.refers else 1):
            given = self.exported.drawn(sizes, count, seed)
            wanted = self.exported.wanted(given)
            try:
                result = run(*given)
            except (RuntimeError, ValueError) as error:
                raise self._frozen() from error
            if result.shape == wanted.shape:
                least = min(least, float((result - wanted).abs().max().nan_to_num(math.inf)))
            if least < _NEAR:
                return least
        raise self._frozen()

    def _frozen(self) -> UserError:
        return UserError(
            f"{type(self.exported.network).__name__} cannot be exported in this "
            "format: for some picture sizes the file's result differs from the "
            "network's"
        )

    def refused(self, error: Exception) -> UserError:
        """Torch's reason why it cannot follow a network, as a sentence."""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(
            f"torch cannot export {type(self.exported.network).__name__} for every "
            f"picture size ({reason}); another format may work"
        )


def _exported(loaded: weights.Loaded, ratio: float | None) -> Exported:
    network = loaded.backbone()
    if network.takes_scale:
        ratio = network.largest if ratio is None else ratio
        if ratio > network.largest:
            raise UserError(
                f"format.ratio={ratio:g} is beyond the network's last, {network.largest:g}; "
                "larger scales take several steps"
            )
        return _Step(network, ratio)
    if ratio is not None:
        raise UserError(f"format.ratio={ratio:g}: this network has one scale")
    return _Whole(network)


class TorchScript(NetworkFormat):
    """For `torch.jit.load`, in Python and C++."""

    suffix = ".pt"

    def make(self, example: list[Tensor], path: Path) -> Run:
        with warnings.catch_warnings():
            # That the format is going out of use, and what might be fixed to the example's size,
            # which is found out below.
            warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            try:
                traced = torch.jit.trace(self.exported, tuple(example), check_trace=False)
            except (TypeError, RuntimeError) as error:
                raise self.refused(error) from error
            # Torch's own writer ends the process where the disk is full.
            buffer = io.BytesIO()
            torch.jit.save(traced, buffer)
            files.write_bytes(path, buffer.getvalue())
            network = torch.jit.load(str(path))
        return network


class TorchExport(NetworkFormat):
    """For `torch.export.load`, to be compiled ahead of time or by `torch.compile`."""

    suffix = ".pt2"

    def make(self, example: list[Tensor], path: Path) -> Run:
        buffer = io.BytesIO()
        torch.export.save(self.program(example), buffer)
        files.write_bytes(path, buffer.getvalue())
        network = torch.export.load(path).module()
        return network

    def program(self, example: list[Tensor]) -> torch.export.ExportedProgram:
        """The network as a graph of torch's operations."""
        shapes = self.exported.dynamic()
        try:
            return torch.export.export(self.exported, tuple(example), dynamic_shapes=shapes)
        except (TypeError, RuntimeError) as error:
            raise self.refused(error) from error


class Onnx(TorchExport):
    """For ONNX Runtime and other programs."""

    suffix = ".onnx"

    def ready(self) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                import_module(package)
            except ModuleNotFoundError as error:
                raise UserError(
                    f"format=onnx needs the package {package}: pip install 'restore[onnx]'"
                ) from error

    def make(self, example: list[Tensor], path: Path) -> Run:
        names = [*self.exported.inputs]
        program = self.program(example)
        try:
            onnx_program = torch.onnx.export(
                program, (), input_names=names, output_names=["image"], verbose=False
            )
        except (TypeError, RuntimeError) as error:
            raise self.refused(error.__cause__ or error) from error  # type: ignore[arg-type]
        assert onnx_program is not None
        with files.whole(path) as temporary:
            onnx_program.save(temporary, external_data=False)
        session = import_module("onnxruntime").InferenceSession(path)

        def run(*given: Tensor) -> Tensor:
            arrays = {name: picture.numpy() for name, picture in zip(names, given)}
            return torch.from_numpy(session.run(None, arrays)[0])

        return run


def _loaded(path: str | None, model: list[str]) -> weights.Loaded:
    if path is None:
        raise UserError("weights has no value: give weights=RUN_OR_FILE")
    return weights.load(Path(path), model)


class _quiet:
    """Keeps the exporters' own accounts of their steps off the screen; what fails is raised."""

    def __enter__(self) -> None:
        self.before = {name: logging.getLogger(name).level for name in _LOGS}
        for name in _LOGS:
            logging.getLogger(name).setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for name, level in self.before.items():
            logging.getLogger(name).setLevel(level)


_LOGS = ("torch.onnx", "onnxscript", "onnx_ir")
