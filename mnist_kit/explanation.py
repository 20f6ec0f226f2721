"""What an answer rests on: which pixels, which features, and how small a change overturns it.

In all functions: model is a network from images to logits (N, classes); images are float32 (N, 1, 28, 28) in [0, 1];
labels are int64 (N,), the classes asked about. Results are float32 on the CPU. A copy of the model is asked, in
evaluation mode: mode, weights, their gradients and the random state stay as they are. Raises ImageError for other
images, DataError for other labels, ModelError for a model that does not answer with a logit for each class.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_kit.data import SIDE
from mnist_kit.device import as_logits, computing, images_at_once, parameter_dtype
from mnist_kit.errors import DataError, ImageError, ModelError


def occlusion(model: nn.Module, image: Tensor, label: int, reach: int = 2, value: float = 0.0) -> Tensor:
    """How far the probability of `label` falls when the square around a pixel is covered, (28, 28), for each pixel.

    image: (1, 28, 28); reach: the square's pixels on each side of its middle; value: what covers it, 0 paper, 1 ink.
    Negative where covering raises the probability. Source: Zeiler and Fergus, "Visualizing and understanding
    convolutional networks", 2014.
    """
    _require(image[None], labels := torch.tensor([label]))
    side = torch.arange(SIDE)
    near = (side[:, None] - side).abs() <= reach  # (middle, row or column)
    covered = (near[:, None, :, None] & near[None, :, None, :]).reshape(-1, 1, SIDE, SIDE)
    image = image.cpu()
    images = torch.where(covered, value, image)
    changed = (images != image).flatten(1).any(1)  # elsewhere there is nothing to ask
    images = torch.cat([image[None], images[changed]])
    with torch.no_grad():
        logits = torch.cat([logits for _, _, logits in _answers(model, images, labels.expand(len(images)))])
    probability = logits.softmax(1)[:, label].cpu()
    falls = probability.new_zeros(SIDE * SIDE)
    falls[changed] = probability[0] - probability[1:]
    return falls.view(SIDE, SIDE)


def saliency(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """How fast the logit of each image's label rises with each pixel: its gradient, (N, 1, 28, 28), with its sign.

    Source: Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", 2013 (which drops the sign).
    """
    return _gradients(model, images, labels, lambda logits, labels: logits.gather(1, labels[:, None]).sum())


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The images with each pixel moved by `epsilon`, 0 to 1, to where the loss rises; still in [0, 1].

    Source: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", 2015: the fast gradient sign
    method.
    """
    gradients = _gradients(model, images, labels, lambda *answers: functional.cross_entropy(*answers, reduction="sum"))
    return (images.cpu() + epsilon * gradients.sign()).clamp(0, 1)


def features(model: nn.Module, images: Tensor) -> Tensor:
    """What the model's last linear layer is given, (N, features): 64 numbers per image in the paper's network."""
    with computing:
        model, kept = deepcopy(model), []
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ModelError(f"{type(model).__name__} has no nn.Linear whose input could be looked at")
    linear[-1].register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].float().cpu()))
    with torch.no_grad():
        for _ in _answers(model, images, torch.zeros(len(images), dtype=torch.int64)):
            pass
    return torch.cat(kept)


def _gradients(model: nn.Module, images: Tensor, labels: Tensor, number: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The gradient of `number(logits, labels)`, a sum over images, by each pixel."""
    with torch.inference_mode(False), torch.enable_grad():
        answers = _answers(model, images, labels)
        gradients = [torch.autograd.grad(number(logits, of), batch)[0] for batch, of, logits in answers]
    return torch.cat(gradients).float().cpu()


def _answers(model: nn.Module, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of images, which gradients reach, with their labels and logits, on the model's device."""
    _require(images, labels)
    with computing:
        model = deepcopy(model).eval().requires_grad_(False)
    device, dtype = next(model.parameters(), images).device, parameter_dtype(model)
    size = min(images_at_once(device), 250)  # what gradients need is kept
    for batch, of in zip(images.split(size), labels.split(size), strict=True):
        batch = batch.detach().to(device, dtype, copy=True).requires_grad_()
        yield batch, of.to(device), as_logits(model(batch), len(batch), int(labels.max()) + 1)


def _require(images: Tensor, labels: Tensor) -> None:
    if not images.is_floating_point() or images.shape[1:] != (1, SIDE, SIDE) or not len(images):
        raise ImageError(f"images are float (N, 1, 28, 28), N ≥ 1, not {images.dtype} {tuple(images.shape)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1] or labels.min() < 0:
        raise DataError(f"labels are int64 ({len(images)},), from 0 up, not {labels.dtype} {tuple(labels.shape)}")
