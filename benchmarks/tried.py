"""What made a step of `Net` shorter, and what did not (`make bench-tried`).

Each variant is a step in a process of its own, in alternating rounds. All go on from one state that a thousand small
steps made, because what slows Adam down, denormal numbers, comes only with them. Before that each trains its first
steps from the same seed: the losses tell whether a variant still computes the same.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from benchmarks.machine import about_machine, digits_called, wait_for
from benchmarks.report import machine_line, number, save, spread, table
from benchmarks.rivals import Pictures, shuffled
from benchmarks.speed import add_common, page
from benchmarks.workers import Worker, WorkerFailed, alternating
from mnist_kit import PAPER, Digits, MnistKitError, Net, as_input
from mnist_kit.device import as_device

FIRST_STEPS = 3
# Relative. The first loss is forward only; Adam then divides rounding noise by itself where a gradient is zero.
SAME_FIRST, SAME_LATER = 5e-5, 5e-3


class PlainNet(Net):
    """`Net` with its features in the order that PyTorch has by default, not channels_last."""

    def forward(self, images: Tensor) -> Tensor:
        return self.linear_block(self.conv_block(images).flatten(1))


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


@dataclass(frozen=True)
class Settings:
    """How a step is made. feed: where batches come from ("loader", "ready": made beforehand, "tensor": one of uint8);
    flush: denormals, "early" before torch has started its threads, "late" after; threads: × the usual number.
    """

    feed: str = "tensor"
    workers: int = 0
    channels_last: bool = True
    pooling_first: bool = True
    fused: bool = True
    flush: str = "early"
    bfloat16: bool = False
    compiled: bool = False
    threads: float = 1
    set_to_none: bool = True
    inplace: bool = True


def _rung(feed: str, *switched: str) -> Settings:
    """With no more switched on than `switched`."""
    on = {name: name in switched for name in ("channels_last", "pooling_first", "fused")}
    return Settings(feed=feed, flush="early" if "flush" in switched else "never", **on)


LADDER = {
    "plain loop": _rung("loader"),
    "… had it no loading to do": _rung("ready"),
    "one uint8 tensor, no `.item()`": _rung("tensor"),
    "+ channels_last": _rung("tensor", "channels_last"),
    "+ max pooling before ReLU": _rung("tensor", "channels_last", "pooling_first"),
    "+ fused Adam": _rung("tensor", "channels_last", "pooling_first", "fused"),
    "+ denormals flushed": _rung("tensor", "channels_last", "pooling_first", "fused", "flush"),
}
PLAIN, OURS = next(iter(LADDER)), list(LADDER)[-1]
OTHERS = {
    "bfloat16 autocast": Settings(bfloat16=True),
    "torch.compile": Settings(compiled=True),
    "DataLoader with 2 workers": Settings(feed="loader", workers=2),
    "half as many threads": Settings(threads=0.5),
    "twice as many threads": Settings(threads=2),
    "zero_grad(set_to_none=False)": Settings(set_to_none=False),
    "ReLU not in place": Settings(inplace=False),
    "denormals flushed after the threads started": Settings(flush="late"),
}


class Step:
    """One variant, trained from `seed` in the order that `fit` takes the images in.

    aged: the file of `age`, to go on from there; None: from the start. Raises RuntimeError for what this machine
    cannot do.
    """

    def __init__(self, settings: Settings, data: str | Digits, device: str, seed: int = 0, aged: Path | None = None):
        if settings.compiled and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise RuntimeError("there is no C++ compiler here")
        if settings.flush == "early":
            torch.set_flush_denormal(True)  # threads started later inherit it
        self.settings, self.device, self.seed, self.aged = settings, torch.device(device), seed, aged
        self.digits = digits_called(data) if isinstance(data, str) else data
        if settings.threads != 1:
            torch.set_num_threads(max(1, round(torch.get_num_threads() * settings.threads)))
        if settings.flush == "late":
            torch.randn(1000, 1000) @ torch.randn(1000, 1000)
            torch.set_flush_denormal(True)
        self.stream = None

    def first_losses(self) -> list[float]:
        """Of the first steps from the start."""
        losses = self._train(None)
        return [float(next(losses)) for _ in range(FIRST_STEPS)]

    def start(self) -> float:
        """Seconds of the first step that counts for the clock; compiling is part of it."""
        self.stream = self._train(self.aged)
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

    def _train(self, aged: Path | None) -> Iterator[Tensor | float]:
        settings = self.settings
        torch.manual_seed(self.seed)
        model = (Net() if settings.channels_last else PlainNet()).to(self.device).train()
        for layer in model.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = settings.inplace
        optimizer = torch.optim.Adam(model.parameters(), lr=PAPER.learning_rate, fused=settings.fused)
        if aged:
            take_over(torch.load(aged), model, optimizer)
        torch.manual_seed(self.seed)
        forward = torch.compile(model) if settings.compiled else model
        half = torch.autocast(self.device.type, torch.bfloat16) if settings.bfloat16 else nullcontext()
        with pooling_first(model) if settings.pooling_first else nullcontext():
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


class Age:
    """Makes the state that the variants go on from: what training leaves in the weights and in Adam's averages."""

    def __init__(self, data: str, device: str):
        self.digits, self.device = digits_called(data), torch.device(device)

    def make(self, path: Path, steps: int, batch_size: int = 16) -> float:
        """Write it to `path`. Returns the share of Adam's averages that are denormal."""
        torch.manual_seed(0)
        model = Net().to(self.device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=PAPER.learning_rate)
        for _ in range(steps):
            batch = torch.randint(len(self.digits.train), (batch_size,))
            images = as_input(self.digits.train.images[batch].to(self.device))
            optimizer.zero_grad()
            functional.cross_entropy(model(images), self.digits.train.labels[batch].to(self.device)).backward()
            optimizer.step()
        averages = [
            [optimizer.state[parameter][name].cpu() for name in ("exp_avg", "exp_avg_sq")]
            for parameter in model.parameters()
        ]
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        torch.save({"weights": weights, "averages": averages, "steps": steps}, path)
        everything = torch.cat([average.flatten() for pair in averages for average in pair]).abs()
        denormal = (everything > 0) & (everything < torch.finfo(torch.float32).tiny)
        return denormal.double().mean().item()


def take_over(aged: dict, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the state of `Age` into a model and its Adam, each tensor in the layout of its parameter."""
    model.load_state_dict(aged["weights"])
    for parameter, averages in zip(model.parameters(), aged["averages"], strict=True):
        on_card = parameter.device if optimizer.defaults["fused"] else None
        step = torch.tensor(float(aged["steps"]), device=on_card)
        exp_avg, exp_avg_sq = (torch.empty_like(parameter).detach().copy_(average) for average in averages)
        optimizer.state[parameter] = {"step": step, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}


def same(losses: list[float], plain: list[float]) -> bool:
    """Whether two variants compute the same but for rounding, by their first losses."""
    first, *later = (abs(a - b) / abs(b) for a, b in zip(losses, plain, strict=True))
    return first < SAME_FIRST and all(difference < SAME_LATER for difference in later)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, save. Exit status: 0; 1 when a rung of the ladder computes something else; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tried", description=__doc__.splitlines()[0])
    add_common(parser)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=6, help="timed in a round; default: %(default)s")
    parser.add_argument("--age", type=int, default=1000, help="small steps before; default: %(default)s")
    parser.add_argument("--only-the-ladder", action="store_true", help="leave out the others")
    options = parser.parse_args(arguments)
    try:
        device, data = as_device(options.device), digits_called(options.data).name
    except MnistKitError as error:
        print(error, file=sys.stderr)
        return 2
    report = {"machine": about_machine(device), "data": data, "age": options.age}
    print(machine_line(report["machine"]), flush=True)
    text = []
    with tempfile.TemporaryDirectory() as folder:
        aged = Path(folder) / "aged.pt"
        worker = Worker(Age, data, str(device))
        report["denormal_share"] = worker.ask("make", aged, options.age)
        worker.close()
        # In two goes: all at once would hold too much memory for a small machine.
        tables = [
            ("ladder", LADDER, "what makes a step shorter, each with those above it"),
            ("others", {which: LADDER[which] for which in (PLAIN, OURS)} | OTHERS, "changed in the last step above"),
        ]
        for name, variants, title in tables[:1] if options.only_the_ladder else tables:
            report[name] = measure(variants, data, str(device), aged, options.rounds, options.steps)
            text.append(describe(report[name], title))
            print(f"\n{text[-1]}", flush=True)
    text.append(legend(report))
    path = save("ladder" if options.only_the_ladder else "tried", report, page("Tried", report, text))
    print(f"\n{text[-1]}\n\n{path}")
    return 0 if all(variant.get("same") for variant in report["ladder"].values()) else 1


def measure(variants: dict, data: str, device: str, aged: Path, rounds: int, steps: int) -> dict:
    """By name: step (s, its spread), times_ours and times_plain (paired), start (s), losses, same; or skipped: why."""
    measured, started = {}, {}
    try:
        for name, settings in variants.items():
            print(f"  starting {name}", file=sys.stderr, flush=True)
            try:
                worker = started[name] = Worker(Step, settings, data, device, 0, aged)
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
            "times_ours": _paired(rounds_, seconds[OURS]),
            "times_plain": _paired(rounds_, seconds[PLAIN]),
            "same": same(measured[name]["losses"], measured[PLAIN]["losses"]),
        }
    return measured


def _paired(above: list[list[float]], below: list[list[float]]) -> float:
    pairs = zip(above, below, strict=True)
    return statistics.median(statistics.median(one) / statistics.median(other) for one, other in pairs)


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
        f"Medians of {step['count']} steps, ratios within a round. All start from the state after {report['age']:,} "
        f"steps of 16 images, where {report['denormal_share']:.1%} of Adam's averages are denormal. Same losses: those "
        f"of the first {FIRST_STEPS} steps from the same seed are the plain loop's to {SAME_FIRST:g} in the first and "
        f"{SAME_LATER:g} in the following, where Adam has divided rounding noise by itself."
    )


if __name__ == "__main__":
    sys.exit(main())
