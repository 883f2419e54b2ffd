"""Where a comparison's pictures come from: folders of any method, matched by name."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restore.errors import UserError
from restore.images import masks
from restore.images.io import by_name, read_rgb, to_uint8
from restore.tools.compare import palette
from restore.tools.compare.palette import PaletteFolder
from restore.types import Dataset, Sample, Source, SplitAware, Task
from restore.utils.names import fitting

_LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass
class PictureFolder:
    """Pictures by name, read when they are asked for.

    `read` holds by name what gives the picture (uint8 3HW, or raises UnreadableImage); `kind` says
    how the folder was understood, `lossy` how many of its files are JPEG or WebP; `palette` is the
    folder where it is Palette's, `problems` an evaluation's, which also keeps what was asked.
    """

    folder: Path
    kind: str
    read: Mapping[str, Callable[[], Tensor]]
    lossy: int = 0
    palette: PaletteFolder | None = None
    problems: Path | None = None


def results(where: str, folder: str | Path) -> PictureFolder:
    """A method's pictures: Palette's output, `restore evaluate save=true`'s, or any folder.

    Args:
        where: the setting that names the folder, for what is said when it does not hold pictures.
        folder: as the user gave it.

    Raises:
        UserError: there is no such folder, or no result in it.
    """
    root = existing(where, folder)
    place = palette.locate(root)
    if place is not None:
        palette_folder = PaletteFolder(place)
        bases = palette_folder.having("Out", "Process")
        read = {base: partial(palette_folder.result, base) for base in bases}
        only_sheets = sum("Out" not in palette_folder.bases[base] for base in bases)
        kind = "Palette's output" + (f", {only_sheets} from Process_" if only_sheets else "")
        return PictureFolder(place, kind, read, palette_folder.lossy, palette_folder)
    return _plain(where, root, "restored")


def truths(where: str, folder: str | Path) -> PictureFolder:
    """Pictures to measure against: Palette's `GT_`, an evaluation's targets, or any folder.

    Raises UserError as `results`.
    """
    root = existing(where, folder)
    place = palette.locate(root)
    if place is None:
        return _plain(where, root, "target")
    palette_folder = PaletteFolder(place)
    bases = palette_folder.having("GT")
    if not bases:
        raise UserError(f"{where}={folder}: this folder of Palette's has no GT_ pictures")
    read = {base: partial(palette_folder.whole, base) for base in bases}
    lossy = sum(palette_folder.bases[base]["GT"].suffix.lower() in _LOSSY for base in bases)
    return PictureFolder(place, "Palette's GT_", read, lossy, palette_folder)


def plain(where: str, folder: str | Path) -> PictureFolder:
    """The pictures below a folder as they are; UserError as `results`."""
    return _plain(where, existing(where, folder), None)


def existing(where: str, folder: str | Path) -> Path:
    """The folder that a setting names; UserError when there is none."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{where}={folder}: there is no such folder")
    return root


def _plain(where: str, root: Path, inside: str | None) -> PictureFolder:
    """A folder of pictures, or the part of an evaluation's folder that holds them."""
    evaluated = inside is not None and (root / "config.yaml").is_file()
    problems = None
    if inside is not None and evaluated:
        if not (root / inside).is_dir():
            raise UserError(
                f"{where}={root} holds no saved pictures: restore evaluate weights=… save=true "
                "keeps them"
            )
        root, problems = root / inside, root
    paths = by_name(root)
    lossy = sum(path.suffix.lower() in _LOSSY for path in paths.values())
    read = {name: partial(read_rgb, path) for name, path in paths.items()}
    kind = f"{inside} of an evaluation" if evaluated else "pictures"
    return PictureFolder(root, kind, read, lossy, problems=problems)


@dataclass
class Problems:
    """What methods are asked, and what their results are measured against.

    `target` and, where the input was less sharp, `whole` (the input without holes); `low`, the
    network's own smaller input; `reference`; `mask`, by name what gives the holes (bool HW).
    """

    where: str
    target: PictureFolder
    whole: PictureFolder | None
    low: PictureFolder | None
    reference: PictureFolder | None
    mask: Mapping[str, Callable[[], Tensor]]


def written_problems(folder: Path) -> Problems:
    """Those of an evaluation made with `save=true`, or of an export.

    Raises UserError where the folder holds none.
    """
    if not (folder / "target").is_dir():
        raise UserError(
            f"problems={folder} has no folder 'target': it is meant for what "
            "restore evaluate save=true and restore export write"
        )

    def of(kind: str) -> PictureFolder | None:
        return plain("problems", folder / kind) if (folder / kind).is_dir() else None

    holes = by_name(folder / "mask") if (folder / "mask").is_dir() else {}
    mask = {name: partial(masks.read, path, "white") for name, path in holes.items()}
    target = plain("problems", folder / "target")
    where = str(folder / "mask")
    return Problems(where, target, of("whole"), of("low"), of("reference"), mask)


def drawn_problems(data: Dataset, task: Task, crops: int) -> Problems:
    """Those that `restore evaluate` puts to networks of a task, of a data set's test split.

    Args:
        data: the pictures.
        task: cuts and damages them.
        crops: of each picture; the first one is that of `restore evaluate`.

    Raises:
        UserError: a task without holes.
    """
    task = task.for_split("test") if isinstance(task, SplitAware) else task
    items = _Items(data.split("test"), task, crops)
    first = items.at(0)
    if "mask" not in first or "whole" not in first:
        raise UserError("task: it makes no holes; task=inpainting and task=partial_sr do")
    keys = {items.sample(place)["key"]: place for place in range(len(items))}
    where = Path(type(data).__name__)

    def of(kind: str) -> PictureFolder:
        read = {key: partial(items.picture, place, kind) for key, place in keys.items()}
        return PictureFolder(where, f"{kind} of a data set", read)

    reference = of("reference") if isinstance(first.get("reference"), Tensor) else None
    hole = {key: partial(items.hole, place) for key, place in keys.items()}
    sharp = torch.equal(to_uint8(first["whole"]), to_uint8(first["target"]))
    whole = None if sharp else of("whole")
    return Problems(f"those of {where}", of("target"), whole, None, reference, hole)


class _Items:
    """The items of a split; the last one is remembered, of which several pictures are asked."""

    def __init__(self, split: Source, task: Task, crops: int):
        self.split, self.task, self.crops = split, task, crops
        self.at = lru_cache(maxsize=2)(self._at)

    def __len__(self) -> int:
        return len(self.split) * self.crops

    def _at(self, place: int) -> dict[str, Any]:
        return {**self.task.eval_item(self.sample(place))}

    def sample(self, place: int) -> Sample:
        """A picture under the name of its crop, by which tasks cut and damage it."""
        picture, crop = divmod(place, self.crops)
        sample = self.split[picture].copy()
        if crop:
            sample["key"] = f"{sample['key']}_crop{crop + 1}"
        return sample

    def picture(self, place: int, kind: str) -> Tensor:
        """One of an item's pictures, uint8 3HW."""
        return to_uint8(self.at(place)[kind])

    def hole(self, place: int) -> Tensor:
        """An item's holes, bool HW."""
        return self.at(place)["mask"][0].bool()


@dataclass
class MatchedPictures:
    """What is there on every side, and what is not.

    `names` holds for each image that every source has, by source, its name there; `missing` by
    source the images that it lacks; `extra` by source how many it has that no other one knows.
    """

    names: dict[str, dict[str, str]]
    missing: dict[str, list[str]] = field(default_factory=dict)
    extra: dict[str, list[str]] = field(default_factory=dict)


def match(sources: Mapping[str, Iterable[str]], measured: Iterable[str]) -> MatchedPictures:
    """Matches images over sources by name, the base name alone where that is unambiguous.

    Signs that `flat` replaces count as equal, where that is unambiguous too.

    Args:
        sources: by what they are called, the names (paths without suffix) that they have.
        measured: those of them (methods and truths) whose images the comparison is about. What
            another one has beyond these is of no interest.

    Raises:
        UserError: no image is in all of them.
    """
    listed = {title: list(names) for title, names in sources.items()}
    plainly = next(how for how in (_base, flat, str) if _unambiguous(listed.values(), how))
    keyed = {title: {plainly(name): name for name in names} for title, names in listed.items()}
    wanted = dict.fromkeys(key for title in measured for key in keyed[title])
    shared = [key for key in wanted if all(key in names for names in keyed.values())]
    if not shared:
        examples = "; ".join(
            f"{title}: {', '.join(names[:2])}{', …' if len(names) > 2 else ''}"
            for title, names in listed.items()
        )
        raise UserError(
            "no image has the same name (without folder and suffix) everywhere, so nothing can be "
            f"compared; there are {examples}"
        )
    matched = MatchedPictures(
        {key: {t: names[key] for t, names in keyed.items()} for key in shared}
    )
    for title, names in keyed.items():
        lacking = [key for key in wanted if key not in names]
        if lacking:
            matched.missing[title] = lacking
        if title in measured:
            others = {
                k for other, their_names in keyed.items() if other != title for k in their_names
            }
            extra = [key for key in names if key not in others]
            if extra:
                matched.extra[title] = extra
    return matched


# Bytes of a flat name, so that a suffix fits behind it.
_ROOM = 240


def flat(name: str) -> str:
    """A name (path without suffix) that any program takes as a file's: no folders, no blanks."""
    return fitting(re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", name)), _ROOM)


def _base(name: str) -> str:
    return flat(name.rpartition("/")[2])


def _unambiguous(listed: Iterable[list[str]], how: Callable[[str], str]) -> bool:
    return all(len({how(name) for name in names}) == len(names) for names in listed)
