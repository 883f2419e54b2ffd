"""`restore apply`: weights on pictures from anywhere."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from restore import distributed, journal, settings, weights
from restore.config import check
from restore.errors import UnreadableImage, UserError
from restore.images import Picture, find, load, save, to_uint8, writable
from restore.restorer import Restorer

log = logging.getLogger("restore")


@dataclass
class Apply:
    """`restore apply`."""

    weights: str
    model: list[str]
    input: str
    reference: str | None
    output: str
    overwrite: bool
    ensemble: bool
    tile: Annotated[int, Field(ge=16)] | Literal["auto"] | None
    suffix: Literal[".png", ".jpg", ".webp", ".tif"] | None
    quality: Annotated[int, Field(ge=1, le=100)]
    runtime: settings.Runtime


@dataclass(frozen=True)
class Job:
    """One picture's way: where from, with which reference, where to."""

    source: Path
    reference: Path | None
    goal: Path


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Restores a picture or a folder of them.

    Returns the exit code: 0, or 1 when some pictures could not be read (the others are done).
    """
    setting = check(config, Apply)
    journal.log_to(None)
    device = distributed.device(setting.runtime)
    if setting.runtime.threads:
        torch.set_num_threads(setting.runtime.threads)
    loaded = weights.load(setting.weights, setting.model)
    restorer = Restorer(loaded, setting.runtime, device)
    if isinstance(setting.tile, int) and restorer.reach is None:
        raise UserError(
            f"tile={setting.tile}: this network takes means over the whole picture, which tiles "
            "would change; leave tile out"
        )
    todo = jobs(setting, restorer.takes_reference)
    log.info(loaded.sentence())
    failed = run(todo, restorer, setting)
    for error in failed:
        log.error("not restored: %s", error)
    log.info(
        "%d of %d picture(s) restored to %s", len(todo) - len(failed), len(todo), setting.output
    )
    return 1 if failed else 0


def jobs(setting: Apply, takes_reference: bool) -> list[Job]:
    """What is to be done, found to be possible before any of it is.

    Raises UserError: missing input or reference, outputs that exist, that would be written twice
    or over their own input, or of a kind that cannot be written.
    """
    source, goal = Path(setting.input), Path(setting.output)
    many = source.is_dir()
    if not many and not source.is_file():
        raise UserError(f"input={source}: there is no such file or folder")
    sources = find(source) if many else [source]
    reference = _references(setting, sources, takes_reference)
    planned: list[Job] = []
    taken: dict[Path, Path] = {}
    for path in sources:
        if many or goal.is_dir() or not goal.suffix:
            inside = path.relative_to(source) if many else Path(path.name)
            suffix = setting.suffix or path.suffix.lower()
            end = goal / inside.with_suffix(suffix if suffix in _KEPT else ".png")
        else:
            end = goal
        writable(end)
        if end in taken:
            raise UserError(f"{taken[end]} and {path} would both be written to {end}")
        if end.exists() and end.resolve() == path.resolve():
            raise UserError(f"{end} is the input itself; name another output")
        if end.exists() and not setting.overwrite:
            raise UserError(f"{end} is there already; overwrite=true replaces it")
        taken[end] = path
        planned.append(Job(path, reference(path), end))
    return planned


_KEPT = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def _references(
    setting: Apply, sources: list[Path], takes_reference: bool
) -> Callable[[Path], Path | None]:
    """The reference of each source: one for all, or by name from a folder."""
    if not takes_reference:
        if setting.reference is not None:
            raise UserError("reference: these weights are of a network that takes none")
        return lambda path: None
    if setting.reference is None:
        raise UserError("these weights need a reference picture: give reference=FILE_OR_FOLDER")
    given = Path(setting.reference)
    if given.is_file():
        return lambda path: given
    if not given.is_dir():
        raise UserError(f"reference={given}: there is no such file or folder")
    by_name = {path.stem: path for path in find(given)}
    missing = [path.name for path in sources if path.stem not in by_name]
    if missing:
        raise UserError(
            f"reference={given} has no picture for {len(missing)} of {len(sources)} inputs, "
            f"such as {missing[0]}"
        )
    return lambda path: by_name[path.stem]


def run(todo: list[Job], restorer: Restorer, setting: Apply) -> list[UnreadableImage]:
    """Does the jobs; returns what could not be read."""
    failed: list[UnreadableImage] = []
    remembered: tuple[Path | None, Any] = (None, None)
    # Pictures with the same reference one after another: its features are made once.
    todo = sorted(todo, key=lambda job: str(job.reference))
    for job in tqdm(todo, unit="img", disable=len(todo) == 1):
        try:
            picture = load(job.source)
            if job.reference is not None and remembered[0] != job.reference:
                reference = _pixels(load(job.reference))
                remembered = job.reference, restorer.remember(reference)
        except UnreadableImage as error:
            failed.append(error)
            continue
        result = restored(picture, restorer, remembered[1], setting.tile, setting.ensemble)
        job.goal.parent.mkdir(parents=True, exist_ok=True)
        save(job.goal, result, setting.quality)
    return failed


def restored(
    picture: Picture,
    restorer: Restorer,
    memory: Any,
    tile: int | Literal["auto"] | None,
    ensemble: bool,
) -> Picture:
    """The picture enlarged, with its transparency, depth and colour profile.

    Transparency goes through the network as a grey picture.
    """

    def one(low: Tensor) -> Tensor:
        side = _automatic(low, restorer) if tile == "auto" else tile
        return restorer.restore(low, memory, side)

    def whole(low: Tensor) -> Tensor:
        return _ensemble(one, low) if ensemble else one(low)

    colour = whole(_pixels(picture))
    if picture.grey:
        colour = colour.mean(0, keepdim=True).expand(3, -1, -1)
    alpha = picture.alpha
    if alpha is not None:
        layer = replace(picture, colour=alpha.expand(3, -1, -1).contiguous(), alpha=None)
        alpha = whole(_pixels(layer)).mean(0, keepdim=True)
    return replace(picture, colour=colour, alpha=alpha)


def _pixels(picture: Picture) -> Tensor:
    """What a task gets: 8-bit pictures as 8 bits, for protocols that degrade in 8 bits."""
    return to_uint8(picture.colour) if picture.bits == 8 else picture.colour


def _automatic(low: Tensor, restorer: Restorer) -> int | None:
    """Tiles, where the network allows them, for pictures that would fill a laptop's memory."""
    small = low.shape[-1] * low.shape[-2] <= 400 * 400
    return None if small or restorer.reach is None else 256


def _ensemble(function: Callable[[Tensor], Tensor], low: Tensor) -> Tensor:
    """Mean over the eight flips and turns (EDSR section 4.1: self-ensemble)."""
    total = None
    for quarters in range(4):
        for flip in (False, True):
            turned = low.rot90(quarters, (-2, -1))
            turned = turned.flip(-1) if flip else turned
            back = function(turned.contiguous())
            back = back.flip(-1) if flip else back
            back = back.rot90(-quarters, (-2, -1))
            total = back if total is None else total + back
    assert total is not None
    return total / 8
