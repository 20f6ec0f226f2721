"""What made a step of `Net` shorter, and what did not (`make bench-tried`).

Each variant is a step in a process of its own, in alternating rounds. Before that each trains its first steps from the
same seed: the losses tell whether a variant still computes the same.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from benchmarks.machine import digits_called, wait_for
from benchmarks.report import begin, number, page, paired, save, spread, table
from benchmarks.rivals import Pictures, shuffled
from benchmarks.workers import Worker, WorkerFailed, alternating
from mnist_kit import PAPER, Net, as_input
from mnist_kit.device import keeping_memory

FIRST_STEPS = 3
# Relative. The first loss is forward only; Adam then divides rounding noise by itself where a gradient is zero.
SAME_FIRST, SAME_LATER = 5e-5, 5e-3


class PlainNet(Net):
    """`Net` with its features in the order that PyTorch has by default, not channels_last."""

    def forward(self, images: Tensor) -> Tensor:
        return self.linear_block(self.conv_block(images).flatten(1))


@dataclass(frozen=True)
class Settings:
    """How a step is made. feed: where batches come from ("loader", "ready": made beforehand, "tensor": one of uint8);
    threads: × the usual number; memory: whether what a step frees is kept for the next one.
    """

    feed: str = "tensor"
    workers: int = 0
    channels_last: bool = True
    fused: bool = True
    bfloat16: bool = False
    compiled: bool = False
    threads: float = 1
    set_to_none: bool = True
    inplace: bool = True
    memory: bool = True


LADDER = {
    "plain loop": Settings("loader", channels_last=False, fused=False, memory=False),
    "… had it no loading to do": Settings("ready", channels_last=False, fused=False, memory=False),
    "one uint8 tensor, no `.item()`": Settings(channels_last=False, fused=False, memory=False),
    "+ channels_last": Settings(fused=False, memory=False),
    "+ fused Adam": Settings(memory=False),
    "+ freed memory is kept": Settings(),
}
PLAIN, OURS = next(iter(LADDER)), list(LADDER)[-1]
OTHERS = {
    "bfloat16 autocast": Settings(bfloat16=True),
    "torch.compile": Settings(compiled=True),
    "DataLoader with 2 workers": Settings("loader", workers=2),
    "half as many threads": Settings(threads=0.5),
    "twice as many threads": Settings(threads=2),
    "zero_grad(set_to_none=False)": Settings(set_to_none=False),
    "ReLU not in place": Settings(inplace=False),
}


class Step:
    """One variant, trained from `seed` in the order that `fit` takes the images in.

    Raises RuntimeError for what this machine cannot do.
    """

    def __init__(self, settings: Settings, data: str, device: str, seed: int = 0):
        if settings.compiled and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise RuntimeError("there is no C++ compiler here")
        self.settings, self.device, self.seed = settings, torch.device(device), seed
        self.digits, self.stream = digits_called(data), None
        self.memory = keeping_memory() if settings.memory else nullcontext()
        self.memory.__enter__()  # until the process ends
        if settings.threads != 1:
            torch.set_num_threads(max(1, round(torch.get_num_threads() * settings.threads)))

    def first_losses(self) -> list[float]:
        """Of the first steps from the start."""
        losses = self._train()
        return [float(next(losses)) for _ in range(FIRST_STEPS)]

    def start(self) -> float:
        """Seconds of the first step that counts for the clock; compiling is part of it."""
        self.stream = self._train()
        started = time.perf_counter()
        next(self.stream)
        wait_for(self.device)
        return time.perf_counter() - started

    def steps(self, count: int) -> list[float]:
        """Seconds of each; on a GPU their mean."""
        next(self.stream)  # what the others left in the caches is nobody's step
        wait_for(self.device)
        seconds, whole = [], time.perf_counter()
        for _ in range(count):
            started = time.perf_counter()
            next(self.stream)
            seconds.append(time.perf_counter() - started)
        if self.device.type == "cpu":
            return seconds
        wait_for(self.device)
        return [(time.perf_counter() - whole) / count]

    def _train(self) -> Iterator[Tensor | float]:
        settings = self.settings
        torch.manual_seed(self.seed)
        model = (Net() if settings.channels_last else PlainNet()).to(self.device).train()
        for layer in model.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = settings.inplace
        optimizer = torch.optim.Adam(model.parameters(), lr=PAPER.learning_rate, fused=settings.fused)
        torch.manual_seed(self.seed)
        forward = torch.compile(model) if settings.compiled else model
        half = torch.autocast(self.device.type, torch.bfloat16) if settings.bfloat16 else nullcontext()
        for images, labels in self._batches():
            with half:
                logits = forward(images)
            loss = functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=settings.set_to_none)
            loss.backward()
            optimizer.step()
            yield loss.item() if settings.feed == "loader" and not settings.workers else loss.detach()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        train, size = self.digits.train, PAPER.batch_size
        if self.settings.feed == "loader":
            loader = shuffled(Pictures(train, to_tensor), size, self.seed, True, self.settings.workers)
            while True:
                for images, labels in loader:
                    yield images.to(self.device), labels.to(self.device)
        images, labels = train.images.to(self.device), train.labels.to(self.device)
        shuffle = torch.Generator().manual_seed(self.seed)
        if self.settings.feed == "ready":
            few = torch.randperm(len(train), generator=shuffle)[: 8 * size].to(self.device).split(size)
            ready = [(images[batch].float() / 255, labels[batch]) for batch in few if len(batch) == size]
            while True:
                yield from ready
        while True:
            order = torch.randperm(len(train), generator=shuffle).to(self.device)
            for batch in order[: len(train) // size * size].split(size):
                picked = images[batch]
                yield as_input(picked), labels[batch]


def same(losses: list[float], plain: list[float]) -> bool:
    """Whether two variants compute the same but for rounding, by their first losses."""
    first, *later = (abs(a - b) / abs(b) for a, b in zip(losses, plain, strict=True))
    return first < SAME_FIRST and all(difference < SAME_LATER for difference in later)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, save. Exit status: 0; 1 when a rung of the ladder computes something else; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tried", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=6, help="timed in a round; default: %(default)s")
    parser.add_argument("--only-the-ladder", action="store_true", help="leave out the others")
    options, device, report = begin(parser, arguments)
    text = []
    # In two goes: all at once would hold too much memory for a small machine.
    tables = [
        ("ladder", LADDER, "what makes a step shorter, each with those above it"),
        ("others", {which: LADDER[which] for which in (PLAIN, OURS)} | OTHERS, "changed in the last step above"),
    ]
    for name, variants, title in tables[:1] if options.only_the_ladder else tables:
        report[name] = measure(variants, report["data"], str(device), options.rounds, options.steps)
        text.append(describe(report[name], title))
        print(f"\n{text[-1]}", flush=True)
    text.append(legend(report))
    path = save("ladder" if options.only_the_ladder else "tried", report, page("Tried", report, text))
    print(f"\n{text[-1]}\n\n{path}")
    return 0 if all(variant.get("same") for variant in report["ladder"].values()) else 1


def measure(variants: dict, data: str, device: str, rounds: int, steps: int) -> dict:
    """By name: step (s, its spread), times_ours and times_plain (paired), start (s), losses, same; or skipped: why."""
    measured, started = {}, {}
    try:
        for name, settings in variants.items():
            print(f"  starting {name}", file=sys.stderr, flush=True)
            try:
                worker = started[name] = Worker(Step, settings, data, device)
                measured[name] = {"losses": worker.ask("first_losses"), "start": worker.ask("start")}
            except WorkerFailed as error:
                measured[name] = {"skipped": str(error)}
                if name in started:
                    started.pop(name).close()
        seconds = {name: [] for name in started}
        for _, name in alternating(started, rounds):
            seconds[name].append(started[name].ask("steps", steps))
    finally:
        for worker in started.values():
            worker.close()
    for name, rounds_ in seconds.items():
        measured[name] |= {
            "step": spread([value for round_ in rounds_ for value in round_]),
            "times_ours": paired(rounds_, seconds[OURS]),
            "times_plain": paired(rounds_, seconds[PLAIN]),
            "same": same(measured[name]["losses"], measured[PLAIN]["losses"]),
        }
    return measured


def describe(measured: dict, title: str) -> str:
    """The table of `measure`, and a line for each variant that was skipped."""
    rows = []
    for name, variant in measured.items():
        if "skipped" in variant:
            continue
        rows.append(
            [
                name,
                number(1000 * variant["step"]["median"]),
                f"{variant['times_plain']:.2f}",
                f"{variant['times_ours']:.2f}",
                "yes" if variant["same"] else "no",
                number(variant["start"]),
            ]
        )
    skipped = [f"\n\n{name}: skipped, {one['skipped']}." for name, one in measured.items() if "skipped" in one]
    header = [title, "ms a step", "× plain loop", "× all together", "same losses", "first step, s"]
    return table(header, rows) + "".join(skipped)


def legend(report: dict) -> str:
    """What the tables of `main` rest on."""
    step = report["ladder"][OURS]["step"]
    return (
        f"Medians of {step['count']} steps, ratios within a round. Same losses: those of the first {FIRST_STEPS} steps "
        f"from the same seed are the plain loop's to {SAME_FIRST:g} in the first and {SAME_LATER:g} in the following, "
        "where Adam has divided rounding noise by itself."
    )


if __name__ == "__main__":
    sys.exit(main())
