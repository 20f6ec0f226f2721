"""Seconds to an accuracy on the test set, over several seeds (`make bench-accuracy`). It takes about an hour on a CPU.

Every run is a process of its own, one after the other, the contestants in turn for each seed. The clock starts with
the training, the data in memory, and counts each evaluation as its contestant does it; an accuracy counts as reached at
the end of the epoch whose evaluation shows it. What is done is kept after every run.
"""

import argparse
import json
import statistics
import sys
from datetime import datetime

from benchmarks.contestants import CLASSIC, FAST_SCRIPT, FIT_PAPER, FIT_QUICK, PAPER_LOOP, Contestant
from benchmarks.report import begin, bench_folder, number, page, save, table
from benchmarks.workers import Worker, WorkerFailed

THRESHOLDS = (0.990, 0.992, 0.994)
BY_KEY = {
    "quick": FIT_QUICK,
    "paper": FIT_PAPER,
    "paper-loop": PAPER_LOOP,
    "classic": CLASSIC,
    "fast-script": FAST_SCRIPT,
}
SAME_MACHINE = ("device", "instructions", "torch", "threads")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, save after each run. Exit status: 0; 1 when a run failed; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0; default: %(default)s")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=BY_KEY,
        default=["quick", "fast-script", "paper-loop", "classic"],
        help="quick and paper are `fit` with these recipes; default: %(default)s",
    )
    parser.add_argument("--most-epochs", type=int, help="end every run after so many")
    stop = "end a rival with the first epoch that has it; 1: never; default: %(default)s"
    parser.add_argument("--stop-at", type=float, default=THRESHOLDS[-1], metavar="ACCURACY", help=stop)
    parser.add_argument("--resume", action="store_true", help="keep the runs that are done")
    options, device, report = begin(parser, arguments)
    data = report["data"]
    report["thresholds"] = THRESHOLDS
    report["runs"] = earlier_runs(report, options)
    failed = False
    for seed in range(options.seeds):
        for contestant in (BY_KEY[key] for key in options.contestants):
            if any(run["contestant"] == contestant and run["seed"] == seed for run in report["runs"]):
                continue
            title = f"{contestant}, seed {seed}"
            worker = None
            try:
                worker = Worker(Contestant, contestant, data, str(device), seed)
                run = worker.ask("train", title, options.stop_at, options.most_epochs)
                run |= {"contestant": contestant, "seed": seed, "peak_memory": worker.ask("peak_memory")}
            except WorkerFailed as error:
                print(f"{title} failed: {error}", file=sys.stderr)
                failed = True
                continue
            finally:
                if worker:
                    worker.close()
            run |= {"settings": settings(options), "machine": report["machine"]}
            report["runs"].append(run)
            save("accuracy", report, page("Time to an accuracy", report, [describe(report)]))
    path = save("accuracy", report, page("Time to an accuracy", report, [describe(report)]))
    print(f"\n{describe(report)}\n\n{path}")
    return int(failed)


def settings(options: argparse.Namespace) -> dict:
    """What has to be the same for runs to stand in one table."""
    return {"most_epochs": options.most_epochs, "stop_at": options.stop_at}


def earlier_runs(report: dict, options: argparse.Namespace) -> list[dict]:
    """With `--resume` the runs kept that fit this machine and these options; what else is there is put aside."""
    path = bench_folder() / "accuracy.json"
    try:
        earlier = json.loads(path.read_text())
        runs = [run for run in earlier["runs"] if earlier["data"] == report["data"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        earlier, runs = None, []
        print(f"{path} cannot be read ({error})", file=sys.stderr)
    fitting = [
        run
        for run in runs
        if options.resume
        and run["settings"] == settings(options)
        and all(run["machine"].get(what) == report["machine"][what] for what in SAME_MACHINE)
    ]
    if earlier is None or len(fitting) < len(earlier["runs"]):
        aside = path.with_name(f"accuracy-{datetime.now():%Y%m%d-%H%M%S-%f}.json")
        path.rename(aside)
        print(f"runs that are not used now are kept in {aside}")
    return fitting


def seconds_to(run: dict, accuracy: float) -> float | None:
    """Seconds until `run` was first seen at `accuracy`; None: never."""
    return next((epoch["seconds"] for epoch in run["epochs"] if epoch["accuracy"] >= accuracy), None)


def describe(report: dict) -> str:
    """A row a contestant: seconds to each accuracy, mean and spread over the seeds that reached it."""
    stop_at = report["runs"][0]["settings"]["stop_at"] if report["runs"] else 1.0
    thresholds, rows = [accuracy for accuracy in report["thresholds"] if accuracy <= stop_at], []
    for contestant in dict.fromkeys(run["contestant"] for run in report["runs"]):
        runs = [run for run in report["runs"] if run["contestant"] == contestant]
        cells = [_cell([seconds_to(run, accuracy) for run in runs]) for accuracy in thresholds]
        best = [max(epoch["accuracy"] for epoch in run["epochs"]) for run in runs]
        last = [run["epochs"][-1]["accuracy"] for run in runs]
        whole = statistics.mean(run["epochs"][-1]["seconds"] for run in runs)
        epochs = _range([len(run["epochs"]) for run in runs])
        first = statistics.median(run["first_step"] for run in runs)
        peak = max(run["peak_memory"] for run in runs) / 1e9
        row = [contestant, len(runs), *cells, f"{statistics.mean(last):.2%}", f"{max(best):.2%}", epochs]
        rows.append([*row, number(whole), number(first), f"{peak:.2f}"])
    if not rows:
        return "No run is done."
    names = ["accuracy at the end, mean", "highest", "epochs", "s in all", "first step, s", "peak, GB"]
    header = [report["data"], "seeds", *(f"s to {accuracy:.1%}" for accuracy in thresholds), *names]
    return (
        f"{table(header, rows)}\n\nSeconds: mean ± standard deviation over the seeds, evaluation included; data in "
        f"memory before the clock starts. A rival ends with the first epoch that has {stop_at:.2%} or with "
        f"its last; `fit` trains its recipe to the end. The first step, median, holds set-up, and compiling or "
        f"capturing where there is any: it is part of the other times."
    )


def _cell(seconds: list[float | None]) -> str:
    reached = [value for value in seconds if value is not None]
    if not reached:
        return "not reached"
    text = number(statistics.mean(reached))
    if len(reached) > 1:
        text += f" ± {number(statistics.stdev(reached))}"
    return text if len(reached) == len(seconds) else f"{text} ({len(reached)} of {len(seconds)})"


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}"


if __name__ == "__main__":
    sys.exit(main())
