"""Splitting: from a number on the pad to its digits, read from left to right.

The ink falls into pieces: strokes, or, where strokes do not tell what is to be seen (after erasing, in a picture),
connected components. Neighbouring pieces are joined to digits so that the whole is cheapest: a digit costs −log of its
probability and likeness, and more the less its shape and the gaps beside and inside it are a digit's (`_cost`). What is
wide and unlike a digit then is tried again in slices, cut where there is little ink.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mnist_kit.framing import ink_box, red_rectangle
from mnist_kit.ink import Drawing, Ink
from mnist_kit.recognizer import Prediction, Recognizer

# Pieces
SPECK = 0.12  # of the largest piece: smaller ones that stand alone are dropped
ABOVE = 0.8  # of the narrower piece: with so much of it above or below the other, both are of one digit
WIDELY_ABOVE = 0.3  # of the largest piece: likewise, however wide the two are
MOST_PIECES = 24  # more are no number, and read as one thing
LABEL_SIDE = 256  # px; rasters are reduced to it before components are looked for
FAINT = 64  # of 255; fainter ink connects nothing

# Digits; lengths are shares of the number's height
MAX_STROKES = 4  # of one digit
SLACK = 0.25  # a wider gap always parts two digits
OVERLAP = 0.1  # of two strokes of one digit; less of it counts against their being one
WIDTH, HEIGHT = 1.2, 0.75  # a digit wider than so many times its height, or lower, is odd
DOUBTFUL = 0.9  # probability × likeness below which a piece is cut,
NARROW = 0.6  # unless it is narrower than so many times its height
MAX_CUTS = 3

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class ReadDigit:
    """One digit of a number.

    box: (left, top, right, bottom) of the red rectangle around it, px, right and bottom exclusive; ink: its strokes,
    as a `Drawing` of the whole pad's size, or, cut out of a raster, its pixels with a black border, uint8 (height,
    width); prediction: what it was recognised as.
    """

    box: Box
    ink: Drawing | np.ndarray
    prediction: Prediction


def split(ink: Drawing | Ink | np.ndarray, recognizer: Recognizer) -> list[ReadDigit]:
    """The digits of a number, from left to right; a single digit is a number of one, and without ink there are none.

    ink: a drawing, finished or not, or a raster, uint8 (height, width), white on black. `as_text` gives the number.
    """
    pieces = _pieces(ink)
    height = max(1, _join(pieces).height) if pieces else 1
    digits = []
    for piece, prediction in _read(pieces, height, recognizer):
        doubtful = _trust(prediction) < DOUBTFUL and piece.width > NARROW * piece.height
        slices = _read(_slices(piece), height, recognizer) if doubtful else []
        digits += slices if slices and all(answer.sure for _, answer in slices) else [(piece, prediction)]
    page = ink.shape[::-1] if isinstance(ink, np.ndarray) else (ink.width, ink.height)
    return [ReadDigit(piece.red_rectangle(*page), piece.seen(), prediction) for piece, prediction in digits]


def as_text(digits: list[ReadDigit]) -> str:
    """The number that `split` read, "?" for each digit that the recognizer is not sure of."""
    return "".join(str(digit.prediction.digit) if digit.prediction.sure else "?" for digit in digits)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some of the ink. box: left, top, right, bottom of the lines' middle (a drawing) or of the ink (a raster), px.

    A raster is cut to its box. margin: of the red rectangle, px; cut: ink in the column where the piece was cut off
    from what is to its left, px.
    """

    ink: Drawing | np.ndarray
    box: tuple[float, float, float, float]
    margin: int = 0
    cut: float = 0

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]

    def red_rectangle(self, width: int, height: int) -> Box:
        if isinstance(self.ink, Drawing):
            return red_rectangle(self.ink)
        left, top, right, bottom = self.box
        margin = self.margin
        return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)

    def seen(self) -> Drawing | np.ndarray:
        """The ink, a raster with a border, by which a reader (`as_ink`) sees that black is the paper."""
        return self.ink if isinstance(self.ink, Drawing) else np.pad(self.ink, 4)


def _read(pieces: list[_Piece], height: float, recognizer: Recognizer) -> list[tuple[_Piece, Prediction]]:
    """The cheapest way to join neighbouring `pieces` to digits; height: of the whole number, px."""
    runs = {}  # from piece to piece, exclusive
    for first in range(len(pieces)):
        for last in range(first, min(len(pieces), first + MAX_STROKES)):
            if last > first and _gap(pieces[first:last], pieces[last]) > SLACK * height:
                break
            runs[first, last + 1] = _join(pieces[first : last + 1])
    predictions = dict(zip(runs, recognizer.predict_inks([run.ink for run in runs.values()]), strict=True))

    best = [(0.0, 0)] + [(math.inf, 0)] * len(pieces)  # cost of the pieces so far, where their last digit begins
    for (first, last), run in runs.items():
        cost = _cost(run, pieces[first:last], pieces[:first], predictions[first, last], height)
        best[last] = min(best[last], (best[first][0] + cost, first))
    digits, last = [], len(pieces)
    while last:
        first = best[last][1]
        digits.append((runs[first, last], predictions[first, last]))
        last = first
    return digits[::-1]


def _cost(digit: _Piece, parts: list[_Piece], before: list[_Piece], prediction: Prediction, height: float) -> float:
    """What it costs to call `parts`, joined to `digit`, one digit, and to part it from the pieces `before` it."""
    cost = -math.log(max(_trust(prediction), 1e-6))
    cost += 4 * max(0, digit.width / max(digit.height, 1) - WIDTH) + 10 * max(0, HEIGHT - digit.height / height)
    for n in range(1, len(parts)):
        if not parts[n].cut:
            cost += 10 * max(0, OVERLAP + _gap(parts[:n], parts[n]) / height)
    if before:
        cost += 1.5 + 20 * max(0, -_gap(before, parts[0]) / height) + 10 * parts[0].cut / height
    return cost


def _trust(prediction: Prediction) -> float:
    return float(prediction.probabilities.max()) * prediction.likeness


def _gap(left: list[_Piece], right: _Piece) -> float:
    """Between pieces and the next one, px; negative where they overlap in x."""
    return right.box[0] - max(piece.box[2] for piece in left)


def _join(pieces: list[_Piece]) -> _Piece:
    if len(pieces) == 1:
        return pieces[0]
    boxes = np.array([piece.box for piece in pieces])
    left, top, right, bottom = box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    if isinstance(pieces[0].ink, Drawing):
        ink = replace(pieces[0].ink, strokes=[stroke for piece in pieces for stroke in piece.ink.strokes])
    else:
        ink = np.zeros((bottom - top, right - left), np.uint8)
        for piece in pieces:
            x0, y0, x1, y1 = piece.box
            window = ink[y0 - top : y1 - top, x0 - left : x1 - left]
            np.maximum(window, piece.ink, out=window)
    return replace(pieces[0], ink=ink, box=box)


def _pieces(ink: Drawing | Ink | np.ndarray) -> list[_Piece]:
    """From left to right, without specks; pieces that lie above each other are one."""
    if isinstance(ink, np.ndarray):
        pieces = _components(ink, 0)
    elif any(stroke.erase for stroke in ink.strokes):
        pieces = _components(ink.raster if isinstance(ink, Ink) else ink.raster(), round(ink.widest_pen))
    else:
        pieces = _strokes(ink)
    size = max((max(piece.width, piece.height) for piece in pieces), default=0)
    pieces.sort(key=lambda piece: piece.box[0] + piece.box[2])
    joined = []
    for piece in pieces:
        overlap = -_gap(joined[-1:], piece) if joined else -math.inf
        if overlap > WIDELY_ABOVE * size or (joined and overlap > ABOVE * min(piece.width, joined[-1].width)):
            joined[-1] = _join([joined[-1], piece])
        else:
            joined.append(piece)
    joined = [piece for piece in joined if max(piece.width, piece.height) >= SPECK * size]
    return joined if len(joined) <= MOST_PIECES else [_join(joined)]


def _strokes(ink: Drawing | Ink) -> list[_Piece]:
    pieces = []
    page = ink.width, ink.height
    for stroke in ink.strokes:
        part = Drawing(*page, (stroke,))
        inside = (stroke.points >= 0).all() and (stroke.points <= page).all()
        if inside or part.raster().any():
            points = stroke.points.clip(0, page)
            pieces.append(_Piece(part, (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())))
    return pieces


def _components(raster: np.ndarray, margin: int) -> list[_Piece]:
    """The largest 8-connected components of the ink."""
    height, width = raster.shape
    factor = math.ceil(max(height, width) / LABEL_SIDE)
    padded = np.pad(raster, ((0, -height % factor), (0, -width % factor)))
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    labels = _label(blocks.max(axis=(1, 3)) > FAINT)
    sizes = np.bincount(labels.ravel())[1:]
    pieces = []
    for label in np.argsort(-sizes, kind="stable")[: 2 * MOST_PIECES] + 1:
        mask = labels == label
        left, top, right, bottom = ink_box(mask.astype(np.uint8))
        mask = mask[top:bottom, left:right].repeat(factor, axis=0).repeat(factor, axis=1)
        part = padded[top * factor : bottom * factor, left * factor : right * factor] * mask
        pieces.append(_cut_out(part, left * factor, top * factor, margin))
    return pieces


def _label(mask: np.ndarray) -> np.ndarray:
    """Number the 8-connected components of `mask`, bool (h, w): int (h, w), 0 outside of them."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)  # of each run of pixels in a row
    ends = np.nonzero(edges == -1)[1]  # exclusive
    row, start, end = rows.tolist(), starts.tolist(), ends.tolist()
    parents = list(range(len(row)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    above = 0  # the first run that this one, or a later one, may touch
    for run in range(len(row)):
        while row[above] < row[run] - 1 or (row[above] == row[run] - 1 and end[above] < start[run]):
            above += 1
        other = above
        while row[other] == row[run] - 1 and start[other] <= end[run]:
            parents[root(other)] = root(run)
            other += 1
    numbers = np.unique([root(run) for run in range(len(row))], return_inverse=True)[1] + 1
    labels = np.zeros(mask.shape, int)
    labels[mask] = np.repeat(numbers, ends - starts)
    return labels


def _slices(piece: _Piece) -> list[_Piece]:
    """`piece` cut where its columns have the least ink."""
    if isinstance(piece.ink, Drawing):
        piece = _cut_out(piece.ink.raster(), margin=round(piece.ink.widest_pen))
    height, width = piece.ink.shape
    sums = piece.ink.sum(axis=0, dtype=float) / 255
    apart = max(3, height // 6)  # between cuts and from the ends, px
    cuts = []
    for column in np.argsort(sums[apart:-apart], kind="stable") + apart:
        if len(cuts) < MAX_CUTS and all(abs(column - cut) >= apart for cut in cuts):
            cuts.append(int(column))
    left, top, _, _ = piece.box
    return [
        _cut_out(piece.ink[:, start:end], left + start, top, piece.margin, float(sums[start]))
        for start, end in pairwise([0, *sorted(cuts), width])
        if piece.ink[:, start:end].any()
    ]


def _cut_out(raster: np.ndarray, left: int = 0, top: int = 0, margin: int = 0, cut: float = 0) -> _Piece:
    """The piece that is the ink of `raster`, whose corner lies at (left, top)."""
    x0, y0, x1, y1 = ink_box(raster)
    return _Piece(raster[y0:y1, x0:x1], (left + x0, top + y0, left + x1, top + y1), margin, cut)
