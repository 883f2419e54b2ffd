"""The measure of matching: perfect where nothing moved, chance where nothing fits."""

import csv
from pathlib import Path

import pytest

from restore.cli import main
from tests.helpers.pictures import photo, write

STILL = "{rotation: 0, scale: [1, 1], corners: 0, shift: 0, exposure: 0, colour: 0}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("astronaut", "coffee", "chelsea")):
        write(folder / f"{number}.png", photo(name, height=120, width=120, at=90))
    return folder


def bench(folder: Path, photos: Path, still: str, *more: str) -> dict[str, dict[str, float]]:
    words = [
        "benchmark=correspondence",
        f"benchmark.data.photos.targets={photos}",
        "benchmark.data.size=96",
        f"+benchmark.conditions.still={still}",
        f"folder={folder}",
    ]
    assert main(["bench", *words, *more]) == 0
    assert (folder / "correspondence.png").stat().st_size > 1000
    with open(folder / "correspondence.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        f"{row['matching']} {row['pairs']}": {k: float(v) for k, v in row.items() if "px" in k}
        for row in rows
    }


@pytest.mark.slow
def test_unmoved_is_found_and_another_photo_is_not(tmp_path, photos):
    found = bench(
        tmp_path / "b",
        photos,
        STILL,
        "benchmark.extractors=[matching,'vgg19,pretrained.vgg19=random']",
        "benchmark.pairs=3",
    )
    assert {name.split(" ")[0] for name in found} == {"matching", "vgg19,pretrained.vgg19=random"}
    for shares in found.values():
        values = list(shares.values())
        assert values == sorted(values), "a wider circle holds no fewer"
    # The low picture against itself: features of both are the same for VGG19, and so the places.
    assert found["vgg19,pretrained.vgg19=random still"]["≤ 1 px"] > 0.95
    assert found["matching still"]["≤ 4 px"] > 0.97
    assert found["matching mild"]["≤ 4 px"] > 0.85, "the bundled network's own claim, with room"
    assert (
        found["matching mild"]["≤ 4 px"]
        > found["vgg19,pretrained.vgg19=random mild"]["≤ 4 px"] + 0.1
    )


def test_an_attention_without_a_choice_is_refused(tmp_path, photos, capsys):
    words = [
        f"benchmark.data.photos.targets={photos}",
        "benchmark.data.size=96",
        "benchmark.attentions=[heads]",
    ]
    code = main(["bench", "benchmark=correspondence", *words, f"folder={tmp_path / 'b'}"])
    assert code == 2
    assert "tells no choice" in capsys.readouterr().err
