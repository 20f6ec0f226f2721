"""UNIPEN: the pen digits, letters and signs of train_r01_v07, in the distribution's own format, as drawings.

Source of the data: International Unipen Foundation, "Unipen data set of on-line (vectorial) handwriting -
train_r01_v07", Zenodo record 1195803, CC BY 4.0. Source of the format: I. Guyon, "UNIPEN 1.0 Format Definition", 1994.

A file in `data/1a/` (digits), `1b/`, `1c/` (letters) or `1d/` (signs) names the file in `include/` that has the pen's
path, and says which of its components, counted from 0, make a character:

    .INCLUDE apb/data/apb02/app0237.dat
    .SEGMENT CHARACTER 0-1 ? "4"
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnist_kit.errors import DrawingError
from mnist_kit.ink import Drawing, Stroke

PAD, LONG_SIDE = 500, 400  # px; of the pad, and of the ink on it, centred
DENSITY = re.compile(r"([XY])_POINTS_PER_(?:INCH|MM) (\d+(?:\.\d*)?)")
STATEMENT = re.compile(r"^\.([A-Z]\w*)[ \t]*(.*?)(?=^\.[A-Z]|\Z)", re.MULTILINE | re.DOTALL)
SEGMENT = re.compile(r'CHARACTER\s+(\S+)\s+\S+\s+"((?:\\.|[^"\\])+)"', re.DOTALL)
PART = re.compile(r"(\d+)(?::(\d+))?(?:-(\d+)(?::(\d+))?)?")  # "0", "0-1" or "2:10-3:15" (component:point)


@dataclass(frozen=True)
class Character:
    """One character of a UNIPEN file. sign: what it should be; site: who collected it; drawing: on a pad of 500 px.

    The drawing's label is the digit, None for other signs; its writer is "site-file", since few sites name people.
    """

    sign: str
    site: str
    drawing: Drawing


def read_unipen(folder: str | Path, kinds: tuple[str, ...] = ("1a",)) -> Iterator[Character]:
    """The characters of the distribution in `folder`, which holds `data/` and `include/`, in the order of file names.

    kinds: "1a" digits, "1b" capital letters, "1c" small letters, "1d" signs. Characters without ink, or whose
    components are not there, are left out, as are files without characters. Raises DrawingError when `folder` is no
    such distribution or a file cannot be read.
    """
    folder = Path(folder)
    for kind in kinds:
        files = sorted(path for path in (folder / "data" / kind).rglob("*") if path.is_file())
        if not files:
            raise DrawingError(f"there are no files in {folder / 'data' / kind}: unpack train_r01_v07 there")
        for path in files:
            site = path.relative_to(folder / "data" / kind).parts[0]
            yield from _characters(path, folder / "include", site)


def _characters(path: Path, include: Path, site: str) -> Iterator[Character]:
    """The characters of one file. include: the folder its `.INCLUDE` lines are relative to."""
    segments, components = [], []
    columns, density = ["X", "Y"], {"X": 1.0, "Y": 1.0}  # density: points per mm or inch
    for keyword, text in _statements(path, include):
        words = text.split()
        if keyword == "SEGMENT":
            segments.append(text)
        elif keyword == "COORD":
            columns = words
        elif match := DENSITY.fullmatch(f"{keyword} {text.strip()}"):
            density[match[1]] = float(match[2]) or 1.0
        elif keyword in ("PEN_DOWN", "PEN_UP"):
            points = _points(words, columns) * np.float32([1, density["X"] / density["Y"]])
            if len(points):  # an empty component is not counted
                components.append((keyword == "PEN_DOWN", points))
    for match in filter(None, map(SEGMENT.match, segments)):
        strokes = _strokes(match[1], components)
        if strokes:
            sign = re.sub(r"\\(.)", r"\1", match[2])
            label = int(sign) if sign in tuple("0123456789") else None
            drawing = Drawing(PAD, PAD, _on_pad(strokes), label, f"{site}-{path.stem}")
            yield Character(sign, site, drawing)


def _statements(path: Path, include: Path, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Keyword and text of each statement, those of included files in their place."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise DrawingError(f"cannot read UNIPEN file {path}: {error.strerror or error}") from error
    for keyword, rest in STATEMENT.findall(text):
        if keyword == "INCLUDE" and depth < 3:
            included = include / rest.strip()
            if included.suffix == ".dat" or included.is_file():  # descriptions and word lists are often left out
                yield from _statements(included, include, depth + 1)
        else:
            yield keyword, rest


def _points(words: list[str], columns: list[str]) -> np.ndarray:
    """x to the right and y upwards of each point of a component, float32 (n, 2); none where it is damaged."""
    try:
        rows = np.array(words[: len(words) // len(columns) * len(columns)], np.float32).reshape(-1, len(columns))
    except ValueError:
        return np.empty((0, 2), np.float32)
    return rows[:, [columns.index("X"), columns.index("Y")]]


def _strokes(delineation: str, components: list[tuple[bool, np.ndarray]]) -> list[np.ndarray]:
    """The points of the pen-down components in a list such as "0-1,3"; none where one is not there."""
    strokes = []
    for part in map(PART.fullmatch, delineation.split(",")):
        if not part or int(part[3] or part[1]) >= len(components):
            return []
        first, last = int(part[1]), int(part[3] or part[1])
        for number in range(first, last + 1):
            down, points = components[number]
            start = int(part[2] or 0) if number == first else 0
            stop = int(part[4]) + 1 if part[4] and number == last else len(points)
            if down and start < min(stop, len(points)):
                strokes.append(points[start:stop])
    return strokes


def _on_pad(strokes: list[np.ndarray]) -> list[Stroke]:
    """y downwards, the longer side LONG_SIDE px, centred on the pad."""
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = LONG_SIDE / max((high - low).max(), 1e-6)
    flip = np.float32([scale, -scale])
    return [Stroke((stroke - (low + high) / 2) * flip + PAD / 2) for stroke in strokes]
