"""What was measured as a table to read, and kept as JSON and Markdown in `bench/` of the home folder."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from mnist_kit.files import home_folder, write_atomically


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


def machine_line(machine: dict) -> str:
    """The machine in one line."""
    load = "" if machine["load"] is None else f", load {machine['load']} when it began"
    return (
        f"{machine['device']}; {machine['cores']} cores, {machine['threads']} threads; torch {machine['torch']}, "
        f"Python {machine['python']}, {machine['system']}; {machine['date']}{load}"
    )


def save(name: str, report: dict, markdown: str) -> Path:
    """Write `name`.json and `name`.md; each is the old one or the new one at any moment. Returns the JSON's path."""
    write_atomically(bench_folder() / f"{name}.md", markdown.encode())
    return write_atomically(bench_folder() / f"{name}.json", (json.dumps(report, indent=1) + "\n").encode())
