"""SR-RAW's pairs of two focal lengths, as `restore prepare data=sr_raw` leaves them.

Zhang, Chen, Ng, Koltun: "Zoom to Learn, Learn to Zoom", CVPR 2019. The thesis trains on 450 of its
500 scenes and validates on the other 50.
"""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from restore.datasets.shares import position
from restore.errors import UnreadableImage, UserError
from restore.images import memory_mapped
from restore.types import Place, Sample


class SrRawSplit:
    """Pairs whose pixels stay on the disk until a crop asks for them."""

    def __init__(self, root: Path, keys: list[str]):
        self.root, self.keys = root, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        key = self.keys[index]
        sample = Sample(key=key)
        for name in ("target", "low_up"):
            path = self.root / "pairs" / key / f"{name}.npy"
            try:
                sample[name] = memory_mapped.read(path)
            except (OSError, ValueError, EOFError) as error:
                raise UnreadableImage(path, error) from error
        return sample


class SrRaw:
    """Aligned pairs: `target` of the longer focal length, `low_up` of the next shorter one.

    Both are uint8 of the same size and view. All pairs of a scene are in the same split.

    Args:
        root: the folder that `restore prepare` wrote.
        valid: share of the scenes kept for validation.
        test: share kept for testing. Which ones depends on each scene's name alone, so that more
            scenes move no other.
    """

    def __init__(
        self,
        root: Place,
        valid: Annotated[float, Field(ge=0, le=1)] = 0.1,
        test: Annotated[float, Field(ge=0, le=1)] = 0.0,
    ):
        self.root = Path(root)
        self.shares = {"valid": valid, "test": test}
        if valid + test > 1:
            raise UserError(f"data.valid={valid} and data.test={test} are more than all scenes")
        try:
            records = json.loads((self.root / "pairs.json").read_text("utf-8"))
        except FileNotFoundError as error:
            raise UserError(
                f"data.root={root} holds no finished preparation: run restore prepare data=sr_raw "
                f"root=RAW output={root}, which goes on where one was stopped"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self.root / 'pairs.json'}: {error}") from error
        self.keys = [record["key"] for record in records if record["kept"]]

    def split(self, name: str) -> SrRawSplit:
        """The split `train`, `valid` or `test`; UserError when no scene falls into it."""
        if name not in ("train", *self.shares):
            raise UserError(f"SR-RAW has no split '{name}'; choose one of train, valid, test")
        keys = [key for key in self.keys if self._place(key) == name]
        if not keys:
            what = f"raise data.{name}" if name in self.shares else "lower data.valid and data.test"
            scenes = {key.rpartition("/")[0] for key in self.keys}
            raise UserError(
                f"none of the {len(scenes)} scenes below {self.root} falls into the split "
                f"'{name}': {what}"
            )
        return SrRawSplit(self.root, keys)

    def _place(self, key: str) -> str:
        at = position(key.rpartition("/")[0])
        if at < self.shares["valid"]:
            return "valid"
        return "test" if at < self.shares["valid"] + self.shares["test"] else "train"
