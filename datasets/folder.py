"""One's own pictures: targets, and by the same file names references and low pictures."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor

from restore.datasets.shares import Shares
from restore.errors import UserError
from restore.images.io import by_name, read_rgb
from restore.images.resize import bilinear_square
from restore.types import Place, Sample


class FolderSplit:
    """Pictures of one split."""

    def __init__(
        self,
        targets: dict[str, Path],
        references: list[dict[str, Path]],
        lows: dict[str, Path],
        resize: int | None,
    ):
        self.keys = list(targets)
        self.targets, self.references, self.lows = targets, references, lows
        self.resize = resize

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        sample = Sample(key=key, target=self._read(self.targets[key]))
        given = [self._read(paths[key]) for paths in self.references]
        if given:
            sample["reference"] = given[0] if len(given) == 1 else given
        if self.lows:
            sample["low"] = read_rgb(self.lows[key])
        return sample

    def _read(self, path: Path) -> Tensor:
        picture = read_rgb(path)
        return picture if self.resize is None else bilinear_square(picture, self.resize)


class Folder:
    """Folders of pictures, read recursively and paired by path and name without the suffix.

    Args:
        targets: high-resolution pictures.
        references: their references, or None; of several folders, each gives every target one, and
            the best patches of all are taken.
        lows: their low pictures, made before, or None to have them made.
        valid: share of the pictures kept for validation.
        test: share kept for testing. Which ones depends on each one's name alone, so pictures that
            are added later move no other. With a share of 1 every picture is in that split and in
            training, and none in the other unless its share is 1 too.
        resize: side of the square that every picture becomes, whatever its shape, by bilinear
            interpolation (as the public implementation of Palette does it); None: as it is.
    """

    def __init__(
        self,
        targets: Place,
        references: Place | list[Place] | None = None,
        lows: Place | None = None,
        valid: Annotated[float, Field(ge=0, le=1)] = 0.1,
        test: Annotated[float, Field(ge=0, le=1)] = 0.1,
        resize: Annotated[int, Field(ge=1)] | None = None,
    ):
        if resize is not None and lows is not None:
            raise UserError("data.resize changes targets, to which data.lows would no longer fit")
        self.resize = resize
        self.targets = by_name(Path(targets))
        folders = [references] if isinstance(references, str) else references or []
        self.references = [self._partners("references", folder) for folder in folders]
        self.lows = {} if lows is None else self._partners("lows", lows)
        self.shares = Shares(valid, test)

    def _partners(self, what: str, folder: str) -> dict[str, Path]:
        partners = by_name(Path(folder))
        missing = [name for name in self.targets if name not in partners]
        if missing:
            raise UserError(
                f"data.{what}={folder} lacks {len(missing)} of {len(self.targets)} pictures, "
                f"such as {missing[0]}"
            )
        return partners

    def split(self, name: str) -> FolderSplit:
        """The split `train`, `valid` or `test`; UserError when no picture falls into it."""
        chosen = self.shares.split(self.targets, name, "pictures of data.targets")
        return FolderSplit(chosen, self.references, self.lows, self.resize)
