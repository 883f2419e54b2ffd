"""Photos of places: who is whose reference, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from restore.config import registry
from restore.datasets.collection import Collection
from restore.errors import UserError
from restore.images import warp
from restore.images.io import save_png
from tests.helpers.pictures import chw, photo, write


def place(root: Path, name: str, subject: str) -> None:
    """Three photos: two near views of one thing, and another thing."""
    start = chw(photo(subject, height=200, width=260, at=40))
    angles = {"a": 0.0, "b": 0.06}
    for title, angle in angles.items():
        turn = warp.translation(8, 4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        seen = warp.view(start, turn, 180, 220)
        (root / name).mkdir(parents=True, exist_ok=True)
        save_png(root / name / f"{title}.png", seen)
    noise = np.random.default_rng(0).integers(0, 256, (180, 220, 3), np.uint8)
    write(root / name / "other.png", noise)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("places")
    place(folder, "north", "astronaut")
    place(folder, "south", "coffee")
    return folder


def test_the_reference_is_the_most_alike_of_the_same_place(root):
    split = Collection(str(root), test=1).split("test")
    samples = {split[i]["key"]: split[i] for i in range(len(split))}
    assert set(samples) == {f"{p}/{n}" for p in ("north", "south") for n in ("a", "b", "other")}
    for name in ("north", "south"):
        assert torch.equal(samples[f"{name}/a"]["reference"], samples[f"{name}/b"]["target"])
        assert torch.equal(samples[f"{name}/b"]["reference"], samples[f"{name}/a"]["target"])


def test_several_references_come_the_most_alike_first(root):
    split = Collection(str(root), references=2, test=1).split("test")
    samples = {split[i]["key"]: split[i] for i in range(len(split))}
    first, second = samples["north/a"]["reference"]
    assert torch.equal(first, samples["north/b"]["target"])
    assert torch.equal(second, samples["north/other"]["target"])


def test_large_photos_are_shrunk(root):
    data = registry.build(
        "data", "collection", f"data.root={root}", "data.longest_side=110", "data.test=1"
    )
    sample = data.split("test")[0]
    assert sample["target"].shape == (3, 90, 110)
    path = root / f"{sample['key']}.png"
    small = Image.open(path).convert("RGB").resize((110, 90), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(sample["target"].permute(1, 2, 0).numpy(), np.array(small))


def test_places_are_never_parted(root):
    data = Collection(str(root), valid=0.4, test=0.3)
    seen: dict[str, set[str]] = {}
    for name in ("train", "valid", "test"):
        try:
            split = data.split(name)
        except UserError:
            continue
        for key, _, _ in split.items:
            seen.setdefault(key.split("/")[0], set()).add(name)
    assert set(seen) == {"north", "south"}
    assert all(len(splits) == 1 for splits in seen.values())


def test_what_is_no_place_is_refused(root, tmp_path):
    write(tmp_path / "loose.png", photo())
    with pytest.raises(UserError, match="is in no place's folder"):
        Collection(str(tmp_path))
    with pytest.raises(UserError, match="each needs that many others"):
        Collection(str(root), references=3)
