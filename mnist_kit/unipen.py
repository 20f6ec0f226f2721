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
KINDS = ("1a", "1b", "1c", "1d")  # folders of isolated characters
DENSITY = re.compile(r"([XY])_POINTS_PER_(?:INCH|MM) ([\d.]+)")
SEGMENT = re.compile(r'CHARACTER\s+(\S+)\s+\S+\s+"((?:\\.|[^"\\])+)"', re.DOTALL)


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
            yield from read_unipen_file(path, folder / "include", site)


def read_unipen_file(path: str | Path, include: str | Path, site: str = "") -> Iterator[Character]:
    """The characters of one file. include: the folder its `.INCLUDE` lines are relative to. Raises DrawingError."""
    path = Path(path)
    recording = _Recording()
    for keyword, text in _statements(path, Path(include)):
        recording.take(keyword, text)
    for text in recording.segments:
        match = SEGMENT.match(text)
        strokes = _strokes(match[1], recording.components) if match else []
        if strokes:
            sign = re.sub(r"\\(.)", r"\1", match[2])
            label = int(sign) if sign in "0123456789" and len(sign) == 1 else None
            drawing = Drawing(PAD, PAD, _on_pad(strokes), label, f"{site}-{path.stem}".lstrip("-"))
            yield Character(sign, site, drawing)


class _Recording:
    """What the statements of a file have said so far.

    components: pen down or not, and its points, float32 (n, 2), x to the right and y upwards, in one unit.
    """

    def __init__(self):
        self.segments: list[str] = []
        self.components: list[tuple[bool, np.ndarray]] = []
        self.columns = ["X", "Y"]
        self.density = [1.0, 1.0]  # points per mm or inch along x and y

    def take(self, keyword: str, text: str) -> None:
        if keyword == "SEGMENT":
            self.segments.append(text)
        elif keyword == "COORD":
            self.columns = text.split()
        elif density := DENSITY.fullmatch(f"{keyword} {text.strip()}"):
            self.density["XY".index(density[1])] = float(density[2]) or 1.0
        elif keyword in ("PEN_DOWN", "PEN_UP"):
            try:
                numbers = np.array(text.split(), dtype=np.float32)
            except ValueError:
                numbers = np.empty(0, np.float32)
            rows = numbers[: len(numbers) // len(self.columns) * len(self.columns)].reshape(-1, len(self.columns))
            if len(rows):  # an empty component is not counted
                x, y = self.columns.index("X"), self.columns.index("Y")
                points = rows[:, [x, y]] * np.float32([1, self.density[0] / self.density[1]])
                self.components.append((keyword == "PEN_DOWN", points))


def _statements(path: Path, include: Path, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Keyword and text of each statement, those of included files in their place."""
    try:
        text = path.read_text(encoding="latin-1")
    except OSError as error:
        raise DrawingError(f"cannot read UNIPEN file {path}: {error.strerror or error}") from error
    for keyword, rest in re.findall(r"^\.([A-Z]\w*)[ \t]*(.*?)(?=^\.[A-Z]|\Z)", text, re.MULTILINE | re.DOTALL):
        if keyword == "INCLUDE" and depth < 3:
            included = include / rest.strip()
            if included.suffix == ".dat" or included.is_file():  # descriptions and word lists are often left out
                yield from _statements(included, include, depth + 1)
        else:
            yield keyword, rest


def _strokes(delineation: str, components: list[tuple[bool, np.ndarray]]) -> list[np.ndarray]:
    """The points of the pen-down components in a list such as "0-1,3" or "2:10-3:15" (component:point)."""
    strokes = []
    for part in delineation.split(","):
        ends = re.fullmatch(r"(\d+)(?::(\d+))?(?:-(\d+)(?::(\d+))?)?", part)
        if not ends:
            return []
        first, last = int(ends[1]), int(ends[3] or ends[1])
        if last >= len(components):
            return []
        for number in range(first, last + 1):
            down, points = components[number]
            start = int(ends[2]) if ends[2] and number == first else 0
            stop = int(ends[4]) + 1 if ends[4] and number == last else len(points)
            if down and len(points[start:stop]):
                strokes.append(points[start:stop])
    return strokes


def _on_pad(strokes: list[np.ndarray]) -> list[Stroke]:
    """y downwards, the longer side LONG_SIDE px, centred on the pad."""
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = LONG_SIDE / max((high - low).max(), 1e-6)
    flip = np.float32([scale, -scale])
    return [Stroke((stroke - (low + high) / 2) * flip + PAD / 2) for stroke in strokes]
