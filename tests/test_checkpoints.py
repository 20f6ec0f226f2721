import contextlib
import json
import random
from datetime import date

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from mnist_kit import paper
from mnist_kit.checkpoints import _crc32, load_weights, save_weights, weights_about, weights_path
from mnist_kit.errors import ModelError, WeightsError
from mnist_kit.files import REFERENCE
from mnist_kit.models import MODELS, Net, make_model
from mnist_kit.recipes import SMALL
from mnist_kit.recognizer import Recognizer
from mnist_kit.training import as_input, evaluate

SHIPPED = REFERENCE / "class-mnist.safetensors"
needs_shipped = pytest.mark.skipif(not SHIPPED.is_file(), reason=f"the reference run's weights are not at {SHIPPED}")


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in state)


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def test_weights_come_back_bit_for_bit(home, tiny):
    model = Net().to(memory_format=torch.channels_last)
    model(as_input(tiny.train.images[:20]))  # moves the averages of batch norm
    before = snapshot(model)
    path = save_weights(model, "mine")
    assert path == home / "weights" / "mine.safetensors" == weights_path("mine")
    loaded = load_weights("mine")
    assert type(loaded) is Net and not loaded.training and same(loaded, before)
    assert same(model, before) and model.training


def test_better_weights_are_kept_when_worse_ones_take_their_name(home):
    better, worse = small(), small()
    save_weights(better, "mine", accuracy=0.99)
    with pytest.warns(UserWarning, match=r"99\.00% against 50\.00%.*mine-better-1"):
        save_weights(worse, "mine", accuracy=0.5)
    save_weights(worse, "mine", accuracy=0.5)
    assert same(load_weights("mine-better-1", small()), better.state_dict())
    assert same(load_weights("mine", small()), worse.state_dict())
    assert sorted(path.stem for path in (home / "weights").iterdir()) == ["mine", "mine-better-1"]


def test_a_first_accuracy_may_be_below_0(home):
    assert save_weights(small(), "mine", accuracy=-0.5).exists()


def test_what_is_known_of_weights():
    path = save_weights(Net(), "mine", SMALL, accuracy=0.9432, data="tiny")
    assert weights_about("mine") == {
        "model": "Net",
        "settings": {},
        "recipe": SMALL.as_dict(),
        "accuracy": 0.9432,
        "data": "tiny",
        "source": "yours",
        "path": path,
    }


def test_what_json_does_not_know_is_told_as_text_or_numbers(tmp_path):
    save_weights(small(), "mine", data=np.float32(1), when=date(2024, 2, 29), where=tmp_path, counts=torch.ones(2))
    told = {"data": 1.0, "when": "2024-02-29", "where": str(tmp_path), "counts": [1.0, 1.0]}
    assert weights_about("mine").items() >= told.items()


def write_weights(home, tensors: dict[str, torch.Tensor], **metadata: str) -> None:
    folder = home / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "odd.safetensors").write_bytes(save(tensors, metadata))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("1.bias"), r"tensor '1\.bias' is not there, in Sequential it is float \(10,\)"),
        (
            lambda t: t.update({"2.weight": torch.zeros(1)}),
            r"tensor '2\.weight' is float \(1,\), in Sequential it is not there",
        ),
        (
            lambda t: t.update({"1.weight": torch.zeros(20, 784)}),
            r"'1\.weight' is float \(20, 784\).* it is float \(10, 784\)",
        ),
    ],
)
def test_weights_of_another_model_name_the_tensor_and_change_nothing(home, change, message):
    tensors, model = snapshot(small()), small()
    before = snapshot(model)
    change(tensors)
    write_weights(home, tensors)
    with pytest.raises(WeightsError, match=rf"odd\.safetensors: .*{message}"):
        load_weights("odd", model)
    assert same(model, before) and model.training


def normed() -> nn.Module:
    """With running averages, and a mask of −inf, which is a constant."""
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 10))
    model.register_buffer("mask", torch.tensor([-torch.inf, 0]))
    return model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("2.weight", torch.nan),
        ("2.bias", torch.inf),
        ("2.weight", 1e300),
        ("0.running_mean", torch.inf),
        ("0.running_var", torch.nan),
        ("mask", torch.nan),
    ],
)
def test_numbers_that_are_not_finite_are_refused_but_where_the_model_s_are_not(home, key, value):
    tensors, model = snapshot(normed()), normed()
    write_weights(home, tensors)
    assert same(load_weights("odd", model), tensors)
    write_weights(home, tensors | {key: torch.full(tensors[key].shape, value, dtype=torch.float64)})
    with pytest.raises(WeightsError, match=f"'{key}' holds numbers that are not finite"):
        load_weights("odd", model)
    assert same(model, tensors)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("settings", text) for text in ("[1]", "5", "no JSON")),
        *(("temperature", text) for text in ("0", "-1", "NaN", "Infinity", "null", "[1]", '"x"')),
        *(("threshold", text) for text in ("NaN", "null", '"x"')),
    ],
)
def test_a_description_that_nothing_can_be_computed_with(home, key, text):
    write_weights(home, snapshot(small()), **{key: text})
    for use in (lambda: load_weights("odd"), lambda: weights_about("odd"), lambda: Recognizer.load("odd")):
        with pytest.raises(WeightsError, match=f"its {key} cannot be"):
            use()


def test_a_changed_description_is_noticed_and_older_checksums_are_known(home):
    path = save_weights(small(), "mine", SMALL, accuracy=0.5, data="mnist")
    content, about = path.read_bytes(), weights_about("mine")
    for position in range(content.index(b"__metadata__"), content.index(b"1.weight"), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with contextlib.suppress(WeightsError):
            assert weights_about("mine").items() >= about.items()  # at most the checksum has another name
    tensors = snapshot(small())
    write_weights(home, tensors, crc32=str(_crc32(tensors)), accuracy="0.5")
    assert weights_about("odd")["accuracy"] == 0.5


def test_weights_of_an_unknown_class(home):
    write_weights(home, snapshot(small()), model=json.dumps("Transformer"))
    with pytest.raises(ModelError, match=r"'Transformer'.*Net"):
        load_weights("odd")


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda content, kept=kept: content[:kept] for kept in (0, 1, 7, 8, 100, 2_000_000, -1)),
        lambda _: random.Random(0).randbytes(10_000),
        lambda _: b"<!DOCTYPE html><html>404</html>",
        lambda _: (2).to_bytes(8, "little") + b"{}" + b"leftover",
        lambda _: (2**60).to_bytes(8, "little"),
    ],
)
def test_a_damaged_file_and_a_file_of_something_else(damage):
    path, model = save_weights(Net(), "mine"), Net()
    path.write_bytes(damage(path.read_bytes()))
    before = snapshot(model)
    for read in (lambda: load_weights("mine", model), lambda: weights_about("mine")):
        with pytest.raises(WeightsError, match=r"mine\.safetensors: is damaged"):
            read()
    assert same(model, before)


def test_a_name_that_is_no_file_name(home):
    name = "../outside"
    for use in (lambda: save_weights(small(), name), lambda: load_weights(name), lambda: weights_about(name)):
        with pytest.raises(WeightsError, match="cannot name weights"):
            use()
    assert not home.exists()


def test_an_unknown_name_lists_the_known_ones(home):
    save_weights(small(), "mine")
    save_weights(small(), "linear")
    with pytest.raises(WeightsError, match=r"'yours' in .*weights.*there are: .*linear, mine"):
        load_weights("yours")


def test_the_readers_own_come_before_the_shipped(tmp_path, monkeypatch):
    shipped = tmp_path / "package"
    shipped.mkdir()
    for module in ("files", "checkpoints"):
        monkeypatch.setattr(f"mnist_kit.{module}.REFERENCE", shipped)
    theirs, mine = small(), small()
    save_weights(theirs, "class-mnist").rename(shipped / "class-mnist.safetensors")
    assert same(load_weights(model=small()), snapshot(theirs))
    assert weights_about()["source"] == "reference"
    save_weights(mine, "class-mnist")
    assert same(load_weights(model=small()), snapshot(mine))
    assert weights_about()["source"] == "yours"


@needs_shipped
def test_the_shipped_weights_are_the_papers_run():
    about = weights_about()
    assert about["source"] == "reference" and about["model"] == "Net"
    assert about["recipe"]["epochs"] == paper.EPOCHS and about["recipe"]["learning_rate"] == 0.003
    assert SHIPPED.stat().st_size < 4e6


@needs_shipped
def test_the_shipped_weights_recognise_mnist(mnist):
    evaluation = evaluate(load_weights(), mnist.test)
    assert evaluation.accuracy >= 0.992
    assert evaluation.accuracy == pytest.approx(weights_about()["accuracy"], abs=3e-4)  # another machine's rounding


class Sized(nn.Sequential):
    def __init__(self, width: int = 4):
        super().__init__(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, 10))
        self.width = width


def test_a_model_with_settings_of_its_own_is_made_again(monkeypatch):
    monkeypatch.setitem(MODELS, "Sized", Sized)
    model = make_model("Sized", width=7)
    save_weights(model, "sized")
    loaded = load_weights("sized")
    assert loaded.width == 7 and torch.equal(loaded[1].weight, model[1].weight)
    with pytest.raises(ModelError, match="cannot be made with"):
        make_model("Sized", size=7)


def test_weights_that_are_not_finite_are_not_saved(home):
    model = nn.Linear(784, 10)
    save_weights(model, "good")
    before = (home / "weights" / "good.safetensors").read_bytes()
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        save_weights(model, "good")
    assert (home / "weights" / "good.safetensors").read_bytes() == before
