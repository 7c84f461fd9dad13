"""A contact sheet of the miniature: pictures above their ground truth, with a legend."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image, ImageDraw

from dora.data.labelled.moments import Moment, Still, still
from dora.data.miniature import CLASSES, World

GAP, LINE = 6, 15  # pixels
INK = (40, 40, 40)
COLUMNS_S = (3.0, 25.0, 47.0, 69.0)
NEAREST_M, FARTHEST_M = 1.5, 120.0

# Scenery in muted tones, things in bright ones that lie apart.
CLASS_COLOURS = np.array(
    [(178, 206, 235), (90, 90, 96), (170, 164, 155), (140, 112, 100), (60, 150, 60), (225, 50, 60), (40, 100, 220),
     (20, 190, 200), (250, 190, 20), (150, 60, 200), (240, 120, 30), (150, 95, 30), (255, 140, 180), (120, 230, 160),
     (245, 240, 140), (255, 60, 220), (20, 60, 120), (120, 200, 30), (100, 20, 60), (190, 235, 60)],
    np.uint8,
)  # fmt: skip


def write_sheet(path: Path, world: World) -> None:
    """A few moments of one street, each with its classes, instances and depth, as one JPEG."""
    columns = [still(Moment(world, time_s)) for time_s in COLUMNS_S]
    rows = {
        "picture": [column.frame.image for column in columns],
        "classes": [CLASS_COLOURS[column.frame.classes] for column in columns],
        "instances, boxes": [_draw_instances(column) for column in columns],
        "depth (near: bright)": [depth_colours(column.frame.depth) for column in columns],
    }
    height, width = world.height, world.width
    sheet = Image.new(
        "RGB", (GAP + len(columns) * (width + GAP), len(rows) * (height + LINE + GAP) + 2 * (LINE + GAP) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for row, (caption, pictures) in enumerate(rows.items()):
        top = GAP + row * (height + LINE + GAP)
        draw.text((GAP, top), caption, fill=INK)
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (GAP + column * (width + GAP), top + LINE))
    _draw_legend(draw, top=GAP + len(rows) * (height + LINE + GAP), width=sheet.width)
    sheet.save(path, quality=88)


def instance_colours(instances: Int32[np.ndarray, "Y X"]) -> UInt8[np.ndarray, "Y X 3"]:
    """A colour for each identity, the same at all times; scenery is dark."""
    # The golden ratio spreads any run of identities around the colour circle.
    hue = (instances * 0.618034) % 1 * 6
    channels = [np.clip(np.abs((hue + offset) % 6 - 3) - 1, 0, 1) for offset in (0, 4, 2)]
    colours = (70 + 185 * np.stack(channels, axis=-1)).astype(np.uint8)
    return np.where((instances > 0)[..., None], colours, np.uint8(30))


def depth_colours(depth: Float32[np.ndarray, "Y X"]) -> UInt8[np.ndarray, "Y X 3"]:
    """Logarithmic grey, from white beside the camera to black far away."""
    share = np.log(depth / FARTHEST_M) / np.log(NEAREST_M / FARTHEST_M)
    return (255 * np.clip(share, 0, 1)).astype(np.uint8)[..., None].repeat(3, axis=-1)


def _draw_instances(picture: Still) -> UInt8[np.ndarray, "Y X 3"]:
    image = Image.fromarray(instance_colours(picture.frame.instances))
    draw = ImageDraw.Draw(image)
    for thing in picture.objects:
        box = thing.box
        draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), outline=(255, 255, 255))
    return np.asarray(image)


def _draw_legend(draw: ImageDraw.ImageDraw, *, top: int, width: int) -> None:
    """Two lines of class names beside their colours."""
    per_line = -(-len(CLASSES) // 2)
    step = (width - GAP) // per_line
    for index, (name, colour) in enumerate(zip(CLASSES, CLASS_COLOURS.tolist(), strict=True)):
        line, column = divmod(index, per_line)
        left, high = GAP + column * step, top + line * (LINE + GAP // 2)
        draw.rectangle((left, high + 1, left + 10, high + 11), fill=tuple(colour))
        draw.text((left + 14, high), name, fill=INK)
