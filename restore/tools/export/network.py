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
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from restore.errors import UserError
from restore.models import weights
from restore.models.backbones.dynamic import DynamicBlock
from restore.models.backbones.ttsr import TTSR
from restore.tools.export.attention import WholeAttention
from restore.utils import files

# Largest difference of values in [0, 1] that rounding in another order may make.
_NEAR = 1e-4

Run = Callable[..., Tensor]


class _Plain(nn.Module):
    """A network as a function of tensors to one tensor.

    Attributes:
        scale: of what comes out, relative to the first input.
        about: for `network.json`: what the inputs are, and what is to be known of the file.
        made: sizes that the file is made with; `tried`: those that it is tried on.
    """

    scale = 1
    about: dict[str, str]
    made: tuple[int, ...] = (12, 15)
    tried: tuple[tuple[int, ...], ...] = ((12, 15), (33, 9), (7, 40))

    def __init__(self, network: Any):
        super().__init__()
        self.network = network
        # Of the network as it is: a file may need it written another way.
        self.original = network

    def drawn(self, sizes: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
        """Pictures of such sizes, by chance."""
        generator = torch.Generator().manual_seed(seed + sum(sizes))
        return [torch.rand(count, 3, *sizes, generator=generator)]

    def dynamic(self) -> tuple[Any, ...]:
        """Which sides of the inputs may be any: number, height and width."""
        return (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)

    def wanted(self, pictures: list[Tensor]) -> Tensor:
        """What the network itself makes of the inputs."""
        return self(*pictures)


class _Enlarging(_Plain):
    """A network of one picture and one scale."""

    def __init__(self, network: Any):
        super().__init__(network)
        self.scale = network.scale
        self.about = {"low": "what is enlarged"}

    def forward(self, low: Tensor) -> Tensor:
        return self.network(low).image


class _Step(_Plain):
    """One step of a network of any scale."""

    def __init__(self, network: Any, ratio: float):
        super().__init__(network)
        self.ratio = ratio
        self.about = {"picture": f"what bicubic has enlarged by {ratio:g}"}

    def forward(self, picture: Tensor) -> Tensor:
        return self.network.level(picture, self.ratio).clamp(0, 1)


class _Referring(_Plain):
    """A network with a reference, its attention written as all pairs at once."""

    made = (6, 5, 4, 7)
    tried = ((6, 5, 4, 7), (9, 4, 11, 3), (5, 12, 6, 6))

    def __init__(self, network: TTSR):
        super().__init__(copy.deepcopy(network))
        self.original = network
        self.scale = network.scale
        self.network.attention = WholeAttention(network.attention, network.textures)
        for part in self.network.modules():
            if isinstance(part, DynamicBlock):
                part.skip_below = 0  # what a picture asks for cannot change which operations run
        self.about = {
            "low": "what is restored",
            "low_up": "low, enlarged 4 times by bicubic",
            "reference": "of any size whose sides divide by 4",
            "reference_low_up": "the reference, made 4 times smaller and as large again by bicubic",
        }
        if network.inputs == 4:
            self.about |= {
                "mask": "one channel, 1 = hole of low",
                "mask_up": "one channel, 1 = hole of low_up",
            }

    def drawn(self, sizes: tuple[int, ...], count: int, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed + sum(sizes))
        pictures = []
        for name in self.about:
            height, width = sizes[2:] if name.startswith("reference") else sizes[:2]
            s, channels = 1 if name in ("low", "mask") else 4, 1 if name.startswith("mask") else 3
            picture = torch.rand(count, channels, s * height, s * width, generator=generator)
            pictures.append(picture.round() if channels == 1 else picture)
        return pictures

    def dynamic(self) -> tuple[Any, ...]:
        sides = [torch.export.Dim(name) for name in ("n", "h", "w", "reference_h", "reference_w")]
        count, *own = sides[:3]
        shapes = []
        for name in self.about:
            height, width = sides[3:] if name.startswith("reference") else own
            s = 1 if name in ("low", "mask") else 4
            shapes.append({0: count, 2: s * height, 3: s * width})
        return (tuple(shapes),)

    def forward(self, *pictures: Tensor) -> Tensor:
        return self.network(**dict(zip(self.about, pictures))).image

    def wanted(self, pictures: list[Tensor]) -> Tensor:
        return self.original(**dict(zip(self.about, pictures))).image


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
        self.plain = _plain(self.loaded, ratio).eval()
        self.ready()

    def ready(self) -> None:
        """Raises UserError for what keeps this network from being written in this format."""

    def make(self, example: list[Tensor], path: Path) -> Run:
        """Writes the file; returns what runs it."""
        raise NotImplementedError

    def write(self, folder: Path) -> list[str]:
        """See `restore.tools.export.Format.write`."""
        path, plain = folder / f"network{self.suffix}", self.plain
        with torch.no_grad(), _quiet():
            run = self.make(plain.drawn(plain.made, count=2), path)
            far = max(self._difference(run, size, n) for size in plain.tried for n in (1, 2))
        facts = {
            "network": type(plain.network).__name__,
            "weights": self.loaded.sentence(),
            "inputs": [*plain.about],
            "pictures": "float32 NCHW in [0, 1], any N, H and W",
            "about": plain.about,
            "scale": plain.scale,
            "ratio": getattr(plain, "ratio", None),
            "largest difference": far,
        }
        files.write_text(folder / "network.json", json.dumps(facts, indent=2) + "\n")
        told = [f"{path.name}: within {far:.1e} of the original on pictures of several sizes"]
        if isinstance(plain, _Referring):
            told.append(
                "any size of both pictures, one reference; all pairs are compared at once, so "
                "memory grows with the product of their areas"
            )
        return told

    def _difference(self, run: Run, sizes: tuple[int, ...], count: int) -> float:
        # Where two places of a reference are alike to the last bit, rounding chooses between them,
        # and the picture differs; drawn anew, only a file that is wrong differs again.
        least = math.inf
        for seed in range(2 if isinstance(self.plain, _Referring) else 1):
            given = self.plain.drawn(sizes, count, seed)
            wanted = self.plain.wanted(given)
            try:
                found = run(*given)
            except (RuntimeError, ValueError) as error:
                raise self._frozen() from error
            if found.shape == wanted.shape:
                least = min(least, float((found - wanted).abs().max().nan_to_num(math.inf)))
            if least < _NEAR:
                return least
        raise self._frozen()

    def _frozen(self) -> UserError:
        return UserError(
            f"{type(self.plain.network).__name__} cannot be written so: on pictures of some sizes "
            "the file does not compute what the network does"
        )

    def refused(self, error: Exception) -> UserError:
        """Torch's reason why it cannot follow a network, as a sentence."""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(
            f"torch cannot follow {type(self.plain.network).__name__} at every size ({reason}); "
            "another format may"
        )


def _plain(loaded: weights.Loaded, ratio: float | None) -> _Plain:
    network: Any = loaded.backbone()
    if loaded.takes_scale():
        ratio = network.largest if ratio is None else ratio
        if ratio > network.largest:
            raise UserError(
                f"format.ratio={ratio:g} is beyond the network's last, {network.largest:g}; "
                "larger scales take several steps"
            )
        return _Step(network, ratio)
    if ratio is not None:
        raise UserError(f"format.ratio={ratio:g}: this network has one scale")
    return _Referring(network) if isinstance(network, TTSR) else _Enlarging(network)


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
                traced = torch.jit.trace(self.plain, tuple(example), check_trace=False)
            except (TypeError, RuntimeError) as error:
                raise self.refused(error) from error
            # Torch's own writer ends the process where the disk is full.
            held = io.BytesIO()
            torch.jit.save(traced, held)
            files.write_bytes(path, held.getvalue())
            network = torch.jit.load(str(path))
        return network


class TorchExport(NetworkFormat):
    """For `torch.export.load`, to be compiled ahead of time or by `torch.compile`."""

    suffix = ".pt2"

    def make(self, example: list[Tensor], path: Path) -> Run:
        held = io.BytesIO()
        torch.export.save(self.program(example), held)
        files.write_bytes(path, held.getvalue())
        network = torch.export.load(path).module()
        return network

    def program(self, example: list[Tensor]) -> torch.export.ExportedProgram:
        """The network as a graph of torch's operations."""
        shapes = self.plain.dynamic()
        try:
            return torch.export.export(self.plain, tuple(example), dynamic_shapes=shapes)
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
        names = [*self.plain.about]
        program = self.program(example)
        try:
            made = torch.onnx.export(
                program, (), input_names=names, output_names=["image"], verbose=False
            )
        except (TypeError, RuntimeError) as error:
            raise self.refused(error.__cause__ or error) from error  # type: ignore[arg-type]
        assert made is not None
        with files.whole(path) as temporary:
            made.save(temporary, external_data=False)
        session = import_module("onnxruntime").InferenceSession(path)

        def run(*given: Tensor) -> Tensor:
            arrays = {name: picture.numpy() for name, picture in zip(names, given)}
            return torch.from_numpy(session.run(None, arrays)[0])

        return run


def _loaded(path: str | None, model: list[str]) -> weights.Loaded:
    if path is None:
        raise UserError("weights has no value: give weights=RUN_OR_FILE")
    return weights.load(Path(path).expanduser(), model)


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
