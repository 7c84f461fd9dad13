"""The sheets and films: where each head looks, and the objects that are followed, without and with Sinkhorn-Knopp."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from dora.drawing import COLOURS, cut_out, glow, stretched
from dora.viz.seeing import Objects, Sight, overlap
from dora.viz.sheet import TITLE_ROOM, Label, Panel, Tile, draw_sheet

MOST_COLUMNS = 8  # frames on a sheet; of more, as many evenly over them
_ATTENTION_WIDTH, _TRACKING_WIDTH = 1344, 1056  # pixels of a row of frames
_FILM_TILE, _LARGEST_TILE = 300, 264
_TITLES = "without Sinkhorn-Knopp (eqs. 1-3)", "with Sinkhorn-Knopp (eqs. 4-5)"
# Black, purple, red, orange, yellow, white: lightness rises evenly, so it reads in grey and with every colour vision.
_HEAT = ((0, 0, 0), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))

Picture = Float[Tensor, "3 y x"]
Pixels = UInt8[np.ndarray, "Y X 3"]


class Caption(NamedTuple):
    """What is written above."""

    title: str
    lines: tuple[str, ...]


def attention_sheet(sight: Sight, frames: Sequence[int], caption: Caption) -> Image.Image:
    """A row a head, a column a frame; one scale for all frames of a head."""
    shown = _evenly(frames)
    rows = [[_pixels(_frame(sight, t)) for t in shown]]
    rows += [[_pixels(_lit(_frame(sight, t), heat[t])) for t in shown] for heat in _heats(sight)]
    labels = [Label("frames"), *_head_labels(sight)]
    panel = Panel("", _clocks(sight, shown), rows)
    return draw_sheet(
        caption.title, caption.lines, labels, [panel], tile_width=_tile_width(_ATTENTION_WIDTH, len(shown))
    )  # fmt: skip


def tracking_sheet(sight: Sight, frames: Sequence[int], caption: Caption, *, heads: Sequence[int]) -> Image.Image:
    """All objects, then the map and mask of each, a column a frame: left without Sinkhorn-Knopp, right with it."""
    shown = _evenly(frames)
    columns = _clocks(sight, shown)
    labels = [Label("frames"), Label("all objects", "white: several")]
    for number, head in enumerate(heads):
        labels += [Label(f"object {number + 1}, head {head}", kind, _colour(number)) for kind in ("map", "mask")]
    panels = [
        Panel(f"{title}{_overlap(objects, frames)}", columns, _object_rows(sight, objects, shown))
        for title, objects in zip(_TITLES, (sight.plain, sight.refined), strict=True)
    ]
    return draw_sheet(caption.title, caption.lines, labels, panels, tile_width=_tile_width(_TRACKING_WIDTH, len(shown)))


def attention_film(sight: Sight, caption: Caption) -> Iterator[Pixels]:
    """The frame and every head's look at it, a grid for each moment."""
    names = ["frame", *(label.text for label in _head_labels(sight))]
    heats, n_columns = _heats(sight), min(4, len(names))
    for t in range(len(sight.tiles)):
        tile = _frame(sight, t)
        tiles = [_pixels(tile), *(_pixels(_lit(tile, heat[t])) for heat in heats)]
        yield _grid(_at(caption, sight, t), names, tiles, n_columns)


def tracking_film(sight: Sight, caption: Caption, *, heads: Sequence[int]) -> Iterator[Pixels]:
    """All objects' masks and each one's map: above without Sinkhorn-Knopp, below with it."""
    columns = ["all objects", *(f"object {number + 1}, head {head}" for number, head in enumerate(heads))]
    both = [(objects, _stretched(objects)) for objects in (sight.plain, sight.refined)]
    labels = [Label("without", "Sinkhorn-Knopp"), Label("with", "Sinkhorn-Knopp")]
    for t in range(len(sight.tiles)):
        tile = _frame(sight, t)
        rows: list[list[Tile]] = []
        for objects, heat in both:
            lit = [_pixels(glow(tile, heat[t, o], _colour(o))) for o in range(len(heads))]
            rows.append([_pixels(_tinted(tile, objects.masks[t])), *lit])
        title, lines = _at(caption, sight, t)
        yield np.asarray(draw_sheet(title, lines, labels, [Panel("", columns, rows)], tile_width=_FILM_TILE))


def _object_rows(sight: Sight, objects: Objects, shown: Sequence[int]) -> list[list[Tile]]:
    heat = _stretched(objects)
    rows = [[_pixels(_frame(sight, t)) for t in shown]]
    rows += [[_pixels(_tinted(_frame(sight, t), objects.masks[t])) for t in shown]]
    for o in range(objects.maps.shape[1]):
        rows.append([_pixels(glow(_frame(sight, t), heat[t, o], _colour(o))) for t in shown])
        rows.append([_pixels(cut_out(_frame(sight, t), objects.masks[t, o], _colour(o))) for t in shown])
    return rows


def _grid(caption: Caption, names: Sequence[str], tiles: Sequence[Tile], n_columns: int) -> Pixels:
    """Rows of panels of a single picture each, so that every picture has its name above it."""
    empty = np.full_like(tiles[0], 255)
    strips: list[Image.Image] = []
    for begin in range(0, len(tiles), n_columns):
        some = list(tiles[begin : begin + n_columns])
        some += [empty] * (n_columns - len(some))
        above = caption if begin == 0 else None
        title, lines = above or Caption("", ())
        panel = Panel("", [*names[begin : begin + n_columns], *[""] * n_columns][:n_columns], [some])
        strip = draw_sheet(title, lines, [Label("")], [panel], tile_width=_FILM_TILE)
        strips.append(strip if above else strip.crop((0, TITLE_ROOM, *strip.size)))
    grid = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        grid.paste(strip, (0, top))
        top += strip.height
    return np.asarray(grid)


def _frame(sight: Sight, t: int) -> Picture:
    return sight.tiles[t].float() / 255


def _heats(sight: Sight) -> Float[Tensor, "H T h w"]:
    """Each head's attention and at last the mean of all, stretched over all frames."""
    per_head = sight.attention.transpose(0, 1)
    return torch.stack([stretched(heat) for heat in (*per_head, per_head.mean(0))])


def _head_labels(sight: Sight) -> list[Label]:
    return [*(Label(f"head {number}") for number in range(sight.attention.shape[1])), Label("mean of heads")]


def _stretched(objects: Objects) -> Float[Tensor, "T O h w"]:
    """One scale for all frames of an object."""
    return torch.stack([stretched(maps) for maps in objects.maps.transpose(0, 1)], dim=1)


def _lit(frame: Picture, heat: Float[Tensor, "h w"]) -> Picture:
    """The frame in grey, seen through the colours of heat."""
    heat = F.interpolate(heat[None, None], frame.shape[1:], mode="bilinear")[0, 0]
    table = torch.tensor(_HEAT) / 255
    place = heat * (len(_HEAT) - 1)
    low = place.floor().long().clamp(max=len(_HEAT) - 2)
    colour = torch.lerp(table[low], table[low + 1], (place - low)[..., None]).permute(2, 0, 1)
    return 0.35 * frame.mean(0, keepdim=True) * (1 - heat) + 0.92 * colour


def _tinted(frame: Picture, masks: Bool[Tensor, "O h w"]) -> Picture:
    """The frame with each object in its colour; where several lie, in white."""
    size = frame.shape[1:]
    inside = F.interpolate(masks[None].float(), size, mode="nearest")[0]
    colours = torch.tensor([_colour(o) for o in range(len(masks))]) / 255
    count = inside.sum(0)
    colour = torch.einsum("oyx,oc->cyx", inside, colours)
    colour = torch.where(count > 1, torch.ones(()), colour)
    grey = frame.mean(0, keepdim=True)
    return torch.where(count > 0, 0.45 * grey + 0.55 * colour * (0.35 + 0.65 * grey), 0.35 * grey)


def _colour(number: int) -> tuple[int, int, int]:
    return COLOURS[number % len(COLOURS)]


def _overlap(objects: Objects, frames: Sequence[int]) -> str:
    found = overlap(objects.masks[list(frames)])
    return "" if found is None else f"   ·   masks overlap by {found:.0%}"


def _tile_width(row: int, n_columns: int) -> int:
    return min(_LARGEST_TILE, row // n_columns)


def _evenly(frames: Sequence[int]) -> list[int]:
    places = np.linspace(0, len(frames) - 1, min(len(frames), MOST_COLUMNS)).round().astype(int)
    return [frames[place] for place in places]


def _clocks(sight: Sight, shown: Sequence[int]) -> list[str]:
    return [f"{sight.times_s[t]:.2f} s" for t in shown]


def _at(caption: Caption, sight: Sight, t: int) -> Caption:
    return Caption(f"{caption.title}   ·   {sight.times_s[t]:.2f} s", caption.lines)


def _pixels(picture: Picture) -> Tile:
    return picture.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
