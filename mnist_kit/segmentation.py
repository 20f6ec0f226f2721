"""Segmentation: which ink is which digit, in numbers and in lines of them.

A drawing falls into its strokes, a picture into connected components. These pieces are sorted into lines; a piece too
wide for one digit is cut where there is little ink. Neighbouring pieces are then joined to digits so that the sum of
the digits' costs is least: a digit costs −log of its probability and likeness, and more the less its shape, and the
gaps beside and inside it, are those of a digit.

Lengths below are shares of a line's height; gaps are measured between the middles of the lines that a pen drew.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from mnist_kit.errors import ImageError
from mnist_kit.framing import DIGIT_SIDE, PEN_RADIUS, Box, ink_box, is_line_art
from mnist_kit.ink import Drawing, Stroke
from mnist_kit.recognizer import Prediction, Recognizer

# Pieces and lines
MOST_PIECES = 1_000  # of one page; a network reads some 300 pieces per second
MOST_POINTS = 5_000  # of one stroke
FAINT = 64  # of 255; fainter ink connects nothing
LEAST = 0.01  # of a picture's longer side, and 6 px: what is smaller is no digit
SPECK = 0.2  # of the largest piece: what is smaller is left out,
DOT = 1.5  # unless a pen drew it right above or below a stroke, no farther from it
BIG = 0.35  # of the highest piece: pieces that are as high make the lines
NEAR = 0.5  # lower ones belong to the line of the nearest of these, unless it is farther
ABOVE, ALONE = 0.12, 0.3  # the gap between the two rings of an 8, in company and where there is nothing else
SPACE = 4.0  # between two numbers in one line that need not stand at the same height
RULE = 8  # times as wide as high: a line under a sum, which tells nothing of the size of digits

# Digits. All constants were chosen on pen digits and signs of six sites of UNIPEN, and tried on four others.
PEN = 2 * PEN_RADIUS / DIGIT_SIDE  # the width of MNIST's pen
MAX_PARTS = 6  # of one digit
SLACK = 0.25  # a wider gap always separates two digits
WIDEST = 2.0  # wider pieces are never joined
DOUBTFUL = 0.9  # the confidence below which a digit is cut,
NARROW = 0.6  # unless it is narrower than so many times its height
MAX_CUTS = 4
SIDEWAYS = 0.1  # px of ink that a cut would rather cross than go one pixel aside

# What costs as much as a probability of e⁻¹ costs 1.
UNLIKE = 4.0  # what is no digit at all
WIDTH, HEIGHT = 1.2, 0.75  # a digit wider than so many times its height, or lower, costs more
OVERLAP = 0.1  # strokes of one digit overlap as much in x; less of it costs more
LEFT_OUT = 6.0  # a low piece that belongs to no digit
APART = 1.5  # two digits in place of one,
TOUCH, PITCH = 3.0, 0.5  # where they touch, and are closer than PITCH from middle to middle,
CROSSED = 6.0  # where a cut crosses ink, per height of it,
CUT = 2.5  # where a stroke of a pen is cut: few people draw two digits in one go


@dataclass(frozen=True, eq=False)
class ReadDigit:
    """One digit of a page. box: the red rectangle around it, px; prediction: what it was recognised as; line: 0, …"""

    box: Box
    prediction: Prediction
    line: int = 0


def split(ink: Drawing | np.ndarray, recognizer: Recognizer) -> list[ReadDigit]:
    """The digits of a page, line by line from the top, each line from left to right; none where there is no ink.

    ink: a drawing, or a raster, uint8 (H, W), white on black. A single digit is a page of one. `as_text` gives the
    numbers. Raises ImageError for ink in more than 1,000 pieces.
    """
    is_drawing = isinstance(ink, Drawing)
    shape, margin = ((ink.height, ink.width), round(ink.widest_pen)) if is_drawing else (ink.shape, 0)
    if is_drawing and recognizer.framing == "mnist" and is_line_art(ink):
        lines = _lines_of_strokes(ink)
    else:
        lines = _lines_of_picture(ink.raster() if is_drawing else ink)

    def predict(pieces: list[_Piece]) -> list[Prediction]:
        return recognizer.predict_rasters([np.pad(piece.raster, margin) for piece in pieces], margin)

    return [
        ReadDigit(piece.red_rectangle(shape, margin), prediction, line)
        for line, digits in enumerate(_read(list(lines), predict))
        for piece, prediction, _ in digits
    ]


def as_text(digits: list[ReadDigit]) -> str:
    """The numbers that `split` read, one per line, "?" for each digit that the recognizer is not sure of."""
    lines = groupby(digits, lambda digit: digit.line)
    return "\n".join("".join(str(d.prediction.digit) if d.prediction.sure else "?" for d in line) for _, line in lines)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some of the ink: a raster, uint8 (h, w), cut to its ink, and where it lies on the page, px.

    inset: from the edge of the ink to the middle of the pen's lines, px; cut: how much ink lies in the column where the
    piece was cut off from what is to its left, px.
    """

    raster: np.ndarray
    left: int
    top: int
    right: int
    bottom: int
    inset: float = 0
    cut: float = 0

    @property
    def height(self) -> int:
        return self.raster.shape[0]

    @property
    def width(self) -> int:
        return self.raster.shape[1]

    def red_rectangle(self, shape: tuple[int, int], margin: int) -> Box:
        margin = round(2 * margin - self.inset) if self.inset else margin
        left, top = max(0, self.left - margin), max(0, self.top - margin)
        return left, top, min(shape[1], self.right + margin), min(shape[0], self.bottom + margin)


def _cropped(raster: np.ndarray, left: int, top: int, inset: float = 0, cut: float = 0) -> _Piece:
    """The piece that is the ink of `raster`, whose corner lies at (left, top)."""
    x0, y0, x1, y1 = ink_box(raster)
    return _Piece(raster[y0:y1, x0:x1], left + x0, top + y0, left + x1, top + y1, inset, cut)


def _join(pieces: list[_Piece]) -> _Piece:
    if len(pieces) == 1:
        return pieces[0]
    left, top = min(p.left for p in pieces), min(p.top for p in pieces)
    right, bottom = max(p.right for p in pieces), max(p.bottom for p in pieces)
    raster = np.zeros((bottom - top, right - left), np.uint8)
    for piece in pieces:
        window = raster[piece.top - top : piece.bottom - top, piece.left - left : piece.right - left]
        np.maximum(window, piece.raster, out=window)
    return _Piece(raster, left, top, right, bottom, pieces[0].inset, pieces[0].cut)


# From ink to pieces, line by line


def _lines_of_strokes(drawing: Drawing) -> Iterator[list[_Piece]]:
    """Each stroke, with its dots, is a piece, drawn again with MNIST's pen: the brush makes no difference."""
    boxes = np.array([[*stroke.points.min(axis=0), *stroke.points.max(axis=0)] for stroke in drawing.strokes])
    dots = _dots(boxes)
    for line in _lines(boxes):
        sides = boxes[line, 2:] - boxes[line, :2]
        size = np.percentile(np.maximum(sides[:, 1], sides[:, 0] / 3), 75)  # digits in one stroke are no higher for it
        radius = max(PEN_RADIUS / (DIGIT_SIDE - 2 * PEN_RADIUS) * size, 0.5)
        groups = [[n, *dots.get(n, [])] for n in line]
        yield [_join([_redrawn(drawing.strokes[n], radius) for n in group]) for group in groups]


def _dots(boxes: np.ndarray) -> dict[int, list[int]]:
    """The small strokes right above or below a larger one, by its number: they make it an i or a question mark."""
    size, middle = _digit_size(boxes), (boxes[:, :2] + boxes[:, 2:]) / 2
    small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) < BIG * size
    dots = {}
    for n in np.nonzero(small)[0].tolist():
        gaps = np.maximum(boxes[:, 1] - boxes[n, 3], boxes[n, 1] - boxes[:, 3])  # above or below, px
        astride = (boxes[:, 0] <= middle[n, 0] + SPECK * size) & (middle[n, 0] - SPECK * size <= boxes[:, 2])
        gaps[small | ~astride | (gaps <= 0) | (gaps > DOT * size)] = np.inf
        if gaps.min() < np.inf:
            dots.setdefault(int(gaps.argmin()), []).append(n)
    return dots


def _redrawn(stroke: Stroke, radius: float) -> _Piece:
    """The stroke drawn with a pen of `radius` px."""
    points = stroke.points
    if len(points) > MOST_POINTS:  # what is longer is a scribble, and stays one with fewer points
        points = points[np.linspace(0, len(points) - 1, MOST_POINTS).astype(int)]
    corner = np.floor(points.min(axis=0) - radius - 1)
    width, height = (np.ceil(points.max(axis=0) + radius + 1) - corner).astype(int).tolist()
    raster = Drawing(width, height, [Stroke(points - corner, radius)]).raster()
    return _cropped(raster, *corner.astype(int).tolist(), inset=radius)


def _lines_of_picture(raster: np.ndarray) -> Iterator[list[_Piece]]:
    """Each 8-connected component of the ink of `raster`, uint8 (H, W), is a piece."""
    labels, _ = ndimage.label(raster > FAINT, np.ones((3, 3)))
    labels = np.where(labels, labels, ndimage.maximum_filter(labels, 5))  # the faint edges too
    least = max(6, LEAST * max(raster.shape))
    windows = enumerate(ndimage.find_objects(labels), start=1)
    pieces = [
        _cropped(raster[window] * (labels[window] == label), window[1].start, window[0].start)
        for label, window in windows
        if max(side.stop - side.start for side in window) >= least
    ]
    if pieces:
        for line in _lines(np.array([[piece.left, piece.top, piece.right, piece.bottom] for piece in pieces])):
            yield [pieces[n] for n in line]


def _lines(boxes: np.ndarray) -> list[list[int]]:
    """Which boxes, (n, 4) as left, top, right, bottom, stand in one line; lines from the top, specks left out."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    size = _digit_size(boxes)
    (seen,) = np.nonzero(np.maximum(width, height) >= SPECK * size)
    centre = boxes[:, 0] + boxes[:, 2]
    if len(seen) > MOST_PIECES:
        raise ImageError(f"the ink is in {len(seen):,} pieces; up to {MOST_PIECES:,} can be read at once")
    boxes, width, height = boxes[seen], width[seen], height[seen]
    big = height >= min(BIG * size, height.max())
    starts, ends = boxes[:, None, :2], boxes[:, None, 2:]
    gap_x, gap_y = np.moveaxis(np.maximum(starts, starts.swapaxes(0, 1)) - np.minimum(ends, ends.swapaxes(0, 1)), 2, 0)
    narrower, lower = np.minimum(width, width[:, None]), np.minimum(height, height[:, None])
    beside = (gap_y < -0.5 * lower) & (gap_x < SPACE * size)
    above = (gap_x < -0.5 * narrower) & (gap_y < ABOVE * size) & (height + height[:, None] < 1.5 * size)
    if big.sum() == 2:
        above = (gap_x < -0.5 * narrower) & (gap_y < ALONE * size)
    linked = (beside | above) & big & big[:, None]

    # Each lower piece follows the big one that is nearest.
    distance = np.hypot(gap_x.clip(0), gap_y.clip(0)) + np.where(big, 0, np.inf)
    nearest = distance.argmin(axis=1)
    near = big | (distance.min(axis=1) < NEAR * size)
    linked[np.arange(len(seen))[near], nearest[near]] = True
    labels = sparse.csgraph.connected_components(linked, directed=False)[1]
    members = [np.nonzero((labels == label) & near)[0] for label in np.unique(labels[near])]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    members = sorted(((middle[line, 1] * big[line]).sum() / big[line].sum(), line.tolist()) for line in members)
    lines, last = [], -np.inf
    for place, line in members:
        if place - last < 0.5 * size:  # a wide space is in between
            lines[-1] += line
        else:
            lines.append(line)
        last = place
    return [sorted(seen[line].tolist(), key=lambda n: centre[n]) for line in lines]


def _digit_size(boxes: np.ndarray) -> float:
    """The height of the highest digit, px; boxes, (n, 4), as in `_lines`."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    sides = np.maximum(height, width / 3)  # several digits in one piece are no higher
    is_rule = width > RULE * height
    return sides[~is_rule].max() if not is_rule.all() else sides.max()


# From pieces to digits


class Answer(NamedTuple):
    """A piece that is a digit, what the network makes of it, and what it costs to call it one."""

    piece: _Piece
    prediction: Prediction
    cost: float


Predict = Callable[[list[_Piece]], list[Prediction]]


def _read(lines: list[list[_Piece]], predict: Predict) -> list[list[Answer]]:
    """The digits of each line. The network is asked twice, however many there are."""
    heights = [float(np.percentile([piece.height for piece in line], 90)) for line in lines]
    read = [digits for digits, _ in _cheapest(lines, heights, predict)]
    doubtful = [
        (digits, digit, height)
        for digits, height in zip(read, heights, strict=True)
        for digit in digits
        if digit.prediction.confidence < DOUBTFUL
        and digit.piece.width > NARROW * digit.piece.height
        and digit.piece.height > HEIGHT * height
    ]
    tries = _cheapest([_slices(d.piece) for _, d, _ in doubtful], [height for *_, height in doubtful], predict)
    for (digits, digit, _), (slices, cost) in zip(doubtful, tries, strict=True):
        # Half a letter may look like a 1, and few people draw two digits in one go.
        least = DOUBTFUL if digit.piece.inset else 0
        if cost < digit.cost and all(s.prediction.sure and s.prediction.confidence >= least for s in slices):
            place = digits.index(digit)
            digits[place : place + 1] = slices
    return read


def _slices(piece: _Piece) -> list[_Piece]:
    """`piece` cut where that crosses the least ink."""
    seams, crossed = _seams(piece.raster)
    apart = max(3, piece.height // 5)  # between seams and from the ends, px
    cuts = []
    for column in (np.argsort(crossed[apart:-apart], kind="stable") + apart).tolist():
        if len(cuts) < MAX_CUTS and all(abs(column - cut) >= apart for cut in cuts):
            cuts.append(column)
    cuts.sort()
    # The slice of each pixel, (h, w): so many seams lie at it or left of it.
    number = (np.arange(piece.width)[:, None] >= seams[:, None, cuts]).sum(axis=2)
    inks = [0.0, *crossed[cuts].clip(min=1).tolist()]
    return [
        _cropped(part, piece.left, piece.top, piece.inset, ink)
        for place, ink in enumerate(inks)
        if (part := piece.raster * (number == place)).any()
    ]


def _seams(raster: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ways from the top to the bottom of `raster`, uint8 (h, w), that cross the least ink.

    Returns their columns in each row, int (h, w), and how much ink each crosses, float (w,), px: one way through each
    pixel of the middle row. From row to row a way moves by at most one column.
    """
    height, width = raster.shape
    middle = height // 2
    ink = np.pad(raster / 255.0, ((0, 0), (1, 1)), constant_values=np.inf)  # nothing leads around
    seams, crossed = np.empty((height, width), int), -ink[middle, 1:-1]
    seams[middle] = np.arange(width)
    for rows in (range(middle + 1), range(height - 1, middle - 1, -1)):
        cost, steps = np.where(np.isinf(ink[0]), np.inf, 0.0), []
        for row in rows:
            near = np.stack([cost[1:-1], cost[:-2] + SIDEWAYS, cost[2:] + SIDEWAYS])
            steps.append(np.array([0, -1, 1])[near.argmin(axis=0)])
            cost = np.pad(near.min(axis=0), 1, constant_values=np.inf) + ink[row]
        crossed = crossed + cost[1:-1]
        way = np.arange(width)
        for row, step in zip(rows[:0:-1], steps[:0:-1], strict=True):
            way = way + step[way]
            seams[row - (rows[1] - rows[0])] = way
    return seams, crossed


def _candidates(line: list[_Piece], height: float) -> dict[tuple[int, int], _Piece]:
    """What may be one digit: runs of neighbouring pieces, from one to another, exclusive."""
    runs = {}
    for first in range(len(line)):
        for last in range(first + 1, min(len(line), first + MAX_PARTS) + 1):
            parts = line[first:last]
            if last > first + 1 and _gap(parts[:-1], parts[-1], height) > SLACK:
                break
            piece = _join(parts)
            if last == first + 1 or piece.width < WIDEST * height:
                runs[first, last] = piece
    return runs


def _cheapest(lines: list[list[_Piece]], heights: list[float], predict: Predict) -> list[tuple[list[Answer], float]]:
    """The cheapest way to join the pieces of each line to digits, and its cost; low pieces may be left out."""
    lattices = [_candidates(line, height) for line, height in zip(lines, heights, strict=True)]
    predictions = iter(predict([piece for runs in lattices for piece in runs.values()]))
    read = []
    for line, height, runs in zip(lines, heights, lattices, strict=True):
        best = [(0.0, 0, None)] + [(math.inf, 0, None)] * len(line)  # cost so far, where the last digit begins, and it
        for first in range(len(line)):
            if line[first].height < BIG * height and not _crosses(line, first):
                best[first + 1] = min(best[first + 1], (best[first][0] + LEFT_OUT, first, None), key=itemgetter(0))
            for last in range(first + 1, len(line) + 1):
                if (first, last) in runs:
                    piece, prediction = runs[first, last], next(predictions)
                    cost = _cost(piece, line[first:last], line[:first], prediction, height)
                    answer = Answer(piece, prediction, cost)
                    best[last] = min(best[last], (best[first][0] + cost, first, answer), key=itemgetter(0))
        digits, last = [], len(line)
        while last:
            _, last, answer = best[last]
            digits += [answer] if answer else []
        read.append((digits[::-1], best[-1][0]))
    return read


def _cost(digit: _Piece, parts: list[_Piece], before: list[_Piece], prediction: Prediction, height: float) -> float:
    """What it costs to call `parts`, joined to `digit`, one digit, and to separate it from the pieces `before` it."""
    cost = min(-math.log(max(prediction.confidence, 1e-6)), UNLIKE)
    cost += 4 * max(0, digit.width / max(digit.height, 1) - WIDTH) + 10 * max(0, HEIGHT - digit.height / height)
    for n in range(1, len(parts)):
        if not parts[n].cut:
            cost += 10 * max(0, OVERLAP + _gap(parts[:n], parts[n], height))
    if before:
        cost += APART
        if parts[0].cut:
            cost += CUT * (parts[0].inset > 0) + CROSSED * parts[0].cut / height
        elif _touch(before, parts[0]):
            pitch = (digit.left + digit.right - before[-1].left - before[-1].right) / 2 / height
            cost += TOUCH * max(0, PITCH - pitch) + 20 * max(0, -_gap(before, parts[0], height))
    return cost


def _crosses(line: list[_Piece], n: int) -> bool:
    """Whether some of the ink of a piece lies on that of the others in its line."""
    others = [piece for piece in line if piece is not line[n]]
    return bool(others) and _ink(line) < _ink(others) + _ink([line[n]])


def _ink(pieces: list[_Piece]) -> int:
    return int((_join(pieces).raster > FAINT).sum())


def _touch(left: list[_Piece], right: _Piece) -> bool:
    """Whether a piece lies on, over or beside the ink of those to its left, with no gap in between."""
    for piece in left[-MAX_PARTS:]:
        top = max(piece.top, right.top)
        bottom = max(top, min(piece.bottom, right.bottom))
        ours = piece.raster[top - piece.top : bottom - piece.top, ::-1] > FAINT
        others = right.raster[top - right.top : bottom - right.top] > FAINT
        both = ours.any(axis=1) & others.any(axis=1)
        gaps = right.left + others.argmax(axis=1) - (piece.right - ours.argmax(axis=1))
        over = top == bottom and piece.right > right.left
        if over or (gaps[both] <= 0).any():
            return True
    return False


def _gap(left: list[_Piece], right: _Piece, height: float) -> float:
    """Between pieces and the next one; negative where they overlap in x."""
    return (right.left - max(piece.right for piece in left)) / height + PEN
