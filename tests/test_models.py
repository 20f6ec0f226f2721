import pytest
import torch
from torch import nn

from mnist_kit import paper
from mnist_kit.errors import ModelError
from mnist_kit.models import Net, ReadingNet, make_model, summary

# Listing 2.1 of the paper, for a batch of 16.
PAPER_TABLE = [
    ("Conv2d-1", [16, 32, 28, 28], 320),
    ("BatchNorm2d-2", [16, 32, 28, 28], 64),
    ("ReLU-3", [16, 32, 28, 28], 0),
    ("Conv2d-4", [16, 64, 28, 28], 18_496),
    ("BatchNorm2d-5", [16, 64, 28, 28], 128),
    ("ReLU-6", [16, 64, 28, 28], 0),
    ("MaxPool2d-7", [16, 64, 14, 14], 0),
    ("Conv2d-8", [16, 128, 14, 14], 73_856),
    ("BatchNorm2d-9", [16, 128, 14, 14], 256),
    ("ReLU-10", [16, 128, 14, 14], 0),
    ("MaxPool2d-11", [16, 128, 7, 7], 0),
    ("Dropout-12", [16, 6272], 0),
    ("Linear-13", [16, 128], 802_944),
    ("BatchNorm1d-14", [16, 128], 256),
    ("ReLU-15", [16, 128], 0),
    ("Dropout-16", [16, 128], 0),
    ("Linear-17", [16, 64], 8_256),
    ("BatchNorm1d-18", [16, 64], 128),
    ("ReLU-19", [16, 64], 0),
    ("Dropout-20", [16, 64], 0),
    ("Linear-21", [16, 10], 650),
]


def test_every_row_of_the_papers_table():
    layers = summary(Net(), batch_size=16).layers
    assert list(layers.itertuples(index=False, name=None)) == PAPER_TABLE


def test_the_papers_totals():
    assert summary(Net(), batch_size=16).totals().to_dict() == {
        "parameters": paper.PARAMETERS,
        "trainable": paper.PARAMETERS,
        "not trainable": 0,
        "input (MB)": 0.05,
        "forward/backward (MB)": 39.91,
        "parameters (MB)": 3.45,
        "total (MB)": 43.41,
    }


def test_the_count_agrees_with_pytorchs():
    assert sum(parameter.numel() for parameter in Net().parameters()) == paper.PARAMETERS == 905_354


def test_frozen_parameters_are_counted_as_such():
    model = Net()
    model.conv_block.requires_grad_(False)
    totals = summary(model).totals()
    assert totals["not trainable"] == 320 + 64 + 18_496 + 128 + 73_856 + 256
    assert totals["trainable"] + totals["not trainable"] == paper.PARAMETERS


def test_the_summary_leaves_the_model_as_it_was():
    model = Net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    summary(model, batch_size=2)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_summary_needs_an_image():
    with pytest.raises(ModelError, match=r"batch_size.*0"):
        summary(Net(), batch_size=0)


def test_the_output_is_logits():
    model = Net().eval()
    logits = model(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10) and logits.dtype == torch.float32
    assert not torch.allclose(logits.exp().sum(1), torch.ones(3))  # no softmax inside: the loss has it
    assert isinstance(model.linear_block[-1], nn.Linear)


def test_images_in_a_batch_do_not_see_each_other():
    model, images = Net().eval(), torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


def test_models_by_name():
    assert type(make_model("Net")) is Net
    with pytest.raises(ModelError, match=r"'Nett'.*Net"):
        make_model("Nett")


def test_reading_net_knows_eleven_things_and_is_as_large_as_it_says():
    model = ReadingNet().eval()
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 11)
    assert "379,147 parameters" in ReadingNet.__doc__
    assert sum(parameter.numel() for parameter in model.parameters()) == 379_147
    assert type(make_model("ReadingNet")) is ReadingNet
