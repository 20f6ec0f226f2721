"""Training in several processes at once: who takes part, what each of them does, and how they stay one run.

`torchrun` starts the processes and tells each its rank; PyTorch's distributed engine (gloo on CPUs, nccl on GPUs)
carries the numbers between them. Each step's batch is cut into equal shards, one per process; the gradients are
averaged (`DistributedDataParallel`). Batch norm and dropout work on each shard by itself, as is usual: with batch norm
the result therefore depends a little on the number of processes, as it depends on the batch size.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Its functions keep the process group that is there when it is imported. Imported later, by an optimizer's first step,
# it would keep ours to the interpreter's end, where gloo's threads that still run abort the process now and then.
import torch.distributed.nn
from torch import Tensor, nn

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

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first process, in all of them; a MnistKitError is raised in all of them too."""
        if self.size == 1:
            return make()
        answer: list[Any] = [None]
        if self.is_first:
            try:
                answer = [make()]
            except MnistKitError as error:
                answer = [error]
        dist.broadcast_object_list(answer)
        if isinstance(answer[0], MnistKitError):
            raise answer[0]
        return answer[0]

    def gather(self, item: Any) -> list[Any]:
        """Each process's `item`, in all of them."""
        items: list[Any] = [item] * self.size
        if self.size > 1:
            dist.all_gather_object(items, item)
        return items

    def spread(self, model: nn.Module, device: torch.device) -> nn.Module:
        """`model`, on `device`; with several processes one whose weights are the first one's, its gradients the mean.

        Raises TrainingError when processes would have to share a GPU, which nccl cannot.
        """
        if self.size == 1:
            return model
        processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if device.type == "cuda" and processes > gpus:
            raise TrainingError(f"{processes} processes cannot share {gpus} GPUs: start {gpus}, or use the CPU")
        return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's buffers: batch norm's running averages."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def join(patience: timedelta | None = None) -> World:
    """The processes that `fit` trains in: those of `torchrun`, joined on first use; else this one alone.

    patience: how long to wait for one that does not answer (30 minutes).

    Raises TrainingError when the environment does not say where they are, or which of them this one is.
    """
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    if not dist.is_initialized():
        try:
            rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
            if not 0 <= rank < size:  # the others would be waited for in vain
                raise ValueError(f"RANK={rank} is none of WORLD_SIZE={size}")
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=patience)
        except ValueError as error:
            raise TrainingError(f"the other processes cannot be found ({error}): start them with torchrun") from error
        atexit.register(dist.destroy_process_group)
        # torchrun allows a process one thread only, unless somebody has chosen another number.
        if "LOCAL_WORLD_SIZE" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"])))
    return World(dist.get_rank(), dist.get_world_size())


@contextmanager
def contact() -> Iterator[None]:
    """Within it the loss of another process is told as a ContactLost."""
    try:
        yield
    except RuntimeError as error:
        lost = any(word in str(error) for word in ("gloo", "NCCL", "Connection", "process group"))
        if not lost or not dist.is_initialized():
            raise
        raise ContactLost(
            f"rank {dist.get_rank()} lost contact with another rank ({str(error).splitlines()[0]}): the job ends here. "
            "Start it again with --resume to resume from the last checkpoint; the number of ranks may be another."
        ) from error
