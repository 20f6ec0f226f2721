"""The controls of the pad: what can be pressed, chosen and read beside its page."""

from collections.abc import Callable

import ipywidgets as widgets

from mnist_kit.framing import FRAMINGS
from mnist_kit.pad.canvas import LEAST_RADIUS, MOST_RADIUS, RADIUS, PenLayer, hear_at_once
from mnist_kit.pad.pictures import answer_panel

UNKNOWN = ""  # the label of a drawing that says nothing of what was meant


class Controls:
    """All controls; actions: for each button that the kernel hears, what it does and its tooltip.

    The browser itself sends undo, redo, clear and recognise, in one line with the strokes (pad.js finds the buttons by
    their class), and ties tool and brush to the pen: so all of them work at once while the kernel is busy.
    """

    def __init__(self, pen: PenLayer, auto: bool, actions: dict[str, tuple[Callable, str]]):
        self.tool = widgets.ToggleButtons(options=["draw", "erase"], tooltips=["put ink", "take ink away"])
        self.tool.style.button_width = "64px"
        self.brush = widgets.IntSlider(RADIUS, LEAST_RADIUS, MOST_RADIUS, description="brush (px)")
        widgets.jslink((self.tool, "index"), (pen, "tool"))
        widgets.jslink((self.brush, "value"), (pen, "radius"))
        self.auto = widgets.Checkbox(auto, description="auto", indent=False, tooltip="recognise by itself")
        self.framing = widgets.Dropdown(options=list(FRAMINGS), description="framing")
        digits = [("–", UNKNOWN), *((str(digit), digit) for digit in range(10))]
        self.label = widgets.Dropdown(options=digits, description="it should have been")
        self.kept = widgets.Dropdown(description="kept")
        self.panel, self.message, self.history = widgets.HTML(answer_panel([])), widgets.HTML(), widgets.HTML()
        self.message.add_class("mnist-message")
        self.buttons = {name: widgets.Button(description=name, tooltip=tip) for name, (_, tip) in actions.items()}
        for name, button in self.buttons.items():
            button.on_click(lambda _, act=actions[name][0]: act())
        for widget in (self.auto, self.framing, self.label, self.kept, *self.buttons.values()):
            hear_at_once(widget)
        undo = _command("undo", "take the last stroke back (Ctrl+Z)")
        redo = _command("redo", "do it again (Ctrl+Shift+Z)")
        self.tools = _row(self.tool, self.brush, undo, redo, _command("clear", "take all ink away (c)"))
        ask = _row(_command("recognise", "ask what is drawn (d)"), self.auto)
        self.asking = widgets.VBox([ask, self.framing, self.panel]).add_class("mnist-asking")
        keep, *others = self.buttons.values()
        self.keeping = _row(self.label, keep, self.kept, *others)


def _command(name: str, tooltip: str) -> widgets.Button:
    return widgets.Button(description=name, tooltip=tooltip).add_class(f"mnist-do-{name}")


def _row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(children).add_class("mnist-row")
