"""Training in several processes at once: who takes part, what each of them does, and how they stay one run.

`torchrun` starts the processes and tells each its rank; PyTorch's distributed engine (gloo on CPUs, nccl on GPUs)
carries the numbers between them. Each step's batch is cut into equal shards. Gradients, batch norm's statistics and the
masks of dropout are those of the whole batch, so that the number of processes changes nothing but rounding.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mnist_kit.errors import ContactLost, MnistKitError, TrainingError


@dataclass(frozen=True)
class World:
    """The processes that train one model. rank: which of them this one is, 0 to size − 1."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def own(self, device: torch.device) -> torch.device:
        """`device`, or on a machine with several GPUs, where "cuda" alone was said, the one of this process."""
        if self.size == 1 or device != torch.device("cuda"):
            return device
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of `batch`, (N, …), of which all parts are equal."""
        return batch.chunk(self.size)[self.rank]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values`, float (n,), over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """(count, …) from the rows that each process has: those numbered rank, rank + size, …, of `count`."""
        if self.size == 1:
            return rows
        missing = -(-count // self.size) - len(rows)
        padded = torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first process, in all of them; a MnistKitError is raised in all of them too."""
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer = [make(), None]
            except MnistKitError as error:
                answer = [None, error]
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def gather_objects(self, item: Any) -> list[Any]:
        """Each process's `item`, in all of them."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items


ALONE = World()
_independent = False  # whether the processes each train a model of their own


def _started() -> int:
    """How many processes `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def world() -> World:
    """The processes that a call of `fit` trains in: those of `torchrun`, joined on first use; else this one alone."""
    if _independent or _started() == 1:
        return ALONE
    join()
    return World(dist.get_rank(), dist.get_world_size())


def join(patience: timedelta | None = None) -> World:
    """Meet the other processes of `torchrun`. patience: how long to wait for one that does not answer (30 minutes)."""
    if _started() == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=patience)
        # torchrun allows a process one thread only, unless somebody has said another number.
        if "LOCAL_WORLD_SIZE" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def independent() -> Iterator[None]:
    """Within it each process trains for itself."""
    global _independent
    _independent = True
    try:
        yield
    finally:
        _independent = False


@contextmanager
def contact() -> Iterator[None]:
    """Within it the loss of another process is told as a ContactLost."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if dist.is_initialized() and any(
            word in str(error) for word in ("gloo", "NCCL", "Connection", "process group")
        ):
            reason = re.sub(r"^\[\S*/gloo/\S*\]\s*", "", str(error).splitlines()[0])[:120]  # gloo's own source file
            raise ContactLost(
                f"rank {dist.get_rank()} lost contact with another rank ({reason}): the job ends here. "
                "Start it again with --resume to go on from the last checkpoint; the number of ranks may be another."
            ) from error
        raise


def spread(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, on `device`: its weights become the first process's, its gradients the mean over all processes.

    Raises TrainingError when processes would have to share a GPU, which nccl cannot.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise TrainingError(
            f"{processes} processes of this machine cannot train one model on its {torch.cuda.device_count()} GPUs: "
            "start as many as there are GPUs, or train with --device cpu"
        )
    with warnings.catch_warnings():  # the setting has another name since torch 2.15
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )


@contextmanager
def whole_batches(model: nn.Module, world: World) -> Iterator[None]:
    """Within it batch norm and dropout, given a shard, do what they would do with the whole batch.

    Batch norm (any `BatchNorm…d`) takes mean and variance over all processes, on every backend: torch's SyncBatchNorm
    knows GPUs only. `Dropout` draws the mask of the whole batch from a random state that all processes share, and uses
    its shard of it. Other layers that draw random numbers draw the same for each shard.
    """
    changed = []
    if world.size > 1:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.forward = MethodType(_batch_norm, module)
            elif type(module) is nn.Dropout:
                module.forward = MethodType(_dropout_of(world), module)
            else:
                continue
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; whose gradient is the sum of theirs."""

    @staticmethod
    def forward(_context, values: Tensor) -> Tensor:
        return _sum_of_all(values)

    @staticmethod
    def backward(_context, gradients: Tensor) -> Tensor:
        return _sum_of_all(gradients)


def _sum_of_all(values: Tensor) -> Tensor:
    values = values.contiguous().clone()
    dist.all_reduce(values)
    return values


def _batch_norm(self: _BatchNorm, values: Tensor) -> Tensor:
    if not self.training:
        return type(self).forward(self, values)
    inputs = values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
    axes = [0, *range(2, inputs.ndim)]
    shape = [1, -1] + [1] * (inputs.ndim - 2)
    count = inputs.numel() // inputs.shape[1] * dist.get_world_size()  # all shards are equal
    mean = _SumOfAll.apply(inputs.sum(axes)) / count
    centred = inputs - mean.view(shape)
    variance = _SumOfAll.apply(centred.square().sum(axes)) / count
    if self.track_running_stats:
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / (count - 1), share)
    normal = centred * torch.rsqrt(variance + self.eps).view(shape)
    if self.affine:
        normal = normal * self.weight.view(shape) + self.bias.view(shape)
    return normal.to(values.dtype)


def _dropout_of(world: World) -> Callable[[nn.Dropout, Tensor], Tensor]:
    def dropout(self: nn.Dropout, values: Tensor) -> Tensor:
        if not self.training:
            return values
        whole = values.new_ones(len(values) * world.size, *values.shape[1:])
        return values * world.shard(functional.dropout(whole, self.p))

    return dropout
