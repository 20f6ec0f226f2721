"""The controls of the pad: what can be pressed, chosen and read beside its page. What they do stands in `DigitPad`."""

from collections.abc import Callable

import ipywidgets as widgets

from mnist_kit.framing import FRAMINGS
from mnist_kit.pad.canvas import LEAST_RADIUS, MOST_RADIUS, RADIUS, Page, hear_at_once
from mnist_kit.pad.pictures import answer_panel

UNKNOWN = ""  # the label of a drawing that says nothing of what was meant


class Controls:
    """All controls; press: called with the name of a button that the kernel hears.

    The browser itself sends undo, redo, clear and recognise, in one line with the strokes (pad.js finds the buttons by
    their class), and ties tool and brush to the pen: so all of them work at once while the kernel is busy.
    """

    def __init__(self, page: Page, auto: bool, press: Callable[[str], None]):
        self.tool = widgets.ToggleButtons(options=["draw", "erase"], tooltips=["put ink", "take ink away"])
        self.tool.style.button_width = "56px"
        self.brush = widgets.IntSlider(RADIUS, LEAST_RADIUS, MOST_RADIUS, description="brush (px)")
        widgets.jslink((self.tool, "index"), (page.layer, "tool"))
        widgets.jslink((self.brush, "value"), (page.layer, "radius"))
        self.auto = widgets.Checkbox(auto, description="auto", indent=False, tooltip="recognise by itself")
        self.framing = widgets.Dropdown(options=list(FRAMINGS), description="framing")
        digits = [("–", UNKNOWN), *((str(digit), digit) for digit in range(10))]
        self.label = widgets.Dropdown(options=digits, description="it should have been")
        self.kept = widgets.Dropdown(description="kept")
        self.panel, self.message, self.history = widgets.HTML(answer_panel([])), widgets.HTML(), widgets.HTML()

        def button(name: str, tooltip: str) -> widgets.Button:
            made = widgets.Button(description=name, tooltip=tooltip)
            made.on_click(lambda _: press(name))
            hear_at_once(made)
            return made

        def command(name: str, tooltip: str) -> widgets.Button:
            return widgets.Button(description=name, tooltip=tooltip).add_class(f"mnist-do-{name}")

        self.tools = _row(
            self.tool,
            self.brush,
            command("undo", "take the last stroke back (Ctrl+Z)"),
            command("redo", "do it again (Ctrl+Shift+Z)"),
            command("clear", "take all ink away (c)"),
        )
        self.asking = widgets.VBox(
            [_row(command("recognise", "ask what is drawn (d)"), self.auto), self.framing, self.panel]
        ).add_class("mnist-asking")
        self.keeping = _row(
            self.label,
            button("keep", "add the drawing to drawings.jsonl"),
            self.kept,
            button("load", "put the kept drawing on the pad"),
            button("replay", "draw the kept drawing as it was drawn"),
            button("PNG", "save the drawing as a picture"),
            button("SVG", "save the drawing as lines"),
        )
        self.message.add_class("mnist-message")
        for widget in (self.auto, self.framing, self.label, self.kept):
            hear_at_once(widget)


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children).add_class("mnist-row")
