"""The smallest real inputs of a pretraining run: shards written by hand from their format, and a tiny recipe."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg

from dora.config import (
    AugmentConfig,
    BackboneConfig,
    ClipConfig,
    HeadConfig,
    IbotConfig,
    LossConfig,
    OptimizerConfig,
    PretrainConfig,
    TrackingConfig,
)
from dora.data.index import INDEX, STORE, Facts, Tar, write_index

PRETRAIN = PretrainConfig(
    clip=ClipConfig(n_frames=2, gap_s=0.2),
    augment=AugmentConfig(clip_size=40, global_size=32, n_local_crops=2, local_size=16),
    backbone=BackboneConfig(
        architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3,
        drop_path_rate=0.1,
    ),
    head=HeadConfig(n_prototypes=16, hidden_dim=32, bottleneck_dim=8),
    tracking=TrackingConfig(n_objects=2),
    loss=LossConfig(warmup_teacher_temperature_epochs=0),
    optimizer=OptimizerConfig(lr_per_256=0.05, warmup_epochs=1, freeze_last_layer_epochs=1, teacher_momentum=0.9),
    clips_per_batch=4, epochs=2, precision="fp32",
)  # fmt: skip

_TWO_VIEWS = AugmentConfig(
    clip_size=40, clip_scale=None, one_global_box=False, global_size=32, n_local_crops=2, local_size=16,
    global_blur_probability=(1.0, 0.1), solarize_probability=(0.0, 0.2), local_flip_probability=0.5,
)  # fmt: skip
# The same run with each objective, and with DoRA's second view. iBOT's patches have prototypes of their own here.
PRETRAIN_OF = {"dora": PRETRAIN, "dora of two views": PRETRAIN.model_copy(update={"augment": _TWO_VIEWS})} | {
    objective: PRETRAIN.model_copy(
        update={
            "objective": objective,
            "augment": _TWO_VIEWS,
            "tracking": TrackingConfig(),
            "ibot": IbotConfig(n_patch_prototypes=24),
        }
    )
    for objective in ("dino", "ibot")
}


def write_shards(
    folder: Path, *, name: str = "walk", n_frames: int = 20, fps: float = 10, width: int = 64, height: int = 48,
    frames_per_shard: int = 8, store: str | None = None,
) -> Path:  # fmt: skip
    """Frames that show their own number: frame i is grey of value 10 i (mod 256) with a bright moving square."""
    folder.mkdir(parents=True)
    tars: list[Tar] = []
    offset: list[int] = []
    size: list[int] = []
    for first in range(0, n_frames, frames_per_shard):
        path = folder / f"shard-{len(tars):06d}.tar"
        numbers = range(first, min(first + frames_per_shard, n_frames))
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for frame in numbers:
                jpeg = simplejpeg.encode_jpeg(picture(frame, width, height), quality=95)
                entry = tarfile.TarInfo(f"{name}/{frame:08d}.jpg")
                entry.size = len(jpeg)
                offset.append(tar.offset + 512)
                size.append(len(jpeg))
                tar.addfile(entry, io.BytesIO(jpeg))
        content = path.read_bytes()
        checksum = hashlib.sha256(content).hexdigest()
        tars.append(Tar(name=path.name, n_frames=len(numbers), size_bytes=len(content), sha256=checksum))
    facts = Facts(name=name, fps=fps, width=width, height=height, tars=tuple(tars))
    write_index(folder / INDEX, facts, offset=offset, size=size, time_s=np.arange(n_frames) / fps)
    if store:
        (folder / STORE).write_text(store)
    return folder


def picture(frame: int, width: int, height: int) -> np.ndarray:
    image = np.full((height, width, 3), 10 * frame % 256, np.uint8)
    left = frame % (width - 8)
    image[8:16, left : left + 8] = (250, 40, 40)
    return image
