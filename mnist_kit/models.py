"""The networks, by name, and their layer-by-layer summary."""

import inspect
from dataclasses import dataclass
from math import prod

import pandas as pd
import torch
import torchinfo
from torch import Tensor, nn

from mnist_kit.errors import ModelError


class Net(nn.Module):
    """The paper's convolutional network (listing 2.1): 905,354 parameters, all trainable.

    Three 3×3 convolutions with batch norm and ReLU, two max poolings, then three dense layers, each behind dropout.
    """

    def __init__(self):
        super().__init__()
        self.conv_block = nn.Sequential(
            *conv_block(1, 32, bias=True),
            *conv_block(32, 64, bias=True),
            nn.MaxPool2d(2),
            *conv_block(64, 128, bias=True),
            nn.MaxPool2d(2),
        )
        self.linear_block = nn.Sequential(
            *_dense(128 * 7 * 7, 128),
            *_dense(128, 64),
            nn.Dropout(0.5),
            nn.Linear(64, 10),
        )
        self.to(memory_format=torch.channels_last)  # a step takes a fifth less time so, on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of `images`, float32 (batch, 1, 28, 28) in [0, 1]."""
        images = images.contiguous(memory_format=torch.channels_last)  # convolutions and poolings are faster so
        features = self.conv_block(images)  # (batch, 128, 7, 7)
        return self.linear_block(features.flatten(1))  # (batch, 10)


class FastNet(nn.Module):
    """A network that a processor trains in about a minute: 252,650 parameters.

    Its first filters are wide (5×5) and stand at every second pixel only, so that all that follows has a quarter of the
    pixels to look at: an image takes 8.7 million multiplications; the paper's network takes 29.9 million.
    """

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(1, 32, kernel=5, stride=2),  # (batch, 32, 14, 14)
            *conv_block(32, 64),
            nn.MaxPool2d(2),  # (batch, 64, 7, 7)
            *conv_block(64, 128),
            nn.MaxPool2d(2),  # (batch, 128, 3, 3)
            *conv_block(128, 128),
        )
        self.head = nn.Linear(128 * 3 * 3, 10)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of `images`, float32 (batch, 1, 28, 28) in [0, 1]."""
        features = self.features(images.contiguous(memory_format=torch.channels_last))
        return self.head(features.flatten(1))


class BestNet(nn.Module):
    """A network for the highest accuracy on MNIST: 402,186 parameters.

    Its first two convolutions look at every pixel (a stride of 1), so that the maps keep their resolution up to the
    first pooling. An image takes 29.4 million multiplications; the paper's network takes 29.9 million.
    """

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(1, 32, padding=0),  # (batch, 32, 26, 26)
            *conv_block(32, 48, padding=0),  # (batch, 48, 24, 24)
            nn.MaxPool2d(2),  # (batch, 48, 12, 12)
            *conv_block(48, 64),
            *conv_block(64, 96),
            nn.MaxPool2d(2),  # (batch, 96, 6, 6)
            *conv_block(96, 128),
            *conv_block(128, 128),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128 * 6 * 6, 10))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch, 10), of `images`, float32 (batch, 1, 28, 28) in [0, 1]."""
        features = self.features(images.contiguous(memory_format=torch.channels_last))
        return self.head(features.flatten(1))


class ReadingNet(nn.Module):
    """A small network for what people write: ten digits and, as class 10, "no digit". 690,715 parameters.

    Six convolutions, each with batch norm and ReLU, three of them with stride 2 in place of pooling, and one dense
    layer behind dropout. An image takes 27.3 million multiplications; the paper's network takes 29.9 million.
    """

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(1, 48, kernel=5, stride=2),  # (batch, 48, 14, 14)
            *conv_block(48, 64),
            *conv_block(64, 96, stride=2),  # (batch, 96, 7, 7)
            *conv_block(96, 128),
            *conv_block(128, 160),
            *conv_block(160, 192, stride=2),  # (batch, 192, 4, 4)
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(192 * 4 * 4, 11))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (batch, 11), of `images`, float32 (batch, 1, 28, 28) in [0, 1]."""
        return self.head(self.features(images).flatten(1))


def conv_block(
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    stride: int = 1,
    bias: bool = False,
    padding: int | None = None,
) -> tuple:
    padding = kernel // 2 if padding is None else padding
    return (
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=bias),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def _dense(features_in: int, features_out: int) -> tuple[nn.Module, ...]:
    return (
        nn.Dropout(0.5),
        nn.Linear(features_in, features_out),
        nn.BatchNorm1d(features_out),
        nn.ReLU(inplace=True),
    )


MODELS: dict[str, type[nn.Module]] = {"Net": Net, "FastNet": FastNet, "BestNet": BestNet, "ReadingNet": ReadingNet}


def make_model(name: str = "Net", **settings) -> nn.Module:
    """A freshly initialised model of the class called `name` in `MODELS`, made with `settings`.

    Raises ModelError for an unknown name or unknown settings.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise ModelError(f"there is no model called {name!r}; there are: {', '.join(MODELS)}")
    try:
        return MODELS[name](**settings)
    except TypeError as error:
        raise ModelError(f"{name} cannot be made with the settings {settings}: {error}") from error


def name_of(model: nn.Module) -> str:
    """The key in `MODELS` of the model's class, else the name of the class."""
    kind = type(unwrapped(model))
    return next((name for name, known in MODELS.items() if known is kind), kind.__name__)


def settings_of(model: nn.Module) -> dict:
    """What a model of `MODELS` was made with: its constructor's arguments, where it keeps them under the same names."""
    model = unwrapped(model)
    parameters = inspect.signature(type(model)).parameters if type(model) in MODELS.values() else ()
    return {key: getattr(model, key) for key in parameters if hasattr(model, key)}


def unwrapped(model: nn.Module) -> nn.Module:
    """`model` without the shells that `torch.compile` and the classes for several devices put around it."""
    shells = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while hasattr(model, "_orig_mod") or isinstance(model, shells):
        model = model.module if isinstance(model, shells) else model._orig_mod
    return model


def require_module(model: nn.Module, lazy: bool = False) -> None:
    """Raise ModelError, which says how to fix it, for what is no module with numbers in it. lazy: whether it may be."""
    if not isinstance(model, nn.Module):
        hint = f": write {model.__name__}()" if isinstance(model, type) else ""
        raise ModelError(f"the model has to be an nn.Module, not {model!r:.80}{hint}")
    for tensor in (*model.parameters(), *model.buffers()):
        if nn.parameter.is_lazy(tensor):
            if not lazy:
                raise ModelError("the model has lazy layers, whose weights have no size yet: show it images first")
        elif tensor.is_meta:
            raise ModelError('the model was made on the device "meta", which keeps no numbers: make it anew')


def require_trainable(model: nn.Module) -> None:
    """Raise ModelError, which says how to fix it, for what cannot be trained."""
    require_module(model, lazy=True)
    parameters = list(model.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        raise ModelError("the model has no parameters to train: none at all, or all are frozen (requires_grad=False)")
    if any(tensor.is_inference() for tensor in (*parameters, *model.buffers()) if not nn.parameter.is_lazy(tensor)):
        raise ModelError("the model was made within torch.inference_mode(): make it anew")
    dtypes = {tensor.dtype for tensor in parameters if tensor.is_floating_point() or tensor.is_complex()}
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:  # others are too coarse for Adam's steps
        told = f"weights have to be real, and all float32 or all float64, not {sorted(map(str, dtypes))}"
        raise ModelError(f"{told}: train model.float()")


@dataclass(frozen=True)
class Summary:
    """What a model is made of, counted as the paper counts it.

    layers: a row per leaf layer, in the order they run: layer ("Conv2d-1"), output_shape, parameters; sizes: the lines
    that stand under the table, by name: numbers of parameters, and MB of 2^20 bytes (float32).
    """

    layers: pd.DataFrame
    sizes: dict[str, float]

    def totals(self) -> pd.Series:
        """The lines that stand under the table, by name."""
        return pd.Series(self.sizes, dtype=object, name="totals")


def summary(model: nn.Module, batch_size: int = 16) -> Summary:
    """The model's layers, shapes and parameters for `batch_size` images of 28×28, measured by torchinfo.

    The forward/backward size holds every layer's output twice (the values and their gradients), as the paper's tool
    counts it; torchinfo's own total leaves out layers without parameters. Raises ModelError for a batch size below 1.
    """
    if batch_size < 1:
        raise ModelError(f"batch_size must be at least 1, not {batch_size}")
    info = torchinfo.summary(model, input_size=(batch_size, 1, 28, 28), verbose=0)
    leaves = [layer for layer in info.summary_list if layer.is_leaf_layer]
    # The flattening in the middle is no layer of the paper's table; the modules it counts are the leaves.
    layers = pd.DataFrame(
        {
            "layer": [f"{layer.class_name}-{number}" for number, layer in enumerate(leaves, start=1)],
            "output_shape": [list(layer.output_size) for layer in leaves],
            "parameters": [layer.num_params for layer in leaves],
        }
    )
    count, outputs = info.total_params, sum(prod(shape) for shape in layers.output_shape)
    sizes = {"input (MB)": info.total_input, "forward/backward (MB)": 2 * 4 * outputs, "parameters (MB)": 4 * count}
    sizes["total (MB)"] = sum(sizes.values())
    counts = {"parameters": count, "trainable": info.trainable_params, "not trainable": count - info.trainable_params}
    return Summary(layers, counts | {name: round(size / 2**20, 2) for name, size in sizes.items()})
