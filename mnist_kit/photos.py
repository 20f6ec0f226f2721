"""Photos: any picture of what somebody wrote, as white ink on black.

A picture is decoded, and its paper found: even in drawing programs and scans, shaded and grainy in photographs, where a
morphological closing gives the paper's brightness under the ink. What is darker than the paper (or lighter, on a
blackboard) is ink, but for printed lines, frames, the edges of the sheet, JPEG's ringing, grain and specks.
"""

import math

import cv2
import numpy as np

from mnist_kit.decoding import decode

TINY = 32  # px; in smaller pictures every pixel may be part of a digit
LINES_SIDE = 512  # px; printed lines are looked for in a picture of this size
THICKEST_LINE = 0.015  # of the shorter side; what is thicker is no printed line
PAPER_SIDE = 160  # px; the lighting is looked for in a picture of this size
WIDEST_PEN = 0.2  # of the shorter side; what is wider is no stroke but a shadow, a table, a background
EVEN = 3  # grey levels; paper that varies no more is even
LEAST_CONTRAST = 10  # grey levels between ink and even paper
LEAST_SHARE = 0.07  # of the light that ink takes away, in a photograph
PEN_SIDE = 80  # px; of a digit while its pen is measured
PENS = 1.8, 3.0, 4.0, 6.0  # px of 20: narrower pens are drawn as the second, wider than the last as the third
LEAST_DIGIT = 0.02  # of the longer side; smaller ink is a speck, but for pictures of TINY px
SPECK = 0.08  # of the largest piece's longest side: shorter ones are dropped


def as_raster(picture, smallest: float = 1.0) -> np.ndarray:
    """Any picture of dark ink on light paper, or light on dark, as uint8 (height, width): white ink on black.

    picture: a PIL image of any mode; an array or tensor (H, W), (1, H, W), (1, 1, H, W), (H, W, 1), (H, W, 3),
    (H, W, 4) or (3, H, W) of booleans, of 8- or 16-bit whole numbers, or of floats in 0–1 or 0–255; or the path of an
    image file. See-through parts are paper. The darkest ink becomes 255. Even pictures of at most 32 px keep their grey
    levels. Pictures whose longer side is above 1,024 px come back smaller, by a whole factor. Specks are no ink;
    smallest: of the pieces that are, times the usual size: with 0.4, the points between digits stay.

    Raises ImageError for a missing or damaged file, another shape or range, NaN, a side below 3 px, and more than
    64 million pixels. A picture without ink gives an all-black raster, which the framings refuse.
    """
    return _ink(_most_contrast(decode(picture)), smallest)


def _ink(grey: np.ndarray, smallest: float) -> np.ndarray:
    """The ink of a picture, uint8 (H, W), as uint8 (H, W); of a picture in a frame, the ink inside of it."""
    inside = _inside_frame(grey)
    if inside is not None:
        ink = np.zeros_like(grey)
        ink[inside] = _ink(grey[inside], smallest)
        if ink.any() or ink[inside].size > 0.8 * ink.size:
            return ink
    border = _border(grey)
    level = int(_share_near(border).argmax())
    if _share_near(grey)[level] >= 0.4:
        paper = np.median(border[np.abs(border.astype(np.int16) - level) <= EVEN])
        return _on_even_paper(grey.astype(np.float32) - np.float32(paper), smallest)
    return _on_photographed_paper(grey, smallest)


def _share_near(grey: np.ndarray) -> np.ndarray:
    """For each grey level the share of pixels that are within EVEN of it, float64 (256,)."""
    counts = np.bincount(grey.ravel(), minlength=256)
    return np.convolve(counts, np.ones(2 * EVEN + 1), "same") / grey.size


def _inside_frame(grey: np.ndarray) -> tuple[slice, slice] | None:
    """Where the picture is that lies in an even frame: on a page, within a line, with a border of another colour."""
    border = _border(grey)
    shares = _share_near(border)
    if shares.max() < 0.9:
        return None
    like_border = (np.abs(grey.astype(np.int16) - int(shares.argmax())) <= 2 * EVEN).astype(np.uint8)
    pieces = cv2.connectedComponents(like_border, connectivity=4)[1]
    at_border = np.unique(_border(pieces))
    inner = ~np.isin(pieces, at_border[at_border > 0])
    pieces, boxes = cv2.connectedComponentsWithStats(inner.astype(np.uint8), connectivity=4)[1:3]
    largest = 1 + boxes[1:, cv2.CC_STAT_AREA].argmax() if len(boxes) > 1 else 0
    left, top, width, height, _ = boxes[largest]
    trim = max(1, round(0.01 * min(width, height)))  # the edge itself is blurred
    inside = slice(top + trim, top + height - trim), slice(left + trim, left + width - trim)
    whole = (height, width) == grey.shape
    if whole or min(width / grey.shape[1], height / grey.shape[0]) < 0.3 or min(grey[inside].shape) < 3:
        return None
    return inside if (_border(pieces[inside]) == largest).mean() > 0.9 else None


def _border(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def _on_even_paper(difference: np.ndarray, smallest: float) -> np.ndarray:
    """difference: float32 (H, W), from the paper in grey levels."""
    low, high = difference.min(), difference.max()
    if high < -low:
        difference, high = -difference, -low
    noise = 1.4826 * np.median(np.abs(difference))
    if high < max(LEAST_CONTRAST, 6 * noise):
        return np.zeros(difference.shape, np.uint8)
    share = difference.clip(0) / high
    tiny = max(share.shape) <= TINY
    far = cv2.dilate((share > 0.25).astype(np.uint8), np.ones((7, 7))) == 0
    rough = far.any() and (difference[far] != 0).mean() > 0.02  # a drawing's paper is of one colour, a JPEG's is not
    floor = max(0.15 if rough else 0 if tiny else 0.08, 4 * noise / high)
    share[share < floor] = 0
    if not tiny:
        share = _without_lines(share, floor)
    return _pieces(share, 0 if tiny else LEAST_DIGIT, smallest)


def _on_photographed_paper(grey: np.ndarray, smallest: float) -> np.ndarray:
    smooth = grey
    if min(grey.shape) > 5 * TINY:
        smooth = cv2.GaussianBlur(cv2.medianBlur(grey, 5), (0, 0), 1.2)
    share = _paper_and_ink(smooth)
    noise = 1.4826 * np.median(np.abs(share - np.median(share)))
    floor = max(LEAST_SHARE, 5 * noise)
    share = _without_lines(share.clip(0), floor)
    candidates = share[share > floor]
    if candidates.size == 0:
        return np.zeros(grey.shape, np.uint8)
    levels = np.rint(candidates * 255).clip(0, 255).astype(np.uint8)
    threshold = max(cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)[0] / 255, LEAST_SHARE)
    full = np.median(candidates[candidates >= threshold])
    low = 0.5 * threshold
    share = ((share - low) / max(full - low, 1e-6)).clip(0, 1)
    least = LEAST_DIGIT * max(1, 0.3 / full)  # what is faint has to be the larger, to be no accident
    return _pieces(share, least, smallest, photo=True)


def _paper_and_ink(grey: np.ndarray) -> np.ndarray:
    """The share of the light that ink takes away in each pixel, float32 (H, W)."""
    height, width = grey.shape
    scale = min(1, PAPER_SIDE / max(height, width))
    size = max(3, round(width * scale)), max(3, round(height * scale))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    if _light_ink(small):
        grey, small = 255 - grey, 255 - small
    paper = _closed(small, WIDEST_PEN, cv2.MORPH_CLOSE)
    paper = cv2.erode(paper, np.ones((3, 3)))  # an edge of the sheet belongs to its darker side
    paper = cv2.GaussianBlur(paper, (0, 0), 1)
    paper = cv2.resize(paper, (width, height), interpolation=cv2.INTER_LINEAR)
    return 1 - (grey + np.float32(1)) / (paper + np.float32(1))


def _light_ink(small: np.ndarray) -> bool:
    """Whether the strokes of a picture are lighter than the rest: long and narrow, unlike the gaps between strokes."""
    grey = small.astype(np.float32) + 8
    sides = np.array([0.02, 0.04, 0.08, WIDEST_PEN])
    dark = np.stack([_closed(grey, side, cv2.MORPH_CLOSE) / grey - 1 for side in sides])
    light = np.stack([grey / _closed(grey, side, cv2.MORPH_OPEN) - 1 for side in sides])
    visible = 0.5 * np.sort(np.maximum(dark[-1], light[-1]), axis=None)[-10:][0]  # the tenth largest, if there are ten
    lengths = [((ink > visible).sum(axis=(1, 2)) / sides**2).max() for ink in (dark, light)]
    return lengths[1] > 1.25 * lengths[0]  # mostly, ink is dark


def _closed(small: np.ndarray, share: float, operation: int) -> np.ndarray:
    """A picture closed or opened by a disc whose diameter is a `share` of its shorter side, reflected at its edges."""
    side = max(3, round(share * min(small.shape)) | 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    around = np.pad(small.astype(np.float32), side, "reflect", reflect_type="odd")  # a gradient goes on as it was
    return cv2.morphologyEx(around, operation, disc)[side:-side, side:-side].clip(1)


def _without_lines(share: np.ndarray, floor: float) -> np.ndarray:
    """The ink without what is printed on ruled and squared paper: two or more thin lines right across the picture.

    share: float32 (H, W), of the light that ink takes away; less than `floor` is none.
    """
    scale = min(1, LINES_SIDE / max(share.shape))
    size = [max(1, round(scale * side)) for side in share.shape[::-1]]
    small = cv2.resize(share, size, interpolation=cv2.INTER_AREA)
    mask = (small > floor).astype(np.uint8)
    length = round(0.6 * min(small.shape))
    found = cv2.HoughLinesP(mask, 1, np.pi / 360, length // 2, minLineLength=length, maxLineGap=max(2, length // 12))
    depth = cv2.dilate(cv2.distanceTransform(mask, cv2.DIST_L2, 3), np.ones((3, 3))).clip(max=LINES_SIDE)
    darkest = cv2.dilate(small, np.ones((3, 3)))
    lines, whole = [], {}
    for x, y, x1, y1 in [] if found is None else found.reshape(-1, 4).tolist():
        upright = abs(y1 - y) > abs(x1 - x)
        slope = (x1 - x) / (y1 - y) if upright else (y1 - y) / (x1 - x)
        along = np.arange(small.shape[0 if upright else 1])
        across = np.rint(x + slope * (along - y) if upright else y + slope * (along - x)).astype(int)
        in_view = (across >= 0) & (across < small.shape[1 if upright else 0])
        if abs(slope) > 0.25 or in_view.mean() < 0.5:
            continue
        along, across = along[in_view], across[in_view]
        line = (along, across) if upright else (across, along)
        radius, covered = np.median(depth[line]), (depth[line] > 0).mean()
        if covered > 0.6 and radius < THICKEST_LINE * min(small.shape):
            lines.append((line, radius))
        if covered > 0.9:
            whole[upright, across[len(across) // 2] // 8] = radius
    if len(whole) < 2:
        return share
    printed = np.zeros_like(share)
    for line, radius in lines:
        if radius <= 1.5 * np.median(list(whole.values())):
            ends = [(round(line[1][end] / scale), round(line[0][end] / scale)) for end in (0, -1)]
            cv2.line(printed, *ends, float(np.median(darkest[line])), math.ceil((2 * radius + 1) / scale))
    share = np.where(share < 1.5 * printed, 0, share)  # what is darker has ink on the line,
    pieces = cv2.connectedComponents((share > floor).astype(np.uint8))[1].ravel()
    of_line = np.bincount(pieces, (share < 2.2 * printed).ravel()) / np.bincount(pieces)
    return np.where((of_line > 0.7)[pieces].reshape(share.shape), 0, share)  # unless it lies on the line altogether


def _pieces(share: np.ndarray, least: float, smallest: float, photo: bool = False) -> np.ndarray:
    """The ink as uint8 (H, W), without specks, frames and the edges of the sheet.

    share: float32 (H, W) in [0, 1]; least: side of a piece that may be ink, as a share of the longer side; smallest: of
    `as_raster`.
    """
    ink = np.rint(share * 255).astype(np.uint8)
    mask = (share > 0.25).astype(np.uint8)
    pieces, boxes = cv2.connectedComponentsWithStats(mask, connectivity=8)[1:3]
    sides = boxes[:, 2:4].max(axis=1)
    kept = np.zeros(len(sides), bool)
    kept[np.unique(pieces[share >= 0.5])] = True
    kept &= sides >= smallest * least * max(ink.shape)
    kept[_frames(pieces, boxes, kept)] = False
    largest = np.minimum(sides, 8 * boxes[:, 2:4].min(axis=1))[kept].max(initial=0)  # a long line is no measure
    kept &= sides >= smallest * SPECK * largest
    kept &= ~_beside_the_sheet(pieces, sides, kept, photo)
    ink[cv2.dilate(kept[pieces].astype(np.uint8), np.ones((3, 3))) == 0] = 0
    return ink


def _frames(pieces: np.ndarray, boxes: np.ndarray, kept: np.ndarray) -> list[int]:
    """Which pieces are a rectangle, drawn or printed, straight or not, around others."""
    frames = []
    for piece in np.nonzero(kept)[0]:
        left, top, width, height, _ = boxes[piece]
        x, y, w, h = boxes[kept, :4].T
        inside = (x > left) & (y > top) & (x + w < left + width) & (y + h < top + height)
        if np.maximum(w, h)[inside].max(initial=0) > 0.15 * max(width, height):
            window = (pieces[top : top + height, left : left + width] == piece).astype(np.uint8)
            hull = cv2.convexHull(cv2.findNonZero(window))
            if cv2.contourArea(hull) > 0.87 * math.prod(cv2.minAreaRect(hull)[1]):
                frames.append(piece)
    return frames


def _beside_the_sheet(pieces: np.ndarray, sides: np.ndarray, kept: np.ndarray, photo: bool) -> np.ndarray:
    """Which pieces are a strip or a wedge along the border, or a stub at it, beside ink that is not, bool (n,).

    In a photo they are so too where there is no other ink.
    """
    contact = np.bincount(_border(pieces), minlength=len(sides))
    near = math.ceil(0.1 * min(pieces.shape))
    deep = np.bincount(pieces[near:-near, near:-near].ravel(), minlength=len(sides))
    area = np.bincount(pieces.ravel(), minlength=len(sides))
    strips = kept & (contact > 0.5 * sides) & (deep < 0.1 * area)
    stubs = kept & (contact > 0) & (sides < 0.3 * sides[kept & ~strips].max(initial=0))
    return (strips | stubs) & (photo or (kept & ~strips).any())


def _most_contrast(colour: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W) or (H, W, 3), as grey, uint8 (H, W), or the colour in which its ink shows more."""
    if colour.ndim == 2:
        return colour
    grey = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY)
    if np.ptp(colour, axis=2).max() < 24:
        return grey
    channels = [grey, *cv2.split(colour)]
    low, high = np.percentile(np.stack(channels), (0.5, 99.5), axis=(1, 2))
    spread = (high - low) * (1.25, 1, 1, 1)
    return channels[int(spread.argmax())]


def even_pen(raster: np.ndarray) -> np.ndarray:
    """The same strokes, as bright as can be, by a pen like those of MNIST's writers: uint8 (h, w).

    raster: uint8 (height, width), white ink on black; its largest extent should be one digit. Where its pen is like
    theirs already, only the brightness changes; otherwise the strokes are drawn wider or narrower around their middle,
    in a picture of their own size. The width is measured once the longest side is 20 px.
    """
    left, top, width, height = cv2.boundingRect(raster)
    if width == 0:
        return raster
    raster = raster[top : top + height, left : left + width]
    if raster.max() < 255:
        raster = np.rint(raster * np.float32(255 / raster.max())).astype(np.uint8)
    scale = PEN_SIDE / max(raster.shape)
    size = [max(1, round(side * scale)) for side in raster.shape[::-1]]
    large = cv2.resize(raster, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    around = cv2.dilate(large, np.ones((PEN_SIDE // 6, PEN_SIDE // 6)))  # faint strokes are strokes too
    inside = np.pad((large > 0.5 * around) & (large > 0.15 * 255), PEN_SIDE // 8).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    width = 4 * depth[inside > 0].mean() - 1  # a stroke's pixels are a quarter of its width deep, on average
    narrowest, thin, thick, widest = (PEN_SIDE / 20 * pen for pen in PENS)
    if narrowest <= width <= widest:
        return raster
    away = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    usual = thin if width < narrowest else thick
    offset = depth - away + (usual - width) / 2  # px by which a pixel is inside the new stroke
    if width > usual:  # what is narrower than the rest stays too
        beside = (depth < cv2.dilate(depth, np.ones((3, 3))) - 0.5) | (depth < width / 8)
        middle = cv2.distanceTransform(beside.astype(np.uint8), cv2.DIST_L2, 5)
        offset = np.maximum(offset, usual / 3 - middle)
    return np.rint(255 * (offset + 0.5).clip(0, 1)).astype(np.uint8)
