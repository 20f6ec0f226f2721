"""Ink: strokes of a pen, the greyscale raster they make, and files of drawings as JSON lines.

Coordinates are pixels of the drawing, x to the right and y downwards; pixel (row, column) has its centre at
(column + 0.5, row + 0.5), as on a canvas.
"""

import json
import sys
import warnings
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_kit.errors import DrawingError
from mnist_kit.files import append_line, home_folder

MAX_SIDE = 10_000  # px; a raster of 100 MB
FILE_SIDE = 500  # px; the pad that recorded drawings without a size were made on
LEAST_PRESSURE = 0.05  # share of the radius; the lightest touch leaves ink too
LISTED = 10  # broken lines of a file that a warning names
CHUNK = 1 << 16  # distances computed at once: small enough for the processor's cache


@dataclass(frozen=True, eq=False)
class Stroke:
    """What was drawn between pen down and pen up.

    points: float32 (n, 2), x and y in pixels, n ≥ 1 (a single point is a dot); radius: of the round pen, in pixels;
    erase: the stroke takes ink away; pressure: the share of the radius that the pen has at each point, float32 (n,) in
    [0.05, 1], None for all of it everywhere. Points may lie outside of the drawing; they are clipped at ±10,000 px, and
    pressure is to its range. Raises DrawingError for another shape, for NaN or infinity, and for a radius outside
    (0, 10,000].
    """

    points: np.ndarray
    radius: float = 10.0
    erase: bool = False
    pressure: np.ndarray | None = None

    def __post_init__(self):
        points, pressure = _numbers(self.points, "points").clip(-MAX_SIDE, MAX_SIDE), None
        radius = _numbers(self.radius, "radius", float)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
            raise DrawingError(f"points have to be at least one [x, y], an array (n, 2), not {points.shape}")
        if radius.shape != () or not 0 < radius <= MAX_SIDE:
            raise DrawingError(f"the radius of a pen is a number of pixels > 0, not {repr(self.radius)[:40]}")
        if self.pressure is not None:
            pressure = _numbers(self.pressure, "pressure").clip(LEAST_PRESSURE, 1)
            if pressure.shape != (len(points),):
                raise DrawingError(f"pressure has to be {len(points)} numbers, one per point, not {pressure.shape}")
            pressure.setflags(write=False)
        points.setflags(write=False)
        # A frozen dataclass takes no assignment, not even its own.
        vars(self).update(points=points, radius=radius.item(), erase=bool(self.erase), pressure=pressure)

    def __eq__(self, other) -> bool:
        return isinstance(other, Stroke) and all(map(np.array_equal, vars(self).values(), vars(other).values()))

    def first(self, count: int) -> "Stroke":
        """The stroke as far as its first `count` points, ≥ 1."""
        pressure = None if self.pressure is None else self.pressure[:count]
        return replace(self, points=self.points[:count], pressure=pressure)

    def longer(self, points, pressure=None) -> "Stroke":
        """The stroke drawn on through `points`, (n, 2) px, with `pressure`, (n,), where it began with one."""
        more = Stroke(points, pressure=pressure)
        pressure = None if self.pressure is None else np.append(self.pressure, more.pressure)
        return replace(self, points=np.concatenate([self.points, more.points]), pressure=pressure)

    def segments(self) -> np.ndarray:
        """The straight pieces of the line, float64 (n, 2, 3): x, y and the pen's radius at either end, in pixels.

        The first one has no length: it is the dot that a pen leaves before it moves.
        """
        radii = self.radius if self.pressure is None else self.pressure * np.float32(self.radius)
        corners = np.insert(self.points.astype(float), 2, radii, axis=1)
        return np.stack([np.concatenate([corners[:1], corners[:-1]]), corners], axis=1)


@dataclass(frozen=True)
class Drawing:
    """Strokes, in the order they were drawn, on a pad of width × height pixels.

    label: the digit that was meant, 0–9, where known; writer: who drew it; time: when, as ISO 8601 text. Raises
    DrawingError for a size outside 1–10,000 px, for strokes that are no `Stroke`, and for another label.
    """

    width: int = 800
    height: int = 600
    strokes: tuple[Stroke, ...] = ()
    label: int | None = None
    writer: int | str | None = None
    time: str | None = None

    def __post_init__(self):
        if not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in (self.width, self.height)):
            raise DrawingError(f"a drawing measures 1 to {MAX_SIDE} whole pixels, not {self.width} × {self.height}")
        vars(self)["strokes"] = tuple(self.strokes)
        for stroke in self.strokes:
            if not isinstance(stroke, Stroke):
                raise DrawingError(f"strokes have to be Stroke(points, radius, erase), not {type(stroke).__name__}")
        if self.label is not None:
            if not isinstance(self.label, Integral) or self.label not in range(10):
                raise DrawingError(f"a label is a digit 0–9 or None, not {self.label!r}")
            vars(self)["label"] = int(self.label)
        if isinstance(self.writer, Integral):  # NumPy's numbers are none of JSON's
            vars(self)["writer"] = int(self.writer)

    @property
    def widest_pen(self) -> float:
        """The largest radius, in pixels, of the pens that put ink; 0 where none did."""
        return max((stroke.radius for stroke in self.strokes if not stroke.erase), default=0.0)

    def raster(self) -> np.ndarray:
        """The drawing as uint8 (height, width): white ink (255) on black (0), antialiased."""
        raster = np.zeros((self.height, self.width), np.uint8)
        for stroke in self.strokes:
            _draw(raster, stroke)
        return raster

    def to_image(self) -> Image.Image:
        """The raster as a PIL image of mode L."""
        return Image.fromarray(self.raster())

    def to_svg(self) -> str:
        """The drawing as an SVG document of the same size: each stroke a path, black ink on white, erased with white.

        Where the pen's pressure is known, each segment is a path, as wide as its two ends on average.
        """
        size = f'width="{self.width}" height="{self.height}"'
        paths = ""
        for stroke in self.strokes:
            colour = "#fff" if stroke.erase else "#000"
            points = [f"{x:.7g} {y:.7g}" for x, y in [*stroke.points[:1], *stroke.points]]
            lines = [("L".join(points), 2 * stroke.radius)]
            if stroke.pressure is not None:
                lines = zip(map("L".join, pairwise(points)), stroke.segments()[:, :, 2].sum(axis=1), strict=True)
            paths += "".join(f'<path d="M{line}" stroke="{colour}" stroke-width="{w:.7g}"/>' for line, w in lines)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {self.width} {self.height}">'
            f'<rect {size} fill="#fff"/>'
            f'<g fill="none" stroke-linecap="round" stroke-linejoin="round">{paths}</g></svg>'
        )

    def to_json(self) -> str:
        """One line of JSON: label, writer, time, size; per stroke its points as a list of [x, y], radius and erase.

        Where the pen's pressure is known there is also, per stroke, a list of it or null.
        """
        row = {
            "label": self.label,
            "writer": self.writer,
            "strokes": [_shortest(stroke.points) for stroke in self.strokes],
            "size": [self.width, self.height],
            "time": self.time,
            "radii": [stroke.radius for stroke in self.strokes],
            "erase": [stroke.erase for stroke in self.strokes],
        }
        pressure = [None if stroke.pressure is None else _shortest(stroke.pressure) for stroke in self.strokes]
        if any(pressure):
            row["pressure"] = pressure
        return json.dumps(row, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Drawing":
        """Read what `to_json` writes; all but strokes may be missing: size (500 × 500), radii (10 px), and the rest.

        Raises DrawingError for anything else.
        """
        try:
            row = json.loads(line)
            strokes = row["strokes"]
            if not isinstance(strokes, list):
                raise TypeError("strokes are no list")
            width, height = row.get("size", (FILE_SIDE, FILE_SIDE))
            defaults = {"radii": Stroke.radius, "erase": False, "pressure": None}
            columns = [row.get(name, [default] * len(strokes)) for name, default in defaults.items()]
            strokes = [Stroke(*parts) for parts in zip(strokes, *columns, strict=True)]
            return cls(width, height, strokes, row.get("label"), row.get("writer"), row.get("time"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DrawingError(f"not a drawing as JSON, {error}: {line[:80]!r}") from error


def read_drawings(path: str | Path | None = None, last: int | None = None) -> list[Drawing]:
    """Read a file of drawings, one JSON object per line; `drawings.jsonl` in the home folder by default.

    last: read so many lines from the end of the file, None: all. Lines may end in any way; blank ones do not count.
    Broken lines are left out, and one warning for the file gives their numbers and what is wrong with them. Raises
    DrawingError for a file that cannot be read, or a `last` that makes no sense.
    """
    if last is not None and (not isinstance(last, Integral) or isinstance(last, bool) or last < 0):
        raise DrawingError(f"last has to be a whole number of at least 0, or None, not {last!r:.80}")
    path = _drawings_path(path)
    try:
        # A line that is no UTF-8 is broken by itself, and not all of the file.
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            written = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
            lines = deque(written, None if last is None else min(int(last), sys.maxsize))
    except OSError as error:
        raise DrawingError(f"cannot read drawings from {path}: {error}") from error
    drawings, broken = [], []
    for number, line in lines:
        try:
            drawings.append(Drawing.from_json(line.encode("utf-8", "surrogateescape").decode()))
        except (DrawingError, UnicodeDecodeError) as error:
            broken.append(f"line {number}: {error}")
    if broken:
        listed = "\n".join(broken[:LISTED]) + ("\n…" if len(broken) > LISTED else "")
        summary = f"{len(broken)} of {len(lines)} lines are broken and were left out; fix or delete them"
        warnings.warn(f"{path}: {summary}:\n{listed}", stacklevel=2)
    return drawings


def append_drawing(drawing: Drawing, path: str | Path | None = None) -> Path:
    """Add `drawing` as a line to `path`, `drawings.jsonl` in the home folder by default, and return the path.

    A drawing without a time gets that of now. Several processes may append at once. Raises StorageError when the file
    cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return append_line(_drawings_path(path), replace(drawing, time=drawing.time or now).to_json())


def _drawings_path(path: str | Path | None) -> Path:
    return Path(path) if path else home_folder() / "drawings.jsonl"


def _numbers(values, name: str, dtype: type = np.float32) -> np.ndarray:
    """A new array of `values`. Raises DrawingError for what are no numbers, NaN or infinity."""
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise DrawingError(f"{name} has to be numbers: {error}") from error
    if not np.isfinite(array).all():
        raise DrawingError(f"{name} has to be finite; NaN or infinity is among the numbers")
    return array


def _shortest(values: np.ndarray) -> list:
    """Numbers for JSON: the shortest decimals that give the same float32 back."""
    return values.astype(str).astype(float).tolist()


def _draw(raster: np.ndarray, stroke: Stroke) -> None:
    """Draw `stroke` into `raster`, in place.

    A pixel's ink is clip(radius + 0.5 − distance to the line, 0, 1); where the pen's pressure is known, the radius
    changes evenly along each segment. Segments are blended by maximum (ink) or as min(raster, 1 − ink) (erasing).
    """
    height, width = raster.shape
    starts, ends = _segments(stroke, width, height)
    if len(starts) == 0:
        return
    deltas = ends - starts
    reach = stroke.radius + 0.5
    shape = np.abs(deltas[:, :2]).max(axis=0) + 2 * reach + 3
    columns, rows = (int(side) for side in np.minimum(shape, (width, height)))
    corners = np.floor(np.minimum(starts, ends)[:, :2] - reach - 0.5)
    corners = corners.clip(0, (width - columns, height - rows)).astype(np.intp)
    step = max(1, CHUNK // (rows * columns))
    for first in range(0, len(starts), step):
        chunk = slice(first, first + step)
        ink = _coverage(corners[chunk], starts[chunk], deltas[chunk], rows, columns)
        for (left, top), piece in zip(corners[chunk].tolist(), ink, strict=True):
            window = raster[top : top + rows, left : left + columns]
            if stroke.erase:
                np.minimum(window, 255 - piece, out=window)
            else:
                np.maximum(window, piece, out=window)


def _coverage(corners: np.ndarray, starts: np.ndarray, deltas: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The ink of n segments, each in a window of its own: uint8 (n, rows, columns).

    corners: of the windows, px; starts, deltas: (n, 3), x, y and radius at one end, and how they differ at the other.
    """
    lengths = (deltas[:, :2] ** 2).sum(axis=1, keepdims=True)
    along = np.divide(deltas[:, :2], lengths, out=np.zeros((len(deltas), 2)), where=lengths > 1e-12)  # else a dot
    x0, y0 = (corners + 0.5 - starts[:, :2]).astype(np.float32).T[:, :, None]
    dx, dy, growth = deltas.astype(np.float32).T[:, :, None, None]
    ax, ay = along.astype(np.float32).T[:, :, None, None]
    reach = (starts[:, 2] + 0.5).astype(np.float32)[:, None, None]
    x = (x0 + np.arange(columns, dtype=np.float32))[:, None, :]
    y = (y0 + np.arange(rows, dtype=np.float32))[:, :, None]
    nearest = np.clip(x * ax + y * ay, 0, 1)  # 0 at the segment's start, 1 at its end
    distance = np.hypot(x - nearest * dx, y - nearest * dy)
    if growth.any():
        reach = reach + nearest * growth
    return (np.clip(reach - distance, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _segments(stroke: Stroke, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the segments that can leave ink on the page, float64 (m, 3): x, y and radius.

    Long ones are divided: that keeps the windows small in which distances are computed.
    """
    starts, ends = stroke.segments().swapaxes(0, 1)
    deltas = ends - starts
    counts = np.ceil(np.hypot(*deltas[:, :2].T) / (2 * stroke.radius + 8)).clip(min=1).astype(np.intp)
    segment = np.repeat(np.arange(len(starts)), counts)
    index = np.arange(len(segment)) - np.repeat(np.cumsum(counts) - counts, counts)
    deltas = (deltas / counts[:, None])[segment]
    starts = starts[segment] + index[:, None] * deltas
    ends = starts + deltas
    reach = stroke.radius + 1
    before = np.maximum(starts, ends)[:, :2] < -reach
    beyond = np.minimum(starts, ends)[:, :2] > np.array([width, height]) + reach
    seen = ~(before | beyond).any(axis=1)
    return starts[seen], ends[seen]
