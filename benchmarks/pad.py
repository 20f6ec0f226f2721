"""How fast the drawing pad is, measured in a real browser on a real JupyterLab (`make bench-pad`).

Ink: from a pointer event to the first frame painted after its handler, which draws. Answer: from the pointer's release
to the first frame painted after the answer has changed. Events are sent at their rate whether or not the page keeps up.
"""

import argparse
import asyncio
import json
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np

from benchmarks.jupyter_lab import CHROMIUM, CHROMIUM_OPTIONS, KERNEL, running_lab
from mnist_kit import MnistKitError, Recognizer

SECONDS = 10  # of scribbling
ANSWERS = 40
SEVEN = [(200 + 10 * i, 150) for i in range(20)] + [(400 - 5 * i, 150 + 15 * i) for i in range(20)]
CELL = "from mnist_kit import DigitPad, Drawing, Recognizer, Stroke\npad = DigitPad(Recognizer.load())\npad"

WATCH = """() => {
    window.inked = []; window.handled = []; window.answered = [];
    const { port1, port2 } = new MessageChannel();
    const waiting = [];
    port1.onmessage = () => waiting.shift()();
    const afterPaint = done => requestAnimationFrame(() => { waiting.push(done); port2.postMessage(0); });
    let began, released;
    document.addEventListener("pointermove", () => { began = performance.now(); }, true);
    document.addEventListener("pointermove", event => {
        if (!event.buttons) return;
        handled.push(performance.now() - began);
        const times = event.getCoalescedEvents().map(passed => passed.timeStamp);
        afterPaint(() => inked.push(...times.map(from => performance.now() - from)));
    });
    document.addEventListener("pointerup", event => { released = event.timeStamp; }, true);
    const output = document.querySelector(".mnist-page output");
    new MutationObserver(() => {
        if (!output.textContent || released === undefined) return;
        const from = released;
        released = undefined;
        afterPaint(() => answered.push(performance.now() - from));
    }).observe(output, { childList: true });
    document.addEventListener("pointerdown", () => { released = undefined; }, true);
}"""

TRAINING = """
import torch
from mnist_kit import Net, SMALL, fit
from mnist_kit.data import Digits, Split
noise = Split(torch.randint(256, (640, 1, 28, 28), dtype=torch.uint8), torch.arange(640) % 10)
fit(Net(), Digits("noise", noise, noise.first(100)), SMALL.but(epochs=1_000, train_images=640), device="cpu")
"""

CATCH_UP = f"""async () => {{
    await {KERNEL}.interrupt();
    await window.training;
    const ended = performance.now();
    while (!document.querySelector(".mnist-page output").textContent) await new Promise(requestAnimationFrame);
    return performance.now() - ended;
}}"""

KERNEL_WORK = """
import json, time
def seconds(work):
    started = time.perf_counter(); work(); return time.perf_counter() - started
pad.draw(Drawing(strokes=[Stroke(SEVEN)]))
recognising = [seconds(pad.recognise) for _ in range(30)]
pad.clear()
pen = {"client": "kernel", "stroke": 1}
pad._obey({"kind": "down", "points": [[400, 300]], "radius": 10, **pen})
points = [[400 + 300 * np.sin(i / 7), 300 + 200 * np.cos(i / 11)] for i in range(5000)]
moves = [{"kind": "move", "points": [point], **pen} for point in points]
adding = [seconds(lambda: pad._obey(move)) for move in moves]
pad._obey({"kind": "up", **pen})
value = json.dumps([recognising, adding])
"""


def main() -> int:
    """Exit status: 0, or 1 when there is nothing to measure with."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    if CHROMIUM is None:
        print("There is no Chromium on this machine: install Debian's package chromium.")
        return 1
    try:
        Recognizer.load()
    except MnistKitError as error:
        print(error)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "notebooks").mkdir()
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, root / "notebooks" / "pad.ipynb")
        with running_lab(root) as address:
            asyncio.run(measure(address))
    return 0


async def measure(address: str) -> None:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        await page.goto(address.format("pad.ipynb"))
        await page.wait_for_function(f"() => {KERNEL}?.status === 'idle'")
        await page.evaluate("() => { jupyterapp.commands.execute('application:toggle-left-area') }")
        await page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        await page.locator(".mnist-page").wait_for()
        await page.evaluate(WATCH)
        print(f"{platform.platform()}, {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"Python {platform.python_version()}, Chromium {browser.version}\n")
        print(f"{'milliseconds':<52}{'p50':>8}{'p95':>8}")
        pen = await Pen.of(page)
        for rate in (60, 125):
            await pen.scribble(rate)
            inked = await page.evaluate("() => inked.splice(0)")
            report(f"pointer to ink, {rate} events a second, {SECONDS} s", inked)
            report("  its first fifth", inked[: len(inked) // 5])
            report("  its last fifth", inked[-len(inked) // 5 :])
        await measure_answers(page, pen)
        await measure_cost_of_a_point(page, pen)
        await measure_while_training(page, pen)
        await browser.close()


async def measure_answers(page, pen: "Pen") -> None:
    for _ in range(ANSWERS):
        await page.keyboard.press("c")
        await page.wait_for_function("() => !document.querySelector('.mnist-page output').textContent")
        await pen.draw(SEVEN, 125)
        await page.wait_for_function("() => document.querySelector('.mnist-page output').textContent")
        await asyncio.sleep(0.1)
    answered = await page.evaluate("() => answered")
    report(f"pen up to the answer ({len(answered)} of {ANSWERS}: others came before)", answered)


async def measure_cost_of_a_point(page, pen: "Pen") -> None:
    recognising, adding = await ask(page, f"import numpy as np\nSEVEN = {SEVEN}\n{KERNEL_WORK}")
    report("  of it, work of the kernel", 1000 * np.array(recognising))
    report("a point more, in the kernel, points 1–500", 1000 * np.array(adding[:500]))
    report("  points 4,501–5,000", 1000 * np.array(adding[-500:]))
    for name, code in (("on an empty page", "pad.clear()"), ("on 5,000 points", "pad.undo()")):
        await ask(page, f"{code}\nvalue = '0'")
        await page.evaluate("() => handled.splice(0)")
        await pen.draw(SEVEN * 3, 60)
        report(f"a point more, in the browser, {name}", await page.evaluate("() => handled"))
        await ask(page, "pad.undo()\nvalue = '0'")


async def measure_while_training(page, pen: "Pen") -> None:
    """The same kernel trains on all cores meanwhile; what was drawn is read when it has ended."""
    await ask(page, "pad.clear()\nvalue = '0'")
    await page.evaluate(f"code => {{ window.training = {KERNEL}.requestExecute({{ code }}).done; }}", TRAINING)
    await page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
    print("while the kernel trains:")
    await page.evaluate("() => inked.splice(0)")
    await pen.scribble(60)
    report("pointer to ink, 60 events a second", await page.evaluate("() => inked.splice(0)"))
    caught_up = await page.evaluate(CATCH_UP)
    report("  from the end of the training to the answer, once", [caught_up])


async def ask(page, code: str):
    """Run `code` in the kernel and return what it calls `value`, JSON."""
    options = "{ code, user_expressions: { value: 'value' } }"
    reply = await page.evaluate(f"async code => (await {KERNEL}.requestExecute({options}).done).content", code)
    if reply["status"] != "ok":
        raise RuntimeError("\n".join(reply["traceback"]))
    return json.loads(reply["user_expressions"]["value"]["data"]["text/plain"][1:-1])


class Pen:
    """The mouse over the pad; it does not wait for the page."""

    def __init__(self, session, left: float, top: float, scale: float):
        self.session, self.left, self.top, self.scale = session, left, top, scale

    @classmethod
    async def of(cls, page) -> "Pen":
        box = await page.locator(".mnist-page").bounding_box()
        return cls(await page.context.new_cdp_session(page), box["x"], box["y"], box["width"] / 800)

    async def scribble(self, rate: int) -> None:
        angles = (2 * math.pi * i / rate for i in range(SECONDS * rate))
        await self.draw([(400 + 300 * math.sin(3 * a), 300 + 200 * math.cos(2.3 * a)) for a in angles], rate)

    async def draw(self, points, rate: int) -> None:
        """Along `points`, so many a second."""
        started, sent = time.perf_counter(), []
        for number, (x, y) in enumerate(points):
            await asyncio.sleep(started + number / rate - time.perf_counter())
            sent.append(self._send("mouseMoved" if number else "mousePressed", x, y))
        sent.append(self._send("mouseReleased", x, y))
        await asyncio.gather(*sent)

    def _send(self, kind: str, x: float, y: float) -> asyncio.Task:
        held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
        event = {"type": kind, "x": self.left + x * self.scale, "y": self.top + y * self.scale, **held}
        return asyncio.ensure_future(self.session.send("Input.dispatchMouseEvent", event))


def report(what: str, values) -> None:
    if len(values):
        print(f"{what:<52}{np.percentile(values, 50):8.2f}{np.percentile(values, 95):8.2f}", flush=True)


def processor() -> str:
    """Its name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
