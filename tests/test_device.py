import os
import subprocess
import sys

import pytest
import torch
from conftest import net
from torchvision.transforms.functional import to_tensor

from mnist_kit import Callback, Recipe, fit, make_digits
from mnist_kit.device import as_input


def test_images_go_in_as_totensor_makes_them(tiny):
    images = torch.arange(784, dtype=torch.int32).remainder(256).to(torch.uint8).reshape(1, 1, 28, 28)
    before = images.clone()
    assert torch.equal(as_input(images)[0], to_tensor(images[0, 0].numpy()))
    assert torch.equal(images, before)


def test_bfloat16_is_not_used_where_onednn_may_not():
    program = "import torch; from mnist_kit.device import has_bfloat16; print(has_bfloat16(torch.device('cpu')))"
    settings = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    answer = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="where glibc is the C library")
def test_a_step_needs_no_new_memory_from_the_system():
    import resource

    class Faults(Callback):
        def on_start(self, run):
            self.counted = []

        def on_step(self, run):
            self.counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

    faults = Faults()
    fit(net(), make_digits(16 * 128, 10, progress=False), Recipe("brief", epochs=1), faults, "cpu")
    assert faults.counted[-1] - faults.counted[-4] < 12_000  # of 4 KiB, in three steps; 38,000 where all is given back
