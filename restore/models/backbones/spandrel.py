"""Other people's networks for one picture, as far as the package `spandrel` knows them.

It tells the architecture of a file of weights, of some forty, from the names and shapes within.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from restore.errors import UserError
from restore.models import checkpoint
from restore.models.backbones.single_image import SingleImage
from restore.models.protocol import CannotTell, Recognised

INSTALL = "pip install 'restore[peers]'"


class UnknownNetwork(UserError):
    """Spandrel knows no such network."""


class Spandrel(SingleImage):
    """A network that spandrel made from a file, in evaluation.

    Args:
        file: a state dict, plain or wrapped as usual.
        scale: enlargement of each side, which must be the network's.

    Raises:
        UserError: spandrel is not installed or does not know the network, or this is one that
            takes or makes something else than a colour picture, or enlarges by another scale.
    """

    # How far a pixel is felt is not among what spandrel tells.
    reach = None
    asked_last = True  # it knows some that are ours too

    def __init__(self, file: str, scale: Annotated[int, Field(ge=1)]):
        super().__init__()
        self.descriptor = described(Path(file))
        if self.descriptor.scale != scale:
            raise UserError(
                f"{file} enlarges by {self.descriptor.scale}, not task.scale={scale}: "
                f"give task.scale={self.descriptor.scale}"
            )
        self.network = self.descriptor.model
        self.scale = scale

    def enlarged(self, low: Tensor) -> Tensor:
        """Sides that the network does not take are continued first, and cut after."""
        if self.training:
            raise UserError(
                "backbone=spandrel is for evaluating networks of others; they cannot be "
                "trained here"
            )
        return self.descriptor(low)

    @classmethod
    def recognise(cls, published: Mapping[str, Tensor], path: Path) -> Recognised | None:
        """See `Backbone.recognise`; spandrel reads the file itself."""
        try:
            descriptor = described(path)
        except UnknownNetwork:
            return None
        quoted = str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'")
        overrides = [
            "backbone=spandrel",
            f"backbone.file='{quoted}'",
            f"task.scale={descriptor.scale}",
            f"task.crop={24 * descriptor.scale}",
        ]
        state = {f"network.{name}": value for name, value in descriptor.model.state_dict().items()}
        return Recognised(overrides, state, name=f"{descriptor.architecture.name} (spandrel)")


def described(path: Path) -> Any:
    """What spandrel makes of a file: a `spandrel.ImageModelDescriptor`.

    Raises UserError as `Spandrel` does, but for the scale; UnknownNetwork where another loader
    may know better; CannotTell where spandrel is not installed.
    """
    try:
        library = import_module("spandrel")
    except ModuleNotFoundError as error:
        raise CannotTell(f"backbone=spandrel needs the package spandrel: {INSTALL}") from error
    try:
        descriptor = library.MAIN_REGISTRY.load(checkpoint.read(path))
    except library.UnsupportedModelError as error:
        raise UnknownNetwork(
            f"{path} holds the weights of no network that spandrel knows"
        ) from error
    except (RuntimeError, KeyError, ValueError, AssertionError, TypeError, IndexError) as error:
        # Of the right names, but cut or of another shape: its own classes complain in many ways.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"spandrel cannot load {path}: {reason}") from error
    name = descriptor.architecture.name
    if not isinstance(descriptor, library.ImageModelDescriptor):
        raise UserError(f"{path} is a {name}, which needs more than a picture")
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise UserError(
            f"{path} is a {name} of {descriptor.input_channels} channels to "
            f"{descriptor.output_channels}; here networks take and make colour pictures"
        )
    return descriptor
