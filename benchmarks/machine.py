"""What a benchmark runs on: the machine in words, its memory, and the floor that its arithmetic sets."""

import os
import platform
import time
from datetime import date
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_kit import Digits, load_digits, make_digits
from mnist_kit.data import Split
from mnist_kit.device import device_name, has_bfloat16


def digits_called(name: str) -> Digits:
    """The data set `name`; "synthetic" are the digits the project draws; "noise" is a little of nothing, for tests."""
    if name == "noise":
        random = torch.Generator().manual_seed(0)
        return Digits("noise", _noise(640, random), _noise(100, random))
    return make_digits(progress=False) if name == "synthetic" else load_digits(name)


def _noise(count: int, random: torch.Generator) -> Split:
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8, generator=random)
    return Split(images, torch.randint(10, (count,), generator=random))


def about_machine(device: torch.device) -> dict:
    """Device and its kind, its instructions, cores, threads, versions, date, and the load when the benchmark began."""
    return {
        "device": device_name(device),
        "instructions": instructions(device),
        "kind": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def instructions(device: torch.device) -> str:
    """The widest instructions PyTorch uses: "AVX512 and bfloat16", "AVX2"; with the variables that forbid others."""
    if device.type != "cpu":
        return device.type
    told = [
        f"{name}={os.environ[name]}" for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY") if name in os.environ
    ]
    widest = torch.backends.cpu.get_cpu_capability() + " and bfloat16" * has_bfloat16(device)
    return f"{widest} ({', '.join(told)})" if told else widest


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory(device: torch.device) -> int:
    """The most memory, in bytes, that this process has held: of the card on a CUDA GPU, else resident in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # Linux: getrusage would pass on the peak of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def operations(model: nn.Module, images: int = 4) -> tuple[float, float]:
    """Floating-point operations for one image of `model`: (forward, forward and backward), counted by torch.

    A multiply-add is two. Convolutions and products are counted, not batch norm, ReLU, pooling or the optimiser.
    """
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(torch.zeros(images, 1, 28, 28, device=device))
    with FlopCounterMode(display=False) as both:
        model(torch.zeros(images, 1, 28, 28, device=device)).sum().backward()
    return forward.get_total_flops() / images, both.get_total_flops() / images


class MatrixProduct:
    """The rate the floor is computed with: a square product, float32 on a CPU, bfloat16 on a CUDA GPU."""

    def __init__(self, device: str, size: int | None = None):
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.size = size or (8192 if on_gpu else 2048)
        dtype = torch.bfloat16 if on_gpu else torch.float32
        self.name = f"{self.size}² {str(dtype).removeprefix('torch.')} matrix product"
        self.a, self.b = (torch.randn(self.size, self.size, device=self.device, dtype=dtype) for _ in range(2))
        self.rates(2)

    def about(self) -> str:
        """Which product it is."""
        return self.name

    def rates(self, count: int = 5) -> list[float]:
        """Operations a second of `count` products, one after the other."""
        rates = []
        for _ in range(count):
            wait_for(self.device)
            started = time.perf_counter()
            torch.mm(self.a, self.b)
            wait_for(self.device)
            rates.append(2 * self.size**3 / (time.perf_counter() - started))
        return rates
