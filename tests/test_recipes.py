import pytest
import torch

from mnist_kit.augment import Augmentation
from mnist_kit.errors import RecipeError
from mnist_kit.models import MODELS
from mnist_kit.recipes import PAPER, QUICK, RECIPES, SMALL, Recipe, get_recipe, recipe_for


def test_the_papers_recipe_is_listing_2_2():
    settings = PAPER.as_dict()
    expected = {"epochs": 25, "batch_size": 128, "learning_rate": 0.003, "schedule": "step", "step_epochs": 7}
    assert settings.items() >= {**expected, "gamma": 0.1, "train_images": None}.items()


def test_settings_of_an_older_version_are_completed_by_the_defaults():
    recipe = Recipe("", epochs=2, learning_rate=0.1, augmentation=Augmentation(degrees=5))
    older = recipe.as_dict()
    del older["precision"], older["ema"], older["augmentation"]["erase"]
    assert Recipe.completed(older) == recipe.as_dict()
    assert Recipe.completed(PAPER.as_dict()) == PAPER.as_dict()


def test_steps_count_full_batches_of_the_images_that_are_used():
    assert Recipe("", epochs=1, batch_size=30).steps_per_epoch(100) == 3
    assert Recipe("", epochs=1, batch_size=100).steps_per_epoch(100) == 1
    assert Recipe("", epochs=1, batch_size=30, train_images=70).steps_per_epoch(100) == 2
    assert Recipe("", epochs=1, batch_size=30, train_images=1_000).steps_per_epoch(100) == 3


@pytest.mark.parametrize(("train_images", "used"), [(None, 100), (40, 40)])
def test_a_batch_larger_than_the_data(train_images, used):
    with pytest.raises(RecipeError, match=f"batch_size 101.*{used} training images"):
        Recipe("", epochs=1, batch_size=101, train_images=train_images).steps_per_epoch(100)
    with pytest.raises(RecipeError, match="batch_size 32 cannot be shared equally by 3 processes"):
        Recipe("", epochs=1, batch_size=32).steps_per_epoch(100, processes=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("batch_size", "128"),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("gamma", -0.1),
        ("schedule", "cosine"),
        ("train_images", 0.5),
        ("seed", -1),
        ("precision", "float16"),
        ("augmentation", 3),
        ("ema", 1),
        ("label_smoothing", None),
        ("weight_decay", -1),
        ("dropout", -0.1),
        ("members", 0),
        ("clean_statistics", 1),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(field, value):
    with pytest.raises(RecipeError, match=f"^{field} must be .*{value!r}"):
        Recipe(**{"name": "bad", "epochs": 1, field: value})


@pytest.mark.parametrize(
    ("name", "right"), [("papr", "paper"), ("PAPER", "paper"), ("quik", "quick"), ("Smal", "small")]
)
def test_the_nearest_name_of_an_unknown_recipe(name, right):
    with pytest.raises(RecipeError, match=rf"{name!r}; did you mean '{right}'\? There are: paper, quick, small"):
        get_recipe(name)


def test_the_recipe_that_fits_the_device():
    assert recipe_for("cpu") is recipe_for(torch.device("cpu")) is QUICK
    assert recipe_for("cuda") is recipe_for(torch.device("cuda:0")) is recipe_for("mps") is PAPER
    assert all(recipe.network in MODELS for recipe in RECIPES.values())


def test_the_environment_chooses_over_the_device(monkeypatch):
    monkeypatch.setenv("MNIST_KIT_RECIPE", "small")
    assert recipe_for("cpu") is recipe_for("cuda") is SMALL
    monkeypatch.setenv("MNIST_KIT_RECIPE", "")
    assert recipe_for("cpu") is QUICK


def test_a_setting_that_there_is_not():
    with pytest.raises(RecipeError, match=r"no setting 'lerning_rate'; did you mean 'learning_rate'\? There are: name"):
        PAPER.but(lerning_rate=0.1)
    with pytest.raises(RecipeError, match="epochs must be a whole number"):
        PAPER.but(epochs=2.5)
