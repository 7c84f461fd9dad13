"""Pictures of the method at work: the teacher's attention, the objects it finds in a clip and where they go.

Everything is drawn at the size that the student trained on (short side `global_size`), without augmentation, with the
heads of training step 0: the same checkpoint and shards give the same files.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, UInt8
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.config import PretrainConfig
from dora.data.augment import MEAN, STD
from dora.data.clips import Clips
from dora.data.labelled.sheet import instance_colours
from dora.data.miniature import World, render
from dora.method.dora import draw_heads
from dora.method.tracking import object_masks
from dora.method.vit import clip_tokens
from dora.training.checkpoint import load_backbone
from eval.report.data import ClipPictures, Strip
from eval.report.sheet import draw_sheet

N_CLIPS = 3
STRIP_WIDTH = 1536  # pixels, of the pictures of a clip side by side; a small video is not enlarged
QUALITY = 80  # of JPEG
# Told apart with every colour vision (Okabe and Ito), bright enough to glow on a darkened frame.
COLOURS = ((86, 180, 233), (230, 159, 0), (0, 200, 130), (240, 228, 66), (204, 121, 167), (213, 94, 0))
NEUTRAL = (235, 235, 235)

Picture = Float[Tensor, "3 y x"]


def draw_clips(
    checkpoint: Path, shards: Sequence[Path], config: PretrainConfig, folder: Path, *, worlds: Mapping[str, World]
) -> tuple[ClipPictures, ...]:
    """Draw a few clips, spread evenly over the footage, into the report's `folder`.

    `worlds` are those of the videos that were rendered, by name: what stands in their frames is known.
    """
    vit, clips = load_backbone(checkpoint), Clips(shards, config.clip)
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


class Tracked(NamedTuple):
    """Where the objects of a clip are."""

    maps: Float[Tensor, "O T h w"]
    masks: Bool[Tensor, "O T h w"]


class Seen(NamedTuple):
    """What the teacher makes of one clip; h and w count patches."""

    heads: list[int]
    attention: Float[Tensor, "H h w"]  # of frame 0
    unrefined: Tracked
    refined: Tracked


@torch.inference_mode()
def look(vit: VisionTransformer, frames: UInt8[np.ndarray, "T Y X 3"], config: PretrainConfig) -> Seen:
    """The teacher's attention and objects, with and without Sinkhorn-Knopp."""
    patch_size = vit.patch_embed.patch_size[0]
    height, width = _whole_patches(frames.shape[1:3], config.augment.global_size, patch_size)
    grid = height // patch_size, width // patch_size
    images = (_resize(frames, height, width) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    clip = clip_tokens(vit, images[:, None])  # one clip: B = 1
    heads = draw_heads(clip.first.attention.shape[1], config.tracking.n_objects, seed=config.seed, step=0)

    def tracked(*, refine: bool) -> Tracked:
        tracking = config.tracking.model_copy(update={"refine": refine})
        tracks = object_masks(clip.first, clip.keys, head_indices=heads, config=tracking)
        return Tracked(tracks.soft.squeeze(2).unflatten(-1, grid), tracks.masks.squeeze(2).unflatten(-1, grid))

    attention = clip.first.attention[0, :, 1:].unflatten(-1, grid)
    return Seen(heads, attention, tracked(refine=False), tracked(refine=True))


def draw_clip(
    vit: VisionTransformer, frames: UInt8[np.ndarray, "T Y X 3"], config: PretrainConfig, folder: Path, *,
    name: str, video: str, times_s: Sequence[float], things: Int32[np.ndarray, "T y x"] | None = None,
) -> ClipPictures:  # fmt: skip
    """Draw one clip into the report's `folder`: a sheet, and its strips one by one in pictures/.

    `things` says, if it is known, which thing each pixel shows (0: none), at any size.
    """
    seen = look(vit, frames, config)
    n_frames, height, width, _ = frames.shape
    tile_width = min(width, STRIP_WIDTH // max(4, n_frames))
    tiles = _resize(frames, round(height * tile_width / width), tile_width)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(seen.heads))]
    objects = [f"object {number}" for number in range(1, len(seen.heads) + 1)]
    after = [f"{time - times_s[0]:+.1f} s" for time in times_s]

    def strip(label: str, pictures: Sequence[Picture], columns: Sequence[str]) -> Strip:
        file = f"pictures/{name}-{label.replace(' ', '-').lower()}.jpg"
        _save(pictures, folder / file)
        return Strip(label=label, file=file, columns=tuple(columns))

    over_time = [strip("frames", list(tiles), after)]
    if things is not None:
        marked = [mark(tile, there) for tile, there in zip(tiles, things, strict=True)]
        over_time.append(strip("things that are there", marked, after))
    shown = seen.refined if config.tracking.refine else seen.unrefined
    for label, colour, maps, masks in zip(objects, colours, shown.maps, shown.masks, strict=True):
        lit = [glow(tile, heat, colour) for tile, heat in zip(tiles, _stretched(maps), strict=True)]
        kept = [cut_out(tile, mask, colour) for tile, mask in zip(tiles, masks, strict=True)]
        over_time += [strip(f"{label} tracking map", lit, after), strip(f"{label} mask", kept, after)]

    def first_frame(label: str, tracked: Tracked) -> Strip:
        pictures = [glow(tiles[0], _stretched(m[0]), c) for m, c in zip(tracked.maps, colours, strict=True)]
        return strip(label, pictures, objects)

    of_head = dict(zip(seen.heads, colours, strict=True))
    looked_at = [glow(tiles[0], _stretched(row), of_head.get(head, NEUTRAL)) for head, row in enumerate(seen.attention)]
    n_heads, rows, columns = seen.attention.shape
    attention = strip("class token attention", looked_at, [f"head {head}" for head in range(n_heads)])
    unrefined, refined = first_frame("before Sinkhorn", seen.unrefined), first_frame("after Sinkhorn", seen.refined)
    draw_sheet([*over_time, attention, unrefined, refined], folder).save(folder / f"{name}.jpg", quality=QUALITY)
    return ClipPictures(
        video=video, times_s=tuple(times_s), grid=(rows, columns), heads=tuple(seen.heads), sheet=f"{name}.jpg",
        over_time=tuple(over_time), attention=attention, unrefined=unrefined, refined=refined,
        unrefined_overlap=overlap(seen.unrefined.masks[:, 0]), refined_overlap=overlap(seen.refined.masks[:, 0]),
        thing_ious=None if things is None else tuple(best_iou(masks, things) for masks in shown.masks),
    )  # fmt: skip


def overlap(masks: Bool[Tensor, "O h w"]) -> float:
    """Mean IoU over pairs of objects; 0 for a single object."""
    ious = [float((a & b).sum() / (a | b).sum().clamp(min=1)) for a, b in combinations(masks, 2)]
    return sum(ious) / len(ious) if ious else 0.0


def best_iou(masks: Bool[Tensor, "T h w"], things: Int32[np.ndarray, "T y x"]) -> float:
    """IoU, over all frames of a clip, of an object's masks with the one thing that they fit best."""
    inside = F.interpolate(masks[:, None].float(), things.shape[1:], mode="nearest")[:, 0].bool().numpy()
    names, sizes = np.unique(things, return_counts=True)
    shared = np.bincount(np.searchsorted(names, things[inside]), minlength=len(names))
    ious = shared / (sizes + np.count_nonzero(inside) - shared)
    return float(ious[names > 0].max(initial=0))


def mark(frame: Picture, things: Int32[np.ndarray, "Y X"]) -> Picture:
    """The frame with each thing tinted in a colour of its own, the same at all times; the rest darker."""
    there = F.interpolate(torch.from_numpy(things)[None, None].double(), frame.shape[1:], mode="nearest")[0, 0]
    colours = torch.from_numpy(instance_colours(there.int().numpy())).permute(2, 0, 1).float() / 255
    return torch.where(there > 0, 0.4 * frame + 0.6 * colours, 0.55 * frame)


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


def _stretched(maps: Float[Tensor, "*T h w"]) -> Float[Tensor, "*T h w"]:
    """0 at the 2nd percentile of all values, 1 at the 98th: even maps and sharp ones both show their shape."""
    low, high = torch.quantile(maps, torch.tensor([0.02, 0.98]))
    return ((maps - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def _whole_patches(size: tuple[int, int], short_side: int, patch_size: int) -> tuple[int, int]:
    """Height and width nearest to `size` scaled to `short_side`, in whole patches."""
    scale = short_side / min(size)
    height, width = (max(1, round(side * scale / patch_size)) * patch_size for side in size)
    return height, width


def _resize(frames: UInt8[np.ndarray, "T Y X 3"], height: int, width: int) -> Float[Tensor, "T 3 y x"]:
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def _save(pictures: Sequence[Picture], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = torch.cat(list(pictures), dim=2).clamp(0, 1).mul(255).round().byte()
    Image.fromarray(strip.permute(1, 2, 0).numpy()).save(path, quality=QUALITY)
