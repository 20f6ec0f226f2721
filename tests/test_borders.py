"""Whatever goes in at a border, an answer or an error of ours comes out, and nothing half-written stays."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mnist_kit import (
    FastNet,
    MnistKitError,
    Recognizer,
    Split,
    evaluate,
    fit,
    load_history,
    load_weights,
    read,
    read_drawings,
    save_weights,
)
from mnist_kit.checkpoints import Checkpoints
from mnist_kit.errors import ModelError, TrainingError, WeightsError
from mnist_kit.files import home_folder
from mnist_kit.recipes import Recipe

# The same examples each time: a new one that fails belongs into the change that finds it, not into another.
same_home = settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
BRIEF = Recipe("brief", epochs=1, batch_size=50, train_images=100)  # two steps


def answers(*calls) -> None:
    """Each call returns, or raises an error of ours; in the home folder is no file that only a killed save leaves."""
    for call in calls:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken lines, kept files: told in a warning
            try:
                call()
            except MnistKitError as error:
                assert str(error)
    assert not list(home_folder().rglob(".*.tmp"))


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers(), max_size=2)
    | st.builds(Path, st.sampled_from(["a", "../a", "/"]))
)


@given(anything)
@example("../../escape")
@example("NUL")
@example("x" * 300)
@same_home
def test_names(tmp_path, name):
    model = small_model()
    answers(
        lambda: save_weights(model, name),
        lambda: load_weights(name, model),
        lambda: load_history(name),
        lambda: Checkpoints(name).states(),
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "data"}


@given(st.sampled_from([*Recipe.__dataclass_fields__, "no such setting"]), anything)
@same_home
def test_settings(setting, value):
    answers(lambda: BRIEF.but(**{setting: value}))


@given(anything, st.sampled_from(["every", "checkpoint", "device", "callbacks", "recipe"]))
@same_home
def test_arguments_of_fit_and_evaluate(tiny, value, argument):
    model = small_model()
    options = {"recipe": BRIEF, "device": "cpu", "checkpoint": "run", argument: value}
    if argument == "checkpoint" and value is None:
        return
    answers(lambda: fit(model, tiny, **options), lambda: evaluate(model, tiny.test, "cpu", batch_size=value))


NO_MODELS = [None, FastNet, "FastNet", small_model().state_dict(), lambda images: images]
NOT_READY = [small_model().to("meta"), torch.nn.LazyLinear(10), torch.nn.LazyBatchNorm2d(affine=False)]


@pytest.mark.parametrize("model", [*NO_MODELS, *NOT_READY])
def test_what_is_no_model_or_has_no_numbers_yet(tiny, model):
    save_weights(small_model(), "x")
    uses = [lambda: save_weights(model, "y")]
    uses += [lambda: load_weights("x", model)] if model is not None else []
    uses += (
        [lambda: evaluate(model, tiny.test, "cpu")]
        if not isinstance(model, torch.nn.modules.lazy.LazyModuleMixin)
        else []
    )
    for use in uses:
        with pytest.raises(ModelError, match="the model "):
            use()
    assert not (home_folder() / "weights" / "y.safetensors").exists()


@pytest.mark.parametrize("digits", [None, "mnist", (1, 2), "train"])
def test_what_are_no_digits_and_no_split(tiny, digits):
    digits = tiny.train if digits == "train" else digits
    with pytest.raises(TrainingError, match="fit takes Digits"):
        fit(small_model(), digits, BRIEF, device="cpu")
    with pytest.raises(TrainingError, match="evaluate takes a Split"):
        evaluate(small_model(), tiny if digits is tiny.train else digits, "cpu")


circle = []
circle.append(circle)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("accuracy", value) for value in ("abc", [0.5], 1j, torch.ones(2), np.ones(2))),
        *(("recipe", value) for value in ("quick", BRIEF.as_dict(), 5)),
        *(("note", value) for value in (circle, {(1, 2): 3})),
        *(("temperature", value) for value in (0, -1, torch.nan, "warm", None)),
    ],
)
def test_what_cannot_be_told_of_weights(argument, value):
    with pytest.raises(WeightsError, match=argument):
        save_weights(small_model(), "x", **{argument: value})
    assert not home_folder().exists()


shapes = st.sampled_from(
    [(28, 28), (1, 28, 28), (1, 1, 28, 28), (3, 20, 20), (20, 20, 4), (5,), (0, 0), (2, 2, 2, 2, 2)]
)
dtypes = arrays.scalar_dtypes()


@given(st.data())
@settings(same_home, max_examples=200)
def test_arrays(data):
    array = data.draw(arrays.arrays(data.draw(dtypes), data.draw(shapes), fill=st.nothing()))
    recognizer = Recognizer(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 11)))
    answers(
        lambda: recognizer.predict(array),
        lambda: recognizer.predict_images(array),
        lambda: read(array, recognizer),
        lambda: Split(array, array),
    )


@given(st.binary(max_size=300), st.booleans())
@example(b"\x89PNG\r\n\x1a\n", False)
@example(b'{"strokes": {}}\n', False)
@example(b"\n\n\n", True)
@same_home
def test_files(content, half):
    home = home_folder()
    paths = [home / name for name in ("weights/x.safetensors", "runs/x.npz", "drawings.jsonl", "picture.png")]
    if half:  # what begins as it should
        save_weights(small_model(), "x")
        content = paths[0].read_bytes()[:500] + content
    for path in [*paths, home / "checkpoints" / "x" / "step-000000001.pt"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    answers(
        lambda: load_weights("x", small_model()),
        lambda: load_history("x"),
        lambda: read_drawings(),
        lambda: read_drawings(last=2),
        lambda: Recognizer.load().predict(paths[-1]),
        lambda: Checkpoints("x").latest(),
    )


@pytest.mark.parametrize("view", ["neg", "conj", "sparse", "meta", "bfloat16", "not contiguous", "with gradient"])
def test_tensors_of_every_kind(view):
    image = torch.zeros(28, 28)
    image[5:20, 12:15] = 1
    tensor = {
        "neg": lambda: torch._neg_view(-image),
        "conj": lambda: torch.complex(image, image).conj().imag,
        "sparse": image.to_sparse,
        "meta": lambda: image.to("meta"),
        "bfloat16": image.bfloat16,
        "not contiguous": lambda: image.t().contiguous().t(),
        "with gradient": image.requires_grad_,
    }[view]()
    answers(lambda: Recognizer.load().predict(tensor), lambda: Recognizer.load().predict_images(tensor[None, None]))
    if view in ("sparse", "bfloat16", "not contiguous"):
        plain = Recognizer.load().predict(image).probabilities
        np.testing.assert_allclose(Recognizer.load().predict(tensor).probabilities, plain, atol=1e-3)
