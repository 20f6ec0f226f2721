"""Train the network that reads what people write: ten digits and "no digit".

It is shown MNIST, pen digits, letters and signs of UNIPEN (train_r01_v07, Zenodo record 1195803), and what the project
draws itself, photographs among it. The same data and seed give the same weights. An hour on one core, and another:

    python tools/train_reader.py UNIPEN_FOLDER --leave-out ced,ibm,apb,lou --name reader-left-out
    python tools/train_reader.py UNIPEN_FOLDER --calibrated-by reader-left-out

They write `weights/reader-left-out.safetensors` and `weights/reader.safetensors` in $MNIST_KIT_HOME.

UNIPEN_FOLDER holds `data/` and `include/`, or `digits.jsonl` and `signs.jsonl` with a "site" in each line. Sites that
are left out, and the last 10,000 training images of MNIST, are what temperature and threshold are fitted on. With
--calibrated-by NAME both are taken from the weights of that name, and everything is trained on.
"""

import argparse
import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from hands import BOX, as_bytes, by_another_hand, centred, drawn, flagged, lines_of, shape_of, slashed
from no_digits import images_in_a_row, in_a_row, shape, speck
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm
from unipen import Character, read_unipen

from mnist_kit import Drawing, Stroke, load_mnist, sample_drawing, save_weights
from mnist_kit.augment import Augmentation
from mnist_kit.calibration import expected_calibration_error, fit_temperature, reliability, threshold_at
from mnist_kit.checkpoints import weights_path
from mnist_kit.data import Digits, Split
from mnist_kit.framing import frame_as_drawn, frame_as_mnist, mnist_raster
from mnist_kit.live import ProgressLine
from mnist_kit.models import ReadingNet
from mnist_kit.photos import as_raster
from mnist_kit.recipes import Recipe
from mnist_kit.simulate import PhotoSettings, photograph
from mnist_kit.training import Callback, Run, fit

CLASSES = (*"0123456789", "no digit")
NO_DIGIT = 10  # the eleventh class
LOOK_ALIKES = set("OolI|SsZzBgqDbQyG/\\()',.`]")  # a person could take them for a digit: neither digits nor none
VALIDATION = 10_000  # images of MNIST's training set
VARIANTS = {"digit": 10, "sign": 4}  # drawings of each character
SYNTHETIC, ROWS, SHAPES, SPECKS, PHOTOGRAPHS = 24_000, 10_000, 15_000, 6_000, 12_000  # images
SMALL = PhotoSettings(side=(150, 600))  # photographs that are quickly made
CALIBRATION = ("temperature", "threshold", "calibration_error", "calibration_error_before", "reliability")
PRICE = 0.006  # share of clear digits that may be doubted
AUGMENTATION = Augmentation(
    degrees=8, scale=0.1, shear=0.12, shift=1.0, elastic=0.5, thickness=0.5, contrast=0.25, erase=0.08
)
RECIPE = Recipe(
    "reader",
    epochs=8,
    batch_size=256,
    learning_rate=0.004,
    schedule="one-cycle",
    precision="bfloat16",
    augmentation=AUGMENTATION,
    label_smoothing=0.05,
    weight_decay=0.02,
    ema=0.999,
)
SOURCES = (
    "MNIST, Y. LeCun, C. Cortes, C. Burges, CC BY-SA 3.0; UNIPEN train_r01_v07, International Unipen Foundation, "
    "Zenodo record 1195803, CC BY 4.0; drawings by mnist_kit"
)


def read_characters(folder: Path) -> list[Character]:
    """All characters in `folder`, of UNIPEN's own files or of JSON lines."""
    if not (folder / "digits.jsonl").exists():
        return list(read_unipen(folder, ("1a", "1b", "1c", "1d")))
    lines = chain.from_iterable((folder / f"{name}.jsonl").read_text().splitlines() for name in ("digits", "signs"))
    rows = [(json.loads(line), line) for line in lines]
    signs = [re.sub(r"\\(.)", r"\1", row.get("sign") or str(row["label"])) for row, _ in rows]
    return [
        Character(sign, row["site"], Drawing.from_json(line)) for sign, (row, line) in zip(signs, rows, strict=True)
    ]


def whole(character: Character) -> bool:
    """False for what is only a part of its sign: at one of UNIPEN's sites some straight strokes are labelled 0 or 4."""
    breadth, aspect = shape_of(lines_of(character.drawing))
    if character.sign == "1":
        return aspect < 2
    level = aspect > 2 and character.drawing.label is None  # a dash
    dotted = character.sign in ':;!ij="' and len(character.drawing.strokes) > 1
    return breadth > 0.1 or level or dotted


# What is shown in training. Each image has a generator of its own, seeded by what it is and its number, so that neither
# the number of processes nor the order of anything else changes it.


def digit(character: Character, rng: np.random.Generator) -> np.ndarray:
    """A pen digit by another hand; now and then a zero gets a slash, and a 1 a flag or a foot."""
    return drawn(_restyled(character, rng), rng)


def _restyled(character: Character, rng: np.random.Generator) -> list[np.ndarray]:
    lines = lines_of(character.drawing)
    if character.sign == "0" and len(lines) == 1 and rng.random() < 0.3:
        lines = slashed(lines, rng)
    if character.sign == "1" and rng.random() < 0.5:
        lines = flagged(lines, rng)
    return by_another_hand(lines, rng)


def sign(character: Character, rng: np.random.Generator) -> np.ndarray:
    """A letter or sign by another hand."""
    return drawn(by_another_hand(lines_of(character.drawing), rng), rng)


def synthetic(label: int, rng: np.random.Generator) -> np.ndarray:
    """A digit that the project draws, a zero now and then with a slash."""
    lines = lines_of(sample_drawing(label, rng, (96, 96)))
    if label == 0 and rng.random() < 0.3:
        lines = slashed(lines, rng)
    return drawn(by_another_hand(lines, rng, 0.5) if rng.random() < 0.3 else centred(lines), rng)


def photographed(character: Character, rng: np.random.Generator) -> np.ndarray:
    """A pen digit or sign by another hand, in a simulated photograph, or, where that shows no ink, without one."""
    lines = _restyled(character, rng)
    raster = as_raster(photograph(Drawing(BOX, BOX, [Stroke(line, 1) for line in lines]), rng, SMALL))
    return as_bytes(frame_as_mnist(raster)) if raster.any() else drawn(lines, rng)


def row(digits: Sequence[Drawing], rng: np.random.Generator) -> np.ndarray:
    """Some drawings of digits in one frame."""
    return in_a_row([lines_of(drawing) for drawing in digits], rng)


def synthetic_row(labels: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Some digits that the project draws in one frame."""
    return row([sample_drawing(label, rng) for label in labels], rng)


def draw(function: Callable, subjects: Iterable, seed: int) -> np.ndarray:
    """`function` of each subject and a generator of its own: uint8 (N, 28, 28)."""
    subjects = list(subjects)
    jobs = [(subject, [seed, zlib.crc32(function.__name__.encode()), n]) for n, subject in enumerate(subjects)]
    with ProcessPoolExecutor() as pool:
        images = pool.map(partial(_draw_one, function), jobs, chunksize=100)
        return np.stack(list(tqdm(images, function.__name__, len(jobs), leave=False, mininterval=10)))


def _draw_one(function: Callable, job: tuple) -> np.ndarray:
    return function(job[0], np.random.default_rng(job[1]))


def draw_all(characters: list[Character], mnist: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """All that is drawn here: images, uint8 (N, 28, 28), labels, int64 (N,), the site and the kind of each, text (N,).

    mnist: uint8 (N, 28, 28), of which rows are made.
    """
    rng = np.random.default_rng(seed)
    digits = [c for c in characters if c.drawing.label is not None]
    signs = [c for c in characters if c.drawing.label is None and c.sign not in LOOK_ALIKES]
    digits = [c for c in digits for _ in range(VARIANTS["digit"])]
    signs = [c for c in signs for _ in range(VARIANTS["sign"])]
    by_site = {site: [c.drawing for c in digits if c.site == site] for site in sorted({c.site for c in digits})}
    row_sites = [digits[n].site for n in rng.integers(len(digits), size=ROWS)]
    lengths = rng.choice([2, 2, 2, 3], ROWS)
    photos = _some([*digits, *signs], PHOTOGRAPHS, rng)
    answers = [NO_DIGIT if c.drawing.label is None else c.drawing.label for c in photos]
    labels = np.arange(SYNTHETIC) % 10
    parts = [
        (digit, digits, [c.drawing.label for c in digits], [c.site for c in digits]),
        (synthetic, labels, labels, ""),
        (sign, signs, NO_DIGIT, [c.site for c in signs]),
        (photographed, photos, answers, [c.site for c in photos]),
        (row, (_some(by_site[site], k, rng) for site, k in zip(row_sites, lengths, strict=True)), NO_DIGIT, row_sites),
        (synthetic_row, (rng.integers(10, size=k) for k in lengths[: ROWS // 2]), NO_DIGIT, ""),
        (images_in_a_row, (_some(mnist, k, rng) for k in lengths), NO_DIGIT, ""),
        (shape, range(SHAPES), NO_DIGIT, ""),
        (speck, range(SPECKS), NO_DIGIT, ""),
    ]
    drawn = {"images": [], "labels": [], "sites": [], "kinds": []}
    for function, subjects, label, site in parts:
        images = draw(function, subjects, seed)
        columns = images, *(np.broadcast_to(value, len(images)) for value in (label, site, function.__name__))
        for column, values in zip(drawn.values(), columns, strict=True):
            column.append(values)
    return {name: np.concatenate(column) for name, column in drawn.items()}


def _some(items: Sequence, count: int, rng: np.random.Generator) -> list:
    return [items[n] for n in rng.integers(len(items), size=count)]


# Training and what is measured


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Float32 (N, 11) of images, uint8 (N, 1, 28, 28)."""
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch.float() / 255) for batch in images.split(1000)])


class Measured:
    """What is measured on, and never trained on: MNIST's last training images and the sites that were left out.

    Each character of those is framed as it is, without variations.
    """

    def __init__(self, characters: list[Character], mnist: Split):
        self.digits = [c for c in characters if c.drawing.label is not None]
        self.signs = [c for c in characters if c.drawing.label is None and c.sign not in LOOK_ALIKES]
        self.mnist = mnist
        self.pens = Split(_framed(self.digits), torch.tensor([c.drawing.label for c in self.digits], dtype=torch.int64))
        self.others = _framed(self.signs)

    def report(self, network: nn.Module, temperature: float = 1.0, threshold: float = 0.5) -> dict:
        """Shares read right, read right and sure, and refused, by what was read."""
        figures = {}
        sites = np.array([c.site for c in self.digits])
        groups = {"mnist": self.mnist, **({"pens": self.pens} if len(sites) else {})}
        for site in sorted(set(sites.tolist())):
            chosen = torch.from_numpy(sites == site)
            groups[site] = Split(self.pens.images[chosen], self.pens.labels[chosen])
        for name, split in groups.items():
            probabilities = (logits_of(network, split.images) / temperature).softmax(dim=1)[:, :NO_DIGIT]
            confidence, answers = probabilities.max(dim=1)
            right = answers == split.labels
            figures[name] = right.float().mean().item()
            figures[f"{name}, sure"] = (right & (confidence >= threshold)).float().mean().item()
        if len(self.others):
            confidence = (logits_of(network, self.others) / temperature).softmax(dim=1)[:, :NO_DIGIT].amax(dim=1)
            figures["signs refused"] = (confidence < threshold).float().mean().item()
        return {name: round(value, 4) for name, value in figures.items()}

    def calibrate(self, network: nn.Module) -> dict:
        """Temperature, threshold, expected calibration error before and after, and the reliability diagram."""
        # As many of MNIST's as of the pens', so that neither outweighs the other; signs are class NO_DIGIT.
        mnist = self.mnist.first(len(self.pens))
        images = torch.cat([mnist.images, self.pens.images, self.others])
        labels = torch.cat([mnist.labels, self.pens.labels, torch.full((len(self.others),), NO_DIGIT)])
        logits = logits_of(network, images)
        temperature = fit_temperature(logits, labels)
        probabilities = (logits / temperature).softmax(dim=1)
        confidence, answers = probabilities[:, :NO_DIGIT].max(dim=1)
        table = reliability(probabilities, labels)
        return {
            "temperature": temperature,
            "threshold": threshold_at(PRICE, confidence[(answers == labels)]),
            "calibration_error": expected_calibration_error(table),
            "calibration_error_before": expected_calibration_error(reliability(logits.softmax(dim=1), labels)),
            "reliability": table.round(4).to_dict("list"),
        }


def _framed(characters: list[Character]) -> Tensor:
    images = [frame_as_drawn(mnist_raster(character.drawing)) for character in characters]
    return (torch.stack([*images, torch.zeros(1, 28, 28)])[:-1] * 255).round().to(torch.uint8)  # also of none


class Report(Callback):
    """Prints what `measured` says of the network after each epoch."""

    def __init__(self, measured: Measured):
        self.measured = measured

    def on_epoch(self, run: Run) -> None:
        print(f"epoch {run.epoch}, {run.seconds:.0f} s: {self.measured.report(run.averaged_model)}", flush=True)


def about_reader(name: str) -> dict:
    """What `Measured.calibrate` found of the weights called `name`."""
    with safe_open(weights_path(name), "pt") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    return {key: value for key, value in metadata.items() if key in CALIBRATION}


def kept_drawings(path: Path | None, draw_them: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What is in `path`; where there is none yet it is drawn, and kept there."""
    if path and path.exists():
        with np.load(path) as file:
            return dict(file)
    drawn = draw_them()
    if path:
        np.savez(path, **drawn)
    return drawn


def shown(mnist: Split, drawn: dict[str, np.ndarray], kept: np.ndarray) -> Split:
    """MNIST's images and those of `drawn` that are `kept`, bool (N,)."""
    images = torch.cat([mnist.images, torch.from_numpy(drawn["images"][kept])[:, None]])
    return Split(images, torch.cat([mnist.labels, torch.from_numpy(drawn["labels"][kept])]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="UNIPEN's, or one with digits.jsonl and signs.jsonl")
    parser.add_argument("--name", default="reader", help="of the weights")
    parser.add_argument("--leave-out", default="", help="sites not to train on, as ced,ibm")
    parser.add_argument("--calibrated-by", help="weights whose temperature and threshold are taken over")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drawn", type=Path, help="an .npz file that keeps what is drawn, for the next training")
    options = parser.parse_args()
    left_out = [site for site in options.leave_out.split(",") if site]
    torch.set_num_threads(1)  # the order of additions, and so the last digits of the weights, depend on it

    mnist = load_mnist().train
    test = Split(mnist.images[-VALIDATION:], mnist.labels[-VALIDATION:])
    characters = [character for character in read_characters(options.folder) if whole(character)]
    rows = mnist.images[:-VALIDATION, 0].numpy()
    drawn = kept_drawings(options.drawn, lambda: draw_all(characters, rows, options.seed))
    kept = ~np.isin(drawn["sites"], left_out)
    train = shown(mnist if options.calibrated_by else mnist.first(len(mnist) - VALIDATION), drawn, kept)
    sites = sorted(set(drawn["sites"][kept].tolist()) - {""})
    digits = Digits("reading", train, test, CLASSES)
    print(f"{len(train):,} training images: MNIST, {', '.join(sites)}, and drawn here", flush=True)

    measured = Measured([character for character in characters if character.site in left_out], test)
    recipe = RECIPE.but(epochs=options.epochs, seed=options.seed)
    torch.manual_seed(options.seed)  # of the initial weights
    network = ReadingNet().to(memory_format=torch.channels_last)
    history = fit(
        network, digits, recipe, [ProgressLine(), Report(measured)], "cpu", checkpoint=options.name, resume=True
    )
    about = about_reader(options.calibrated_by) if options.calibrated_by else measured.calibrate(network)
    print(measured.report(network, about["temperature"], about["threshold"]))
    about |= {"classes": CLASSES, "sites": sites}
    # Where everything was trained on, the share recognised of MNIST's last training images says nothing.
    accuracy = None if options.calibrated_by else history.epochs["val_accuracy"].iloc[-1]
    print(save_weights(network, options.name, recipe, accuracy, SOURCES, **about))


if __name__ == "__main__":
    main()
