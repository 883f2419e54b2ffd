"""A trained network as a file that needs no restore: ONNX, TorchScript, torch.export.

Pictures of any size and number go in and out as float32 NCHW in [0, 1]. Each file is run beside the
network that it was made of before it is left to anyone.
"""

import json
import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from restore import weights
from restore.errors import UserError
from restore.runs import journal

# Height and width of the low pictures that a file is made with, then of those that it is tried on.
_MADE = (12, 15)
_TRIED = [(12, 15), (33, 9), (7, 40)]
# Largest difference of values in [0, 1] that rounding in another order may make.
_NEAR = 1e-4

# Number, height and width of pictures may be any.
_ANY_SIZE = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)

Run = Callable[[Tensor], Tensor]


class _Plain(nn.Module):
    """A network as a function of one tensor to one tensor."""

    def __init__(self, network: Any, ratio: float | None):
        super().__init__()
        self.network, self.ratio = network, ratio
        self.name = "low" if ratio is None else "picture"

    def forward(self, picture: Tensor) -> Tensor:
        if self.ratio is None:
            return self.network(picture).image
        return self.network.level(picture, self.ratio).clamp(0, 1)


def _drawn(height: int, width: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(count, 3, height, width, generator=generator)


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
        network: Any = self.loaded.backbone()
        if network.takes_reference:
            raise UserError(
                f"{type(network).__name__} searches its reference in blocks, whose number a file "
                "would fix for one size of pictures; networks of one picture can be written"
            )
        if not self.loaded.takes_scale():
            if ratio is not None:
                raise UserError(f"format.ratio={ratio:g}: this network has one scale")
        else:
            ratio = network.largest if ratio is None else ratio
            if ratio > network.largest:
                raise UserError(
                    f"format.ratio={ratio:g} is beyond the network's last, {network.largest:g}; "
                    "larger scales take several steps"
                )
        self.plain = _Plain(network, ratio).eval()
        self.ready()

    def ready(self) -> None:
        """Raises UserError for what keeps this network from being written in this format."""

    def make(self, example: Tensor, path: Path) -> Run:
        """Writes the file; returns what runs it."""
        raise NotImplementedError

    def write(self, folder: Path) -> list[str]:
        """See `restore.exports.Format.write`."""
        path = folder / f"network{self.suffix}"
        with torch.no_grad(), _quiet():
            run = self.make(_drawn(*_MADE, count=2), path)
            far = max(self._difference(run, *size, count) for size in _TRIED for count in (1, 2))
        network = self.plain.network
        facts = {
            "network": type(network).__name__,
            "weights": self.loaded.sentence(),
            "inputs": [self.plain.name],
            "pictures": "float32 NCHW in [0, 1], any N, H and W",
            "scale": 1 if self.plain.ratio else network.scale,
            "ratio": self.plain.ratio,
            "largest difference": far,
        }
        journal.write_text(folder / "network.json", json.dumps(facts, indent=2) + "\n")
        return [f"{path.name}: within {far:.1e} of the original on pictures of several sizes"]

    def _difference(self, run: Run, height: int, width: int, count: int) -> float:
        given = _drawn(height, width, count)
        wanted = self.plain(given)
        try:
            found = run(given)
        except (RuntimeError, ValueError) as error:
            raise self._frozen() from error
        if found.shape != wanted.shape or not (found - wanted).abs().max() < _NEAR:
            raise self._frozen()
        return float((found - wanted).abs().max())

    def _frozen(self) -> UserError:
        return UserError(
            f"{type(self.plain.network).__name__} cannot be written so: in the file some of it is "
            "fixed to the size that it was made with, and on pictures of other sizes it is wrong"
        )

    def refused(self, error: Exception) -> UserError:
        """Torch's reason why it cannot follow a network, as a sentence."""
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(
            f"torch cannot follow {type(self.plain.network).__name__} at every size ({reason}); "
            "networks of convolutions alone (EDSR, WDSR, SRResNet) can be written"
        )


class TorchScript(NetworkFormat):
    """For `torch.jit.load`, in Python and C++."""

    suffix = ".pt"

    def make(self, example: Tensor, path: Path) -> Run:
        try:
            torch.jit.trace(self.plain, (example,), check_trace=False).save(str(path))
        except (TypeError, RuntimeError) as error:
            raise self.refused(error) from error
        network = torch.jit.load(str(path))
        return network


class TorchExport(NetworkFormat):
    """For `torch.export.load`, to be compiled ahead of time or by `torch.compile`."""

    suffix = ".pt2"

    def make(self, example: Tensor, path: Path) -> Run:
        try:
            program = torch.export.export(self.plain, (example,), dynamic_shapes=(_ANY_SIZE,))
        except (TypeError, RuntimeError) as error:
            raise self.refused(error) from error
        torch.export.save(program, path)
        network = torch.export.load(path).module()
        return network


class Onnx(NetworkFormat):
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

    def make(self, example: Tensor, path: Path) -> Run:
        try:
            torch.onnx.export(
                self.plain,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=(_ANY_SIZE,),
                input_names=[self.plain.name],
                output_names=["image"],
                external_data=False,
                verbose=False,
            )
        except (TypeError, RuntimeError) as error:
            raise self.refused(error.__cause__ or error) from error  # type: ignore[arg-type]
        name = self.plain.name
        session = import_module("onnxruntime").InferenceSession(path)

        return lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])


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
