"""One step of training: the device, what a model is fed, the forward and backward pass, and how long a step took."""

import platform
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_kit.errors import ImageError, TrainingError

WARM_UP = 3  # passes before a CUDA graph is captured, in which libraries choose their kernels


def best_device() -> torch.device:
    """The fastest device at hand: a CUDA GPU, Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def as_device(device: torch.device | str | None) -> torch.device:
    """`device` as a torch.device, the best one for None. Raises TrainingError when this machine has no such device."""
    if device is None:
        return best_device()
    try:
        device = torch.device(device)
        torch.zeros(1, device=device).item()  # computes, unlike "meta"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"device {str(device)!r} cannot be used here ({reason}); this machine has {best_device()}"
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """What the device calls itself, for the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor_name()}, {torch.get_num_threads()} threads"


def _processor_name() -> str:
    try:  # Linux keeps the name there; platform.processor() is empty on many of its distributions
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` is a processor with instructions for products of bfloat16 numbers, AVX512-BF16 or AMX; others
    take longer for them than for float32.
    """
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def as_input(images: Tensor) -> Tensor:
    """What a model takes: `images` uint8 (N, 1, 28, 28) as float32 in [0, 1], and nothing else, as in the paper.

    Raises ImageError for images that are not uint8, since those may be scaled already.
    """
    if images.dtype != torch.uint8:
        raise ImageError(f"as_input takes uint8 images, 0 to 255, not {images.dtype}")
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


@contextmanager
def pooling_first(model: nn.Module) -> Iterator[None]:
    """Within it, max pooling runs before the ReLU it follows: max(0, ·) keeps order, so the values stay the same, and
    the ReLU then works on a quarter of them.
    """
    swapped = []
    for block in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for index, (layer, following) in enumerate(pairwise(list(block))):
            if isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
                block[index], block[index + 1] = following, layer
                swapped.append((block, index))
    try:
        yield
    finally:
        for block, index in swapped:
            block[index], block[index + 1] = block[index + 1], block[index]


@contextmanager
def dropping(model: nn.Module, share: float | None) -> Iterator[None]:
    """Within it the `Dropout` layers of `model` switch off that share of their inputs; None: as many as otherwise."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)] if share is not None else []
    before = [layer.p for layer in layers]
    try:
        for layer in layers:
            layer.p = share
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.p = own


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Within it this thread, and those it starts, take numbers below 1.2e-38 for zero: processors compute with them
    many times slower. Threads that run already keep their way, and those that it starts keep it afterwards.
    """
    flushed = bool(torch.tensor(1e-39) / 2 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def current(device: torch.device):
    """A context in which a CUDA `device` is the current one, on which streams, graphs and events are made."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class GradientStep:
    """The forward and the backward pass over a batch: it leaves the gradients at the parameters.

    model: in training mode, on `device`. bfloat16: compute the products in it; weights and loss stay float32.
    """

    def __init__(self, model: nn.Module, device: torch.device, bfloat16: bool = False):
        self.model, self.device, self.bfloat16 = model, device, bfloat16
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy, float32 (), of images, uint8 (N, 1, 28, 28), with labels, int64 (N,).

        With a graph the next call overwrites it.
        """
        if self.graph is None:
            return self._pass(images, labels)
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.graph.replay()
        return self.loss

    def record(self, images: Tensor, labels: Tensor) -> None:
        """Record the passes as a CUDA graph: one launch then replaces several hundred.

        All batches have to have the shape of this one. Where it fails a warning says so, and the passes run one
        operation at a time as before. The model and the random state stay as they are.
        """
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}  # batch norm's averages
        random = torch.cuda.get_rng_state(self.device) if torch.cuda.is_available() else None
        try:
            self.graph = self._recorded(images.clone(), labels.clone())
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            warnings.warn(f"no CUDA graph of a step ({reason}): training goes on without, slower", stacklevel=3)
        finally:
            self.model.load_state_dict(before)
            if random is not None:
                torch.cuda.set_rng_state(random, self.device)

    def _pass(self, images: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(as_input(images))  # (N, 10)
        loss = functional.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)
        self.model.zero_grad()
        loss.backward()
        return loss.detach()

    def _recorded(self, images: Tensor, labels: Tensor) -> "torch.cuda.CUDAGraph":
        self.images, self.labels = images, labels
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._pass(images, labels)
        torch.cuda.current_stream(self.device).wait_stream(aside)
        self.model.zero_grad()  # so that the graph owns the memory of the gradients
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside):
            self.loss = self._pass(images, labels)
        return graph


class StepClock:
    """How long each step took, in seconds: CUDA events on a GPU, so that no step waits; the host's clock elsewhere.

    done: the seconds of the steps before this clock was started.
    """

    def __init__(self, device: torch.device, done: list[float] = ()):
        self.on_gpu = device.type == "cuda"
        self.done = list(done)
        self.marks: list[tuple] = []  # of a step: begin and end

    def begin(self) -> None:
        self.began = self._now()

    def end(self) -> None:
        self.marks.append((self.began, self._now()))

    def laps(self) -> list[float]:
        if self.on_gpu and self.marks:
            self.marks[-1][1].synchronize()
            self.done += [begin.elapsed_time(end) / 1000 for begin, end in self.marks]
        else:
            self.done += [end - begin for begin, end in self.marks]
        self.marks = []
        return list(self.done)

    def _now(self):
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
