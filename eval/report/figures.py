"""Pictures of the method at work: the teacher's attention, the objects it finds in a clip and where they go.

Everything is drawn at the size that the student trained on (short side `global_size`), without augmentation, with the
heads of training step 0: the same checkpoint and shards give the same files.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int32, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.config import PretrainConfig
from dora.data.clips import Clips
from dora.data.labelled.sheet import instance_colours
from dora.data.miniature import World, render
from dora.drawing import COLOURS, NEUTRAL, Picture, cut_out, glow, resized, side_by_side, stretched
from dora.method.dora import draw_heads
from dora.method.seen import Tracked, look, tracked
from dora.method.vit import clip_tokens
from dora.weights.load import load_encoder
from eval.covering import overlaps
from eval.report.data import ClipPictures, Strip
from eval.report.sheet import draw_sheet

N_CLIPS = 3
STRIP_WIDTH = 1536  # pixels, of the pictures of a clip side by side; a small video is not enlarged
QUALITY = 80  # of JPEG


def draw_clips(
    checkpoint: Path, shards: Sequence[Path], config: PretrainConfig, folder: Path, *, worlds: Mapping[str, World]
) -> tuple[ClipPictures, ...]:
    """Draw a few clips, spread evenly over the footage, into the report's `folder`.

    `worlds` are those of the videos that were rendered, by name: what stands in their frames is known.
    """
    vit, clips = load_encoder(checkpoint), Clips(shards, config.clip)
    starts = sorted({(2 * number + 1) * clips.n_starts // (2 * N_CLIPS) for number in range(N_CLIPS)})
    pictures: list[ClipPictures] = []
    for number, start in enumerate(starts, start=1):
        video, times_s = clips.source(start), clips.times_s(start)
        world = worlds.get(video)
        things = np.stack([render(world, time_s).instances for time_s in times_s]) if world else None
        pictures.append(
            draw_clip(
                vit, clips.read(start), config, folder, name=f"clip-{number}", video=video, times_s=times_s,
                things=things,
            )
        )  # fmt: skip
    return tuple(pictures)


def draw_clip(
    vit: VisionTransformer, frames: UInt8[np.ndarray, "T Y X 3"], config: PretrainConfig, folder: Path, *,
    name: str, video: str, times_s: Sequence[float], things: Int32[np.ndarray, "T y x"] | None = None,
) -> ClipPictures:  # fmt: skip
    """Draw one clip into the report's `folder`: a sheet, and its strips one by one in pictures/.

    `things` says, if it is known, which thing each pixel shows (0: none), at any size.
    """
    patch_size, tracking = vit.patch_embed.patch_size[0], config.tracking
    seen = look(partial(clip_tokens, vit), frames, short_side=config.augment.global_size, patch_size=patch_size)
    heads = draw_heads(len(seen.attention), tracking.n_objects, seed=config.seed, step=0)
    without, with_sinkhorn = (
        tracked(seen, heads, tracking.model_copy(update={"refine": refine})) for refine in (False, True)
    )
    n_frames, height, width, _ = frames.shape
    tile_width = min(width, STRIP_WIDTH // max(4, n_frames))
    tiles = resized(frames, round(height * tile_width / width), tile_width)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(heads))]
    objects = [f"object {number}" for number in range(1, len(heads) + 1)]
    after = [f"{time - times_s[0]:+.1f} s" for time in times_s]

    def strip(label: str, pictures: Sequence[Picture], columns: Sequence[str]) -> Strip:
        file = f"pictures/{name}-{label.replace(' ', '-').lower()}.jpg"
        _save(pictures, folder / file)
        return Strip(label=label, file=file, columns=tuple(columns))

    over_time = [strip("frames", list(tiles), after)]
    if things is not None:
        marked = [mark(tile, there) for tile, there in zip(tiles, things, strict=True)]
        over_time.append(strip("things that are there", marked, after))
    shown = with_sinkhorn if tracking.refine else without
    for label, colour, maps, masks in zip(objects, colours, shown.maps, shown.masks, strict=True):
        lit = [glow(tile, heat, colour) for tile, heat in zip(tiles, stretched(maps), strict=True)]
        kept = [cut_out(tile, mask, colour) for tile, mask in zip(tiles, masks, strict=True)]
        over_time += [strip(f"{label} tracking map", lit, after), strip(f"{label} mask", kept, after)]

    def first_frame(label: str, objects_there: Tracked) -> Strip:
        pictures = [glow(tiles[0], stretched(m[0]), c) for m, c in zip(objects_there.maps, colours, strict=True)]
        return strip(label, pictures, objects)

    of_head = dict(zip(heads, colours, strict=True))
    looked_at = [glow(tiles[0], stretched(row), of_head.get(head, NEUTRAL)) for head, row in enumerate(seen.attention)]
    n_heads, rows, columns = seen.attention.shape
    attention = strip("class token attention", looked_at, [f"head {head}" for head in range(n_heads)])
    unrefined, refined = first_frame("before Sinkhorn", without), first_frame("after Sinkhorn", with_sinkhorn)
    draw_sheet([*over_time, attention, unrefined, refined], folder).save(folder / f"{name}.jpg", quality=QUALITY)
    return ClipPictures(
        video=video, times_s=tuple(times_s), grid=(rows, columns), heads=tuple(heads), sheet=f"{name}.jpg",
        over_time=tuple(over_time), attention=attention, unrefined=unrefined, refined=refined,
        unrefined_overlap=overlap(without.masks[:, 0]), refined_overlap=overlap(with_sinkhorn.masks[:, 0]),
        thing_ious=None if things is None else tuple(overlaps(shown.masks, things).ious.max(1, initial=0).tolist()),
    )  # fmt: skip


def overlap(masks: Bool[Tensor, "O h w"]) -> float:
    """Mean IoU over pairs of objects; 0 for a single object."""
    ious = [float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in combinations(masks, 2)]
    return sum(ious) / len(ious) if ious else 0.0


def mark(frame: Picture, things: Int32[np.ndarray, "Y X"]) -> Picture:
    """The frame with each thing tinted in a colour of its own, the same at all times; the rest darker."""
    there = F.interpolate(torch.from_numpy(things)[None, None].double(), frame.shape[1:], mode="nearest")[0, 0]
    colours = torch.from_numpy(instance_colours(there.int().numpy())).permute(2, 0, 1).float() / 255
    return torch.where(there > 0, 0.4 * frame + 0.6 * colours, 0.55 * frame)


def _save(pictures: Sequence[Picture], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(pictures).save(path, quality=QUALITY)
