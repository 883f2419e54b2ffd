"""Pictures and masks as the public Palette implementation takes them."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from restore.errors import UserError
from restore.images.io import save_png
from restore.tools.compare.sources import flat
from restore.tools.export import palette_pictures
from restore.types import Dataset, SplitAware, Task
from restore.utils import files

# Of an item, what Palette is given and what its results are measured against.
_PICTURES = ("whole", "target", "reference")


class PaletteFormat:
    """The items that `restore evaluate` takes, for Palette to fill the same holes.

    Each split becomes a folder with `whole` (what Palette gets: the low-resolution picture at full
    size, without holes), `mask` (white = hole), `target` and `reference`, PNGs of the same names;
    beside it lie lists of the files of `whole` and `mask`, a part for Palette's configuration and a
    data set class, because Palette's own reads no masks.

    Args:
        data: the pictures.
        task: cuts them and draws their holes; `partial_sr`.
        splits: which of the data.
        side: of the pictures that Palette works on; others are left out and told.
        root: where the folder will lie when Palette runs; None: where it is written.
    """

    def __init__(
        self,
        data: Dataset | None,
        task: Task | None,
        splits: Annotated[list[Literal["train", "valid", "test"]], Field(min_length=1)],
        side: Annotated[int, Field(ge=8, multiple_of=8)],
        root: str | None = None,
    ):
        if data is None or task is None:
            raise UserError("data has no value: give data=…, such as data=ffhq data.root=FOLDER")
        self.splits = {name: data.split(name) for name in splits}
        self.task, self.side, self.root = task, side, root

    def write(self, folder: Path) -> list[str]:
        """See `restore.tools.export.Format.write`."""
        root = folder.absolute() if self.root is None else Path(self.root)
        notes, configured = [], {}
        for split, source in self.splits.items():
            task = self.task.for_split(split) if isinstance(self.task, SplitAware) else self.task
            samples = (source[place] for place in range(len(source)))
            items = (task.eval_item(sample) for sample in samples)
            shares, left = self._write(
                folder / split, tqdm(items, split, len(source), leave=False, disable=None)
            )
            if not shares:
                raise UserError(
                    f"no picture of the split '{split}' has {self.side}×{self.side} pixels "
                    f"(format.side), the first being {left[0]}"
                )
            for kind, name in (("whole", split), ("mask", f"{split}_mask")):
                lines = [f"{root / split / kind / key}.png\n" for key in shares]
                files.write_text(folder / f"{name}.flist", "".join(lines))
            configured[split] = self._configured(root, split)
            holes = [share for share in shares.values() if share > 0]
            notes.append(
                f"{split}: {len(shares)} pictures of {self.side}×{self.side}, {len(holes)} with "
                f"holes, on the mean {sum(holes) / max(1, len(holes)):.1%} of their area"
            )
            if left:
                notes.append(f"{split}: {len(left)} left out: {', '.join(left)}")
        text = json.dumps({"datasets": configured}, indent=4)
        files.write_text(folder / "datasets.json", text + "\n")
        program = Path(palette_pictures.__file__).read_bytes()
        files.write_bytes(folder / "palette_pictures.py", program)
        return notes

    def _write(self, folder: Path, items: Any) -> tuple[dict[str, float], list[str]]:
        """Hole shares by name of what was written, and what was not with its size."""
        shares: dict[str, float] = {}
        left: list[str] = []
        for item in items:
            name = flat(item["key"])
            height, width = item["target"].shape[-2:]
            if (height, width) != (self.side, self.side):
                left.append(f"{item['key']} ({width}×{height})")
                continue
            if "mask" not in item or "whole" not in item:
                raise UserError("task: it makes no holes; task=partial_sr does")
            if name in shares:
                raise UserError(f"two pictures would both be called {name}; rename one of them")
            for kind in (*_PICTURES, "mask"):
                if kind in item:
                    (folder / kind).mkdir(parents=True, exist_ok=True)
                    save_png(folder / kind / f"{name}.png", _eight_bits(item[kind]))
            shares[name] = item["mask"].double().mean().item()
        return shares, left

    def _configured(self, root: Path, split: str) -> dict[str, Any]:
        """The part of Palette's configuration for a split."""
        return {
            "which_dataset": {
                "name": ["data.palette_pictures", "MaskedPictures"],
                "args": {
                    "data_root": str(root / f"{split}.flist"),
                    "mask_root": str(root / f"{split}_mask.flist"),
                    "image_size": [self.side, self.side],
                },
            },
            "dataloader": {"args": {"batch_size": 1, "num_workers": 2, "pin_memory": True}},
        }


def _eight_bits(picture: Tensor) -> Tensor:
    """Pictures as they are, masks as white on black."""
    return picture.expand(3, -1, -1).float() if picture.dtype == torch.bool else picture
