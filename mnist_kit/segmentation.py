"""Segmentation: which ink belongs to which digit of a number.

What was drawn falls into its strokes, what was photographed into connected components. Neighbouring pieces are joined
to digits so that the sum of the digits' costs is least; a digit costs −log of its probability and likeness, and more
the less its shape and the gaps beside and inside it are those of a digit. What is wide and unlike a digit then is cut
where there is little ink, and tried again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from mnist_kit.framing import DIGIT_SIDE, PEN_RADIUS, Box, ink_box, is_line_art
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.recognizer import Prediction, Recognizer

# Pieces
SPECK = 0.2  # of the largest piece: smaller ones that stand alone are dropped
ABOVE = 0.8  # of the narrower piece: with so much of it above or below the other, both are of one digit
WIDELY_ABOVE = 0.3  # of the largest piece: likewise, however wide the two are
MOST_PIECES = 24  # more are no number, and are read as one thing
FAINT = 64  # of 255; fainter ink connects nothing

# Digits; lengths are shares of the number's height, gaps are between the middles of lines
PEN = 2 * PEN_RADIUS / DIGIT_SIDE  # width of MNIST's pen
MAX_PARTS = 4  # of one digit
SLACK = 0.25  # a wider gap always separates two digits
OVERLAP = 0.1  # of two strokes of one digit; less of it counts against their being one
WIDTH, HEIGHT = 1.2, 0.75  # a digit wider than so many times its height, or lower, is odd
DOUBTFUL = 0.9  # probability × likeness below which a piece is cut,
NARROW = 0.6  # unless it is narrower than so many times its height
MAX_CUTS = 3


@dataclass(frozen=True, eq=False)
class ReadDigit:
    """One digit of a number. box: of the red rectangle around it; prediction: what it was recognised as."""

    box: Box
    prediction: Prediction


def split(ink: Drawing | np.ndarray, recognizer: Recognizer) -> list[ReadDigit]:
    """The digits of a number, from left to right; a single digit is a number of one, and without ink there are none.

    ink: a drawing, or a raster, uint8 (H, W), white on black. `as_text` gives the number.
    """
    if not isinstance(ink, Drawing):
        return _split(_components(ink), recognizer, ink.shape)
    shape, brush = (ink.height, ink.width), round(ink.widest_pen)
    if recognizer.framing != "mnist" or not is_line_art(ink):
        return _split(_components(ink.raster()), recognizer, shape, brush)
    size = max(np.ptp(stroke.points, axis=0).max() for stroke in ink.strokes)
    radius = PEN_RADIUS / (DIGIT_SIDE - 2 * PEN_RADIUS) * size or ink.widest_pen  # of MNIST's pen
    pieces = [_redrawn(stroke, radius) for stroke in ink.strokes]
    return _split(pieces, recognizer, shape, round(2 * brush - radius))


def _split(pieces: list["_Piece"], recognizer: Recognizer, shape: tuple[int, int], margin: int = 0) -> list[ReadDigit]:
    """shape: height and width of the page, px; margin: of the red rectangles around the ink, px."""
    pieces = _tidied(pieces)
    if not pieces:
        return []
    height = _join(pieces).height

    def predict(pieces: list[_Piece]) -> list[Prediction]:
        border = max(0, margin)
        return recognizer.predict_rasters([np.pad(piece.raster, border) for piece in pieces], border)

    digits = []
    for piece, prediction in _cheapest(pieces, height, predict):
        doubtful = _trust(prediction) < DOUBTFUL and piece.width > NARROW * piece.height
        slices = _cheapest(_slices(piece), height, predict) if doubtful else []
        digits += slices if slices and all(answer.sure for _, answer in slices) else [(piece, prediction)]
    return [ReadDigit(piece.red_rectangle(shape, margin), prediction) for piece, prediction in digits]


def as_text(digits: list[ReadDigit]) -> str:
    """The number that `split` read, "?" for each digit that the recognizer is not sure of."""
    return "".join(str(digit.prediction.digit) if digit.prediction.sure else "?" for digit in digits)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some of the ink: a raster, uint8 (h, w), cut to its ink, whose corner is at (left, top) of a page, px.

    cut: how much ink lies in the column where the piece was cut off from what is to its left, px.
    """

    raster: np.ndarray
    left: int
    top: int
    cut: float = 0

    @property
    def height(self) -> int:
        return self.raster.shape[0]

    @property
    def width(self) -> int:
        return self.raster.shape[1]

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def red_rectangle(self, shape: tuple[int, int], margin: int) -> Box:
        left, top = max(0, self.left - margin), max(0, self.top - margin)
        return left, top, min(shape[1], self.right + margin), min(shape[0], self.bottom + margin)


def _cropped(raster: np.ndarray, left: int, top: int, cut: float = 0) -> _Piece:
    """The piece that is the ink of `raster`, whose corner lies at (left, top)."""
    x0, y0, x1, y1 = ink_box(raster)
    return _Piece(raster[y0:y1, x0:x1], left + x0, top + y0, cut)


def _join(pieces: list[_Piece]) -> _Piece:
    if len(pieces) == 1:
        return pieces[0]
    left, top = min(p.left for p in pieces), min(p.top for p in pieces)
    width, height = max(p.right for p in pieces) - left, max(p.bottom for p in pieces) - top
    raster = np.zeros((height, width), np.uint8)
    for piece in pieces:
        window = raster[piece.top - top :, piece.left - left :][: piece.height, : piece.width]
        np.maximum(window, piece.raster, out=window)
    return _Piece(raster, left, top, pieces[0].cut)


def _redrawn(stroke: Stroke, radius: float) -> _Piece:
    """The stroke drawn with a pen of `radius` px."""
    corner = np.floor(stroke.points.min(axis=0) - radius - 1)
    width, height = (np.ceil(stroke.points.max(axis=0) + radius + 1) - corner).astype(int).tolist()
    raster = Drawing(width, height, [Stroke(stroke.points - corner, radius)]).raster()
    return _cropped(raster, *corner.astype(int).tolist())


def _components(raster: np.ndarray) -> list[_Piece]:
    """The largest 8-connected components of the ink of `raster`, uint8 (H, W)."""
    labels, count = ndimage.label(raster > FAINT, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    labels = np.where(labels, labels, ndimage.maximum_filter(labels, 5))  # the faint edges too
    windows = ndimage.find_objects(labels)
    pieces = []
    for number in np.argsort(-sizes, kind="stable")[: 2 * MOST_PIECES].tolist():
        rows, columns = windows[number]
        mask = labels[rows, columns] == number + 1
        pieces.append(_cropped(raster[rows, columns] * mask, columns.start, rows.start))
    return pieces


def _slices(piece: _Piece) -> list[_Piece]:
    """`piece` cut where its columns have the least ink."""
    sums = piece.raster.sum(axis=0, dtype=float) / 255
    apart = max(3, piece.height // 6)  # between cuts and from the ends, px
    cuts = []
    for column in (np.argsort(sums[apart:-apart], kind="stable") + apart).tolist():
        if len(cuts) < MAX_CUTS and all(abs(column - cut) >= apart for cut in cuts):
            cuts.append(column)
    return [
        _cropped(piece.raster[:, start:end], piece.left + start, piece.top, float(sums[start]))
        for start, end in pairwise([0, *sorted(cuts), piece.width])
        if piece.raster[:, start:end].any()
    ]


def _cheapest(
    pieces: list[_Piece], height: float, predict: Callable[[list[_Piece]], list[Prediction]]
) -> list[tuple[_Piece, Prediction]]:
    """The cheapest way to join neighbouring `pieces` to digits. height: of the whole number, px."""
    runs = {}  # from piece to piece, exclusive
    for first in range(len(pieces)):
        for last in range(first, min(len(pieces), first + MAX_PARTS)):
            if last > first and _gap(pieces[first:last], pieces[last], height) > SLACK:
                break
            runs[first, last + 1] = _join(pieces[first : last + 1])
    predictions = dict(zip(runs, predict(list(runs.values())), strict=True))

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
    """What it costs to call `parts`, joined to `digit`, one digit, and to separate it from the pieces `before` it."""
    cost = -math.log(max(_trust(prediction), 1e-6))
    cost += 4 * max(0, digit.width / max(digit.height, 1) - WIDTH) + 10 * max(0, HEIGHT - digit.height / height)
    for n in range(1, len(parts)):
        if not parts[n].cut:
            cost += 10 * max(0, OVERLAP + _gap(parts[:n], parts[n], height))
    if before:
        cost += 1.5 + 20 * max(0, -_gap(before, parts[0], height)) + 10 * parts[0].cut / height
    return cost


def _trust(prediction: Prediction) -> float:
    return float(prediction.probabilities.max()) * prediction.likeness


def _gap(left: list[_Piece], right: _Piece, height: float) -> float:
    """Between pieces and the next one, as a share of `height`; negative where they overlap in x."""
    return (right.left - max(piece.right for piece in left)) / height + PEN


def _tidied(pieces: list[_Piece]) -> list[_Piece]:
    """From left to right, without specks; pieces that lie above each other are joined."""
    size = max((max(piece.width, piece.height) for piece in pieces), default=0)
    joined = []
    for piece in sorted(pieces, key=lambda piece: piece.left + piece.right):
        overlap = -_gap(joined[-1:], piece, size) if joined else -math.inf
        if overlap > WIDELY_ABOVE or (joined and overlap > ABOVE * min(piece.width, joined[-1].width) / size):
            joined[-1] = _join([joined[-1], piece])
        else:
            joined.append(piece)
    joined = [piece for piece in joined if max(piece.width, piece.height) >= SPECK * size]
    return joined if len(joined) <= MOST_PIECES else [_join(joined)]
