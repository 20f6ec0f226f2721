"""How the pad's answers look: as HTML beside its page, and as a picture for readers without a kernel."""

import base64
import html
import math

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from mnist_kit.framing import red_rectangle
from mnist_kit.ink import Drawing
from mnist_kit.recognizer import Prediction
from mnist_kit.segmentation import ReadDigit, as_text

PAGE, INK, RED, TEXT = "#e4e4e4", "#0099ff8c", "#ff2200", "#202020"  # as in pad.css, in JupyterLab's light theme
PANEL_WIDTH = 220  # px; of the answer beside the page, in a picture
SEEN_SIDE = 140  # px; of the 28 × 28 there, five times its size


def picture_in_use(drawing: Drawing, digits: list[ReadDigit], caption: str = "") -> Image.Image:
    """The pad as it looks on a screen, RGB: ink, red rectangles, answer, probabilities, and what the network sees.

    digits: the answer, from left to right; caption: below on the page.
    """
    width, height = drawing.width, drawing.height
    picture = Image.new("RGB", (width + PANEL_WIDTH, max(height, SEEN_SIDE + 280)), "white")
    picture.paste(PAGE, (0, 0, width, height))
    red, green, blue, alpha = ImageColor.getcolor(INK, "RGBA")
    picture.paste((red, green, blue), (0, 0), drawing.to_image().point(lambda value: value * alpha // 255))
    pen = ImageDraw.Draw(picture)
    for left, top, right, bottom in [digit.box for digit in digits] or filter(None, [red_rectangle(drawing)]):
        pen.rectangle((left, top, right - 1, bottom - 1), outline=RED, width=2)
    pen.text((12, height - 28), caption, TEXT, ImageFont.load_default(16))
    if digits:
        pen.text((12, 8), answer_text(as_text(digits)), TEXT, ImageFont.load_default(24))
        prediction = digits[-1].prediction
        left, font = width + 20, ImageFont.load_default(16)
        for digit, share in enumerate(prediction.probabilities):
            top = 20 + 24 * digit
            pen.text((left, top), str(digit), TEXT, font)
            pen.rectangle((left + 20, top + 2, left + 20 + 100 * float(share), top + 16), INK[:7])
            pen.text((left + 128, top), f"{share:.1%}", TEXT, font)
        picture.paste(_seen(prediction).resize((SEEN_SIDE, SEEN_SIDE), Image.Resampling.NEAREST), (left, 270))
    return picture


def answer_text(number: str) -> str:
    """What the pad says of `number`, text as `as_text` gives it."""
    return "not sure" if number == "?" else f"predict: {number}" if number else ""


def answer_panel(digits: list[ReadDigit]) -> str:
    """The ten probabilities of the last digit and the 28 × 28 of each, as HTML in the colours of the reader's theme."""
    shares = digits[-1].prediction.probabilities if digits else np.zeros(10)
    rows = "".join(
        f'<span>{digit}</span><i style="width:{share:.1%}"></i><span>{share:.1%}</span>'
        for digit, share in enumerate(shares)
    )
    whose = " of the last digit" if len(digits) > 1 else ""
    bars = f'<div class="mnist-bars" role="group" aria-label="probabilities{whose}">{rows}</div>'
    seen = "".join(figure(_seen(digit.prediction), f"seen: {as_text([digit])}", "mnist-seen") for digit in digits)
    return f'<div class="mnist-answer"><div class="mnist-title">probabilities{whose}</div>{bars}{seen}</div>'


def figure(image: Image.Image, caption: str, style: str = "") -> str:
    """`image`, at most 72 px wide and high, over its caption, as HTML; style: its class."""
    thumbnail = image.reduce(math.ceil(max(image.size) / 72))
    data, caption = base64.b64encode(thumbnail._repr_png_()).decode(), html.escape(caption)
    return (
        f'<figure class="{style}"><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _seen(prediction: Prediction) -> Image.Image:
    """The 28 × 28 that the network was shown, mode L."""
    return Image.fromarray((np.asarray(prediction.image).reshape(28, 28) * 255).round().astype(np.uint8))
