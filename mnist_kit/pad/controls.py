"""The controls of the pad: what can be pressed, chosen and read beside its page."""

import ipywidgets as widgets

from mnist_kit.framing import FRAMINGS
from mnist_kit.pad.canvas import LEAST_RADIUS, MOST_RADIUS, RADIUS, PenLayer, hear_at_once
from mnist_kit.pad.pictures import answer_panel


class Controls:
    """All controls but the buttons that the kernel hears.

    The browser itself sends undo, redo, clear and recognise, in one line with the strokes, and ties tool and brush to
    the pen: so all of them work at once while the kernel is busy.
    """

    def __init__(self, pen: PenLayer, auto: bool):
        self.tool = widgets.ToggleButtons(options=["draw", "erase"], tooltips=["put ink", "take ink away"])
        self.tool.style.button_width = "64px"
        self.brush = widgets.IntSlider(RADIUS, LEAST_RADIUS, MOST_RADIUS, description="brush (px)")
        widgets.jslink((self.tool, "index"), (pen, "tool"))
        widgets.jslink((self.brush, "value"), (pen, "radius"))
        self.auto = hear_at_once(
            widgets.Checkbox(auto, description="auto", indent=False, tooltip="recognise by itself")
        )
        self.framing = hear_at_once(widgets.Dropdown(options=list(FRAMINGS), description="framing"))
        self.label = hear_at_once(widgets.Dropdown(options=["–", *"0123456789"], description="it should have been"))
        self.kept = hear_at_once(widgets.Dropdown(description="kept"))
        self.panel, self.message = widgets.HTML(answer_panel([])), widgets.HTML().add_class("mnist-message")
        self.history = widgets.HTML().add_class("mnist-history")
        undo = _command("undo", "take the last stroke back (Ctrl+Z)")
        redo = _command("redo", "do it again (Ctrl+Shift+Z)")
        self.tools = row(self.tool, self.brush, undo, redo, _command("clear", "take all ink away (c)"))
        ask = row(_command("recognise", "ask what is drawn (d)"), self.auto)
        self.asking = widgets.VBox([ask, self.framing, self.panel]).add_class("mnist-asking")


def _command(name: str, tooltip: str) -> widgets.Button:
    return widgets.Button(description=name, tooltip=tooltip).add_class(f"mnist-do-{name}")  # by which pad.js finds it


def row(*children: widgets.Widget) -> widgets.HBox:
    """The children beside each other, as many as fit."""
    return widgets.HBox(children).add_class("mnist-row")
