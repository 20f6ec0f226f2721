"""Where a network computes: the device, what the network is fed, and how long a step takes there."""

import ctypes
import platform
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mnist_kit.errors import ImageError, MnistKitError, ModelError, TrainingError

# Held during each step of training and while a network answers: another thread finds whole steps only.
computing = threading.RLock()

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def best_device() -> torch.device:
    """The fastest device of this machine: a CUDA GPU, Apple's GPU, else the CPU."""
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
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"device {str(device)!r} cannot be used here ({reason}); this machine has {best_device()}"
        ) from error
    return device


def device_name(device: torch.device) -> str:
    """What the device calls itself, for the record of a run."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # Linux keeps the name there; platform.processor() is empty on many of its distributions
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads"


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16: a CUDA GPU since 2020, a processor with AVX512-BF16 or AMX.

    Others take longer for it than for float32. ONEDNN_MAX_CPU_ISA=AVX2 makes a processor behave as an older one.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    there = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cpu" and there and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def images_at_once(device: torch.device) -> int:
    """The batch size at which a network answers fastest per image, measured on `Net`: on a CPU 50 per thread, at most
    250, whose features stay in its caches; 2,500 elsewhere.
    """
    return min(50 * torch.get_num_threads(), 250) if device.type == "cpu" else 2_500


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Within it, where the C library is glibc, what a step frees is kept for the next one, and given back at the end.

    glibc returns large pieces to the system, which clears them before it hands them out again: that takes a fifth of a
    step of the paper's network. (Which pieces it still returns stays as set here, in the whole process.)
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # bytes; more is refused
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.malloc_trim(0)


def as_input(images: Tensor) -> Tensor:
    """What a model takes: `images` uint8 (N, 1, 28, 28) as float32 in [0, 1], and nothing else, as in the paper.

    Raises ImageError for images that are not uint8, since those may be scaled already.
    """
    if images.dtype != torch.uint8:
        raise ImageError(f"as_input takes uint8 images, 0 to 255, not {images.dtype}")
    return images.to(torch.float32).div_(255)


def parameter_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the model's weights, which its input has to share; float32 for a model without any."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Within it `model` is in evaluation mode without gradients; a training of it in another thread waits meanwhile."""
    with computing, torch.no_grad(), ExitStack() as at_end:
        for module in model.modules():
            at_end.callback(setattr, module, "training", module.training)
        model.eval()
        yield


def has_values(values: object) -> bool:
    """Whether it is a tensor with a number in memory for each place: not sparse, and not on the device "meta"."""
    return isinstance(values, Tensor) and values.layout == torch.strided and not values.is_meta


def describe(values: object) -> str:
    """What `values` are, for a message: "uint8 (2, 28, 28)", or the type of what is no tensor."""
    if not isinstance(values, Tensor):
        return f"a {type(values).__name__}"
    kind = "" if has_values(values) else f", {'on meta' if values.is_meta else 'sparse'}"
    return f"{str(values.dtype).removeprefix('torch.')} {tuple(values.shape)}{kind}"


def as_logits(output: object, images: int, classes: int = 1, error: type[MnistKitError] = ModelError) -> Tensor:
    """What a model answered, float (images, at least `classes`). Raises `error` for anything else."""
    fits = has_values(output) and output.is_floating_point() and output.ndim == 2 and len(output) == images
    if not fits or output.shape[1] < classes:
        told = f"the model answered {images} images with {describe(output)}"
        raise error(f"{told}; it has to return logits, a floating-point tensor ({images}, {classes})")
    return output if output.dtype in (torch.float32, torch.float64) else output.float()


class StepClock:
    """How long each step took, in seconds: CUDA events on a GPU, so that no step waits; the host's clock elsewhere.

    done: the seconds of the steps before this clock was started.
    """

    def __init__(self, device: torch.device, done: Iterable[float] = ()):
        self.on_gpu = device.type == "cuda"
        self.done = list(done)
        self.marks: list = []  # begin and end of each step since then

    def mark(self) -> None:
        """Note the begin or the end of a step."""
        if self.on_gpu:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Of each step so far. Waits for the GPU."""
        steps = list(zip(self.marks[::2], self.marks[1::2], strict=False))  # the last step may not be over
        if self.on_gpu and steps:
            steps[-1][1].synchronize()
        self.done += [begin.elapsed_time(end) / 1000 if self.on_gpu else end - begin for begin, end in steps]
        del self.marks[: 2 * len(steps)]
        return list(self.done)
