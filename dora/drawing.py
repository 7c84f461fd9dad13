"""Pictures of what a ViT sees: frames lit by a map or cut out by a mask, and rows of them on one labelled sheet."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Told apart with every colour vision (Okabe and Ito), bright enough to glow on a darkened frame.
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 200, 130), (240, 228, 66), (204, 121, 167), (213, 94, 0))
NEUTRAL = (235, 235, 235)
# Pixels: of a row of pictures, of the labels, of column names, of titles, between pictures.
WIDTH, LABELS, HEADER, TITLE, GAP = 960, 190, 24, 34, 4
INK, PAPER, BAND = (40, 46, 52), (255, 255, 255), (232, 236, 240)

Picture = Float[Tensor, "3 y x"]


class Row(NamedTuple):
    """Equally large pictures side by side, as many as there are columns; a title stands above."""

    label: str
    image: Image.Image
    columns: tuple[str, ...]
    title: str = ""


def draw_rows(rows: Sequence[Row]) -> Image.Image:
    """The rows below each other; names of columns wherever they change.

    A row of more pictures than the first one has is made as wide as that.
    """
    tile_width = WIDTH / len(rows[0].columns)
    scaled = [_scaled(row, tile_width) for row in rows]
    changes = (row.columns != above.columns or row.title for above, row in pairwise(rows))
    headed = [bool(first) for first in (True, *changes)]
    heights = [
        image.height + GAP + HEADER * with_names + TITLE * bool(row.title)
        for row, image, with_names in zip(rows, scaled, headed, strict=True)
    ]
    sheet = Image.new("RGB", (LABELS + WIDTH, sum(heights)), PAPER)
    draw, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(17)
    for row, image, with_names, height, bottom in zip(rows, scaled, headed, heights, accumulate(heights), strict=True):
        top = bottom - GAP - image.height
        sheet.paste(image, (LABELS, top))
        draw.text((8, top + image.height // 2), row.label, INK, font, anchor="lm")
        for number, name in enumerate(row.columns if with_names else ()):
            draw.text((LABELS + number * image.width // len(row.columns), top - 6), name, INK, font, anchor="ls")
        if row.title:
            draw.rectangle((0, bottom - height, sheet.width, bottom - height + TITLE - 4), fill=BAND)
            draw.text((8, bottom - height + TITLE // 2 - 2), row.title, INK, large, anchor="lm")
    return sheet


def side_by_side(pictures: Sequence[Picture]) -> Image.Image:
    """Pictures of one size as one image."""
    strip = torch.cat(list(pictures), dim=2).clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(strip.permute(1, 2, 0).numpy())


def glow(frame: Picture, heat: Float[Tensor, "h w"], colour: tuple[int, int, int]) -> Picture:
    """The frame, dark and grey, lit in `colour` where `heat` (0 to 1) is high."""
    heat = F.interpolate(heat[None, None], frame.shape[1:], mode="bilinear")[0]
    grey = frame.mean(0, keepdim=True)
    light = torch.tensor(colour)[:, None, None] / 255
    return grey * 0.45 * (1 - heat) + (0.3 * grey + 0.7) * light * heat


def cut_out(frame: Picture, mask: Bool[Tensor, "h w"], colour: tuple[int, int, int]) -> Picture:
    """What the student sees of the frame: the mask's patches (outlined); the rest dark, not gone."""
    inside = F.interpolate(mask[None, None].float(), frame.shape[1:], mode="nearest")[0, 0].bool()
    padded = F.pad(inside[None, None].float(), (2, 2, 2, 2), mode="replicate")
    edge = (F.max_pool2d(-padded, 5, stride=1)[0, 0] > -1) & inside  # within 2 pixels of the outside
    dark = frame.mean(0, keepdim=True) * 0.25
    light = torch.tensor(colour)[:, None, None] / 255
    return torch.where(edge, light, torch.where(inside, frame, dark))


def stretched(maps: Float[Tensor, "*T h w"]) -> Float[Tensor, "*T h w"]:
    """0 at the 2nd percentile of all values, 1 at the 98th: even maps and sharp ones both show their shape."""
    low, high = torch.quantile(maps, torch.tensor([0.02, 0.98]))
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def resized(frames: UInt8[np.ndarray, "T Y X 3"], height: int, width: int) -> Float[Tensor, "T 3 y x"]:
    """Frames of another size, in [0, 1]."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def _scaled(row: Row, tile_width: float) -> Image.Image:
    """The row at the sheet's scale, with gaps between its pictures."""
    n_tiles = len(row.columns)
    width = round(min(n_tiles * tile_width, WIDTH))
    image = row.image.resize((width, round(row.image.height * width / row.image.width)), Image.Resampling.LANCZOS)
    for number in range(1, n_tiles + 1):
        right = number * width // n_tiles
        image.paste(PAPER, (right - GAP, 0, right, image.height))
    return image
