"""The controls of the pad: what can be pressed, chosen and read beside its page."""

import ipywidgets as widgets

from mnist_kit.framing import FRAMINGS
from mnist_kit.pad.canvas import LEAST_RADIUS, MOST_RADIUS, RADIUS, PenLayer, hear_at_once
from mnist_kit.pad.pictures import answer_panel

# What the browser itself sends, in one line with the strokes. It also ties tool and brush to the pen, so that all of them
# work at once while the kernel is busy.
COMMANDS = {
    "undo": "take the last stroke back (Ctrl+Z)",
    "redo": "do it again (Ctrl+Shift+Z)",
    "clear": "take all ink away (c)",
    "recognise": "ask what is drawn (d)",
}


class Controls:
    """All controls but the buttons that the kernel hears."""

    def __init__(self, pen: PenLayer, auto: bool):
        self.tool = widgets.ToggleButtons(options=["draw", "erase"], tooltips=["put ink", "take ink away"])
        self.tool.style.button_width = "64px"
        self.brush = widgets.IntSlider(RADIUS, LEAST_RADIUS, MOST_RADIUS, description="brush (px)")
        widgets.jslink((self.tool, "index"), (pen, "tool"))
        widgets.jslink((self.brush, "value"), (pen, "radius"))
        self.auto = widgets.Checkbox(auto, description="auto", indent=False, tooltip="recognise by itself")
        self.framing = widgets.Dropdown(options=list(FRAMINGS), description="framing")
        self.label = widgets.Dropdown(options=["–", *"0123456789"], description="it should have been")
        self.kept = widgets.Dropdown(description="kept")
        for widget in (self.auto, self.framing, self.label, self.kept):
            hear_at_once(widget)
        self.panel, self.message = widgets.HTML(answer_panel([])), widgets.HTML().add_class("mnist-message")
        self.history = widgets.HTML().add_class("mnist-history")
        *commands, recognise = (
            widgets.Button(description=name, tooltip=tooltip).add_class(f"mnist-do-{name}")  # by which pad.js finds it
            for name, tooltip in COMMANDS.items()
        )
        self.tools = row(self.tool, self.brush, *commands)
        self.asking = widgets.VBox([row(recognise, self.auto), self.framing, self.panel]).add_class("mnist-asking")


def row(*children: widgets.Widget) -> widgets.HBox:
    """The children beside each other, as many as fit."""
    return widgets.HBox(children).add_class("mnist-row")
