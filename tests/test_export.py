"""What is exported answers as the kernel does. The page itself is tested in a browser."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mnist_kit.errors import ExportError, StorageError
from mnist_kit.export import OPSET, Portable, export, export_page, frame
from mnist_kit.framing import frame_as_drawn, mnist_raster
from mnist_kit.recognizer import Recognizer
from mnist_kit.synthetic import sample_drawing

DRAWINGS = [sample_drawing(digit, seed=seed) for digit in range(10) for seed in range(5)]


@pytest.fixture(scope="module", params=["reader", "class-mnist"])
def exported(request, tmp_path_factory):
    """A recogniser, and the file made of it: one that knows "no digit", one that does not."""
    recognizer = Recognizer.load(request.param)
    return recognizer, export(recognizer, tmp_path_factory.mktemp("onnx") / "digits.onnx")


def test_the_file_computes_what_pytorch_does_and_says_what_the_kernel_says(exported):
    recognizer, path = exported
    session, portable = onnxruntime.InferenceSession(path), Portable(recognizer).eval()
    for drawing in DRAWINGS:
        raster = mnist_raster(drawing).astype(np.float32)
        found = session.run(None, {"raster": raster})
        with torch.inference_mode():
            expected = portable(torch.from_numpy(raster))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-5)
        probabilities, likeness, _ = found
        prediction = recognizer.predict(drawing)
        assert probabilities.argmax() == prediction.digit
        assert likeness == pytest.approx(prediction.likeness, abs=0.02)


def test_the_file_says_what_it_is_and_takes_any_size(exported):
    recognizer, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] == [OPSET]
    assert {entry.key: entry.value for entry in model.metadata_props}["threshold"] == repr(recognizer.threshold)
    session = onnxruntime.InferenceSession(path)
    for shape in [(3, 400), (400, 3), (600, 800), (20, 20)]:
        raster = np.zeros(shape, np.float32)
        raster[1:, 1:-1] = 255
        assert session.run(None, {"raster": raster})[0].sum() == pytest.approx(1)
    assert np.isnan(session.run(None, {"raster": np.zeros((30, 30), np.float32)})[0]).all()


def test_framing_by_matrices_is_framing_by_pillow_up_to_its_rounding():
    for drawing in DRAWINGS:
        raster = drawing.raster()
        difference = 255 * (frame(torch.from_numpy(raster).float()) - frame_as_drawn(raster)).abs()
        assert difference.max() < 1.01 and (difference > 0.5).float().mean() < 0.02


def test_what_cannot_be_exported(tmp_path):
    for recognizer in (Recognizer(lambda image: [0.1] * 10), Recognizer.load(framing="paper")):
        with pytest.raises(ExportError, match="network that is shown digits framed as MNIST"):
            export(recognizer, tmp_path / "digits.onnx")
    for wrong in (nn.Conv2d(1, 10, 28), nn.Sequential(nn.Flatten(), nn.Linear(784, 9))):
        with pytest.raises(ExportError, match="the network cannot be exported"):
            export(Recognizer(wrong), tmp_path / "digits.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        export(Recognizer.load(), tmp_path / "file" / "digits.onnx")
    with pytest.raises(ExportError, match="is not the npm package"):
        export_page(Recognizer.load(), tmp_path / "digits.html", runtime=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_the_defaults_of_the_program_make_no_difference(tmp_path, monkeypatch):
    plain = export(Recognizer.load(), tmp_path / "plain.onnx").read_bytes()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert export(Recognizer.load(), tmp_path / "other.onnx").read_bytes() == plain
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_npm_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match=r"install Node\.js"):
        export_page(Recognizer.load(), tmp_path / "digits.html")
