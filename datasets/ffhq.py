"""FFHQ's faces as test pairs: a face is the target, a wider lens's picture of it is made.

Karras, Laine, Aila: "A Style-Based Generator Architecture for GANs", CVPR 2019. The thesis tests on
350 of them.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from restore.errors import UserError
from restore.images.io import find, read_rgb
from restore.images.zoom import centre, zoomed_out
from restore.types import Place, Sample
from restore.utils import names


class FfhqSplit:
    """The chosen faces."""

    def __init__(self, root: Path, files: list[Path], view: str, zoom: float):
        self.root, self.files, self.view, self.zoom = root, files, view, zoom

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        key = names.key(path, self.root)
        target = read_rgb(path)
        seen = zoomed_out if self.view == "same" else centre
        return Sample(key=key, target=target, low_up=seen(target, self.zoom))


class Ffhq:
    """Faces for testing, none for training.

    Args:
        root: folder of pictures, read recursively, in natural order.
        count: only the first so many; null: all.
        view: what the wide picture shows. `same`: what the target shows, shrunk by the zoom and
            enlarged again, so that both lie pixel on pixel as SR-RAW's aligned pairs do. `central`:
            the target's central part, enlarged by the zoom, as the thesis's text has it; the
            pictures then show different views, which its own figures for the unrestored input
            (31.33 dB) hardly allow.
        zoom: ratio of the focal lengths.
    """

    def __init__(
        self,
        root: Place,
        count: Annotated[int, Field(ge=1)] | None = 350,
        view: Literal["same", "central"] = "same",
        zoom: Annotated[float, Field(ge=1)] = 1.4,
    ):
        self.root, self.view, self.zoom = Path(root), view, zoom
        self.files = find(self.root)[:count]

    def split(self, name: str) -> FfhqSplit:
        """The split `test`; UserError for any other."""
        if name != "test":
            raise UserError(f"data=ffhq has no split '{name}', only 'test'")
        return FfhqSplit(self.root, self.files, self.view, self.zoom)
