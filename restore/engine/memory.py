"""How much memory there is, and how much of it this process has had at most."""

import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:  # what asks for free memory alone need not wait for it
    import torch

# Tells a job of a sweep how many bytes are its own, where others run beside it.
SHARE = "RESTORE_MEMORY"
_CONTROL = Path("/sys/fs/cgroup")


def available(groups: Path = Path("/proc/self/cgroup"), control: Path = _CONTROL) -> int:
    """Bytes that this process can still take without anything being swapped out or killed.

    The least of the machine's, of what the process's control groups (containers, Slurm) leave it,
    and of what its sweep gives it.

    Args:
        groups: Linux's list of the groups that the process is in.
        control: where their limits can be read.
    """
    share = [int(os.environ[SHARE])] if SHARE in os.environ else []
    return min([psutil.virtual_memory().available, *_rooms(groups, control), *share])


def _rooms(groups: Path, control: Path) -> Iterator[int]:
    """What each control group over the process leaves it; of both of Linux's versions of them."""
    if not groups.exists():
        return
    for line in groups.read_text(encoding="ascii").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            root, limit, used, idle = control, "memory.max", "memory.current", "inactive_file"
        elif kinds == "memory":
            root, idle = control / "memory", "total_inactive_file"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            # Inside a container the path may be one that only the host has; its root is there.
            if folder.is_relative_to(root) and (folder / limit).exists():
                most = (folder / limit).read_text(encoding="ascii").strip()
                if most != "max":
                    match = re.search(rf"^{idle} (\d+)", (folder / "memory.stat").read_text(), re.M)
                    files = int(match[1]) if match else 0  # kept in memory as long as there is room
                    yield max(0, int(most) - int((folder / used).read_text()) + files)


def mark(device: "torch.device") -> int:
    """Bytes held now; from here on `highest` counts afresh, where the system lets it."""
    marks = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    elif marks.exists():
        # Else what importing took for a moment would hide all that a small case takes.
        marks.write_text("5", encoding="ascii")
    return highest(device)


def highest(device: "torch.device") -> int:
    """The most bytes held since `mark`: the device's by tensors, or on a CPU the process's own."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        assert match is not None
        return int(match[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)
