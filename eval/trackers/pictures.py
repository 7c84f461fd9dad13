"""Boxes drawn into frames: the contact sheet and the films of a one-pass evaluation, and its success plot."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont

from dora.film import write_film
from eval.images import read_video_frame, resized
from eval.pictures import evenly, write_sheet

TRUTH, FOUND, STILL = (60, 220, 90), (255, 130, 20), (140, 140, 140)
MOST_ROWS, FRAMES_PER_ROW, CELL_HEIGHT = 8, 6, 120
FILM_HEIGHT, FPS = 360, 10  # GOT-10k's frames are a tenth of a second apart
PLOT = (420, 320)
LEFT, TOP, RIGHT, BOTTOM = 46, 14, 14, 34  # room around the curves

Frame = UInt8[np.ndarray, "Y X 3"]


class Tracked(NamedTuple):
    """A sequence with what was found; in the test subset the truth has one row, and nothing overlaps."""

    name: str
    caption: str
    frames: tuple[Path, ...]
    truth: Float64[np.ndarray, "N 4"]
    found: Float64[np.ndarray, "T 4"]
    overlaps: Float64[np.ndarray, "T"] | None


def drawn(track: Tracked, t: int, *, height: int, text: bool) -> Frame:
    """Frame `t`, at most that high: the truth's box green, the tracker's orange; with the frame's number and IoU."""
    frame = read_video_frame(track.frames[t])
    scale = min(1.0, height / frame.shape[0])
    size = (max(1, round(frame.shape[0] * scale)), max(1, round(frame.shape[1] * scale)))
    if scale < 1:
        frame = np.asarray(cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_AREA))
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    width = max(2, size[0] // 120)
    if t < len(track.truth):
        _rectangle(draw, track.truth[t] * scale, TRUTH, width)
    _rectangle(draw, track.found[t] * scale, FOUND, width)
    if text:
        words = f"{t + 1}" if track.overlaps is None else f"{t + 1}  IoU {track.overlaps[t]:.2f}"
        draw.rectangle((0, 0, draw.textlength(words, _font(12)) + 6, 16), fill="black")
        draw.text((3, 1), words, fill="white", font=_font(12))
    return np.array(image)


def write_contact_sheet(path: Path, tracks: Sequence[Tracked]) -> None:
    """A row of frames for each of a few sequences, spread over all."""
    rows: list[tuple[str, list[Frame]]] = []
    for track in (tracks[i] for i in evenly(len(tracks), MOST_ROWS)):
        times = evenly(len(track.frames), FRAMES_PER_ROW)
        numbers = ", ".join(str(t + 1) for t in times)
        cells = [drawn(track, t, height=CELL_HEIGHT, text=False) for t in times]
        rows.append((f"{track.caption}; truth green, tracker orange; frames {numbers}", cells))
    write_sheet(path, rows, cell_height=CELL_HEIGHT)


def write_track_film(path: Path, track: Tracked) -> None:
    """An mp4 of the whole sequence."""
    first = drawn(track, 0, height=FILM_HEIGHT, text=True)

    def frames() -> Iterator[Frame]:
        yield first
        for t in range(1, len(track.frames)):
            frame = drawn(track, t, height=FILM_HEIGHT, text=True)
            # Should a frame have another size than the first, it is shown in the first one's.
            yield frame if frame.shape == first.shape else resized(frame, *first.shape[:2])

    write_film(path, frames(), fps=FPS)


def write_success_plot(
    path: Path, thresholds: Float64[np.ndarray, "K"], curves: Sequence[tuple[str, Float64[np.ndarray, "K"]]]
) -> None:
    """Share of the frames above each IoU, in percent: the tracker's curve and then those it is compared with."""
    image = Image.new("RGB", PLOT, "white")
    draw = ImageDraw.Draw(image)
    right, bottom = PLOT[0] - RIGHT, PLOT[1] - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x * (right - LEFT), bottom - y / 100 * (bottom - TOP)

    for tick in range(0, 101, 25):
        draw.line((place(0, tick), place(1, tick)), fill=(225, 225, 225))
        draw.line((place(tick / 100, 0), place(tick / 100, 100)), fill=(225, 225, 225))
        x, y = place(0, tick)
        draw.text((x - 6, y), str(tick), fill="black", font=_font(11), anchor="rm")
        x, y = place(tick / 100, 0)
        draw.text((x, y + 6), f"{tick / 100:g}", fill="black", font=_font(11), anchor="mt")
    draw.text((LEFT, 0), "frames above the threshold, %", fill="black", font=_font(11))
    draw.text((right, PLOT[1] - 2), "IoU threshold", fill="black", font=_font(11), anchor="rb")
    for number, ((name, curve), colour) in enumerate(zip(curves, (FOUND, STILL), strict=False)):
        points = [place(float(x), float(y)) for x, y in zip(thresholds, curve, strict=True)]
        draw.line(points, fill=colour, width=2, joint="curve")
        draw.text((right - 6, TOP + 6 + 16 * number), name, fill=colour, font=_font(12), anchor="ra")
    image.save(path)


def _rectangle(draw: ImageDraw.ImageDraw, box: Float64[np.ndarray, "4"], colour: tuple[int, int, int], w: int) -> None:
    x, y, width, height = box.tolist()
    if np.isfinite(box).all() and width > 0 and height > 0:
        draw.rectangle((x, y, x + width, y + height), outline=colour, width=w)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
