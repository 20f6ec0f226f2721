"""How long a step, an epoch and an evaluation take, beside the floor and the rivals (`make bench`, within 10 minutes).

All in one run: every contestant in its own process, a matrix product that sets the floor among them, in alternating
rounds; medians, and ratios taken within each round. Those that train in a minute or two then do so once.
"""

import argparse
import statistics
import sys
import time

from benchmarks.contestants import CLASSIC, FAST_SCRIPT, FIT_PAPER, FIT_QUICK, PAPER_LOOP, Contestant
from benchmarks.machine import MatrixProduct
from benchmarks.parts import (
    describe_imports,
    describe_recognising,
    describe_watching,
    measure_imports,
    measure_recognising,
    measure_watching,
)
from benchmarks.report import begin, number, page, paired, save, spread, table
from benchmarks.workers import alternating, workers

NAMES = (FIT_PAPER, FIT_QUICK, PAPER_LOOP, CLASSIC, FAST_SCRIPT)
TRAINED = (FIT_QUICK, FAST_SCRIPT)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, save. Exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="of steps; default: %(default)s")
    parser.add_argument("--steps", type=int, default=8, help="timed in a round; default: %(default)s")
    parser.add_argument("--evaluations", type=int, default=3, help="rounds of evaluation; default: %(default)s")
    known = ("training", "imports", "recognising", "watching")
    parser.add_argument("--parts", nargs="+", choices=known, default=["training"], help="default: training")
    options, device, report = begin(parser, arguments)
    data, device = report["data"], str(device)
    parts = {
        "training": (lambda: measure_training(data, device, options), describe_training),
        "imports": (measure_imports, describe_imports),
        "recognising": (lambda: measure_recognising(data), describe_recognising),
        "watching": (lambda: measure_watching(data, device), describe_watching),
    }
    text = []
    for part in options.parts:
        measure, describe = parts[part]
        report[part] = measure()
        text.append(describe(report[part]))
        print(f"\n{text[-1]}", flush=True)
    name = "speed" if options.parts == ["training"] else f"speed-{'-'.join(options.parts)}"
    print(f"\n{save(name, report, page('Speed', report, text))}")
    return 0


def measure_training(data: str, device: str, options: argparse.Namespace) -> dict:
    """floor: the matrix product's rate; contestants: by name, what `describe_training` shows. Seconds, bytes, FLOP."""
    rounds, steps, evaluations = options.rounds, options.steps, options.evaluations
    started = time.perf_counter()
    makers = {name: (Contestant, name, data, device) for name in NAMES}
    with workers({"floor": (MatrixProduct, device), **makers}) as by_name:
        floor = by_name.pop("floor")
        abouts = {name: worker.ask("about") for name, worker in by_name.items()}
        firsts = {name: worker.ask("steps", 2)[1] for name, worker in by_name.items()}  # warms up as well
        rates, stepped = _in_rounds(floor, by_name, rounds, lambda worker: worker.ask("steps", steps)[0])
        peaks = {name: worker.ask("peak_memory") for name, worker in by_name.items()}
        more_rates, evaluated = _in_rounds(floor, by_name, evaluations, lambda worker: [worker.ask("evaluate")])
        peaks_after = {name: worker.ask("peak_memory") for name, worker in by_name.items()}
        product = floor.ask("about")
    trained = {}
    for name in TRAINED:
        with workers({name: (Contestant, name, data, device)}) as by_name:
            trained[name] = by_name[name].ask("train", name, 2.0, None)["epochs"][-1]
    contestants = {}
    for name, about in abouts.items():
        work = about["operations_training"] * about["batch_size"]
        look = about["operations_forward"] * about["test_images"]
        step = spread([seconds for round_ in stepped[name] for seconds in round_])
        contestants[name] = about | {
            "step": step,
            "step_floor": work / _middle(rates),
            "step_times_floor": paired(stepped[name], [[work / rate for rate in round_] for round_ in rates]),
            "images_per_second": about["batch_size"] / step["median"],
            "epoch": about["steps_per_epoch"] * step["median"],
            "evaluation": spread([seconds for round_ in evaluated[name] for seconds in round_]),
            "evaluation_floor": look / _middle(more_rates),
            "evaluation_times_floor": paired(
                evaluated[name], [[look / rate for rate in round_] for round_ in more_rates]
            ),
            "image_times_fit": paired(_per_image(stepped, abouts, name), _per_image(stepped, abouts, FIT_PAPER)),
            "evaluation_times_fit": paired(evaluated[name], evaluated[FIT_PAPER]),
            "first_step": firsts[name],
            "peak_training": peaks[name],
            "peak_evaluation": peaks_after[name],
            "trained": trained.get(name),
        }
    floor = {"product": product, "rate": spread([rate for round_ in [*rates, *more_rates] for rate in round_])}
    seconds, kind = time.perf_counter() - started, device.split(":")[0]
    return {"data": data, "floor": floor, "contestants": contestants, "seconds": seconds, "kind": kind}


def _in_rounds(floor, by_name: dict, rounds: int, ask) -> tuple[list[list[float]], dict[str, list[list[float]]]]:
    """The floor's rates and each contestant's seconds, by round: the floor before and after the others."""
    rates, seconds = [], {name: [] for name in by_name}
    for turn, name in alternating(by_name, rounds):
        if turn == len(rates):
            rates.append(floor.ask("rates", 3))
        seconds[name].append(ask(by_name[name]))
        if all(len(done) > turn for done in seconds.values()):
            rates[-1] += floor.ask("rates", 3)
    return rates, seconds


def _middle(rounds: list[list[float]]) -> float:
    return statistics.median(value for round_ in rounds for value in round_)


def _per_image(stepped: dict, abouts: dict, name: str) -> list[list[float]]:
    return [[seconds / abouts[name]["batch_size"] for seconds in round_] for round_ in stepped[name]]


ROWS = (
    ("parameters", lambda of: f"{of['parameters']:,}"),
    ("images in a batch", lambda of: of["batch_size"]),
    ("work of a step, GFLOP", lambda of: number(of["operations_training"] * of["batch_size"] / 1e9)),
    ("floor of a step, ms", lambda of: number(1000 * of["step_floor"])),
    ("**a step, ms**", lambda of: number(1000 * of["step"]["median"])),
    ("**a step, × its floor**", lambda of: f"{of['step_times_floor']:.2f}"),
    ("images a second", lambda of: f"{of['images_per_second']:,.0f}"),
    ("an image, × the time of `fit` with PAPER", lambda of: f"{of['image_times_fit']:.2f}"),
    ("an epoch, s", lambda of: number(of["epoch"])),
    ("evaluation, s", lambda of: number(of["evaluation"]["median"])),
    ("evaluation, × its floor", lambda of: f"{of['evaluation_times_floor']:.2f}"),
    ("evaluation, × the time of `fit` with PAPER", lambda of: f"{of['evaluation_times_fit']:.2f}"),
    ("peak memory of training, GB", lambda of: f"{of['peak_training'] / 1e9:.2f}"),
    ("… and of evaluation, GB", lambda of: f"{of['peak_evaluation'] / 1e9:.2f}"),
    ("the very first step, s", lambda of: number(of["first_step"])),
    ("**its whole training, s**", lambda of: number(_whole_training(of))),
    ("… its test accuracy", lambda of: f"{of['trained']['accuracy']:.2%}" if of["trained"] else "–"),
)


def _whole_training(of: dict) -> float:
    if of["trained"]:
        return of["trained"]["seconds"]
    return of["epochs"] * (of["epoch"] + of["evaluation"]["median"])


def describe_training(measured: dict) -> str:
    """The table and what its rows mean."""
    contestants, floor = measured["contestants"], measured["floor"]
    rows = [[what, *(str(show(of)) for of in contestants.values())] for what, show in ROWS]
    one = next(iter(contestants.values()))
    memory = "of the card" if measured["kind"] == "cuda" else "of its process, Python, torch and the data included"
    return (
        f"{table([measured['data'], *contestants], rows)}\n\n"
        f"Floor: operations counted from the model (convolutions and products, forward and backward) over the rate "
        f"of a {floor['product']}, {floor['rate']['median'] / 1e9:,.0f} GFLOP/s in the same rounds "
        f"({floor['rate']['lowest'] / 1e9:,.0f} to {floor['rate']['highest'] / 1e9:,.0f}). "
        f"Medians of {one['step']['count']} steps and {one['evaluation']['count']} evaluations of "
        f"{one['test_images']:,} images; ratios within a round. A step holds the loading of its batch, but that of "
        f"{FAST_SCRIPT}, whose batches are ready before. An epoch is extrapolated: its steps times the median, without "
        f"the evaluation. Memory: {memory}. The very first step holds set-up, and compiling or capturing where there "
        f"is any. A whole training with an accuracy was one, with seed 0; the others are extrapolated: their epochs "
        f"with an evaluation each. All of this took {measured['seconds'] / 60:.1f} minutes."
    )


if __name__ == "__main__":
    sys.exit(main())
