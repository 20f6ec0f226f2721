"""Take a recogniser elsewhere: one ONNX file, and one page of HTML that needs neither Python nor a network."""

import base64
import gzip
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import warnings
from copy import deepcopy
from html import escape
from pathlib import Path
from string import Template

import torch
from torch import Tensor, nn
from torch.export import Dim

from mnist_kit.device import computing
from mnist_kit.errors import ExportError, RecognizerError
from mnist_kit.files import write_atomically
from mnist_kit.framing import DIGIT_SIDE, SIDE
from mnist_kit.ink import MAX_SIDE
from mnist_kit.models import unwrapped
from mnist_kit.recognizer import CLASSES, Recognizer

OPSET = 20  # of ONNX: what ONNX Runtime has understood since 1.17, of January 2024
RUNTIME = "onnxruntime-web@1.30.0"  # the npm package of ONNX Runtime Web, Microsoft, MIT licence
PACKAGE, SCRIPT, WASM = "package.json", "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"  # in it
PAGE = Path(__file__).with_name("page.html")


def export(recognizer: Recognizer, path: Path | str) -> Path:
    """Write `recognizer` as one ONNX file of opset 20, framing and probabilities included, and return its path.

    Its input is `raster`, its outputs are `probabilities`, `likeness` and `image`, as `Portable` has them. The
    threshold of a sure answer is in the file's metadata. Raises ExportError for what is no network, or framed in
    another way than MNIST's, or what torch cannot export; StorageError when the file cannot be written.
    """
    return write_atomically(Path(path), _as_onnx(recognizer))


def export_page(recognizer: Recognizer, path: Path | str, runtime: Path | str | None = None) -> Path:
    """Write a page of HTML, about 9 MB, that reads digits drawn on it with `recognizer`, and return its path.

    It opens from the disk, in any browser of 2023 or later, and asks for nothing: the network as ONNX and ONNX Runtime
    Web are inside. runtime: the unpacked npm package `onnxruntime-web`, if it is here already; None: npm fetches it.
    Raises what `export` does, and ExportError where there is no such package.
    """
    return write_atomically(Path(path), _page(recognizer, _as_onnx(recognizer), runtime))


def _page(recognizer: Recognizer, model: bytes, runtime: Path | str | None) -> bytes:
    if runtime is None:
        with tempfile.TemporaryDirectory() as folder:
            script, wasm = _runtime(_fetched(Path(folder)))
    else:
        script, wasm = _runtime(Path(runtime))
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(
        about=escape(f"{type(recognizer.model).__name__}, made with mnist_kit; ONNX Runtime Web (MIT) runs it."),
        model=base64.b64encode(model).decode(),
        wasm=base64.b64encode(gzip.compress(wasm, mtime=0)).decode(),
        runtime=script,
        settings=json.dumps({"threshold": float(recognizer.threshold)}),
    )
    return page.encode()


def add_command(commands) -> None:
    """`export`: both files at once, for the command line."""
    parser = commands.add_parser("export", help="write a recogniser as an ONNX file and as a page of HTML")
    parser.add_argument("--weights", default="reader", help="the network's name; default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the files go; default: here")
    parser.add_argument("--runtime", type=Path, help=f"the unpacked npm package {RUNTIME}; default: npm fetches it")
    parser.set_defaults(run=_run)


def _run(options) -> int:
    recognizer = Recognizer.load(options.weights)
    model = _as_onnx(recognizer)
    print(write_atomically(options.folder / "digits.onnx", model))
    print(write_atomically(options.folder / "digits.html", _page(recognizer, model, options.runtime)))
    return 0


def _as_onnx(recognizer: Recognizer) -> bytes:
    import onnx  # half a second that only this needs

    sides = {0: Dim("height", min=2, max=MAX_SIDE), 1: Dim("width", min=2, max=MAX_SIDE)}
    # Whatever the defaults of the program are, the file is of float32.
    with warnings.catch_warnings(), torch.inference_mode(False), torch.device("cpu"):
        warnings.simplefilter("ignore")  # of the exporter's own inside
        portable = Portable(recognizer).eval()
        example = torch.zeros(30, 40, dtype=torch.float32)
        example[5:20, 10:15] = 255
        try:
            program = torch.onnx.export(
                portable,
                (example,),
                input_names=["raster"],
                output_names=["probabilities", "likeness", "image"],
                opset_version=OPSET,
                dynamic_shapes=(sides,),
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ExportError(f"torch cannot export a {type(recognizer.model).__name__} to ONNX: {reason}") from error
    model = program.model_proto
    onnx.helper.set_model_props(model, {"threshold": repr(float(recognizer.threshold)), "source": "mnist_kit"})
    return model.SerializeToString()


def _fetched(folder: Path) -> Path:
    """The npm package of `RUNTIME`, unpacked into `folder`."""
    try:
        npm = shutil.which("npm") or "npm"  # on Windows it is npm.cmd
        command = [npm, "pack", RUNTIME, "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]  # else it waits minutes
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            parts = [archive.getmember(f"package/{name}") for name in (PACKAGE, SCRIPT, WASM)]
            archive.extractall(folder, parts, filter="data")
    except (OSError, subprocess.SubprocessError, StopIteration, tarfile.TarError, KeyError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        message = f"npm could not fetch {RUNTIME} ({' '.join([str(error), *said[:2]])}): install Node.js, or give"
        raise ExportError(f"{message} `runtime` a folder that has it") from error
    return folder / "package"


def _runtime(package: Path) -> tuple[str, bytes]:
    """ONNX Runtime Web as a script that sets the global `ort`, and its WebAssembly."""
    try:
        version = json.loads((package / PACKAGE).read_text(encoding="utf-8"))["version"]
        script, wasm = (package / SCRIPT).read_text(encoding="utf-8"), (package / WASM).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{package} is not the npm package of {RUNTIME}: {error}") from error
    # A page opened from the disk may import no module: what this one exports becomes a global object instead.
    body, _, exported = script.rpartition("export{")
    names = re.sub(r"([\w$]+) as ([\w$]+)", r"\2:\1", exported.partition("}")[0])
    if RUNTIME.rpartition("@")[2] != version or "InferenceSession" not in names or "</script" in script:
        raise ExportError(f"{package} is of version {version}; the page is made for {RUNTIME}")
    return f"{body}globalThis.ort={{{names}}};", wasm


class Portable(nn.Module):
    """A recogniser as one network: from ink to probabilities, framing included.

    forward takes a raster, float32 (H, W) from 0 to 255, white ink on black, of one digit in a pen of MNIST's width:
    `mnist_raster` makes it from a drawing, `even_pen(as_raster(…))` from a picture. Returns probabilities of the ten
    digits, float32 (10,), how much the ink is like a digit at all, float32 (), both as in `Prediction`, and what the
    network was shown, float32 (1, 28, 28). Without ink all are NaN.
    """

    def __init__(self, recognizer: Recognizer):
        super().__init__()
        if not isinstance(recognizer.model, nn.Module) or recognizer.framing != "mnist":
            raise ExportError("only a network that is shown digits framed as MNIST's can be exported")
        try:
            recognizer.predict_images(torch.zeros(1, 1, SIDE, SIDE))
        except RecognizerError as error:
            raise ExportError(f"the network cannot be exported: {error}") from error
        reader = Recognizer.load()  # says what is no digit, where the model does not
        with computing:
            self.model = deepcopy(unwrapped(recognizer.model)).cpu().float()
        self.reader = reader.model
        self.register_buffer(
            "temperatures", torch.tensor([recognizer.temperature, reader.temperature], dtype=torch.float32)
        )

    def forward(self, raster: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image = frame(raster)
        shares = (self.model(image[None])[0] / self.temperatures[0]).softmax(0)
        doubt = shares
        if len(shares) == CLASSES:
            doubt = (self.reader(image[None])[0] / self.temperatures[1]).softmax(0)
        digits = shares[:CLASSES]
        return digits / digits.sum(), 1 - doubt[CLASSES:].sum(), image


def frame(raster: Tensor) -> Tensor:
    """`frame_as_drawn` by products of matrices, whose sizes do not depend on where the ink is: float32 (1, 28, 28)."""
    rows, columns = (_Axis(raster.amax(dim=across) > 0) for across in (1, 0))
    longest = torch.maximum(rows.length, columns.length)
    narrow = _rounded(raster.double() @ columns.resizing(longest).T)  # Pillow rounds between the two ways
    small = _rounded(rows.resizing(longest) @ narrow)  # (20, 20), what lies beyond the digit being 0
    placed = rows.placing(small.sum(1), longest) @ small @ columns.placing(small.sum(0), longest).T
    return placed[None].float() / 255


class _Axis:
    """Where the ink is along one axis, from a mask of its places, bool (n,)."""

    def __init__(self, inked: Tensor):
        self.places = torch.arange(inked.shape[0], dtype=torch.float64)
        self.start = torch.where(inked, self.places, torch.inf).amin(0)
        self.length = torch.where(inked, self.places, -1).amax(0) + 1 - self.start

    def side(self, longest: Tensor) -> Tensor:
        """How many of the 20 pixels the digit takes, which are all where it is longest."""
        return (self.length * (DIGIT_SIDE / longest)).round().clamp(min=1)

    def resizing(self, longest: Tensor) -> Tensor:
        """The weights of a bilinear, antialiased resize of the ink's box: (20, n)."""
        side, to = self.side(longest), torch.arange(DIGIT_SIDE, dtype=torch.float64)[:, None]
        scale = self.length / side
        inside = (self.places >= self.start) & (self.places < self.start + self.length) & (to < side)
        distance = (self.places - self.start + 0.5 - (to + 0.5) * scale).abs()
        weights = (1 - distance / scale.clamp(min=1)).clamp(min=0) * inside
        return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)

    def placing(self, ink: Tensor, longest: Tensor) -> Tensor:
        """Where each of the 20 pixels goes so that the centre of `ink`, (20,), is the middle of 28: (28, 20)."""
        middle = (ink * torch.arange(DIGIT_SIDE)).sum() / ink.sum()
        corner = torch.minimum((SIDE / 2 - middle - 0.5).ceil().clamp(min=0), SIDE - self.side(longest))
        return (torch.arange(SIDE)[:, None] - torch.arange(DIGIT_SIDE) == corner).double()


def _rounded(pixels: Tensor) -> Tensor:
    return (pixels + 0.5 + 1e-6).floor()  # so that a half does not depend on the order in which numbers are added
