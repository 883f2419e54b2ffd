"""`restore apply`: weights on pictures from anywhere."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from restore.config import check, settings
from restore.engine import launcher, run_folder
from restore.errors import RunFailure, Unwritable, UserError
from restore.images.convert import convert_mask
from restore.images.io import Picture, by_name, find, fits, load, save_bands, writable
from restore.inference.pipeline import STAND_INS, Pipeline
from restore.models import bundled, weights
from restore.utils import files, names
from restore.utils.progress import bar

log = logging.getLogger("restore")


@dataclass
class Apply:
    """`restore apply`."""

    weights: str | None
    model: list[str]
    input: str
    reference: str | list[str] | None
    mask: str | None
    holes_are: Literal["white", "black"]
    output: str | None
    scale: Annotated[float, Field(ge=1, le=32)] | None
    overwrite: bool
    ensemble: bool
    tile: Annotated[int, Field(ge=16)] | Literal["auto"] | None
    networks: str | None
    suffix: Literal[".png", ".jpg", ".webp", ".tif"] | None
    quality: Annotated[int, Field(ge=1, le=100)]
    runtime: settings.Runtime
    pretrained: settings.Node
    sampler: settings.Node | None = None


@dataclass(frozen=True)
class ApplyJob:
    """One picture's way: where from, with which references together and whose holes, where to.

    `key` is its name within the input, without the suffix.
    """

    source: Path
    key: str
    references: list[Path] | settings.StandIn | None
    mask: Path | None
    goal: Path


def main(config: dict[str, Any], overrides: list[str]) -> int:
    """Restores a picture or a folder of them.

    Returns the exit code: 0, or 1 when some of a folder's pictures could not be restored (the
    others are done).
    """
    setting = check(config, Apply)
    run_folder.log_to(None)
    device = launcher.device(setting.runtime)
    if setting.runtime.devices > 1:
        raise UserError(f"runtime.devices={setting.runtime.devices}: apply works on one device")
    launcher.refuse_compile(setting.runtime)
    if setting.runtime.threads:
        torch.set_num_threads(setting.runtime.threads)
    chosen = setting.weights is None
    if setting.weights is None:
        place = None if setting.networks is None else Path(setting.networks)
        takes = setting.reference is not None, setting.mask is not None
        setting.weights = str(bundled.choose(setting.scale, place, *takes))
    if setting.output is None:
        setting.output = str(beside(Path(setting.input), setting.suffix))
    given = weights.load(setting.weights, setting.model, setting.pretrained)
    loaded = given.sampled_by(setting.sampler)
    if (setting.sampler or {}).get("samples", 1) > 1:
        raise UserError(
            "sampler.samples: apply writes one result of each picture; sampler.seed=2 gives another"
        )
    pipeline = Pipeline(loaded, setting.runtime, device, setting.scale)
    if setting.reference is None and pipeline.stand_in is not None:
        setting.reference = pipeline.stand_in
        log.info("reference=%s, as these weights were trained", pipeline.stand_in)
    if setting.reference is None and pipeline.takes_reference and chosen:
        setting.reference = "none"
    pipeline.check_tile(setting.tile)
    mark = _Mark(setting, loaded.fingerprint)
    goes_on = mark.there()
    todo = jobs(setting, pipeline, goes_on)
    log.info(loaded.sentence())
    left = todo
    if goes_on and not setting.overwrite:
        left = [job for job in todo if not job.goal.exists()]
        log.info("resuming: %d of %d are done already", len(todo) - len(left), len(todo))
    failed = run(left, pipeline, setting, mark) if left else []
    mark.remove()
    for error in failed:
        log.error("not restored: %s", error)
    log.info(
        "%d of %d picture(s) restored to %s",
        *(len(todo) - len(failed), len(todo), names.printable(setting.output)),
    )
    return 1 if failed else 0


class _Mark:
    """Lies in a folder of results until all are there, and says what was asked for.

    The same may be asked for again, after a kill or once a full disk has room: results are written
    whole or not at all, so what is there of them need not be made again.
    """

    def __init__(self, setting: Apply, fingerprint: str):
        assert setting.output is not None
        self.folder = Path(setting.output)
        self.path = self.folder / ".unfinished"
        self.several = Path(setting.input).is_dir()
        elsewhere = ("weights", "output", "networks", "overwrite", "runtime")
        same = {name: value for name, value in asdict(setting).items() if name not in elsewhere}
        more = {"sha256": fingerprint, "precision": setting.runtime.precision}
        self.text = files.to_json({**same, **more})

    def there(self) -> bool:
        """Whether the same was begun and did not come to its end."""
        with suppress(OSError):
            return self.several and self.path.read_text(encoding="utf-8") == self.text
        return False

    def set(self) -> None:
        """Lays the mark, where several pictures are asked for and it does not lie there yet."""
        if self.several and not self.there():
            files.make_folder(self.folder)
            files.write_text(self.path, self.text)

    def remove(self) -> None:
        """Takes the mark away."""
        if self.several:
            self.path.unlink(missing_ok=True)


def jobs(setting: Apply, pipeline: Pipeline, goes_on: bool = False) -> list[ApplyJob]:
    """What is to be done, found to be possible before any of it is.

    Raises UserError: missing input, reference or mask, outputs that exist, that would be written
    twice or over something that is read, or of a kind or in a place that cannot be written.
    """
    assert setting.output is not None
    source, goal = Path(setting.input), Path(setting.output)
    many = source.is_dir()
    if not many and not source.is_file():
        raise UserError(f"input={source}: there is no such file or folder")
    into = many or goal.is_dir() or not goal.suffix
    _check_output(setting, goal, many, into)
    given, kind = _given(setting.reference)
    masks = [] if setting.mask is None else [Path(setting.mask)]
    pipeline.check_mask(given=bool(masks))
    pipeline.check_reference(given=bool(given or kind))
    sources = [source]
    if many:
        # Results of an earlier run, references and masks may lie in a folder within the input's.
        apart = [place for place in (goal, *given, *masks) if _within(place, source)]
        sources = [path for path in find(source) if not any(_within(path, p) for p in apart)]
        if _within(goal, source):
            log.warning(
                "output=%s lies within input=%s: the results will be taken for inputs "
                "by whatever reads that folder next; a folder beside it is safer",
                *(names.printable(goal), names.printable(source)),
            )
    references = _references(given, kind, source, sources)
    holes = _of_each("mask", masks[0], source, sources) if masks else [None] * len(sources)
    pictures = [path for some in references if isinstance(some, list) for path in some]
    used = {path.resolve() for path in [*sources, *pictures, *(p for p in holes if p)]}
    planned: list[ApplyJob] = []
    taken: dict[Path, Path] = {}
    for path, some, hole in zip(sources, references, holes):
        end = goal
        if into:
            inside = path.relative_to(source) if many else Path(path.name)
            suffix = setting.suffix or path.suffix.lower()
            end = goal / inside.with_suffix(suffix if suffix in _KEPT else ".png")
            end = end.with_name(names.fitting(end.name))
        writable(end)
        if end in taken:
            raise UserError(f"{taken[end]} and {path} would both be written to {end}")
        if end.resolve() in used:
            raise UserError(f"{end} is itself an input, reference or mask; name another output")
        if end.exists() and not setting.overwrite and not goes_on:
            raise UserError(f"{end} is there already; overwrite=true replaces it")
        taken[end] = path
        planned.append(ApplyJob(path, _key(path, source), some, hole, end))
    return planned


def beside(source: Path, suffix: str | None) -> Path:
    """Where the result of an input goes when nothing is said: `photo.jpg` to `photo_restored.jpg`.

    Args:
        source: a picture or a folder.
        suffix: of the results; None: the input's, where results can be of its kind.
    """
    ends = source.suffix.lower() if source.suffix.lower() in _KEPT else ".png"
    end = "" if source.is_dir() else suffix or ends
    source = source if source.name else source.absolute()  # the working folder
    if not source.name:
        raise UserError(f"input={source}: results cannot be written beside it; give output=FOLDER")
    stem = source.name if source.is_dir() else source.stem
    return source.with_name(names.fitting(f"{stem}_restored{end}"))


def _key(path: Path, source: Path) -> str:
    """The name of an input within all of them, as references and masks are found by it."""
    base = source if source.is_dir() else source.parent
    return names.key(path, base)


def _given(reference: str | list[str] | None) -> tuple[list[Path], settings.StandIn | None]:
    """Files and folders, or what stands in for them."""
    named = [reference] if isinstance(reference, str) else reference or []
    kind = next((name for name in STAND_INS if name in named), None)
    if kind is None:
        return [Path(name) for name in named], None
    if len(named) > 1:
        raise UserError(
            f"reference={kind} is not a picture, so it cannot be one of several "
            f"references; for a file or folder of that name give ./{kind}"
        )
    return [], kind


# Kinds of input whose results are of the same kind; those of others are PNGs.
_KEPT = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def _check_output(setting: Apply, goal: Path, many: bool, into: bool) -> None:
    if many and not goal.is_dir() and (goal.is_file() or goal.suffix.lower() in _KEPT):
        raise UserError(f"input={setting.input} is a folder, so output={goal} must be one too")
    if not into and setting.suffix is not None and goal.suffix.lower() != setting.suffix:
        raise UserError(f"output={goal} and suffix={setting.suffix} name two different file types")
    place = (goal if into else goal.parent).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"output={goal}: nothing can be written to {place}")


def _within(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, deeper than the folder itself."""
    path, folder = path.resolve(), folder.resolve()
    return path != folder and path.is_relative_to(folder)


def _references(
    given: list[Path], kind: settings.StandIn | None, source: Path, sources: list[Path]
) -> Sequence[list[Path] | settings.StandIn | None]:
    """The references of each source."""
    if not given:
        return [kind] * len(sources)
    of_each = [_of_each("reference", place, source, sources) for place in given]
    return [list(together) for together in zip(*of_each)]


def _of_each(what: str, given: Path, source: Path, sources: list[Path]) -> list[Path]:
    """The `reference` or `mask` of each source: one for all, or by name from a folder."""
    if given.is_file():
        return [given] * len(sources)
    if not given.is_dir():
        raise UserError(f"{what}={given}: there is no such file or folder")
    paths_by_key = by_name(given)
    keys = [_key(path, source) for path in sources]
    missing = [path for path, key in zip(sources, keys) if key not in paths_by_key]
    if missing:
        raise UserError(
            f"{what}={given} has no picture of the same name for {len(missing)} of "
            f"{len(sources)} input(s), such as {missing[0]}"
        )
    return [paths_by_key[key] for key in keys]


def run(todo: list[ApplyJob], pipeline: Pipeline, setting: Apply, mark: _Mark) -> list[UserError]:
    """Does the jobs; returns what kept some pictures of a folder from being restored.

    Raises UserError when that keeps all of them: the only input, or the reference of all.
    """
    failed: list[UserError] = []
    first = todo[0].references
    if isinstance(first, list) and all(job.references == first for job in todo):
        pipeline.encode_reference(*first)
    at_once = 1 if setting.ensemble else pipeline.at_once
    progress = bar(total=len(todo), unit="img", disable=None if len(todo) > 1 else True)
    for first_of_some in range(0, len(todo), at_once):
        some = todo[first_of_some : first_of_some + at_once]
        opened: list[_Opened] = []
        for job in some:
            try:
                opened.append(_open(job, pipeline, setting))
            except UserError as error:
                if job.source == Path(setting.input):
                    raise
                failed.append(error)
        colours = pipeline.together(
            [one.picture for one in opened],
            [one.mask for one in opened],
            [one.job.key for one in opened],
        )
        for one, colour in zip(opened, colours):
            mark.set()
            try:
                _write(one, colour, pipeline, setting)
            except UserError as error:  # its answer is no picture
                if isinstance(error, Unwritable):  # a full disk will not take the others either
                    raise
                named = UserError(f"{one.job.source}: {error}")
                if one.job.source == Path(setting.input):
                    raise named from error
                failed.append(named)
        progress.update(len(some))
    progress.close()
    return failed


@dataclass(frozen=True)
class _Opened:
    """A job with its picture, its holes, and what the network made of its references."""

    job: ApplyJob
    picture: Picture
    mask: Tensor | None
    memory: Any


def _open(job: ApplyJob, pipeline: Pipeline, setting: Apply) -> _Opened:
    """Reads a job's pictures; UserError for what cannot be read or does not fit."""
    picture = load(job.source)
    size = picture.colour.shape[-2], picture.colour.shape[-1]
    fits(job.goal, *pipeline.restorer.size(*size))
    mask = None
    if job.mask is not None:
        mask = convert_mask(job.mask, setting.holes_are, size)
    memory = pipeline.memory(job.references, picture, job.key, mask)
    return _Opened(job, picture, mask, memory)


def _write(one: _Opened, colour: Tensor | None, pipeline: Pipeline, setting: Apply) -> None:
    """Restores a picture, unless its colours are there already, and writes it."""
    job, picture = one.job, one.picture
    files.make_folder(job.goal.parent)
    height, _ = pipeline.restorer.size(*picture.colour.shape[-2:])
    rows = pipeline.bands(
        picture, one.memory, one.mask, setting.tile, setting.ensemble, job.key, colour
    )
    try:
        save_bands(job.goal, rows, height, setting.quality)
    except RunFailure as error:
        raise RunFailure(f"{job.source}: {error}") from error
