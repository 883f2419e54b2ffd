"""Steps of a run that is not begun, tried in a process of their own: what batch fits in memory?

`python -m restore.engine.batch_size_probe` reads an order (JSON, a line) and then sizes, a line
each; for each it answers with a line. A process that is killed over a size takes nothing with it.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from restore.config import check, settings
from restore.config.stored import stored
from restore.data.loading import collate, to_device
from restore.engine import memory
from restore.engine.objectives import ScheduledStage
from restore.engine.training import Training
from restore.errors import UserError
from restore.types import Problem, Scheduled
from restore.utils import signals

TOO_MUCH = 77  # exit code of a process that has gone beyond what it may take
_REPEATS = 2  # steps of each stage: the second has the optimizer's state beside the graph
_LOOKED_AT = 64  # steps that are searched for the largest pictures, where they change from step on


class BatchSizeProbe:
    """Steps of every stage on batches of any size; they leave the weights as they are.

    Args:
        training: a run that is not begun.
        world: its processes.
    """

    def __init__(self, training: Training, world: int):
        self.learner, self.world = training.learner, world
        self.accumulate_steps = training.setting.trainer.accumulate_steps
        self.item = training.items[0]
        for stage in self.learner.stages:
            for objective in stage.objectives.values():
                for group in objective.optimizer.param_groups:
                    group["initial_lr"] = 0.0
        self.starts = {stage.name: self._heaviest(stage) for stage in self.learner.stages}
        # Buckets that DistributedDataParallel would have gradients in.
        trained = [p for p in self.learner.network.parameters() if p.requires_grad]
        self.ballast = [torch.ones_like(p) for p in trained] if world > 1 else []

    def _heaviest(self, stage: ScheduledStage) -> int:
        """The step of a stage with the most pixels, where the task changes them."""
        task = self.learner.task
        if not isinstance(task, Scheduled):
            return stage.first

        def pixels(step: int) -> int:
            task.set_step(step, self.learner.total)
            generator = torch.Generator(self.learner.device).manual_seed(0)
            batch = to_device(collate([self.item]), self.learner.device)
            return _numbers(task.prepare(batch, generator))

        return max(range(stage.first, stage.first + min(stage.steps, _LOOKED_AT)), key=pixels)

    def take(self, size: int) -> None:
        """Trains on `size` items a step, over all processes; raises what lack of memory raises."""
        own = size // (self.world * self.accumulate_steps)
        for stage in self.learner.stages:
            for objective in stage.objectives.values():
                objective.optimizer.state.clear()
                objective.optimizer.zero_grad(set_to_none=True)
        self.learner.network.train()
        for stage in self.learner.stages:
            for _ in range(_REPEATS):
                self.learner.step = self.starts[stage.name]
                batches = [collate([self.item] * own) for _ in range(self.accumulate_steps)]
                self.learner.advance(stage, [to_device(b, self.learner.device) for b in batches])


def _numbers(problem: Problem) -> int:
    count = 0
    for pictures in problem.inputs.values():
        several = pictures if isinstance(pictures, list) else [pictures]
        count += sum(x.numel() for x in several)
    return count


def _watch(most: int) -> None:
    """Ends this process as soon as it holds more bytes, before the machine has none left."""
    own = psutil.Process()

    def look() -> None:
        while own.memory_info().rss <= most:
            time.sleep(0.01)
        os._exit(TOO_MUCH)

    threading.Thread(target=look, daemon=True).start()


def _budget(order: dict[str, Any], device: torch.device) -> tuple[int, int]:
    """Bytes held from the start, and those that may be added; more cannot be taken from now on."""
    before = memory.mark(device)
    if device.type == "cpu":
        budget = int(order["budget"])
        _watch(before + budget)
        return before, budget
    free, total = torch.cuda.mem_get_info(device)
    budget = int(order["share"] * free)
    torch.cuda.set_per_process_memory_fraction(budget / total, device)
    return before, budget


def _fits(probe: BatchSizeProbe, size: int) -> bool:
    try:
        probe.take(size)
    except (torch.OutOfMemoryError, MemoryError):
        return False
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # what a CPU without memory raises
            raise
        return False
    return True


def main() -> None:
    """Answers with `{"items", "budget"}` once, then `{"peak"}` for each size.

    `peak` is None where the memory did not suffice; `{"mistake"}` is a user's, in a sentence.
    """
    signals.leave_to_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed is no answer
    order = json.loads(sys.stdin.readline())
    device = torch.device(order["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        config = stored(yaml.safe_load(order["config"]), "the order")
        setting = check(config, settings.Train)
        if setting.runtime.threads:
            torch.set_num_threads(setting.runtime.threads)
        before, budget = _budget(order, device)
        training = Training(config, setting, Path(order["folder"]), device)
        probe = BatchSizeProbe(training, order["world"])
        print(json.dumps({"items": len(training.items.source), "budget": budget}), file=answers)
        for line in sys.stdin:
            memory.mark(device)
            fits = _fits(probe, int(line))
            peak = memory.highest(device) - before if fits else None
            print(json.dumps({"peak": peak}), file=answers)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    except UserError as error:
        print(json.dumps({"mistake": str(error)}), file=answers)


if __name__ == "__main__":
    main()
