"""Where textures came from: kept by an evaluation, and read back as places."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restore.cli import main
from restore.errors import UserError
from restore.models.attention import TextureAttention, choices, soft
from restore.models.attention.choices import Choices
from restore.models.attention.embedding import Pixels
from restore.models.attention.rules import Hard
from restore.models.attention.soft import Soft
from restore.types import Restoration
from tests.helpers.pictures import photo, truncate, write
from tests.helpers.report_scene import block
from tests.helpers.tiny import ALONE, TWO_STEPS


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_places_count_on_through_the_references(grids):
    plain = [(n, y, x) for n, (h, w) in enumerate(grids) for y in range(h) for x in range(w)]
    index = np.random.default_rng(0).integers(0, len(plain), (3, 4))
    places = Choices(index, np.zeros((3, 4)), np.array(grids)).places()
    assert places.shape == (3, 4, 3)
    assert all(tuple(places[at]) == plain[index[at]] for at in np.ndindex(3, 4))


@pytest.mark.parametrize("rule", [Soft(), Soft(best=3)], ids=["soft", "topk"])
@pytest.mark.parametrize("tile", [700, 1 << 22])
def test_a_mean_tells_the_key_of_most_weight(rule, tile, monkeypatch):
    """That is the one with the largest cosine, which hard matching takes."""
    monkeypatch.setitem(soft._TILE, "cpu", tile)
    generator = torch.Generator().manual_seed(1)
    query, *keys = (
        torch.randn(2, 8, *size, generator=generator) for size in [(9, 7), (5, 6), (4, 8)]
    )
    found = []
    with torch.no_grad():
        for matching in (rule, Hard()):
            attention = TextureAttention(Pixels(), matching)
            one, two = (attention.encode_reference(key, [key]) for key in keys)
            found.append(attention(query, one + two).index)
    assert torch.equal(*found)
    assert attention(query, one + two).textures[0].shape == (2, 8, 9, 7)


def held(folder: Path, name: int) -> bytes:
    """What the page holds under a name; the first comment has its tables."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    comments = re.findall("<!--(.*?)-->", text.partition('<div id="held"')[2], re.DOTALL)
    return base64.b64decode(comments[name + 1])


def test_an_evaluation_keeps_what_its_network_chose(tmp_path: Path):
    """With the target as its own reference, every place must have found itself."""
    write(tmp_path / "pictures" / "deep" / "a.png", photo(height=32, width=40))
    run, out = tmp_path / "run", tmp_path / "out"
    assert main(["train", f"folder={run}", *TWO_STEPS, *ALONE]) == 0
    same = [f"data.{kind}={tmp_path / 'pictures'}" for kind in ("targets", "references")]
    more = [f"weights={run}", f"folder={out}", "data=folder", *same, "data.test=1", "save=true"]
    assert main(["evaluate", *more, *ALONE]) == 0
    kept = choices.read(out / "attention" / "deep" / "a.npz")
    np.testing.assert_array_equal(kept.grids, [[8, 10]])
    np.testing.assert_array_equal(kept.index, np.arange(80).reshape(8, 10))
    np.testing.assert_allclose(kept.score, 1, atol=1e-3)
    rows, columns = np.mgrid[:8, :10]
    np.testing.assert_array_equal(kept.places(), np.stack([rows * 0, rows, columns], -1))
    report = tmp_path / "report"
    assert main(["report", str(run), str(out), f"folder={report}"]) == 0
    (variant,) = block(report)["variants"]
    assert set(variant["costs"]) >= {"parameters", "flops", "ms", "memory", "time"}
    shown = block(report)["conditions"][0]
    assert [row["label"] for row in shown["rows"]] == ["bicubic", "run"]
    (one,) = shown["pictures"]["deep/a"]["restored"].values()
    index = np.frombuffer(held(report, one["index"]), "<u2")
    np.testing.assert_array_equal(index, kept.index.ravel())


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "a.npz"
    index, score = torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 1, 2, 2)
    image = torch.zeros(1, 3, 8, 8)
    choices.write(path, Restoration(image, score=score, index=index, grids=[(1, 1)]))
    truncate(path)
    with pytest.raises(UserError, match=r"a\.npz is damaged"):
        choices.read(path)
