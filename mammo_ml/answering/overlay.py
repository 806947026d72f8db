"""A film as read with the boxes found on it, for the eye: arrays and answers in, PNG out."""

import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mammo_ml.answering.film_answers import FilmAnswer, FoundBox, Lesions
from mammo_ml.imaging.canonical import eight_bits
from mammo_ml.imaging.readers import Film

LONGEST_PX = 2048
"""Longer edge of the picture of a film at most; larger films are shown smaller."""
SUREST, SURE, FAINT = "#FF8C1A", "#E6C34A", "#7FA8C9"
"""Boxes by their place among those of the film: told apart in grey too, by width."""
N_SURE, N_DRAWN = 3, 5
GROUND, TEXT, WARNING = "#101010", "#E8E8E8", "#FF8C1A"
Place = tuple[float, float, float, float]


def overlay_png(film: Film, answer: FilmAnswer) -> bytes:
    """PNG of the film with its boxes and their scores, and below it which model found them and what to mind.

    The most suspicious box is drawn thick, the next two thinner, two more as thin lines; further ones hide the film.
    """
    assert isinstance(answer.findings, Lesions)
    pixels = eight_bits(film)
    factor = min(1.0, LONGEST_PX / max(pixels.shape))
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    if factor < 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.BOX)
    # lines and letters in proportion to the picture
    unit = max(picture.size) / 1024
    _draw_boxes(ImageDraw.Draw(picture), picture.size, answer.findings.boxes[:N_DRAWN], factor, unit)
    marked = _with_caption(picture, answer, unit)
    content, notes = io.BytesIO(), PngInfo()
    notes.add_text("Description", f"{answer.model.label}. {answer.notice}")
    marked.save(content, "PNG", pnginfo=notes)
    return content.getvalue()


def _draw_boxes(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], boxes: list[FoundBox], factor: float, unit: float
) -> None:
    font = ImageFont.load_default(max(11, round(18 * unit)))
    styles = [_style(rank, unit) for rank in range(len(boxes))]
    # the surest last, on top of the others
    for box, (colour, width) in reversed(list(zip(boxes, styles, strict=True))):
        x1, y1, x2, y2 = (edge * factor for edge in (box.x1, box.y1, box.x2, box.y2))
        draw.rectangle((x1 - width, y1 - width, x2 + width, y2 + width), outline=GROUND, width=1)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width)
    taken: list[Place] = []
    for box, (colour, _) in zip(boxes, styles, strict=True):
        x1, y1, x2, y2 = (edge * factor for edge in (box.x1, box.y1, box.x2, box.y2))
        text = f"{box.score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        wide, high = right - left + 4, bottom - top + 4
        corners = (
            (x1, y1 - high),
            (x1, y2),
            (x2 - wide, y1 - high),
            (x2 - wide, y2),
            (x1, y1),
            (x2, y1),
            (x1, y2 - high),
        )
        place = _free_place(corners, wide, high, size, taken)
        taken.append(place)
        draw.rectangle(place, fill=GROUND)
        draw.text((place[0] + 2 - left, place[1] + 2 - top), text, fill=colour, font=font)


def _style(rank: int, unit: float) -> tuple[str, int]:
    if rank == 0:
        return SUREST, max(2, round(4 * unit))
    return (SURE, max(2, round(2 * unit))) if rank < N_SURE else (FAINT, 1)


def _free_place(
    corners: tuple[tuple[float, float], ...], wide: float, high: float, size: tuple[int, int], taken: list[Place]
) -> Place:
    """Where a label hides no other and lies in the picture; the first corner where there is no such place."""
    places = []
    for x, y in corners:
        x, y = min(max(x, 0), size[0] - wide), min(max(y, 0), size[1] - high)
        places.append((x, y, x + wide, y + high))
    return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(one: Place, other: Place) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _with_caption(picture: Image.Image, answer: FilmAnswer, unit: float) -> Image.Image:
    size = max(11, round(16 * unit))
    font = ImageFont.load_default(size)
    per_line = max(20, int(picture.width / (size * 0.52)))
    lines = [(line, TEXT) for text in _told(answer) for line in textwrap.wrap(text, per_line)]
    lines += [(line, WARNING) for text in answer.warnings for line in textwrap.wrap(text, per_line)]
    step = round(size * 1.35)
    marked = Image.new("RGB", (picture.width, picture.height + step * len(lines) + size), GROUND)
    marked.paste(picture)
    draw = ImageDraw.Draw(marked)
    for number, (line, colour) in enumerate(lines):
        draw.text((size // 2, picture.height + size // 2 + step * number), line, fill=colour, font=font)
    return marked


def _told(answer: FilmAnswer) -> list[str]:
    found = answer.findings
    assert isinstance(found, Lesions)
    known = "" if found.p_abnormal is None else f"; the film shows a lesion: {found.p_abnormal:.2f}"
    n_boxes = f"{len(found.boxes)} box{'es' if len(found.boxes) != 1 else ''}"
    n_boxes = f"the {N_DRAWN} most suspicious of {n_boxes}" if len(found.boxes) > N_DRAWN else n_boxes
    return [f"{answer.film.file}   {answer.model.label}   {n_boxes}{known}", answer.notice]
