"""Files that claim more than they hold, or hold something else, are refused before memory is."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from restore.cli import main
from restore.errors import UserError
from restore.models import bundled, checkpoint, weights
from restore.models.attention import choices
from restore.utils import foreign
from tests.helpers import stored_scene as scenes


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> dict[str, Any]:
    return scenes.entries(scenes.configuration(tmp_path_factory.mktemp("files")))


def repacked(source: Path, goal: Path, **options: Any) -> None:
    """The same archive, its entries packed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(goal, "w", **options) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def test_a_packed_checkpoint_is_refused(tmp_path: Path):
    torch.save({"a": torch.zeros(30_000_000)}, tmp_path / "plain.pt")
    assert checkpoint.read(tmp_path / "plain.pt")["a"].shape == (30_000_000,)
    repacked(tmp_path / "plain.pt", tmp_path / "w.pt", compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "w.pt").stat().st_size < 1_000_000
    with pytest.raises(UserError, match="claim to unpack"):
        checkpoint.read(tmp_path / "w.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "state",
    [
        {"a": torch.zeros(1).expand(1 << 20, 1 << 15)},
        {f"{i}": torch.zeros(1000)[:] for i in range(3)} | {"a": torch.zeros(2, 2).to_sparse()},
        (lambda x: {f"{i}": x.view(-1) for i in range(200)})(torch.zeros(2_000_000)),
        {"a": torch.empty(1 << 40, device="meta")},
    ],
    ids=["expanded", "sparse", "shared", "meta"],
)
def test_tensors_that_claim_more_than_the_file_holds(tmp_path: Path, state, legacy: bool):
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"claim more|no plain arrays|damaged or no weights file"):
        checkpoint.read(tmp_path / "w.pt")


def test_a_storage_that_is_larger_than_its_entry(tmp_path: Path):
    """Its number of elements stands in the pickle, and is made larger there."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(tmp_path / "x.pt", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert content.count(b"M\xe8\x03") == 2  # 1000, of storage and of tensor
                content = content.replace(b"M\xe8\x03", b"J\x00\x00\x00\x10")
            new.writestr(entry.filename, content)
    with pytest.raises(UserError):
        checkpoint.read(tmp_path / "x.pt")


def test_what_is_read_is_not_the_file_any_more(tmp_path: Path):
    torch.save({"a": torch.ones(1000), "b": torch.ones(3).half()}, tmp_path / "w.pt")
    state = checkpoint.read(tmp_path / "w.pt")
    with open(tmp_path / "w.pt", "r+b") as file:
        file.truncate(10)
    assert state["a"].sum() == 1000


@pytest.mark.parametrize("name", ["config", "models", "ema", "step"])
def test_each_entry_of_a_checkpoint_is_missed(held, tmp_path: Path, name: str, capfd):
    odd = [{k: v for k, v in held.items() if k != name}]
    odd += [{**held, name: value} for value in (1e9, "text", [1], {1: 2}, True, -1)]
    for number, one in enumerate(odd):
        run = scenes.run(tmp_path / f"run{number}", one)
        with pytest.raises(UserError, match=r"damaged|names no part|no settings|configuration"):
            weights.load(run).task()
    torch.save({"format": checkpoint.FORMAT}, tmp_path / "w.pt")
    line = ["apply", f"weights={tmp_path / 'w.pt'}", "input=.", *scenes.QUIET]
    assert main(line) == 2
    assert "damaged checkpoint" in capfd.readouterr().err


@pytest.mark.parametrize("given", ["/etc/passwd", "/dev/null", "/dev/zero", "/etc"])
def test_what_is_no_file_of_weights(given: str):
    with pytest.raises(UserError, match=r"no weights file|damaged or no weights file"):
        weights.load(given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.to(torch.int32), "another"),
        (lambda x: x.to(torch.complex64), "another"),
        (lambda x: x * torch.nan, "finite"),
        (lambda x: x.double() * 1e300, "finite"),
    ],
)
def test_weights_of_another_kind_of_number(held, tmp_path: Path, change, said: str):
    state = dict(held["models"]["backbone"])
    name = next(iter(state))
    state[name] = change(state[name])
    run = scenes.run(tmp_path / "run", {**held, "models": {"backbone": state}})
    with pytest.raises(UserError, match=said) as raised:
        weights.load(run).backbone()
    assert name in str(raised.value)


@pytest.mark.parametrize("setting", [{"blocks": 10**9}, {"features": 10**6}, {"blocks": 3}])
def test_a_configuration_of_a_larger_network(held, tmp_path: Path, setting):
    config = scenes.changed(held["config"], ("backbone",), held["config"]["backbone"] | setting)
    run = scenes.run(tmp_path / "run", {**held, "config": config})
    with pytest.raises(UserError, match="another model"):
        weights.load(run).backbone()


def test_weights_are_held_against_their_card(tmp_path: Path):
    network = next(n for n in bundled.networks(bundled.FOLDER) if n.scale == 2)
    shutil.copytree(network.path.parent, tmp_path / "net")
    path = tmp_path / "net" / bundled.WEIGHTS
    assert weights.load(tmp_path / "net").backbone()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(b ^ 1 for b in content[middle : middle + 64])
    path.write_bytes(content)
    for given in (tmp_path / "net", path):
        with pytest.raises(UserError, match="card"):
            weights.load(given)


def test_an_npz_that_claims_gigabytes(tmp_path: Path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("index", "score", "grids"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for _ in range(300):
                    file.write(bytes(1 << 20))
    with pytest.raises(UserError, match="unpacked"):
        choices.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        header = {"descr": "<i4", "fortran_order": False, "shape": (1 << 16, 1 << 15)}
        for name in ("index", "score", "grids"):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match="claims more"):
        choices.read(path)


def test_arrays_go_round(tmp_path: Path):
    index, score = np.arange(6, dtype=np.int32).reshape(2, 3), np.ones((2, 3), np.float16)
    grids = np.array([[2, 3]], np.int32)
    np.savez_compressed(
        tmp_path / "a.npz", index=np.asfortranarray(index), score=score, grids=grids
    )
    found = choices.read(tmp_path / "a.npz")
    assert (found.index == index).all()
    assert (found.places()[1, 2] == [0, 1, 2]).all()
    np.savez(tmp_path / "b.npz", index=index + 1, score=score, grids=grids)
    with pytest.raises(UserError, match="outside"):
        choices.read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", index=np.array([[object()]]), score=score, grids=grids)
    with pytest.raises(UserError, match="damaged"):
        choices.read(tmp_path / "c.npz")


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 60)
)
YAMLS = {
    "aliases": "a: &a [1]\nb: [" + "*a, " * 2000 + "]\n",
    "merges": "a: &a {x: 1}\nb: {<<: *a}\n",
    "deep": "a: " + "[" * 3000 + "]" * 3000,
    "tag": "a: !!python/object/apply:os.system [true]\n",
    "list": "[1, 2]\n",
    "binary": "\x00\x01",
    "cycle": "a: &a\n  b: *a\n",
}


@pytest.mark.parametrize("text", YAMLS.values(), ids=YAMLS)
def test_yaml_that_is_no_configuration(tmp_path: Path, text: str):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml"):
        foreign.read_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", [BOMB, "schedule: 2024-01-01\n", "schedule: [a]\n"])
def test_a_report_lists_a_configuration_that_is_none(tmp_path: Path, text: str, capfd):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.yaml").write_text(text)
    assert main(["report", str(tmp_path / "odd"), f"folder={tmp_path / 'page'}"]) == 2
    assert len(capfd.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"{", b"\xff\xfe", b'{"a": ' + b"[" * 5000, b'{"a": 1' + b"0" * 5000 + b"}"],
)
def test_json_that_is_no_object(tmp_path: Path, content: bytes):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        foreign.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "read", [foreign.read_json, foreign.read_yaml, foreign.read_csv, choices.read]
)
def test_only_regular_files_are_opened(tmp_path: Path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "nothing"):
        with pytest.raises(UserError, match="cannot be read"):
            read(path)


def test_csv_of_anything(tmp_path: Path):
    (tmp_path / "a.csv").write_text('key,b\none,"2\n3"\ntwo\nthree,4,5\n', encoding="utf-8")
    rows = foreign.read_csv(tmp_path / "a.csv")
    assert [row["b"] for row in rows] == ["2\n3", "", "4"]
    for content in (b"a\x00b,\xff\n", b'a,b\n"' + b"x" * 200_000 + b'",1\n'):
        (tmp_path / "b.csv").write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            foreign.read_csv(tmp_path / "b.csv")


def test_json_goes_round(tmp_path: Path):
    held = {"a": [1, 2.5, None], "b": {"c": "ü"}}
    (tmp_path / "a.json").write_text(json.dumps(held))
    assert foreign.read_json(tmp_path / "a.json") == held
