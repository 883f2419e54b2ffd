"""What an offline run of W&B holds, read without W&B's own reader."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def wandb_records(path: Path) -> Iterator[Any]:
    """What an offline run holds: LevelDB's log format behind W&B's own header, protobuf inside."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 2**15 - at % 2**15
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def wandb_run(folder: Path) -> dict[str, list[Any]]:
    """The records of the folder's one offline run by kind, once it is written to its end."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found: dict[str, list[Any]] = {}
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
        if "exit" in found:  # the service writes it after the run's own process went on
            return found
        time.sleep(0.1)
    raise AssertionError(f"the run in {path} has no end")


def entries(items: Any) -> dict[str, Any]:
    """Key → value of a record's items; `a/b` for a key inside another."""
    return {item.key or "|".join(item.nested_key): json.loads(item.value_json) for item in items}
