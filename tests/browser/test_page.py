"""The page that needs neither Python nor a network: opened from the disk, it answers as the kernel does."""

import shutil

import pytest

from browser.conftest import ARTEFACTS, needs_chromium
from mnist_kit import Recognizer, sample_drawing
from mnist_kit.errors import ExportError
from mnist_kit.export import _fetched, export_page

pytestmark = [needs_chromium, pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on this machine")]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    try:
        runtime = _fetched(folder)
    except ExportError as error:
        pytest.skip(str(error))  # npm is here and its registry is not
    return export_page(Recognizer.load(), folder / "a page.html", runtime).as_uri()


@pytest.fixture
def offline(browser, address):
    """The page in a browser that has no network, and what it asked for and complained of."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 700}, color_scheme="dark")
    page, noted = context.new_page(), []
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.on("request", lambda request: noted.append(request.url))
    page.goto(address)
    page.wait_for_function("() => !!window.recognise")
    noted.remove(address)
    yield page, noted
    context.close()


def test_it_answers_as_the_kernel_does_and_asks_for_nothing(offline):
    page, noted = offline
    recognizer = Recognizer.load()
    drawings = [sample_drawing(digit, seed=seed) for digit in range(10) for seed in range(50)]
    asked = [[[stroke.points.tolist() for stroke in drawing.strokes], drawing.widest_pen] for drawing in drawings]
    script = (
        "async (all) => { const found = []; for (const one of all) found.push(await recognise(...one)); return found }"
    )
    for drawing, found in zip(drawings, page.evaluate(script, asked), strict=True):
        prediction = recognizer.predict(drawing)
        assert (found["digit"], found["sure"]) == (prediction.digit, prediction.sure)
        assert found["probabilities"] == pytest.approx(prediction.probabilities.tolist(), abs=0.01)
    assert not noted


def test_a_hand_draws_on_it(offline):
    page, noted = offline
    box, answer = page.locator("#pad").bounding_box(), page.locator("#answer")
    assert answer.inner_text() == "draw on the left"

    def draw(*points):
        for index, (x, y) in enumerate(points):
            page.mouse.move(box["x"] + x, box["y"] + y, steps=10)
            if index == 0:
                page.mouse.down()
        page.mouse.up()

    def expect(text):
        page.wait_for_function("text => document.getElementById('answer').textContent === text", arg=text)

    draw((120, 100), (280, 100), (200, 330))
    expect("this is a 7")
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / "page-dark.png")
    page.keyboard.press("Control+z")
    expect("draw on the left")
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.keyboard.press("Control+z")  # while the pen is down
    page.mouse.move(box["x"] + 90, box["y"] + 90)
    page.mouse.up()
    expect("draw on the left")
    draw((200, 200), (202, 200))
    expect("a little larger, please")
    page.keyboard.press("Meta+c")
    page.keyboard.press("c")
    expect("draw on the left")
    draw((200, 80), (200, 330))
    expect("this is a 1")
    assert not noted
