"""Pictures of a training: what its teacher makes of the same few clips, drawn every now and then.

sheets/step-00001000.jpg shows, of each clip, its frames, where the objects are that the teacher finds in frame 0 (the
tracking map, and the mask that a student gets), and where each head of frame 0's [CLS] token looks. Objectives without
objects show the heads alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dora.config import PretrainConfig
from dora.data.clips import Clips
from dora.data.contact_sheet import clock
from dora.data.disk import whole_file
from dora.drawing import COLOURS, NEUTRAL, Picture, Row, cut_out, draw_rows, glow, resized, side_by_side, stretched
from dora.method.dora import draw_heads
from dora.method.network import Network
from dora.method.seen import Seen, look, tracked
from dora.method.vit import ClipTokens, clip_tokens

FOLDER = "sheets"
N_CLIPS = 2
TILE_WIDTH = 240  # pixels; the sheet scales them


class SheetClip(NamedTuple):
    """A clip to look at."""

    video: str
    times_s: list[float]
    frames: UInt8[np.ndarray, "T Y X 3"]


def sheet_clips(shards: Sequence[Path], config: PretrainConfig) -> list[SheetClip]:
    """The same clips for the same shards, spread evenly over the footage. A store is read by range."""
    clips = Clips(shards, config.clip)
    starts = sorted({(2 * number + 1) * clips.n_starts // (2 * N_CLIPS) for number in range(N_CLIPS)})
    return [SheetClip(clips.source(start), clips.times_s(start), clips.read(start)) for start in starts]


def look_at(
    teacher: Network, clips: Sequence[SheetClip], config: PretrainConfig, *, device: torch.device
) -> list[Seen]:
    """What the teacher sees. Under FSDP all ranks call it together, with the same clips."""

    def see(frames: Float[Tensor, "T 1 3 Y X"]) -> ClipTokens:
        return teacher(_clip_tokens, frames)

    size, patch_size = config.augment.global_size, teacher.backbone.patch_embed.patch_size[0]
    return [look(see, clip.frames, short_side=size, patch_size=patch_size, device=device) for clip in clips]


def draw_sheet(seen: Sequence[Seen], clips: Sequence[SheetClip], config: PretrainConfig, *, title: str) -> Image.Image:
    """The sheet; `title` says of which moment of the training."""
    titles = [f"{clip.video}, {clock(clip.times_s[0])}" for clip in clips]
    titles[0] = f"{title}   ·   {titles[0]}"
    return draw_rows([row for told in zip(seen, clips, titles, strict=True) for row in _rows(*told, config=config)])


def write_sheet(folder: Path, step: int, sheet: Image.Image) -> Path:
    """Keep a sheet in the training's `folder`."""
    path = folder / FOLDER / f"step-{step:08d}.jpg"
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as file:
        sheet.save(file, "JPEG", quality=85)
    return path


def _rows(seen: Seen, clip: SheetClip, title: str, *, config: PretrainConfig) -> list[Row]:
    height, width = clip.frames.shape[1:3]
    tiles = list(resized(clip.frames, round(height * TILE_WIDTH / width), TILE_WIDTH))
    after = [f"{time_s - clip.times_s[0]:+.1f} s" for time_s in clip.times_s]

    def row(label: str, pictures: list[Picture], columns: list[str], title: str = "") -> Row:
        return Row(label, side_by_side(pictures), tuple(columns), title)

    rows = [row("frames", tiles, after, title)]
    colour_of = dict[int, tuple[int, int, int]]()
    if config.objective == "dora" and config.tracking.mask == "tracked":
        heads = draw_heads(len(seen.attention), config.tracking.n_objects, seed=config.seed, step=0)
        objects = tracked(seen, heads, config.tracking)
        for number, (head, maps, masks) in enumerate(zip(heads, objects.maps, objects.masks, strict=True)):
            colour = colour_of[head] = COLOURS[number % len(COLOURS)]
            lit = [glow(tile, heat, colour) for tile, heat in zip(tiles, stretched(maps), strict=True)]
            kept = [cut_out(tile, mask, colour) for tile, mask in zip(tiles, masks, strict=True)]
            label = f"object {number + 1}"
            rows += [row(f"{label}, tracking map", lit, after), row(f"{label}, mask", kept, after)]
    looks = [glow(tiles[0], stretched(heat), colour_of.get(head, NEUTRAL)) for head, heat in enumerate(seen.attention)]
    return [*rows, row("[CLS] attention", looks, [f"head {head}" for head in range(len(looks))])]


def _clip_tokens(network: Network, frames: Tensor) -> ClipTokens:
    return clip_tokens(network.backbone, frames)
