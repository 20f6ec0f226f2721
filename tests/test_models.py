import pytest
import torch

from mnist_kit import paper
from mnist_kit.errors import ModelError
from mnist_kit.models import Net, make_model, name_of, summary


def test_frozen_parameters_are_counted_as_such():
    model = Net()
    model.conv_block.requires_grad_(False)
    totals = summary(model).totals()
    assert totals["not trainable"] == 320 + 64 + 18_496 + 128 + 73_856 + 256
    assert totals["trainable"] + totals["not trainable"] == paper.PARAMETERS


def test_a_summary_needs_an_image():
    with pytest.raises(ModelError, match=r"batch_size.*0"):
        summary(Net(), batch_size=0)


def test_images_in_a_batch_do_not_see_each_other():
    model, images = Net().eval(), torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "classes"), [("Net", 10), ("FastNet", 10), ("BestNet", 10), ("ReadingNet", 11)])
def test_models_by_name_are_as_large_as_they_say(name, classes):
    model = make_model(name).eval()
    assert name_of(model) == name
    logits = model(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, classes) and logits.dtype == torch.float32
    assert not torch.allclose(logits.exp().sum(1), torch.ones(3))  # no softmax inside: the loss has it
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in type(model).__doc__


def test_models_that_cannot_be_made():
    with pytest.raises(ModelError, match=r"'Nett'.*Net"):
        make_model("Nett")
