"""The pad in JupyterLab, used as a reader does: mouse, wheel, keys, finger, reload, restart.

One notebook is open for most of it; each test begins with an empty pad.
"""

import json
from itertools import islice

import pytest
from conftest import REAL_DATA

from benchmarks.jupyter_lab import CHROMIUM, KERNEL
from browser.conftest import ARTEFACTS, needs_chromium, open_notebook
from mnist_kit import Drawing, Recognizer, sample_drawing

if CHROMIUM:
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # a machine that is busy with other things is slow, and not wrong

pytestmark = needs_chromium
NOTEBOOK = "05_draw_digits"
SEVEN = [(200, 150), (400, 150), (300, 450)]
PENS = REAL_DATA and REAL_DATA / "pen_strokes" / "dev.jsonl"


class PadOnScreen:
    """The pad number `index` of a page."""

    def __init__(self, page, index: int = 0):
        self.page = page
        self.sheet = page.locator(".mnist-page").nth(index)
        self.answer = self.sheet.locator("output")
        self.boxes = self.sheet.locator("rect")
        self.sheet.wait_for()
        self.sheet.scroll_into_view_if_needed()

    def at(self, x: float, y: float) -> tuple[float, float]:
        box = self.sheet.bounding_box()
        scale = box["width"] / 800
        return box["x"] + x * scale, box["y"] + y * scale

    def draw(self, points, button: str = "left") -> None:
        for number, point in enumerate(points):
            self.page.mouse.move(*self.at(*point))
            if number == 0:
                self.page.mouse.down(button=button)
        self.page.mouse.up(button=button)

    def inked(self, x: int, y: int) -> bool:
        return self.sheet.evaluate(
            """(sheet, [x, y]) => {
                const canvas = sheet.querySelector("canvas"), scale = canvas.width / 800;
                return canvas.getContext("2d").getImageData(x * scale, y * scale, 1, 1).data[3] > 128;
            }""",
            [x, y],
        )

    def wait_for_ink(self, x: int, y: int, inked: bool = True) -> None:
        for _ in range(200):
            if self.inked(x, y) == inked:
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"({x}, {y}) is {'without' if inked else 'still full of'} ink")

    def press(self, name: str) -> None:
        self.page.locator(".mnist-pad").get_by_role("button", name=name, exact=True).first.click()

    def expect_hint(self, text: str) -> None:
        expect(self.sheet.locator("span[role=status]")).to_have_text(text)

    def expect_answer(self, text: str) -> None:
        expect(self.answer).to_have_text(f"predict: {text}")


CELLS = "[...jupyterapp.shell.currentWidget.content.model.cells]"
PAD_CELL = f"{CELLS}.findIndex(cell => cell.sharedModel.getSource().includes('DigitPad(recognizer)'))"


def run_to_the_pad(page) -> None:
    """Run the notebook's cells up to the one that shows the pad."""
    page.evaluate(f"() => {{ jupyterapp.shell.currentWidget.content.activeCellIndex = {PAD_CELL} + 1 }}")
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-above') }")
    page.locator(".mnist-page").first.wait_for()


def scroll_to_the_pad(page) -> None:
    """In a page that was just opened: JupyterLab renders the cells in view only."""
    page.wait_for_function("() => globalThis.jupyterapp?.shell.currentWidget?.content?.model?.cells?.length > 5")
    page.evaluate(f"() => jupyterapp.shell.currentWidget.content.scrollToItem({PAD_CELL}, 'start')")


def run_cell(page, source: str) -> None:
    """Add a cell at the end of the notebook and run it."""
    page.evaluate(
        """source => {
            const { content } = jupyterapp.shell.currentWidget;
            const index = content.model.cells.length;
            content.model.sharedModel.insertCell(index, { cell_type: "code", source });
            content.activeCellIndex = index;
            jupyterapp.commands.execute("notebook:run-cell");
        }""",
        source,
    )


def ask(page, expression: str):
    """The value of a Python expression in the kernel, as JSON gives it."""
    reply = page.evaluate(
        """async code => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const options = { code: "import json", user_expressions: { value: code } };
            return (await kernel.requestExecute(options).done).content.user_expressions.value;
        }""",
        f"json.dumps({expression})",
    )
    assert reply["status"] == "ok", reply
    return json.loads(reply["data"]["text/plain"][1:-1])


def expect_in_kernel(page, expression: str, value) -> None:
    """What the browser sends is heard in another thread than what `ask` asks, so it may come later."""
    for _ in range(50):
        answer = ask(page, expression)
        if answer == value:
            return
        page.wait_for_timeout(100)
    assert answer == value


def save(page) -> None:
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")


def cells(page) -> int:
    return page.evaluate(f"() => {CELLS}.length")


def photograph(page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"pad-{name}.png")


@pytest.fixture(scope="module")
def notebook(lab, browser):
    """The notebook, open, run as far as its pad."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    open_notebook(page, lab, NOTEBOOK)
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
    run_to_the_pad(page)
    yield page
    page.close()


@pytest.fixture
def pad(notebook) -> PadOnScreen:
    pad = PadOnScreen(notebook)
    ask(notebook, "[pad.clear(), setattr(pad._layer, 'radius', 10)]")
    expect(pad.boxes).to_have_count(0)
    notebook.mouse.move(*pad.at(790, 590))
    return pad


@pytest.fixture(scope="module")
def pens() -> list[Drawing]:
    """A real drawing of each digit, one that the network reads when it is handed over without a browser."""
    if not (PENS and PENS.is_file()):
        pytest.skip("no recorded pen strokes beside MNIST (pen_strokes/dev.jsonl)")
    recognizer = Recognizer.load()
    found = {}
    with PENS.open(encoding="utf-8") as lines:
        for line in islice(lines, 200):
            drawing = Drawing.from_json(line)
            if drawing.label not in found and recognizer.predict(drawing).digit == drawing.label:
                found[drawing.label] = drawing
    return [found[digit] for digit in range(10)]


def test_ten_real_digits_along_their_strokes(pad, pens):
    for drawing in pens:
        for stroke in drawing.strokes:
            pad.draw([*stroke.points[:-1:2].tolist(), stroke.points[-1].tolist()])
        pad.expect_answer(str(drawing.label))
        expect_in_kernel(pad.page, "[pad._pen, pad.number]", [None, str(drawing.label)])  # the pen is up, too
        pad.page.keyboard.press("c")
        expect(pad.answer).to_have_text("")
    expect_in_kernel(pad.page, "[number for _, number in pad.answers][-10:]", list("0123456789"))


def test_strokes_arrive_as_they_were_drawn(pad):
    pad.draw(SEVEN)
    pad.expect_answer("7")
    expect(pad.boxes).to_have_count(1)
    expect_in_kernel(pad.page, "[len(s.points) for s in pad.drawing.strokes]", [len(SEVEN)])
    (points,) = ask(pad.page, "[s.points.tolist() for s in pad.drawing.strokes]")
    assert points == [pytest.approx(point, abs=1) for point in SEVEN]
    photograph(pad.page, "light")


def test_a_number_of_four_digits(pad):
    for number, digit in enumerate((2, 0, 2, 6)):
        for stroke in sample_drawing(digit, seed=1).strokes:
            pad.draw(stroke.points / (5, 3) + (190 * number + 10, 120))
    pad.expect_answer("2026")
    expect(pad.boxes).to_have_count(4)
    photograph(pad.page, "number")


def test_a_click_leaves_a_dot_and_the_right_button_erases_it(pad):
    pad.draw([(100, 100)])
    pad.wait_for_ink(100, 100)
    pad.draw([(80, 100), (120, 100)], button="right")
    pad.wait_for_ink(100, 100, inked=False)
    assert pad.page.locator(".lm-Menu").count() == 0
    expect_in_kernel(pad.page, "[s.erase for s in pad.drawing.strokes]", [False, True])


def test_a_release_outside_ends_the_stroke(pad):
    pad.draw([(700, 100), (750, 100), (820, -60)])
    pad.page.mouse.move(*pad.at(400, 400))
    assert not pad.inked(400, 400)
    expect_in_kernel(pad.page, "len(pad.drawing.strokes)", 1)


def test_the_wheel_changes_the_brush_only_while_the_pad_has_the_focus(pad):
    page = pad.page
    pad.draw([(50, 50)])
    page.mouse.move(*pad.at(400, 100))
    for _ in range(3):
        page.mouse.wheel(0, -100)
    expect(pad.sheet.locator("circle")).to_have_attribute("r", "13")
    for _ in range(10):
        page.mouse.wheel(0, 10)  # a trackpad's small steps
    expect(pad.sheet.locator("circle")).to_have_attribute("r", "12")
    page.keyboard.down("Control")
    page.mouse.wheel(0, 100)  # zooms the page
    page.keyboard.up("Control")
    page.wait_for_timeout(200)
    expect(pad.sheet.locator("circle")).to_have_attribute("r", "12")
    expect(page.locator(".mnist-pad .widget-readout").first).to_have_text("12")
    page.evaluate("() => document.activeElement.blur()")
    before = pad.sheet.bounding_box()["y"]
    page.mouse.wheel(0, 100)
    page.wait_for_function(
        "before => document.querySelector('.mnist-page').getBoundingClientRect().y < before", arg=before
    )
    expect_in_kernel(page, "pad._layer.radius", 12)


def test_keys_of_the_pad(pad):
    keyboard = pad.page.keyboard
    pad.draw(SEVEN)
    pad.expect_answer("7")
    keyboard.press("Control+z")
    pad.wait_for_ink(300, 150, inked=False)
    expect(pad.answer).to_have_text("")
    keyboard.press("Control+Shift+Z")
    pad.wait_for_ink(300, 150)
    pad.expect_answer("7")
    keyboard.press("c")
    pad.wait_for_ink(300, 150, inked=False)
    keyboard.press("Control+z")
    pad.wait_for_ink(300, 150)
    keyboard.press("Control+z")
    pad.wait_for_ink(300, 150, inked=False)
    keyboard.press("Control+y")
    pad.wait_for_ink(300, 150)
    pad.page.locator(".mnist-pad").get_by_role("checkbox").first.uncheck()
    pad.draw([(500, 200), (500, 400)])
    expect(pad.answer).to_have_text("")
    keyboard.press("d")
    pad.expect_answer("71")
    pad.page.locator(".mnist-pad").get_by_role("checkbox").first.check()


def test_a_pen_that_is_pressed_harder_draws_a_thicker_line(pad):
    pen = pad.page.context.new_cdp_session(pad.page)

    def press(kind, x, force):
        place = dict(zip("xy", pad.at(x, 300), strict=True))
        event = {"type": kind, "button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen", "force": force}
        pen.send("Input.dispatchMouseEvent", event | place)

    press("mousePressed", 200, 0.1)
    for x in range(210, 610, 10):
        press("mouseMoved", x, 0.1 if x < 400 else 1.0)
    press("mouseReleased", 600, 0)
    pad.wait_for_ink(550, 300)
    assert pad.inked(550, 308) and not pad.inked(300, 305)
    pad.page.wait_for_function("() => document.querySelector('.mnist-page output').textContent")
    pad.page.keyboard.press("Control+z")  # the kernel draws it again, and so did understand the pressure
    pad.wait_for_ink(550, 300, inked=False)
    pad.page.keyboard.press("Control+Shift+Z")
    expect_in_kernel(pad.page, "len(pad.drawing.strokes)", 1)
    pad.wait_for_ink(550, 300)
    assert pad.inked(550, 308) and not pad.inked(300, 305)


@pytest.mark.parametrize("where", ["a button", "the pad", "between the controls"])
def test_keys_that_are_not_the_pad_s(pad, where):
    before = cells(pad.page)
    if where == "a button":
        pad.press("undo")
    elif where == "the pad":
        pad.draw([(100, 100)])
    else:
        pad.page.locator(".mnist-bars").first.click()
    for key in "ddccxa":
        pad.page.keyboard.press(key)
    pad.page.wait_for_timeout(200)
    assert cells(pad.page) == before and pad.sheet.is_visible()
    pad.page.evaluate("() => { jupyterapp.shell.currentWidget.context.model.dirty = true }")
    pad.page.keyboard.press("Control+s")  # still saves
    pad.page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")


def test_buttons_and_errors(pad):
    pad.press("recognise")
    status = pad.page.locator(".mnist-message [role=status]").first
    expect(status).to_have_text("nothing is drawn yet")
    pad.draw(SEVEN)
    pad.expect_answer("7")
    pad.page.get_by_label("framing").first.select_option("paper")
    pad.expect_answer("7")
    pad.page.get_by_label("framing").first.select_option("mnist")
    pad.page.get_by_label("it should have been").first.select_option("7")
    pad.press("keep")
    expect(status).to_contain_text("drawings.jsonl")
    pad.press("clear")
    pad.wait_for_ink(300, 150, inked=False)
    pad.press("load")
    pad.wait_for_ink(300, 150)
    pad.press("replay")
    pad.expect_answer("7")


TRAINING = """
import torch
from mnist_kit import Net
model, images = Net(), torch.rand(128, 1, 28, 28)
optimizer = torch.optim.Adam(model.parameters())
while not any(s.points[0, 0] < 100 for s in pad.drawing.strokes):
    torch.nn.functional.cross_entropy(model(images), torch.arange(128) % 10).backward()
    optimizer.step()
"""


def test_strokes_buttons_tools_and_answers_work_while_a_kernel_trains(pad):
    """The cell runs until the last stroke has come, however slow the machine is."""
    page = pad.page
    pad.draw(SEVEN)
    pad.expect_answer("7")
    run_cell(page, TRAINING.strip())
    page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
    pad.sheet.scroll_into_view_if_needed()
    pad.press("clear")
    pad.wait_for_ink(300, 150, inked=False)
    pad.draw([(500, 150), (500, 450)])
    assert pad.inked(500, 300)
    pad.expect_answer("1")
    pad.press("erase")
    pad.draw([(450, 300), (550, 300)])
    pad.press("draw")
    assert pad.inked(500, 200) and not pad.inked(500, 300) and not pad.inked(300, 150)
    pad.draw([(700, 100)])
    pad.press("undo")
    pad.wait_for_ink(700, 100, inked=False)
    pad.draw([(50, 550)])  # which ends the cell
    expect_in_kernel(page, "[s.erase for s in pad.drawing.strokes]", [False, True, False])
    pad.wait_for_ink(500, 200)
    assert not pad.inked(500, 300)


def test_a_kernel_that_does_not_answer_is_waited_for(pad):
    run_cell(pad.page, "with pad.lock: time.sleep(4)".replace("time", "__import__('time')"))
    pad.page.wait_for_function(f"() => {KERNEL}.status === 'busy'")
    pad.sheet.scroll_into_view_if_needed()
    pad.draw(SEVEN)
    pad.expect_hint("waiting for the kernel…")
    pad.press("clear")
    pad.wait_for_ink(300, 150, inked=False)  # at once, and for good
    pad.draw([(500, 150), (500, 450)])
    pad.page.keyboard.press("Control+z")
    pad.wait_for_ink(500, 300, inked=False)
    pad.page.keyboard.press("Control+y")
    pad.wait_for_ink(500, 300)
    pad.expect_answer("1")
    pad.expect_hint("")
    assert pad.inked(500, 300) and not pad.inked(300, 150)


def test_nothing_flickers_when_a_stroke_goes_from_the_pen_to_the_canvas(pad):
    pad.page.evaluate(
        """() => {
            const canvas = document.querySelector(".mnist-page canvas"), scale = canvas.width / 800;
            const context = canvas.getContext("2d");
            window.frames_ = [];
            const watch = () => {
                frames_.push(context.getImageData(300 * scale, 150 * scale, 1, 1).data[3]);
                if (frames_.length < 300) requestAnimationFrame(watch);
            };
            watch();
        }"""
    )
    for number in range(5):
        pad.draw([(200, 150 + 5 * number), (400, 150 + 5 * number)])
        pad.page.wait_for_timeout(150)
    expect_in_kernel(pad.page, "len(pad.drawing.strokes)", 5)
    frames = pad.page.evaluate("() => frames_")
    first = next(number for number, alpha in enumerate(frames) if alpha > 250)
    assert min(frames[first:]) > 250 and len(frames) - first > 20


def test_the_reader_draws_over_the_ink_and_a_canvas_of_theirs_may_fail(pad):
    run_cell(
        pad.page,
        "from ipycanvas import hold_canvas\npad.canvas.fill_style = 'green'\npad.canvas.fill_rect(600, 400, 50)\n"
        "with hold_canvas():\n    Canvas().fill_rect(0, 0, 5)\n    raise ValueError('in the middle')",
    )
    own = pad.sheet.locator("canvas").nth(1)
    own.wait_for()
    pad.sheet.scroll_into_view_if_needed()
    pad.draw(SEVEN)
    pad.expect_answer("7")
    pad.press("clear")
    pad.wait_for_ink(300, 150, inked=False)
    pixel = own.evaluate("canvas => [...canvas.getContext('2d').getImageData(620, 420, 1, 1).data]")
    assert pixel == [0, 128, 0, 255]


def test_two_pads_and_one_in_a_box(pad):
    page = pad.page
    run_cell(
        page, "import ipywidgets\nother = DigitPad(lambda image: [0] * 3 + [1] + [0] * 6)\nipywidgets.VBox([other])"
    )
    page.locator(".mnist-page").nth(1).wait_for()
    other = PadOnScreen(page, 1)
    box = other.sheet.bounding_box()
    assert round(box["width"] / box["height"], 2) == 1.33 and box["width"] > 600
    other.draw(SEVEN)
    other.expect_answer("3")
    pad.sheet.scroll_into_view_if_needed()
    assert not pad.inked(300, 150)
    pad.draw(SEVEN)
    pad.expect_answer("7")
    other.expect_answer("3")


def test_a_narrow_window(pad):
    pad.page.set_viewport_size({"width": 700, "height": 1000})
    pad.page.wait_for_function("() => document.querySelector('.mnist-page').getBoundingClientRect().right < 700")
    box = pad.sheet.bounding_box()
    assert abs(box["width"] / box["height"] - 4 / 3) < 0.02
    pad.draw(SEVEN)
    pad.expect_answer("7")
    assert pad.inked(300, 150) and pad.inked(300, 449)
    photograph(pad.page, "narrow")
    pad.page.set_viewport_size({"width": 1280, "height": 1000})


def test_a_laptop_s_window_with_the_file_browser_open(pad):
    page = pad.page
    page.set_viewport_size({"width": 1366, "height": 768})
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
    page.wait_for_function("() => document.querySelector('.mnist-page').getBoundingClientRect().left > 300")
    page.evaluate("() => document.querySelector('.mnist-pad').scrollIntoView()")
    pad.draw(SEVEN)
    pad.expect_answer("7")
    message = page.locator(".mnist-message").first
    below = message.bounding_box()["y"]
    for part in (".mnist-do-undo", ".mnist-bars", ".mnist-seen img"):
        box = page.locator(part).first.bounding_box()
        assert box["y"] > 0 and box["y"] + box["height"] < 768 and box["x"] + box["width"] < 1366, part
    assert page.locator(".mnist-bars").first.bounding_box()["x"] > pad.sheet.bounding_box()["x"] + 400  # beside it
    pad.press("PNG")
    expect(message).to_contain_text("saved as")
    assert message.bounding_box()["y"] == below  # what is said moves nothing
    photograph(page, "laptop")
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
    page.wait_for_function("() => document.querySelector('.mnist-page').getBoundingClientRect().left < 300")


def test_reload_with_the_kernel_alive(pad):
    pad.draw(SEVEN)
    pad.expect_answer("7")
    save(pad.page)
    pad.page.reload()
    scroll_to_the_pad(pad.page)
    pad = PadOnScreen(pad.page)
    pad.wait_for_ink(300, 150)
    pad.expect_answer("7")
    pad.draw([(500, 150), (500, 450)])
    pad.expect_answer("71")


def test_another_browser_with_fine_pixels_a_finger_and_a_dark_theme(pad, lab, browser):
    pad.draw(SEVEN)
    pad.expect_answer("7")
    save(pad.page)
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, device_scale_factor=2, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_notebook(page, lab, NOTEBOOK)
    scroll_to_the_pad(page)
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    other = PadOnScreen(page)
    other.wait_for_ink(300, 150)
    assert other.sheet.locator("canvas").first.evaluate("canvas => [canvas.width, canvas.height]") == [1600, 1200]
    page.wait_for_timeout(500)  # a touch goes where the page was a frame ago
    touch = context.new_cdp_session(page)
    scrolled = other.sheet.bounding_box()["y"]
    for kind, y in (("touchStart", 150), ("touchMove", 250), ("touchMove", 350), ("touchMove", 450)):
        point = dict(zip("xy", other.at(500, y), strict=True))
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert other.inked(500, 300) and other.sheet.bounding_box()["y"] == scrolled
    other.expect_answer("71")
    pad.wait_for_ink(500, 300)  # the first browser sees it too
    pad.expect_answer("71")
    photograph(page, "dark")
    context.close()


def test_restart_and_run_again(pad):
    pad.draw(SEVEN)
    pad.expect_answer("7")
    pad.page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.restartKernel() }")
    pad.expect_hint("no kernel any more: run this cell again")
    photograph(pad.page, "no-kernel")
    pad.page.evaluate("() => jupyterapp.commands.execute('editmenu:clear-all')")
    expect(pad.sheet).to_have_count(0)
    pad.page.wait_for_function(f"() => {KERNEL}.status === 'idle'")
    run_to_the_pad(pad.page)
    scroll_to_the_pad(pad.page)
    pad = PadOnScreen(pad.page)
    expect(pad.answer).to_have_text("")
    pad.expect_hint("draw a digit here")
    photograph(pad.page, "restarted")
    pad.draw(SEVEN)
    pad.expect_answer("7")
