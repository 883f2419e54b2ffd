"""From a source of samples to batches.

Every training item is a pure function of the seed and its position in the endless stream of
items. So the stream does not depend on the number of workers or processes, two workers can never
draw the same crops, and going on after an interruption means starting at a later position.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from restore.config.settings import Loader
from restore.errors import UnreadableImage, UserError
from restore.types import DrawnSource, Pictures, Sample, Source, Task, map_tensors
from restore.utils import signals

log = logging.getLogger("restore")

Batch = dict[str, Any]


class TrainItems(Dataset):
    """The endless stream of training items, by position.

    Each epoch visits every sample once, in an order of its own.
    """

    def __init__(self, source: Source, task: Task, seed: int, on_error: str):
        if len(source) == 0:
            raise UserError("the training split is empty")
        self.source, self.task, self.seed, self.on_error = source, task, seed, on_error

    def __getitem__(self, position: int) -> Batch:
        count = len(self.source)
        epoch, offset = divmod(position, count)
        order = _order(self.seed, epoch, count)
        rng = np.random.default_rng([self.seed, position])
        skipped = []
        for step in range(count):
            try:
                sample = self._sample(int(order[(offset + step) % count]), position).copy()
            except UnreadableImage as error:
                if self.on_error == "raise":
                    raise
                skipped.append((error.path, error.reason))
                continue
            sample["epoch"] = epoch
            return {**self.task.train_item(sample, rng), "skipped": skipped}
        raise UserError(f"none of the {count} training images can be read; the first: {skipped[0]}")

    def _sample(self, index: int, position: int) -> Sample:
        if isinstance(self.source, DrawnSource):
            # Chance of its own: how much a data set draws changes neither crops nor turns.
            return self.source.draw(index, np.random.default_rng([self.seed, position, 2]))
        return self.source[index]


class EvalItems(Dataset):
    """The samples of a split, in order, as the evaluation sees them."""

    def __init__(self, source: Source, task: Task, on_error: str):
        if len(source) == 0:
            raise UserError("the split to evaluate is empty")
        self.source, self.task, self.on_error = source, task, on_error

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Batch:
        try:
            item = self.task.eval_item(self.source[index])
        except UnreadableImage as error:
            if self.on_error == "raise":
                raise
            return {"skipped": [(error.path, error.reason)], "place": index}
        return {**item, "skipped": [], "place": index}


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    # The last word keeps it apart from every item's [seed, position], which numpy fills up with 0.
    return np.random.default_rng([seed, epoch, 1]).permutation(count)


class Positions(Sampler[list[int]]):
    """Positions of the items of each micro-batch, from step `first` up to step `last`.

    Args:
        first: the first step to serve, `last`: the step to stop before.
        batch_size: items a step over all processes and micro-batches.
        accumulate_steps: micro-batches a step.
        rank, world: this process and their number.
    """

    def __init__(
        self, first: int, last: int, batch_size: int, accumulate_steps: int, rank: int, world: int
    ):
        if batch_size % (accumulate_steps * world):
            raise UserError(
                f"trainer.batch_size={batch_size} does not divide by trainer.accumulate_steps="
                f"{accumulate_steps} × runtime.devices={world}"
            )
        self.first, self.last = first, last
        self.batch_size, self.accumulate_steps, self.rank, self.world = (
            batch_size,
            accumulate_steps,
            rank,
            world,
        )

    def __len__(self) -> int:
        return (self.last - self.first) * self.accumulate_steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            whole = range(step * self.batch_size, (step + 1) * self.batch_size)
            for part in range(self.accumulate_steps):
                # All processes' shares of a micro-batch are together what one process has in it.
                yield list(whole[part :: self.accumulate_steps][self.rank :: self.world])


def collate(items: Sequence[Batch]) -> Batch:
    """Stacks the pictures of items by name; everything else becomes a list.

    Of several references of each item the first are stacked, the second, and so on.

    Raises UserError when pictures of one name differ in size or number.
    """
    batch: Batch = {"skipped": [entry for item in items for entry in item["skipped"]]}
    items = [item for item in items if "key" in item]
    for name in items[0] if items else ():
        if name == "skipped":
            continue
        values = [item[name] for item in items if name in item]
        if isinstance(values[0], list):
            places = zip_longest(*values)
            batch[name] = [_stacked(name, [*place], items) for place in places]
        elif isinstance(values[0], torch.Tensor):
            batch[name] = _stacked(name, values, items)
        else:
            batch[name] = values
    return batch


def _stacked(name: str, values: list[torch.Tensor | None], items: Sequence[Batch]) -> torch.Tensor:
    """One picture of each item, as a batch."""
    pictures = [value for value in values if value is not None]
    if len({x.shape for x in pictures}) > 1 or len(pictures) < len(items):
        sizes = ", ".join(f"{item['key']} {_size(item.get(name))}" for item in items)
        raise UserError(
            f"the '{name}' pictures of a batch differ in size ({sizes}): "
            "set task.crop and task.reference_crop, or a batch of 1"
        )
    return torch.stack(pictures)


def _size(pictures: Pictures | None) -> str:
    several = pictures if isinstance(pictures, list) else [pictures]
    return " + ".join("none" if x is None else f"{tuple(x.shape[1:])}" for x in several)


class _Collated(Dataset):
    """Whole batches of items, by the list of their places.

    A user's mistake is handed over as a value: raised in a worker, torch would make a traceback of
    it on the way to the main process, and the sentence would be lost.
    """

    def __init__(self, items: TrainItems | EvalItems, shared: bool):
        self.items, self.shared = items, shared

    def __getitem__(self, places: list[int]) -> Batch | UserError:
        try:
            batch = collate([self.items[place] for place in places])
        except UserError as error:
            return error
        if self.shared:
            return batch
        # Arrays go through a pipe, of which every system has enough.
        return {name: _as_arrays(value) for name, value in batch.items()}


def look(items: TrainItems | EvalItems, seed: int = 0, device: torch.device | str = "cpu") -> None:
    """Makes a problem of the first item, as long as nothing is written.

    Raises UserError for what does not fit the task: too small a picture, a mask that cannot be.
    """
    first = to_device(collate([items[0]]), torch.device(device))
    if "key" in first:
        items.task.prepare(first, torch.Generator(device).manual_seed(seed))


class Batches:
    """Batches of items, read and put together by worker processes, in the order of `places`.

    Iterating raises a UserError where an item or a batch of them made one.

    Args:
        items: what is read.
        places: the items of each batch.
        workers: processes; 0 reads in this one.
        pin: put tensors where a CUDA device fetches them fast.
    """

    def __init__(
        self,
        items: TrainItems | EvalItems,
        places: Sampler[list[int]] | Sequence[list[int]],
        workers: int,
        pin: bool = False,
    ):
        shared = workers == 0 or _shared_memory() >= _SHARED
        if not shared:
            log.info(
                "loader workers use pipes instead of shared memory: %s has less than %d GiB free",
                *(_PLACE, _SHARED >> 30),
            )
        self.loader = DataLoader(
            _Collated(items, shared),
            sampler=places,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin,
            worker_init_fn=_quiet,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        with signals.held_back():  # else one that comes while workers begin would end those
            batches = iter(self.loader)
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    raise batch
                yield {name: _as_tensors(value) for name, value in batch.items()}
        finally:
            # The traceback of an error would keep it, and with it the workers: found by the
            # collector of cycles, it waits five seconds for each of them.
            del batches


# Where torch puts what processes hand to each other; where it is full, workers die or hang.
_PLACE = Path("/dev/shm")
# Containers often have 64 MiB, which a few batches fill.
_SHARED = 2 << 30


def _shared_memory() -> int:
    """Bytes left for what processes share; more than enough where a system has no such place."""
    return shutil.disk_usage(_PLACE).free if _PLACE.is_dir() else _SHARED


def _as_arrays(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_arrays(x) for x in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _as_tensors(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_tensors(x) for x in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def train_batches(items: TrainItems, positions: Positions, loader: Loader, pin: bool) -> Batches:
    """Micro-batches of training items."""
    return Batches(items, positions, loader.workers, pin)


def eval_batches(
    items: EvalItems, loader: Loader, rank: int, world: int, limit: int | None
) -> Batches:
    """Single samples; process `rank` of `world` sees every `world`-th, none twice."""
    places = range(min(len(items), limit or len(items)))[rank::world]
    return Batches(items, [[place] for place in places], min(loader.workers, len(places)))


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet(worker: int) -> None:
    signals.leave_to_parent()
    torch.set_num_threads(1)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    return {k: map_tensors(lambda x: x.to(device, non_blocking=True), v) for k, v in batch.items()}
