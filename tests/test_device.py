from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
from conftest import InDouble, layer_names, net, small_model
from torch.nn import functional
from torchvision.transforms.functional import to_tensor

from mnist_kit.engine import GradientStep, as_input, pooling_first
from mnist_kit.models import Net


def test_images_go_in_as_totensor_makes_them(tiny):
    images = torch.arange(784, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(1, 1, 28, 28)
    before = images.clone()
    assert torch.equal(as_input(images)[0], to_tensor(images[0, 0].numpy()))
    assert torch.equal(images, before)


@pytest.mark.parametrize("training", [True, False])
def test_pooling_first_changes_no_value(training):
    model = InDouble(net()).train(training)
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    results = []
    for order in (nullcontext(), pooling_first(model)):
        torch.manual_seed(0)  # dropout
        model.zero_grad()
        with order:
            logits = model(images)
        functional.cross_entropy(logits, labels).backward()
        results.append((logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_pooling_first_moves_relu_behind_the_pooling_and_back():
    model = Net()
    order = layer_names(model.conv_block)
    weights = list(model.state_dict())
    with pooling_first(model):
        inside = layer_names(model.conv_block)
        assert list(model.state_dict()) == weights  # weights saved meanwhile are no others
    assert ("MaxPool2d", "ReLU") in pairwise(inside) and ("ReLU", "MaxPool2d") not in pairwise(inside)
    assert layer_names(model.conv_block) == order


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a CUDA graph can be recorded")
def test_without_a_cuda_graph_a_step_does_the_same(tiny):
    images, labels = tiny.train.images[:20], tiny.train.labels[:20]
    results = []
    for records in (False, True):
        model = small_model()
        step = GradientStep(model, torch.device("cpu"))
        random = torch.get_rng_state()
        if records:
            with pytest.warns(UserWarning, match="no CUDA graph of a step .* training goes on without"):
                step.record(images, labels)
            assert torch.equal(torch.get_rng_state(), random)
        results.append((step(images, labels), [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=0)
