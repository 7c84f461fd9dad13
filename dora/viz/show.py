"""A checkpoint and a video -> sheets, films, and the numbers behind them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer

from dora.artifacts import Machine
from dora.config import TrackingConfig
from dora.data.disk import whole_file
from dora.film import write_film
from dora.method.dora import draw_heads
from dora.progress import Progress, silent
from dora.viz.config import ViewConfig
from dora.viz.figures import Caption, attention_film, attention_sheet, tracking_film, tracking_sheet
from dora.viz.footage import Footage, clip_start, open_footage
from dora.viz.seeing import Moment, Objects, Sight, overlap, see
from dora.weights.load import load_encoder
from dora.weights.read import Which, read, weights_file

SCHEMA = "dora.viz/1"
FACTS = "viz.json"


class Shown(NamedTuple):
    """What was drawn."""

    folder: Path
    files: tuple[Path, ...]
    facts: dict[str, Any]  # what viz.json has
    sight: Sight  # the maps themselves


def visualise(
    checkpoint: Path, video: Path, out: Path, config: ViewConfig | None = None, *, machine: Machine | None = None,
    progress: Progress = silent,
) -> Shown:  # fmt: skip
    """Draw what a checkpoint's ViT sees in a clip: attention.png and .mp4, tracking.png and .mp4, viz.json in `out`.

    `checkpoint` is anything that dora/weights/load.py reads; `video` a file, or a folder of images. The same inputs
    give the same PNGs.

    Raises:
        FileNotFoundError: if one of them is not there.
        ValueError: if one cannot be read, the clip is not all in the video, or a head is not one of the ViT's.
    """
    machine = machine or Machine()
    config = config or ViewConfig()
    footage = open_footage(video, fps=config.fps)
    config = config.within(config.gap_s * footage.fps) if footage.images else config
    start_s = clip_start(footage, at_s=config.at_s, span_s=config.span_s, n_frames=config.n_frames)
    vit, tracking, network = _encoder(checkpoint, config)
    heads = _heads(vit, config)
    short_side = config.short_side or vit.patch_embed.img_size[0]
    times_s = config.times_s(start_s)
    device = _device(machine)
    sight = see(
        vit.to(device), (Moment(*picture) for picture in footage.pictures(times_s)), heads=heads, tracking=tracking,
        short_side=short_side, device=device, done=lambda n: progress(n, len(times_s), "frames"),
    )  # fmt: skip
    frames = range(0, len(times_s), config.between + 1)
    facts = _facts(checkpoint, footage, config, vit, network, tracking, heads, sight, frames)
    out.mkdir(parents=True, exist_ok=True)
    files = _write(out, sight, frames, heads, config, facts)
    return Shown(out, files, facts, sight)


def _write(
    out: Path, sight: Sight, frames: Sequence[int], heads: list[int], config: ViewConfig, facts: dict[str, Any]
) -> tuple[Path, ...]:
    looking = _caption("Where the [CLS] token looks, last block", facts)
    following = _caption("Objects found in the first frame, and followed", facts)
    sheets = {
        "attention.png": attention_sheet(sight, frames, looking),
        "tracking.png": tracking_sheet(sight, frames, following, heads=heads),
    }
    for name, sheet in sheets.items():
        _write_png(out / name, sheet)
    write_film(out / "attention.mp4", attention_film(sight, looking), fps=config.film_fps)
    write_film(out / "tracking.mp4", tracking_film(sight, following, heads=heads), fps=config.film_fps)
    with whole_file(out / FACTS) as file:
        file.write(json.dumps(facts, indent=1).encode())
    return tuple(out / name for name in (*sheets, "attention.mp4", "tracking.mp4", FACTS))


def _write_png(path: Path, sheet: Image.Image) -> None:
    with whole_file(path) as file:
        sheet.save(file, "PNG", optimize=False)


def _encoder(checkpoint: Path, config: ViewConfig) -> tuple[VisionTransformer, TrackingConfig, Which | None]:
    """The network, how its own training tracked (of others' checkpoints, our defaults), and which one it is."""
    vit = load_encoder(checkpoint, config.which, config.architecture).requires_grad_(False)
    source = read(checkpoint, config.which)
    try:
        tracking = TrackingConfig.model_validate(source.dora["config"]["tracking"])
    except (KeyError, TypeError, ValidationError):  # another's, or of another version
        tracking = TrackingConfig()
    return vit, tracking, source.which


def _heads(vit: VisionTransformer, config: ViewConfig) -> list[int]:
    """A head for each object.

    Raises:
        ValueError: if there are too few, or no such one.
    """
    n_heads: int = vit.blocks[0].attn.num_heads  # pyright: ignore[reportAttributeAccessIssue, reportAssignmentType]
    if config.heads is None:
        return draw_heads(n_heads, config.n_objects, seed=config.seed, step=0)
    wrong = [head for head in config.heads if not 0 <= head < n_heads]
    if wrong:
        raise ValueError(f"no head {wrong[0]}: this ViT has {n_heads}, 0 to {n_heads - 1}.")
    return list(config.heads)


def _device(machine: Machine) -> torch.device:
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(automatic if machine.device == "auto" else machine.device)


def _facts(
    checkpoint: Path, footage: Footage, config: ViewConfig, vit: VisionTransformer, network: Which | None,
    tracking: TrackingConfig, heads: list[int], sight: Sight, frames: Sequence[int],
) -> dict[str, Any]:  # fmt: skip
    """What viz.json tells; docs/pictures.md describes it."""
    path = weights_file(checkpoint)
    patch = vit.patch_embed.patch_size[0]
    height, width = sight.seen

    def told(objects: Objects) -> dict[str, Any]:
        masks = objects.masks[list(frames)].float().mean((-2, -1))
        return {
            "mask_overlap": _round(overlap(objects.masks[list(frames)])),
            "objects": [
                {"head": head, "mask_share": [round(share, 4) for share in masks[:, number].tolist()]}
                for number, head in enumerate(heads)
            ],
        }

    return {
        "schema": SCHEMA,
        "checkpoint": {
            "name": path.name, "sha256": _sha256(path), "network": network, "patch_size": patch,
            "width": vit.embed_dim, "depth": len(vit.blocks), "heads": sight.attention.shape[1],
        },
        "video": {
            "name": footage.path.name, "duration_s": round(footage.duration_s, 3),
            "height": sight.size[0], "width": sight.size[1],
        },
        "seen": {
            "height": height, "width": width, "rows": height // patch, "columns": width // patch, "cropped": False,
            "stretched": round(width / height * sight.size[0] / sight.size[1], 4),
        },
        "frames": [{"time_s": round(sight.times_s[t], 4), "film_picture": t} for t in frames],
        "film": {"n_pictures": len(sight.times_s), "fps": config.film_fps},
        "heads": {"used": heads, "drawn_with_seed": config.seed if config.heads is None else None},
        "tracking": tracking.model_dump(
            mode="json", include={"sinkhorn_epsilon", "sinkhorn_iterations", "prototype", "threshold"}
        ),
        "without_sinkhorn": told(sight.plain),
        "with_sinkhorn": told(sight.refined),
    }  # fmt: skip


def _caption(title: str, facts: dict[str, Any]) -> Caption:
    seen, checkpoint, video = facts["seen"], facts["checkpoint"], facts["video"]
    which = f" ({checkpoint['network']})" if checkpoint["network"] else ""
    return Caption(
        title,
        (
            f"{video['name']}, {video['width']} x {video['height']}, from {facts['frames'][0]['time_s']:.2f} s   ·   "
            f"{checkpoint['name']}{which}, seen at {seen['width']} x {seen['height']}: "
            f"{seen['columns']} x {seen['rows']} patches",
        ),
    )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
