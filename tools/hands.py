"""One drawing in many hands: its lines slanted, stretched, bent, sampled and drawn as other people and pens would.

Lines are a list of float64 (n, 2), a stroke each, y downwards. All that is random comes from a numpy Generator.
"""

import numpy as np
import torch

from mnist_kit.framing import frame_as_drawn
from mnist_kit.ink import Drawing, Stroke

BOX = 100  # px; drawings are drawn five times as large as MNIST's 20 px
MNIST_PEN = 2.3  # px of 20; the width of MNIST's strokes


def lines_of(drawing: Drawing) -> list[np.ndarray]:
    """The points of its strokes."""
    return [stroke.points.astype(np.float64) for stroke in drawing.strokes]


def centred(lines: list[np.ndarray]) -> list[np.ndarray]:
    """The same lines in the unit square around (0, 0): the longer side of their box is 1."""
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    return [(line - (low + high) / 2) / max((high - low).max(), 1e-6) for line in lines]


def shape_of(lines: list[np.ndarray]) -> tuple[float, float]:
    """Breadth of the ink across its longest direction, as a share of that (0: a straight line), and width / height."""
    points = np.concatenate([_dense(line) for line in centred(lines)])
    spreads = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    width, height = np.ptp(points, axis=0)
    return spreads[1] / max(spreads[0], 1e-9), width / max(height, 1e-9)


def by_another_hand(lines: list[np.ndarray], rng: np.random.Generator, strength: float = 1.0) -> list[np.ndarray]:
    """What another person would have drawn on another tablet; strength: of the changes in shape."""
    lines = _sampled(centred(lines), rng)
    turn = np.clip(rng.normal(0, 0.13), -0.35, 0.35) * strength  # radians
    slant = np.clip(rng.normal(0.03, 0.2), -0.5, 0.5) * strength
    aspect = np.exp(np.clip(rng.normal(0, 0.16), -0.4, 0.4))
    matrix = np.array([[aspect, 0], [-slant, 1]])
    matrix = matrix @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    waves, lengths = rng.normal(0, 0.02, (2, 2)) * strength, rng.uniform(2, 6, (2, 2)) * rng.choice((-1, 1), (2, 2))
    phases = rng.uniform(0, 2 * np.pi, 2)
    balance = rng.normal(0, 0.18) * strength  # how much of the height the upper half has
    changed = []
    for line in lines:
        line = line @ matrix
        line = line + np.sin(line @ lengths + phases) @ waves
        line[:, 1] += balance * (0.25 - line[:, 1] ** 2)
        line += rng.normal(0, 0.015, 2)  # the strokes of a digit do not meet exactly
        if len(line) > 3 and rng.random() < 0.3:  # the pen starts late or early, stops short or runs on
            for end, inner in ((0, 2), (-1, -3)):
                line[end] += rng.normal(0, 0.3) * (line[end] - line[inner])
        if rng.random() < 0.4:
            line += rng.normal(0, rng.uniform(0.002, 0.012), line.shape)
        changed.append(line)
    return changed


def _sampled(lines: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Some tablets give some 20 points per digit, and some so coarse places that lines are stairs."""
    if rng.random() < 0.4:
        step = max(1.0, sum(map(len, lines)) / rng.integers(10, 30))
        kept = [np.linspace(0, len(line) - 1, max(2, round(len(line) / step))).round().astype(int) for line in lines]
        lines = [line[np.unique(indices)] for line, indices in zip(lines, kept, strict=True)]
    if rng.random() < 0.25:
        places = rng.integers(16, 60)
        lines = [np.round(line * places) / places for line in lines]
    return [_dense(line) for line in lines] if rng.random() < 0.5 else lines


def _dense(line: np.ndarray, step: float = 0.02) -> np.ndarray:
    """The line with a point every `step`."""
    along = np.append(0, np.cumsum(np.hypot(*np.diff(line, axis=0).T)))
    if along[-1] == 0:
        return line
    places = np.linspace(0, along[-1], max(2, int(along[-1] / step) + 1))
    return np.stack([np.interp(places, along, side) for side in line.T], axis=1)


def slashed(lines: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """A zero with a stroke through it, rising as most people draw it, upright or level."""
    lines = centred(lines)
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    angle = np.deg2rad(rng.uniform(*rng.choice([(25, 75), (75, 105), (-12, 25), (105, 150)], p=[0.55, 0.2, 0.2, 0.05])))
    along, across = np.array([np.cos(angle), -np.sin(angle)]), np.array([np.sin(angle), np.cos(angle)])
    reach = 1 / (np.abs(along) / np.maximum((high - low) / 2, 0.1)).max()  # from the middle to the zero's box
    place = np.linspace(-rng.uniform(0.75, 1.5), rng.uniform(0.75, 1.5), 9)[:, None]
    bow = rng.normal(0, 0.05) * (1 - np.linspace(-1, 1, 9)[:, None] ** 2)
    slash = (low + high) / 2 + rng.normal(0, 0.05, 2) + reach * place * along + bow * across
    if rng.random() < 0.35:  # without lifting the pen
        return [np.concatenate([lines[0], slash[:: rng.choice([-1, 1])]]), *lines[1:]]
    return [*lines, slash]


def flagged(lines: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """A plain 1 with a flag, a foot or both; one that is no upright single stroke stays as it is."""
    stroke = centred(lines)[0]
    if stroke[0, 1] > stroke[-1, 1]:
        stroke = stroke[::-1]
    if len(lines) != 1 or stroke[-1, 1] - stroke[0, 1] < 0.8 or np.ptp(stroke[:, 0]) > 0.45:
        return lines
    changed = [stroke]
    if rng.random() < 0.85:
        angle = rng.uniform(12, 65)
        length = rng.uniform(0.12, 0.6 if angle > 25 else 0.35)  # a long level one would make it a 7
        angle = np.deg2rad(angle)
        place = np.linspace(1, 0, 6)[:, None]
        down, across = np.array([-np.cos(angle), np.sin(angle)]), np.array([np.sin(angle), np.cos(angle)])
        flag = stroke[0] + length * (place * down + rng.normal(0, 0.24) * place * (1 - place) * across)
        changed = [np.concatenate([flag, stroke])] if rng.random() < 0.8 else [flag, stroke]
    if rng.random() < 0.55:
        left, right, tilt = *rng.uniform(0.1, 0.4, 2), rng.normal(0, 0.08)
        foot = stroke[-1] + rng.normal(0, 0.02, 2) + np.array([[-left, -left * tilt], [right, right * tilt]])
        changed = [*changed[:-1], np.concatenate([changed[-1], foot])] if rng.random() < 0.15 else [*changed, foot]
    return changed


def drawn(lines: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The lines drawn by some pen and framed as MNIST framed: uint8 (28, 28).

    Half of the pens are MNIST's, by which the pad draws again what it is shown; now and then pressure varies.
    """
    width = MNIST_PEN * np.exp(rng.normal(0, 0.1))
    if rng.random() < 0.5:
        width = np.clip(MNIST_PEN * np.exp(rng.normal(0, 0.35)), 1, 4.5)
    radius = width / 2 * BOX / 20
    points = np.concatenate(lines)
    corner = points.min(axis=0)
    scale = (BOX - 2 * radius) / max(np.ptp(points, axis=0).max(), 1e-6)
    presses = rng.random() < 0.12
    strokes = []
    for line in lines:
        wave = np.arange(len(line)) * rng.uniform(0.02, 0.4) + rng.uniform(0, 6) if presses else None
        pressure = (0.75 + 0.25 * np.sin(wave)).clip(0.3, 1) if presses else None
        strokes.append(Stroke((line - corner) * scale + radius + 1, radius, pressure=pressure))
    return as_bytes(frame_as_drawn(Drawing(BOX + 2, BOX + 2, strokes).raster()))


def as_bytes(image: torch.Tensor) -> np.ndarray:
    """A framed image, float32 (1, 28, 28) in [0, 1], as uint8 (28, 28)."""
    return (image[0] * 255).round().to(torch.uint8).numpy()
