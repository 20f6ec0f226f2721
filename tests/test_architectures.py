import numpy as np
import pytest
import torch

from mnist_kit.architectures import ARCHITECTURES, LeakyNeurons, Residual, Spike, SpikingNet, kernel_net, vote
from mnist_kit.errors import ModelError
from mnist_kit.models import summary

PARAMETERS = {  # weights, biases and batch norms, layer by layer
    "linear": 785 * 10,
    "small CNN": 10 * 8 + 73 * 16 + 785 * 10,
    "LeNet-5": 26 * 6 + 151 * 16 + 401 * 120 + 121 * 84 + 85 * 10,
    "dual path": (11 * 16 + 146 * 32) + (27 * 16 + 402 * 32) + 3137 * 10,
    "residual": 11 * 16 + 2 * 146 * 16 + (146 + 290 + 16) * 32 + (290 + 578 + 32) * 64 + 65 * 10,
    "7×7": 51 * 16 + 786 * 32 + 1570 * 48 + 2354 * 64 + (64 * 16 + 1) * 10,
    "spiking": 11 * 16 + 146 * 32 + 9 * (16 + 32) + (32 * 49 + 1) * 10,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_maps_images_to_logits_and_is_as_large_as_it_says(name):
    make, model = ARCHITECTURES[name], ARCHITECTURES[name]().eval()
    images = torch.rand(3, 1, 28, 28)
    logits = model(images)
    assert logits.shape == (3, 10) and logits.dtype == torch.float32
    torch.testing.assert_close(model(images[1:2]), logits[1:2], rtol=1e-4, atol=1e-4)
    parameters = summary(model).sizes["parameters"]
    assert parameters == PARAMETERS.get(name, parameters)
    if name in PARAMETERS and "×" not in name:
        assert f"{parameters:,} parameters" in make.__doc__ or name == "linear"
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("kernel", "layers", "side"), [(3, 10, 8), (5, 5, 8), (7, 4, 4)])
def test_a_kernel_net_shrinks_the_image_to_a_few_pixels(kernel, layers, side):
    model = kernel_net(kernel)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model) == layers
    assert model[:-2].eval()(torch.rand(1, 1, 28, 28)).shape[2:] == (side, side)


def test_a_kernel_net_has_three_sizes():
    with pytest.raises(ModelError, match=r"3, 5, 7.*4"):
        kernel_net(4)


def test_a_residual_block_without_a_change_passes_its_input_on():
    block = Residual(4, 4).eval()
    torch.nn.init.zeros_(block.change[-1].weight)  # of the batch norm: it then answers 0 everywhere
    features = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(block(features), features)
    assert Residual(4, 8, stride=2)(features).shape == (2, 8, 3, 3)


def test_a_spike_is_a_step_with_the_slope_of_a_ramp():
    excess = torch.tensor([-2.0, -0.4, 0.0, 0.4, 2.0], requires_grad=True)
    spikes = Spike.apply(excess)
    assert spikes.tolist() == [0, 0, 0, 1, 1]
    (3 * spikes).sum().backward()
    assert excess.grad.tolist() == [0, 3, 3, 3, 0]


def test_neurons_leak_integrate_fire_and_start_anew():
    spikes = LeakyNeurons(1, leak=0.5)(torch.full((8, 1, 1, 1, 1), 0.6))
    potential, expected = 0.0, []
    for _ in range(8):
        potential = 0.5 * potential + 0.6
        expected.append(float(potential > 1))
        potential = 0.0 if potential > 1 else potential
    assert spikes.flatten().tolist() == expected == [0, 0, 1, 0, 0, 1, 0, 0]


def test_neighbours_that_fired_hold_a_neuron_back():
    neurons, currents = LeakyNeurons(1), torch.full((4, 1, 1, 1, 2), 0.6)
    currents[..., 0] = 1.5  # fires in each step
    neurons.lateral.weight.data[0, 0, 1, 0] = -0.5  # from the neighbour on the left
    assert neurons(currents)[:, 0, 0, 0].tolist() == [[1, 0], [1, 0], [1, 0], [1, 0]]


def test_a_spiking_net_takes_as_many_steps_as_it_is_told():
    assert SpikingNet(steps=2).eval()(torch.rand(1, 1, 28, 28)).shape == (1, 10)


def test_the_majority_is_right_and_a_tie_goes_to_the_first():
    answers = vote(np.array([[7, 1, 2, 3], [7, 4, 5, 9], [1, 4, 8, 9]]))
    assert answers.tolist() == [7, 4, 2, 9] and answers.dtype == np.int64
    with pytest.raises(ModelError, match="members"):
        vote(np.array([1, 2, 3]))
