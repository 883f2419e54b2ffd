"""A report of folders that were damaged or made to mislead: the good ones are on the page."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from restore.cli import main
from tests.helpers import report_scene as scene

KEYS = ["a", "b", "c"]
DEEP = '{"a":' * 5000 + "1" + "}" * 5000


def json_with(**entries) -> Callable[[Path], None]:
    """Writes the summary with other entries; None leaves one out."""

    def act(folder: Path) -> None:
        held = {**json.loads((folder / "summary.json").read_text()), **entries}
        kept = {key: value for key, value in held.items() if value is not None}
        (folder / "summary.json").write_text(json.dumps(kept))

    return act


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return act


def pipe(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return act


DAMAGES = {
    "binary csv": text("images.csv", bytes(range(256)) * 20),
    "csv of words": text("images.csv", "key,psnr_y\na,many\n"),
    "csv without keys": text("images.csv", "name,psnr_y\na,1\n"),
    "csv of infinity": text("images.csv", "key,psnr_y\na,inf\n"),
    "broken json": text("summary.json", '{"weights": '),
    "foreign json": text("summary.json", "[1, 2, 3]"),
    "deep json": text("summary.json", DEEP),
    "json of bytes": text("summary.json", b"\xff\xfe\x00"),
    "no data": json_with(data=None),
    "no protocol": json_with(protocol=None),
    "no split": json_with(split=None),
    "no weights": json_with(weights=None),
    "data of text": json_with(data="everywhere"),
    "weights of numbers": json_with(weights=[1]),
    "weights of NUL": json_with(weights="a\x00b"),
    "restored of text": json_with(restored="well"),
    "restored of words": json_with(restored={"psnr_y": "good"}),
    "restored of lists": json_with(restored={"psnr_y": [1]}),
    "references that lead away": json_with(references={"../other": 1}),
    "directions of text": json_with(**{"higher is better": "x"}),
    "directions of words": json_with(**{"higher is better": {"psnr_y": "yes"}}),
    "task of text": json_with(**{"task changed": "much"}),
    "yaml date": text("config.yaml", "weights: 2024-01-01\n"),
    "yaml tag": text("config.yaml", "weights: !!python/name:os.system\n"),
    "yaml deep": text("config.yaml", "weights: " + "[" * 5000),
    "yaml binary": text("config.yaml", bytes(range(256))),
    "pipe for yaml": pipe("config.yaml"),
    "pipe for json": pipe("summary.json"),
    "pipe for csv": pipe("images.csv"),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A run and its evaluation, in a folder of all."""
    run = scene.run(tmp_path / "all" / "run", "soft", 1)
    scene.evaluation(tmp_path / "all" / "good", run, 1.0, KEYS)
    return tmp_path / "all"


@pytest.mark.parametrize(
    "damage",
    # Every other one each time.
    [
        pytest.param(damage, id=name, marks=[] if number % 2 else pytest.mark.slow)
        for number, (name, damage) in enumerate(DAMAGES.items())
    ],
)
def test_a_damaged_evaluation_is_listed(good: Path, tmp_path: Path, damage, capfd):
    scene.evaluation(good / "odd", good / "run", 2.0, KEYS)
    damage(good / "odd")
    assert main(["report", str(good), f"folder={tmp_path / 'page'}"]) == 0
    notes = " ".join(scene.block(tmp_path / "page")["notes"])
    assert "odd" in notes
    data = scene.block(tmp_path / "page")
    assert data["conditions"][0]["keys"] == KEYS
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "summary",
    [
        DEEP,
        "[]",
        '{"cost": "much"}',
        '{"cost": {"parameters": {"total": []}, "of": [1], "flops": {"forward": "x"}}}',
        '{"cost": {"of": {"low": 3}, "parameters": null}}',
    ],
)
def test_a_damaged_run_ends_no_report(good: Path, tmp_path: Path, summary: str):
    odd = scene.run(good / "odd", "hard", 2)
    (odd / "summary.json").write_text(summary)
    (odd / "environment.json").write_text('{"command": {"a": 1}}')
    (odd / "job.json").write_text('{"overrides": "attention"}')
    assert main(["report", str(good), f"folder={tmp_path / 'page'}"]) == 0
    assert scene.block(tmp_path / "page")["conditions"][0]["keys"] == KEYS


def test_what_is_no_picture_is_listed(good: Path, tmp_path: Path):
    for kind, content in (
        ("restored/a.png", b"no"),
        ("attention/b.npz", b"PK"),
        ("low/c.png", b""),
    ):
        (good / "good" / kind).write_bytes(content)
    assert main(["report", str(good), f"folder={tmp_path / 'page'}"]) == 0
    notes = " ".join(scene.block(tmp_path / "page")["notes"])
    for name in ("restored/a.png", "attention/b.npz", "low/c.png"):
        assert name in notes


@pytest.mark.parametrize("way", ["dots", "absolute", "link", "folder"])
def test_no_picture_from_elsewhere_is_embedded(good: Path, tmp_path: Path, way: str):
    """By a key of the csv, or by a link that lies in the evaluation."""
    secret = tmp_path / "secret.png"
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(secret)
    folder = good / "good"
    pages = []
    for number in range(2):
        if number:
            if way == "link":
                (folder / "restored" / "a.png").unlink()
                (folder / "restored" / "a.png").symlink_to(secret)
            elif way == "folder":
                shutil.rmtree(folder / "restored")
                (folder / "restored").symlink_to(tmp_path)
                shutil.copy(secret, tmp_path / "a.png")
            else:
                key = "../../../secret" if way == "dots" else str(secret.with_suffix(""))
                table = (folder / "images.csv").read_text().replace("\na,", f"\n{key},")
                (folder / "images.csv").write_text(table)
        goal = tmp_path / f"page{number}"
        assert main(["report", str(good), f"folder={goal}"]) == 0
        pages.append(scene.block(goal)["conditions"][0]["pictures"])
    shown = {key for key, entry in pages[1].items() if entry["restored"]}
    assert set(pages[0]) == set(KEYS)
    assert shown == (set() if way == "folder" else {"b", "c"})
