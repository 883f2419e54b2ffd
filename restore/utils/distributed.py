"""What the processes of a job tell each other; a process alone is a group of one."""

from typing import Any

import torch
import torch.distributed as dist

from restore.errors import UserError


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """The number of processes, 1 when alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of ranks, on all of them."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def fail_together(failures: list[UserError | None]) -> None:
    """Raises the first of all processes' failures, if any, so that it is said once.

    On the first process; the others exit with the code of a user's mistake.
    """
    failure = next((failure for failure in failures if failure is not None), None)
    if failure is None:
        return
    if rank() == 0:
        raise failure
    raise SystemExit(2)


def from_first(value: Any) -> Any:
    """The first process's value, on all of them."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_true(flag: bool, on: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if world() == 1:
        return flag
    box = torch.tensor(float(flag), device=on)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return bool(box.item())


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose gradient is again the sum over the processes."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _Sum.apply(gradient)


def mean(x: torch.Tensor) -> torch.Tensor:
    """Mean over the processes, any number of times differentiable."""
    return x if world() == 1 else _Sum.apply(x) / world()


def rand(count: int, on: torch.device) -> torch.Tensor:
    """`count` uniform numbers in [0, 1), for this process's part of a batch.

    They are every world-th of those that the first process draws for the whole batch, as the items
    are (`loading.Positions`): an item has the same for any number of processes.
    """
    drawn = torch.rand(count * world(), device=on)
    if world() > 1:
        dist.broadcast(drawn, src=0)
    return drawn[rank() :: world()]


def average(tensors: list[torch.Tensor]) -> None:
    """Replaces each tensor by its mean over the processes, in one exchange."""
    if world() == 1 or not tensors:
        return
    joined = torch.cat([x.flatten() for x in tensors])
    dist.all_reduce(joined)
    for x, part in zip(tensors, joined.split([x.numel() for x in tensors])):
        x.copy_(part.view_as(x) / world())
