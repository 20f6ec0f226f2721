"""What was measured as a table to read, and kept as JSON and Markdown in `bench/` of the home folder."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.machine import about_machine, digits_called
from mnist_kit import MnistKitError
from mnist_kit.device import as_device
from mnist_kit.files import home_folder, write_atomically


def begin(
    parser: argparse.ArgumentParser, arguments: list[str] | None
) -> tuple[argparse.Namespace, torch.device, dict]:
    """The options, with --data and --device that every benchmark has; the device; and a report of the machine and data.

    Ends the program with status 2 for bad input.
    """
    parser.add_argument("--data", default="mnist", help='"mnist" or a sibling, "synthetic", "noise"')
    parser.add_argument("--device", help="cpu, cuda, mps; default: the fastest at hand")
    options = parser.parse_args(arguments)
    try:
        device, data = as_device(options.device), digits_called(options.data).name
    except MnistKitError as error:
        parser.error(str(error))
    report = {"machine": about_machine(device), "data": data}
    print(machine_line(report["machine"]), flush=True)
    return options, device, report


def page(title: str, report: dict, text: list[str]) -> str:
    """The Markdown file of a report."""
    return "\n\n".join([f"# {title}", machine_line(report["machine"]), *text]) + "\n"


def bench_folder() -> Path:
    """`bench/` in `$MNIST_KIT_HOME`."""
    return home_folder() / "bench"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, the first to the left, the others to the right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rule = "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths))
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def number(value: float | None, unit: str = "") -> str:
    """`value` with three digits that count, "–" for None."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}{unit}"


def spread(values: Sequence[float], scale: float = 1.0) -> dict:
    """median, lowest, highest and count of `values`, each times `scale`."""
    scaled = [value * scale for value in values]
    return {"median": statistics.median(scaled), "lowest": min(scaled), "highest": max(scaled), "count": len(scaled)}


def paired(above: list[list[float]], below: list[list[float]]) -> float:
    """The ratio within each round, of medians; then the median of the rounds."""
    pairs = zip(above, below, strict=True)
    return statistics.median(statistics.median(one) / statistics.median(other) for one, other in pairs)


def machine_line(machine: dict) -> str:
    """The machine in one line."""
    load = "" if machine["load"] is None else f", load {machine['load']} when it began"
    versions = f"torch {machine['torch']}, Python {machine['python']}, {machine['system']}"
    cores = f"{machine['cores']} cores, {machine['threads']} threads"
    return f"{machine['device']}; {machine['instructions']}; {cores}; {versions}; {machine['date']}{load}"


def save(name: str, report: dict, markdown: str) -> Path:
    """Write `name`.json and `name`.md; each is the old one or the new one at any moment. Returns the JSON's path."""
    write_atomically(bench_folder() / f"{name}.md", markdown.encode())
    return write_atomically(bench_folder() / f"{name}.json", (json.dumps(report, indent=1) + "\n").encode())
