"""What a run costs: parameters, operations, time, memory, energy."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from restore.inference.runner import Runner, evaluating
from restore.types import Problem, map_tensors

_RAPL = Path("/sys/class/powercap")


def parameters(model: nn.Module) -> dict[str, int]:
    """Numbers in the model's parameters: `total`, `trained`, `frozen`."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"total": total, "trained": trained, "frozen": total - trained}


def forward(runner: Runner, problem: Problem) -> dict[str, float]:
    """One restoration: `flops` (products and additions of matrices and convolutions) and `ms`.

    Of the first picture of the problem, in evaluation mode; attention is counted too.
    """
    inputs = {name: map_tensors(_first, value) for name, value in problem.inputs.items()}
    one = Problem(inputs=inputs, target=None, weight=None, keys=problem.keys[:1])
    with evaluating(runner.model):
        # In inference mode the counter does not get through parametrised (normalised) weights.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            FlopCounterMode(display=False) as counter,
        ):
            runner(one)
        _wait(runner.device)
        began = time.perf_counter()
        runner(one)
        _wait(runner.device)
    return {"flops": counter.get_total_flops(), "ms": 1000 * (time.perf_counter() - began)}


def _first(x: Tensor) -> Tensor:
    return x[:1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process held at most: the device's, or on a CPU the process's own."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


class Energy:
    """Joules by the machine's own counters: NVIDIA's of the device, else Intel's of the processors.

    The latter count whatever runs on the machine. Where neither can be read (no `nvidia-ml-py`,
    counters for the administrator alone), `source` is None.
    """

    def __init__(self, device: torch.device):
        self.source: str | None = None
        self._ranges: dict[Path, int] = {}
        self._handle: Any = None
        if device.type == "cuda":
            self._open_nvml(device)
        else:
            self._open_rapl()
        self.joules = 0.0
        self._last = self._read()

    def _open_nvml(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            # By its identity: CUDA_VISIBLE_DEVICES gives devices other numbers.
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except pynvml.NVMLError:
            self._handle = None
            return
        self.source = "nvml"

    def _open_rapl(self) -> None:
        for zone in sorted(_RAPL.glob("intel-rapl:[0-9]")):
            try:
                (zone / "energy_uj").read_text()
                self._ranges[zone] = int((zone / "max_energy_range_uj").read_text())
            except OSError:
                continue
        if self._ranges:
            self.source = "rapl"

    def _read(self) -> dict[Any, float]:
        if self._handle is not None:
            import pynvml

            return {"nvml": pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3}
        return {zone: int((zone / "energy_uj").read_text()) / 1e6 for zone in self._ranges}

    def sample(self) -> float | None:
        """Joules since the beginning; None when nothing can be read.

        Called every few minutes at least, since Intel's counters begin anew now and then.
        """
        if self.source is None:
            return None
        now = self._read()
        for zone, value in now.items():
            spent = value - self._last[zone]
            self.joules += spent if spent >= 0 else spent + self._ranges.get(zone, 0) / 1e6
        self._last = now
        return self.joules


class Meter:
    """What one process of a run has spent, over all the stretches that it was trained in.

    Args:
        device: of this process.
        spent: what `state` gave when the run stopped.
    """

    def __init__(self, device: torch.device, spent: dict[str, float] | None = None):
        self.device, self.energy = device, Energy(device)
        self.spent = {"seconds": 0.0, "steps": 0.0, "waited": 0.0, "joules": 0.0, "peak": 0.0}
        self.spent |= spent or {}
        self._before = self.spent["joules"]
        self._mark = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Its time is time waited for data."""
        began = time.perf_counter()
        yield
        self.spent["waited"] += time.perf_counter() - began

    @contextmanager
    def working(self) -> Iterator[None]:
        """Its time is time of training: reading, steps, and not validation."""
        began = time.perf_counter()
        yield
        self.spent["steps"] += time.perf_counter() - began

    def state(self) -> dict[str, float]:
        """What has been spent up to now."""
        now = time.perf_counter()
        self.spent["seconds"] += now - self._mark
        self._mark = now
        self.spent["joules"] = self._before + (self.energy.sample() or 0.0)
        self.spent["peak"] = max(self.spent["peak"], float(peak_memory(self.device)))
        return dict(self.spent)


def account(parts: list[dict[str, float]], images: int, source: str | None) -> dict[str, Any]:
    """The section `cost` of a run's summary, of what its processes have spent.

    Args:
        parts: each process's `Meter.state`.
        images: that were trained on, by all of them.
        source: of the energy; None leaves it out.

    Returns:
        `time` (seconds: with validation, `training`: without), `images_per_s`, `data_wait` (share
        of the training time, mean of the processes), `memory` (bytes: `peak` of the process that
        held most, `by_rank`), and `energy` (joules of all processes' devices; of processors once).
    """
    training = max(part["steps"] for part in parts)
    peaks = [int(part["peak"]) for part in parts]
    waited = sum(part["waited"] for part in parts) / len(parts)
    spent: dict[str, Any] = {
        "time": {"seconds": max(part["seconds"] for part in parts), "training": training},
        "images_per_s": images / training if training else None,
        "data_wait": waited / training if training else None,
        "memory": {"peak": max(peaks), "by_rank": peaks},
        "energy": None,
    }
    if source is not None:
        joules = [part["joules"] for part in parts]
        spent["energy"] = {"joules": sum(joules) if source == "nvml" else joules[0], "by": source}
    return spent
