"""What every backbone promises to tasks, tiles and checkpoints, as checks of any network.

The project's tests run them on each name in `conf/backbone`; for one of your own:

    from restore.tools import contract
    contract.check(lambda *parts: restore.build("backbone", "mine", *parts, config_dir="mine"))
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restore.data.loading import to_device
from restore.images.tiling import Window, tiled
from restore.models import checkpoint
from restore.models.backbones.reference import ReferenceBackbone
from restore.models.precision import convolutions
from restore.models.protocol import Backbone
from restore.types import Restoration

# A network of settings that are added to those of the one that is checked.
Make = Callable[..., Backbone]
# One that takes means of several places, and one that hands on textures of other channels.
_ATTENTIONS = ("topk", "reduced_published")


def check(make: Make) -> None:
    """All checks that concern a network; AssertionError says which promise it breaks.

    Args:
        make: builds it, small, of overrides such as `attention=soft`.
    """
    network = make().eval()
    restores(network)
    keeps_pictures_apart(network)
    learns(network)
    goes_round(network, make().eval())
    reaches(network)
    if torch.cuda.is_available():
        same_on(network, torch.device("cuda"))
    if isinstance(network, ReferenceBackbone):
        takes_references(network)
        works_in_rows(network)
        for name in _ATTENTIONS:
            other = make(f"attention={name}").eval()
            assert isinstance(other, ReferenceBackbone)
            takes_references(other)


def inputs(
    network: Backbone, height: int = 10, width: int = 13, reference: tuple[int, int] = (36, 44)
) -> dict[str, Tensor]:
    """Random pictures by name, two of each, as a task hands them over.

    Args:
        network: which takes them.
        height, width: of the low pictures.
        reference: height and width, multiples of 4.
    """
    rng = torch.Generator().manual_seed(1)
    sizes = {"low": (height, width), "low_up": (height * network.scale, width * network.scale)}
    if network.takes_reference:
        sizes |= dict.fromkeys(("reference", "reference_low_up"), reference)
        sizes["reference_low"] = reference[0] // 4, reference[1] // 4
    return {name: torch.rand(2, 3, *size, generator=rng) for name, size in sizes.items()}


@torch.inference_mode()
def restores(network: Backbone) -> None:
    """A picture of `scale` times the sides, in [0, 1], by no chance."""
    given = inputs(network)
    restored = network(**given)
    assert isinstance(restored, Restoration), "forward returns a Restoration"
    image = restored.image
    assert image.shape == (2, 3, 10 * network.scale, 13 * network.scale), "scale: another size"
    assert image.isfinite().all()
    assert image.min() >= 0, "outside training the picture is in [0, 1]"
    assert image.max() <= 1, "outside training the picture is in [0, 1]"
    assert torch.equal(image, network(**given).image), "evaluation knows no chance"


@torch.inference_mode()
def keeps_pictures_apart(network: Backbone) -> None:
    """What a picture becomes does not depend on those beside it."""
    given = inputs(network)
    both = network(**given).image
    second = network(**{key: value[1:] for key, value in given.items()}).image
    torch.testing.assert_close(both[1:], second, atol=1e-5, rtol=1e-4)


def learns(network: Backbone) -> None:
    """Every parameter that is trained gets a gradient, and the network is left as it was."""
    network.train()
    try:
        # Beyond the clamp at [0, 1] nothing would be felt.
        given = {key: value * 0.4 + 0.3 for key, value in inputs(network).items()}
        if network.generative:
            given |= {"target": given["low_up"], "mask_up": torch.ones(2, 1, 10, 13)}
        restored = network(**given)
        total = restored.image.sub(0.45).square().mean()
        # What losses look at besides the picture, such as the vectors that matching compares.
        beside: list[Any] = [restored.query, restored.key, restored.sharpness, restored.predicted]
        for tensor in beside:
            if isinstance(tensor, Tensor):
                total = total + tensor.square().mean() + tensor.sum()
        total.backward()
        named = network.named_parameters()
        without = [name for name, x in named if x.requires_grad and x.grad is None]
        assert without == [], f"trained, and without a gradient: {', '.join(without)}"
    finally:
        network.eval().zero_grad()


@torch.no_grad()
def goes_round(network: Backbone, other: Backbone) -> None:
    """A file of its weights holds all that it is: `other`, with them, gives the same picture."""
    for parameter in other.parameters():
        parameter.add_(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        checkpoint.write(path, {"state": network.state_dict()})
        checkpoint.load_into(other, checkpoint.read(path)["state"], str(path))
    given = inputs(network)
    assert torch.equal(other(**given).image, network(**given).image)


@torch.inference_mode()
def reaches(network: Backbone) -> None:
    """Tiles that overlap by `reach` show no seam; None says that there can be no tiles."""
    reach = network.reach
    if reach is None:
        return
    assert reach >= 0
    height, width = 2 * reach + 9, 5
    given = inputs(network, height, width)
    low, low_up = given.pop("low"), given.pop("low_up")

    def part(window: Window) -> Tensor:
        picture: Tensor = network(window.of(low), window.of(low_up, network.scale), **given).image
        return picture

    whole = network(low, low_up, **given).image
    tiles = tiled(part, height, width, tile=height - 8, overlap=reach, scale=network.scale)
    torch.testing.assert_close(tiles, whole, atol=1e-4, rtol=1e-4)


def same_on(network: Backbone, device: torch.device) -> None:
    """The CPU's picture and gradients come out on `device`, too, to what rounding leaves."""
    network = copy.deepcopy(network).eval()
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            # Deformable taps begin on whole pixels, where either of two slopes is right.
            if not parameter.any():
                parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.02)
    given: dict[str, Any] = {key: x * 0.4 + 0.3 for key, x in inputs(network).items()}
    if network.generative:
        given["keys"] = ["one", "two"]
    found = []
    for place in (torch.device("cpu"), device):
        here = copy.deepcopy(network).to(place)
        with convolutions("fp32"):
            picture = here(**to_device(given, place)).image
            if picture.requires_grad:
                picture.square().mean().backward()
        slopes = {name: p.grad for name, p in here.named_parameters() if p.grad is not None}
        found.append((picture.detach().cpu(), slopes))
    (picture, slopes), (its_picture, its_slopes) = found
    torch.testing.assert_close(its_picture, picture, atol=1e-4, rtol=0)
    assert its_slopes.keys() == slopes.keys()
    for name, slope in slopes.items():
        far = torch.linalg.norm(its_slopes[name].cpu() - slope)
        assert far <= 1e-2 * torch.linalg.norm(slope) + 1e-7, f"{name}: another gradient"


@torch.inference_mode()
def takes_references(network: ReferenceBackbone) -> None:
    """References of other sizes, none, several, and what was made of one before."""
    given = inputs(network, 9, 14, (24, 28))
    low, low_up = given.pop("low"), given.pop("low_up")
    without = network(low, low_up).image
    with_one = network(low, low_up, **given).image
    assert without.shape == with_one.shape == (2, 3, 36, 56)
    assert not torch.equal(without, with_one), "the reference is not looked at"
    memory = network.encode_reference(**given)
    assert torch.equal(network(low, low_up, memory=memory).image, with_one), "memory: not the same"
    other = inputs(network, reference=(32, 20))
    several = network(low, low_up, **{name: [given[name], other[name]] for name in given})
    assert several.image.shape == with_one.shape
    assert several.image.isfinite().all()


@torch.no_grad()
def works_in_rows(network: ReferenceBackbone) -> None:
    """Where maps are too large to be made whole, the picture is the same (`in_parts`)."""
    given = inputs(network, 61, 5, (44, 20))
    whole = network(**given).image
    before, network.largest_map = network.largest_map, 1
    try:
        torch.testing.assert_close(network(**given).image, whole, atol=2e-5, rtol=0)
    finally:
        network.largest_map = before
