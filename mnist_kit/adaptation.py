"""Fine-tuning on one person's drawings: the last layer learns the hand, all layers before it stay as they are."""

from collections.abc import Iterable
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from mnist_kit.augment import Augmentation, augment
from mnist_kit.checkpoints import check_name, save_weights, weights_about
from mnist_kit.data import Digits
from mnist_kit.device import images_at_once
from mnist_kit.errors import DrawingError, EmptyDrawing, RecognizerError, WeightsError
from mnist_kit.files import find, writing
from mnist_kit.ink import Drawing, read_drawings
from mnist_kit.recognizer import Recognizer
from mnist_kit.synthetic import load_digits

FEWEST = 5  # labelled drawings to learn from
PARTS = 5  # of the drawings; each is held back once
IMAGES, ASIDE = 2_000, 10_000  # of the data set: to learn with, and others to count the cost on
VARIED = 1_000  # drawings that the last layer learns from, about, each drawing in 4 to 20 ways
WAYS = Augmentation(degrees=8, scale=0.1, shear=0.2, shift=1, elastic=0.5, thickness=0.5)
PULL = 3e-3  # of the old weights on the new: with 1e-3 it gains more, with 1e-2 it costs less
STEPS = 30  # of L-BFGS, which has as good as converged by then
HAND = "a hand: "  # how the description of fine-tuned weights begins


@dataclass(frozen=True)
class Adapted:
    """What came of `adapt`: counts of what is read right before and after, and the recognizer to use from now on.

    recognizer: the new one, or the given one where `replaced` is False, because the new one gains no more than it
    costs; name: of the weights; drawings: how many were learned; right_before, right_after: of these, each read by a
    network that was not shown it; images: of the data set, none of them learned; images_before, images_after: of these.
    """

    recognizer: Recognizer
    name: str
    drawings: int
    right_before: int
    right_after: int
    images: int
    images_before: int
    images_after: int

    @property
    def replaced(self) -> bool:
        """Whether the share of the drawings that was gained is larger than 0 and than the share of images lost."""
        gained = (self.right_after - self.right_before) / self.drawings
        return gained > max(0, (self.images_before - self.images_after) / self.images)

    def __str__(self) -> str:
        return (
            f"drawings held back: {self.right_before} of {self.drawings} right before, {self.right_after} after\n"
            f"images of the data set: {self.images_before:,} of {self.images:,} before, {self.images_after:,} after\n"
            + (f"saved as {self.name!r}" if self.replaced else "not saved: it gains no more than it costs")
        )


def adapt(
    recognizer: Recognizer,
    drawings: Iterable[Drawing] | None = None,
    name: str = "my-hand",
    digits: Digits | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Adapted:
    """Fine-tune a copy of the recognizer's network on labelled drawings, and save it as `name` if that pays.

    drawings: None for those that the pad's *keep* collected; those without a label or without ink are left out.
    digits: None for `load_digits()`. Only the last `nn.Linear` is trained: on the drawings, each in many ways, and on
    2,000 training images of `digits`, for which it has to answer as before. The gain is counted by cross-validation: a
    fifth of the drawings at a time is read by a network that has learned the other four; the network that is saved has
    learned them all. The cost is counted on up to 10,000 other training images, the last ones; the test images are not
    touched. (A network that was trained on these images knows them well: on new ones it may lose more.) Start from a
    network that has not learned these drawings before, or the gain comes out wrong. The same seed gives the same
    weights. `recognizer` stays as it is, and until the end nothing is saved.

    Raises DrawingError for fewer than 5 drawings, RecognizerError unless the recognizer is a network whose last
    nn.Linear gives 10 or 11 logits, WeightsError for a name that other weights have, StorageError.
    """
    _fine_tuned(name)
    model, body, last = _network(recognizer)
    generator = torch.Generator().manual_seed(seed)
    pictures, labels = _pictures(read_drawings() if drawings is None else drawings, recognizer)
    train = (load_digits() if digits is None else digits).train
    count = min(IMAGES, len(train) // 2)
    old, aside = train.images[:count] / 255, train.images[count:][-ASIDE:] / 255
    if last.out_features > 10:  # halves swapped are no digits, and what is said of them has to stay as well
        old = torch.cat([old, old.roll((14, 14), (2, 3))])
    ways = min(max(VARIED // len(labels), 4), 20)
    varied = augment(pictures.repeat_interleave(ways, 0), WAYS, generator)
    shown = old, aside, pictures, varied
    old, aside, pictures, varied = _features(body, torch.cat(shown), last.weight, progress).split([*map(len, shown)])
    varied = varied.unflatten(0, (-1, ways))  # (drawings, ways, features)

    shuffled = torch.randperm(len(labels), generator=generator)
    by_digit = shuffled[labels[shuffled].argsort(stable=True)]  # each part has some of every digit
    right_after = 0
    for part in range(PARTS):
        held_back = torch.isin(torch.arange(len(labels)), by_digit[part::PARTS])
        layer = _trained(last, old, varied[~held_back], labels[~held_back])
        right_after += _right(layer, pictures[held_back], labels[held_back])
    layer = _trained(last, old, varied, labels)
    drawn = len(labels), _right(last, pictures, labels), right_after
    cost = len(aside), *(_right(each, aside, train.labels[-len(aside) :]) for each in (last, layer))
    last.load_state_dict(layer.state_dict())
    adapted = Adapted(recognizer, name, *drawn, *cost)
    if not adapted.replaced:
        return adapted
    new = copy(recognizer)
    new.model = model
    data, calibration = f"{HAND}{len(labels)} drawings", {"temperature": new.temperature, "threshold": new.threshold}
    save_weights(model, name, data=data, **calibration)
    return replace(adapted, recognizer=new)


def forget(name: str = "my-hand") -> bool:
    """Delete the weights that `adapt` saved as `name`; False where there are none.

    Raises WeightsError for weights that `adapt` did not save, and StorageError when the file cannot be deleted.
    """
    path = _fine_tuned(name)
    if path:
        with writing(path):
            path.unlink(missing_ok=True)
    return path is not None


def _fine_tuned(name: str) -> Path | None:
    """The file that `adapt` saved as `name`, None where there is none. Raises WeightsError for other weights."""
    check_name(name)
    path = find("weights", f"{name}.safetensors")
    if path and not str(weights_about(name)["data"]).startswith(HAND):
        raise WeightsError(f"{name!r} are weights of another kind, which stay: choose another name, such as 'my-hand'")
    return path


def _network(recognizer: Recognizer) -> tuple[nn.Module, nn.Module, nn.Linear]:
    """A copy of the network, in evaluation mode, all of it before its last linear layer, and that layer.

    Raises RecognizerError.
    """
    kind = type(recognizer.model).__name__
    if not isinstance(recognizer.model, nn.Module):
        raise RecognizerError(f"a {kind} has no layers to fine-tune: give a Recognizer around a network")
    model = deepcopy(recognizer.model).eval()
    linear = [(name, layer) for name, layer in model.named_modules() if name and isinstance(layer, nn.Linear)]
    if linear and linear[-1][1].out_features in (10, 11):
        name, last = linear[-1]
        body = deepcopy(model)
        body.set_submodule(name, nn.Identity())
        with torch.no_grad():
            image = torch.ones(1, 1, 28, 28).to(last.weight)
            if torch.equal(last(body(image)), model(image)):
                return model, body, last
    raise RecognizerError(f"{kind} cannot be fine-tuned: its last nn.Linear has to give its 10 or 11 logits")


def _pictures(drawings: Iterable[Drawing], recognizer: Recognizer) -> tuple[Tensor, Tensor]:
    """What the recognizer is shown of each labelled drawing, float32 (N, 1, 28, 28), and the labels, int64 (N,)."""
    pictures, labels = [], []
    for drawing in (drawing for drawing in drawings if drawing.label is not None):
        with suppress(EmptyDrawing):
            pictures.append(recognizer.predict(drawing).image)
            labels.append(drawing.label)
    if len(labels) < FEWEST:
        raise DrawingError(f"{len(labels)} labelled drawings are too few to learn from: keep {FEWEST} or, better, 50")
    return torch.stack(pictures), torch.tensor(labels)


@torch.no_grad()
def _features(body: nn.Module, images: Tensor, like: Tensor, progress: bool) -> Tensor:
    """What the last layer, whose weights are `like`, is given for each image, (N, features): `body` runs only once."""
    batches = images.split(images_at_once(like.device))
    return torch.cat([body(batch.to(like)) for batch in tqdm(batches, disable=not progress)])


@torch.no_grad()
def _right(layer: nn.Linear, features: Tensor, labels: Tensor) -> int:
    return int((layer(features)[:, :10].argmax(1).cpu() == labels).sum())


def _trained(last: nn.Linear, old: Tensor, hand: Tensor, labels: Tensor) -> nn.Linear:
    """A copy of the last layer that answers for `hand` as the labels say, and for `old` as it did.

    old: features (images, features); hand: (drawings, ways, features). Minimises the cross-entropy plus PULL times the
    squared distance to the old weights. That has one minimum, which L-BFGS finds without a learning rate (D. Liu, J.
    Nocedal, "On the limited memory BFGS method", 1989).
    """
    features = torch.cat([old, hand.flatten(0, 1)])
    wanted = functional.one_hot(labels.repeat_interleave(hand.shape[1]), last.out_features)
    targets = torch.cat([last(old).detach().softmax(1), wanted.to(old)])
    layer = deepcopy(last).requires_grad_()
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        moved = sum((new - old).square().sum() for new, old in zip(layer.parameters(), last.parameters(), strict=True))
        value = functional.cross_entropy(layer(features), targets) + PULL * moved
        value.backward()
        return value

    optimizer.step(loss)
    return layer
