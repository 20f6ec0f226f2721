"""Any module from images to logits trains, and training leaves the reader's world as it was."""

import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import StopAt, plain_model, small_model
from torch import Tensor, nn

from mnist_kit.augment import Augmentation
from mnist_kit.checkpoints import Checkpoints, load_weights, save_weights
from mnist_kit.errors import CheckpointError, ModelError, TrainingError
from mnist_kit.evaluation import evaluate
from mnist_kit.models import Net
from mnist_kit.recipes import Recipe
from mnist_kit.recognizer import Recognizer
from mnist_kit.training import Callback, fit

# 2 × 4 steps.
BRIEF = Recipe("brief", epochs=2, batch_size=25, train_images=100, learning_rate=0.01, clean_statistics=True)


class Views(nn.Module):
    """Its `.view()` needs images and features that lie in memory as PyTorch makes them."""

    def __init__(self):
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 784, 10)

    def forward(self, images):
        return self.head(self.convolution(images).view(len(images), -1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(784, 10, bias=False), nn.Linear(10, 784, bias=False)
        self.out.weight = nn.Parameter(self.into.weight.T)
        self.again = self.into

    def forward(self, images):
        return self.into(images.flatten(1)) + self.again(self.out(self.into(images.flatten(1))))


class Masked(nn.Module):
    """A constant buffer of −inf, as attention has it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((784,), -torch.inf))
        self.head = nn.Linear(784, 10)

    def forward(self, images):
        return self.head(images.flatten(1).maximum(self.mask))


def frozen() -> nn.Module:
    model = small_model()
    model[0].requires_grad_(False)
    return model


def compiled() -> nn.Module:
    return torch.compile(plain_model(), backend="eager")


MODELS = {
    "view": Views,
    "tied weights": Tied,
    "lazy": lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10)),
    "float64": lambda: small_model().double(),
    "a buffer of -inf": Masked,
    "partly frozen": frozen,
    "compiled": compiled,
    "DataParallel": lambda: nn.DataParallel(small_model()),
    "weight norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(784, 10))
    ),
    "group norm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(2704, 10)),
    "indices of pooling": lambda: nn.Sequential(
        nn.ReLU(), nn.MaxPool2d(2, return_indices=True), First(), nn.Flatten(), nn.Linear(196, 10)
    ),
    "lazy buffers": lambda: nn.Sequential(nn.LazyBatchNorm2d(affine=False), nn.Flatten(), nn.Linear(784, 10)),
    "channels last": lambda: small_model().to(memory_format=torch.channels_last),
    "eleven classes": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 11)),
}  # fmt: skip


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


@pytest.mark.parametrize("kind", MODELS)
def test_it_trains_resumes_evaluates_and_comes_back(tiny, kind):
    torch.manual_seed(0)
    model, again = MODELS[kind](), MODELS[kind]()
    fit(model, tiny, BRIEF, StopAt(6), "cpu", checkpoint="run", every=1)
    assert Checkpoints("run").latest()["step"] == 6
    torch.manual_seed(0)
    whole = fit(MODELS[kind](), tiny, BRIEF, device="cpu")
    resumed = fit(again, tiny, BRIEF, device="cpu", checkpoint="run", resume=True)
    assert list(resumed.steps["loss"]) == list(whole.steps["loss"])
    assert resumed.epochs["loss"].iloc[1] < resumed.epochs["loss"].iloc[0]
    evaluation = evaluate(again, tiny.test, "cpu")
    assert evaluation.accuracy == resumed.epochs["val_accuracy"].iloc[-1]
    save_weights(again, "mine")
    assert torch.equal(evaluate(load_weights("mine", model), tiny.test, "cpu").logits, evaluation.logits)
    assert evaluation.confusion.to_numpy().sum() == 100


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.head, self.answer = nn.Linear(784, 10), answer

    def forward(self, images):
        return self.answer(self.head(images.flatten(1)))


def spoil(module):
    for parameter in module.parameters():
        nn.init.constant_(parameter, torch.nan)


NOWHERE = torch.zeros(3, device="meta")
BAD = {
    "a class": (lambda: Net, r"write Net\(\)"),
    "no module": (lambda: torch.relu, "has to be an nn.Module"),
    "no parameters": (lambda: nn.Flatten(), "no parameters to train"),
    "all frozen": (lambda: small_model().requires_grad_(False), "no parameters to train"),
    "half": (lambda: small_model().half(), "float16.*model.float"),
    "bfloat16": (lambda: small_model().bfloat16(), "bfloat16.*model.float"),
    "two dtypes": (lambda: nn.Sequential(small_model(), nn.Linear(10, 10).double()), "float32.*float64"),
    "complex weights": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10, dtype=torch.complex64)), "complex64"),
    "meta": (lambda: small_model().to("meta"), '"meta"'),
    "a meta buffer": (
        lambda: Masked().apply(lambda module: module.__dict__["_buffers"].update(more=NOWHERE)),
        '"meta"',
    ),
    "NaN": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).apply(spoil), "NaN or infinite"),
    "nine logits": (lambda: Answers(lambda logits: logits[:, :9]), r"\(25, 9\).*\(25, 10\)"),
    "four axes": (lambda: Answers(lambda logits: logits[..., None, None]), r"\(25, 10, 1, 1\)"),
    "one axis": (lambda: Answers(lambda logits: logits[:, 0]), r"\(25,\)"),
    "a tuple": (lambda: Answers(lambda logits: (logits, logits)), "a tuple"),
    "a dict": (lambda: Answers(lambda logits: {"logits": logits}), "a dict"),
    "nothing": (lambda: Answers(lambda logits: None), "a NoneType"),
    "whole numbers": (lambda: Answers(Tensor.long), r"int64 \(25, 10\)"),
    "complex numbers": (lambda: Answers(lambda logits: logits + 1j), r"complex64 \(25, 10\)"),
    "sparse": (lambda: Answers(Tensor.to_sparse), r"\(25, 10\), sparse"),
    "detached": (lambda: Answers(Tensor.detach), "no gradient"),
    "without gradient": (lambda: Answers(torch.no_grad()(lambda logits: logits.detach() * 2)), "no gradient"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_such_module_is_told(tiny, kind):
    make, message = BAD[kind]
    with pytest.raises(ModelError, match=message):
        fit(make(), tiny, BRIEF, device="cpu")


def test_a_recipe_by_name_and_callbacks_that_are_none(tiny):
    assert fit(plain_model(), replace(tiny), "small", Callback(), "cpu").about["recipe"]["name"] == "small"
    for callbacks in (print, [print], [Callback], 5):
        with pytest.raises(TrainingError, match="is no callback"):
            fit(plain_model(), tiny, BRIEF, callbacks, "cpu")


@contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def meta_by_default():
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, float64_by_default, meta_by_default])
def test_it_trains_and_recognises_whatever_the_reader_has_set(tiny, context):
    expected, model = losses(tiny), small_model()
    sure = Recognizer.load().predict(tiny.test.images[0, 0]).probabilities
    with context():
        before = torch.is_grad_enabled(), torch.get_default_dtype()
        fit(model, tiny, BRIEF, StopAt(5), "cpu", checkpoint="run")
        history = fit(model, tiny, BRIEF, device="cpu", checkpoint="run", resume=True)
        again = Recognizer.load()
        np.testing.assert_allclose(again.predict(tiny.test.images[0, 0]).probabilities, sure, atol=1e-5)
        assert again.predict_images(tiny.test.images).shape == (100, 10)
        assert (torch.is_grad_enabled(), torch.get_default_dtype()) == before
    assert list(history.steps["loss"]) == pytest.approx(expected, rel=1e-5)


class Meddle(Callback):
    """Does between the steps what a reader's callback may do."""

    def on_step(self, run):
        random.random(), torch.rand(3), Net()
        save_weights(run.model, "meanwhile")
        load_weights("meanwhile", small_model(5))
        evaluate(run.model, run.digits.test.first(10), "cpu")
        run.model.eval()


def losses(tiny, *callbacks, recipe=BRIEF):
    return list(fit(small_model(), tiny, recipe, callbacks, "cpu").steps["loss"])


def test_callbacks_that_draw_random_numbers_and_use_the_model_change_nothing(tiny):
    assert losses(tiny, Meddle()) == losses(tiny)


def test_the_world_is_as_it_was(tiny):
    model = small_model()
    layers, formats = list(model.modules()), [parameter.stride() for parameter in model.parameters()]
    shapes = set()
    model[2].register_forward_hook(lambda module, inputs, output: shapes.add(tuple(output.shape[1:])))
    torch.manual_seed(1)
    before = torch.get_rng_state(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    fit(model, tiny, BRIEF.but(dropout=0.5), device="cpu")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before[1]
    assert list(model.modules()) == layers and model[5].p == 0.2
    assert [parameter.stride() for parameter in model.parameters()] == formats
    assert shapes == {(4, 28, 28)}
    assert torch.tensor(1e-39) / 2 > 0  # denormals


def test_the_handlers_are_restored_and_every_on_end_is_called_when_callbacks_raise(tiny):
    class Raises(Callback):
        def __init__(self, when):
            self.when, self.ended = when, False

        def on_start(self, run):
            if self.when == "start":
                raise ZeroDivisionError

        def on_end(self, run):
            self.ended = True
            if self.when == "end":
                raise ZeroDivisionError

    before = signal.getsignal(signal.SIGINT)
    for callbacks in ([Raises("end"), Raises("")], [Raises(""), Raises("start")]):
        model = small_model()
        with pytest.raises(ZeroDivisionError):
            fit(model, tiny, BRIEF, callbacks, "cpu")
        assert any(callback.ended for callback in callbacks if not callback.when) and not model.training
        assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_may_evaluate_and_load_meanwhile(tiny):
    model, stop, errors, answers = small_model(), threading.Event(), [], []
    save_weights(Net(), "net")

    def meddle():
        while not stop.is_set():
            try:
                answers.append(evaluate(model, tiny.test, "cpu").accuracy)
                load_weights("net")
            except Exception as error:
                errors.append(error)

    recipe = BRIEF.but(epochs=10)
    expected = losses(tiny, recipe=recipe)
    thread = threading.Thread(target=meddle)
    thread.start()
    history = fit(model, tiny, recipe, device="cpu")
    stop.set()
    thread.join()
    assert not errors and answers
    assert list(history.steps["loss"]) == expected


def test_another_thread_may_load_weights_into_a_model_in_training(tiny):
    model, stop, errors = small_model(), threading.Event(), []
    save_weights(small_model(5), "other")

    def load():
        while not stop.is_set():
            try:
                load_weights("other", model)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert len(fit(model, tiny, BRIEF.but(epochs=10), device="cpu").steps) == 40
    finally:
        stop.set()
        thread.join()
    assert not errors


def test_two_runs_at_once_are_as_each_alone(tiny):
    recipes = [BRIEF.but(seed=seed) for seed in (1, 2)]
    alone = [losses(tiny, recipe=recipe) for recipe in recipes]
    models = [small_model(), small_model()]
    with ThreadPoolExecutor() as threads:
        runs = threads.map(lambda model, recipe: fit(model, tiny, recipe, device="cpu"), models, recipes)
        assert [list(history.steps["loss"]) for history in runs] == alone


EXTRAS = BRIEF.but(
    augmentation=Augmentation(degrees=10, shift=2, sharp=True),
    label_smoothing=0.1,
    weight_decay=0.05,
    ema=0.5,
    epochs=3,
)


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("stop", [6, 7])
def test_augmentation_smoothing_decay_averages_and_statistics_resume_bit_for_bit(tiny, ema, stop):
    model, again, recipe = small_model(), small_model(9), EXTRAS.but(ema=ema)
    whole = fit(model, tiny, recipe, device="cpu")
    fit(small_model(), tiny, recipe, StopAt(stop), "cpu", checkpoint="run")
    resumed = fit(again, tiny, recipe, device="cpu", checkpoint="run", resume=True)
    assert list(resumed.steps["loss"]) == list(whole.steps["loss"])
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert evaluate(again, tiny.test, "cpu").accuracy == resumed.epochs["val_accuracy"].iloc[-1]
    for change in ("augmentation", "ema"):
        assert losses(tiny, recipe=recipe.but(**{change: None}))[1:] != list(whole.steps["loss"])[1:] or change == "ema"


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize("stop", [0, 8])
def test_batch_norm_has_the_statistics_of_images_that_are_not_augmented(tiny, ema, stop):
    model = small_model()
    fit(model, tiny, EXTRAS.but(ema=ema), StopAt(stop), "cpu")
    maps = model[0](tiny.train.images / 255)
    assert torch.allclose(model[1].running_mean, maps.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var, maps.var(dim=(0, 2, 3)), rtol=1e-3)
    other = small_model()
    fit(other, tiny, EXTRAS.but(ema=ema, clean_statistics=False), StopAt(stop), "cpu")
    assert torch.equal(other[0].weight, model[0].weight)  # training is the same
    assert not torch.allclose(other[1].running_mean, model[1].running_mean, atol=1e-3)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_stopped_amid_the_statistics_the_model_keeps_those_of_training(tiny, ema):
    class Stopped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small_model()

        def forward(self, images):
            answer = self.inner(images)
            if self.inner[1].training and not torch.is_grad_enabled():  # statistics are taken
                raise KeyboardInterrupt
            return answer

    recipe = EXTRAS.but(ema=ema)
    without, model = small_model(), Stopped()
    fit(without, tiny, recipe.but(clean_statistics=False), StopAt(4), "cpu")
    history = fit(model, tiny, recipe, device="cpu")
    assert history.about["interrupted"] and len(history.steps) == 4 and model.inner[1].momentum == 0.1
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(model.inner.state_dict()[name], tensor) for name, tensor in without.state_dict().items())


def test_batch_norm_behind_dropout_has_the_statistics_of_what_it_gets_in_evaluation(tiny):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(784), nn.Linear(784, 10))
    fit(model, tiny, BRIEF, device="cpu")
    pixels = (tiny.train.images / 255).flatten(1)
    assert torch.allclose(model[2].running_mean, pixels.mean(0), atol=1e-5)
    assert torch.allclose(model[2].running_var, pixels.var(0), rtol=0.05, atol=1e-5)  # of batches, on average


def test_smoothed_labels_change_the_training_and_not_what_its_losses_mean(tiny):
    plain, smooth = (losses(tiny, recipe=BRIEF.but(label_smoothing=share)) for share in (0.0, 0.5))
    assert smooth[0] == plain[0] and smooth[1:] != plain[1:]


def test_the_average_of_the_weights_by_hand(tiny):
    seen = []

    class Note(Callback):
        def on_step(self, run):
            seen.append(run.model.state_dict()["1.weight"].clone())

    model = plain_model()
    fit(model, tiny, BRIEF.but(ema=0.8), Note(), "cpu")
    average = seen[0]
    for count, weights in enumerate(seen[1:], start=1):
        decay = min(0.8, (1 + count) / (10 + count))  # the first steps, whose weights mean little, are soon forgotten
        average = decay * average + (1 - decay) * weights
    torch.testing.assert_close(model.state_dict()["1.weight"], average)


def forge(change):
    """Rewrite the checkpoint after `change`, with a right checksum."""
    checkpoints = Checkpoints("run")
    state = checkpoints.latest()
    change(state)

    class Run:
        step, epochs = 6, [1]

        def state_dict(self):
            return state

    for path in checkpoints.folder.glob("step-*"):
        path.unlink()
    checkpoints.write(Run())


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda state, key=key: state.pop(key)
            for key in ("identity", "step", "losses", "epochs", "optimizer", "scheduler", "weights", "epoch_seconds")
        ),
        lambda state: state.update(losses=state["losses"][:2]),
        lambda state: state.update(step=-1),
        lambda state: state.update(step="6"),
        lambda state: state["optimizer"]["state"].clear(),
        lambda state: state["optimizer"]["state"].popitem(),
        lambda state: state["optimizer"]["state"][0].pop("exp_avg"),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),  # PyTorch would crash the process
        lambda state: state["optimizer"]["state"][0].update(exp_avg_sq=None),
        lambda state: state["optimizer"]["param_groups"][0].pop("lr"),
        lambda state: state["optimizer"]["param_groups"].clear(),
        lambda state: state["scheduler"].clear(),
        lambda state: state["scheduler"].pop("last_epoch"),
        lambda state: state["identity"].pop("data set"),
        lambda state: state["weights"].popitem(),
        lambda state: state["weights"].update({"6.weight": torch.zeros(3)}),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused(tiny, change):
    fit(small_model(), tiny, BRIEF, StopAt(6), "cpu", checkpoint="run")
    forge(change)
    model, own = small_model(1), small_model(1).state_dict()
    with pytest.raises(CheckpointError, match="checkpoint 'run' is not complete"):
        fit(model, tiny, BRIEF, device="cpu", checkpoint="run", resume=True)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in own.items())


def test_a_checkpoint_of_another_version_of_pytorch_resumes(tiny):
    whole = fit(small_model(), tiny, BRIEF, device="cpu")
    fit(small_model(), tiny, BRIEF, StopAt(6), "cpu", checkpoint="run")
    forge(lambda state: [group.pop("decoupled_weight_decay") for group in state["optimizer"]["param_groups"]])
    resumed = fit(small_model(1), tiny, BRIEF, device="cpu", checkpoint="run", resume=True)
    assert list(resumed.steps["loss"]) == list(whole.steps["loss"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_sighup_write_a_checkpoint_and_then_do_what_they_do(tiny, number):
    class Signal(Callback):
        def on_step(self, run):
            if run.step == 3:
                signal.raise_signal(number)

    seen = []
    before = signal.signal(number, lambda *_: seen.append(Checkpoints("run").latest()["step"]))
    try:
        history = fit(small_model(), tiny, BRIEF, Signal(), "cpu", checkpoint="run", every=100)
    finally:
        signal.signal(number, before)
    assert seen == [3] and history.about["interrupted"]
