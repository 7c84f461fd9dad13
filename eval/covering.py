"""Do an encoder's tracking masks cover things, and do they so better as training goes on? For rendered walks alone.

Of a rendered walk it is known what each pixel shows. The encoder, and each that its training kept of an epoch, looks at
the same clips of the walk that it learnt from, through a box such as training cuts from a clip first; the objects that
it discovers there are tracked as in training. An object's masks, over all frames of the clip, are compared with the one
thing that they fit best.

`mask_iou` is the mean of those IoUs over objects and clips, in percent; `things` is how many different things the
objects of a clip fit best, at most as many as there are objects. Neither says anything of things that nobody looks at.
`best_overlap` does: each thing that is at least a patch large is given the object whose masks fit it best, and their
IoU is averaged over the things of all clips (mBO of object discovery, Pont-Tuset et al., arXiv:1503.00848). Objects
that all lie on one thing have one good IoU there, and the rest of the clip has none.
"""

import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Machine, Shards
from dora.config import Frozen, MiniatureVideo, PretrainConfig, Recipe
from dora.data.miniature import World, world_of
from dora.progress import Progress, silent
from dora.seeds import derived_seed

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float64, Int32, Int64, UInt8
    from torch import Tensor

VERSION = 4
CURVE = "covering.json"
N_CLIPS = 24
# Of a small box things often fill nothing: the first of so many boxes is taken in which they fill so much of frame 0.
BOX_TRIES, LEAST_SHARE = 50, 0.1
_drawing = threading.Lock()


class Point(Frozen):
    """How well the masks cover things after so many steps."""

    step: int
    mask_iou: float = Field(description="percent")
    things: float = Field(description="different ones, mean over clips")
    best_overlap: float = Field(description="percent, mean over things")


class Covering(Artifact):
    """A curve over a training; its last point is the finished encoder."""

    points: tuple[Point, ...]


class Overlaps(NamedTuple):
    """How well the masks of a clip's objects fit each thing on its frames."""

    things: "Int64[np.ndarray, 'K']"  # their numbers
    sizes: "Float64[np.ndarray, 'K']"  # patches, mean over frames
    ious: "Float64[np.ndarray, 'O K']"  # 0 to 1


def is_known(recipe: Recipe) -> bool:
    """Whether all footage is rendered, and so what it shows is known."""
    return all(isinstance(video, MiniatureVideo) for video in recipe.videos)


def covering(
    checkpoint: Checkpoint, shards: Sequence[Shards], recipe: Recipe, machine: Machine, *,
    rerun: bool = False, progress: Progress = silent,
) -> Covering:  # fmt: skip
    """The curve of a training on rendered walks: the network that it began with, kept epochs and the end.

    Raises:
        ValueError: for footage that is not rendered.
    """
    if not is_known(recipe):
        raise ValueError("what is on the frames is known of rendered walks only; this recipe has other videos too.")
    worlds = {video.name: world_of(video) for video in recipe.videos if isinstance(video, MiniatureVideo)}

    def make(folder: Path) -> dict[str, Any]:
        points = _points(_kept(checkpoint), [one.folder for one in shards], recipe, worlds, progress)
        (folder / CURVE).write_text(json.dumps([point.model_dump() for point in points], indent=1) + "\n")
        return {}

    inputs: dict[str, Artifact] = {"checkpoint": checkpoint}
    inputs |= {f"shards-{number}": one for number, one in enumerate(shards)}
    asked = {"n_clips": N_CLIPS, "recipe": recipe.model_dump(mode="json")}
    built = cache.build(machine, "covering", VERSION, asked, inputs, make, rerun=rerun)
    points = [Point.model_validate(one) for one in json.loads((built.folder / CURVE).read_bytes())]
    return Covering(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        points=tuple(points),
    )  # fmt: skip


def overlaps(masks: "Bool[Tensor, 'O T h w']", things: "Int32[np.ndarray, 'T y x']") -> Overlaps:
    """IoUs over all frames of a clip; things are numbered from 1, 0 is no thing."""
    import numpy as np
    import torch.nn.functional as F

    names, sizes = np.unique(things, return_counts=True)
    ious: list[np.ndarray] = []
    for of_object in F.interpolate(masks.float(), things.shape[1:], mode="nearest").bool().numpy():
        shared = np.bincount(np.searchsorted(names, things[of_object]), minlength=len(names))
        ious.append(shared / (sizes + np.count_nonzero(of_object) - shared))
    is_thing = names > 0
    in_patches = sizes / things.size * masks[0, 0].numel()
    return Overlaps(names[is_thing], in_patches[is_thing], np.stack(ious)[:, is_thing])


def summary(clips: Sequence[Overlaps], *, step: int) -> Point:
    """What the overlaps of some clips come to."""
    import numpy as np

    of_objects: list[float] = []
    of_things: list[float] = []
    n_fitted: list[int] = []
    for clip in clips:
        fits = clip.ious.max(1, initial=0)
        of_objects += fits.tolist()
        n_fitted.append(len({int(clip.ious[number].argmax()) for number in np.flatnonzero(fits > 0)}))
        of_things += clip.ious[:, clip.sizes >= 1].max(0, initial=0).tolist()
    return Point(
        step=step, mask_iou=100 * float(np.mean(of_objects)), things=float(np.mean(n_fitted)),
        best_overlap=100 * float(np.mean(of_things)) if of_things else 0.0,
    )  # fmt: skip


def _kept(checkpoint: Checkpoint) -> list[Path]:
    """The networks that the training kept of its epochs, the first one first, and the finished ones."""
    return [*sorted((checkpoint.folder / "epochs").glob("epoch-*.safetensors")), checkpoint.path]


def _points(
    files: Sequence[Path], shards: Sequence[Path], recipe: Recipe, worlds: dict[str, World], progress: Progress
) -> list[Point]:
    import numpy as np
    import torch

    from dora.data.clips import Clips
    from dora.data.miniature import render
    from dora.method.dora import draw_heads
    from dora.method.seen import look, tracked
    from dora.method.vit import clip_tokens
    from dora.training.begin import first_student
    from dora.weights.load import load_encoder

    config = recipe.pretrain
    clips = Clips(shards, config.clip)
    starts = sorted({(2 * number + 1) * clips.n_starts // (2 * N_CLIPS) for number in range(N_CLIPS)})
    frames = [clips.read(start) for start in starts]
    truth = [
        np.stack([render(worlds[clips.source(start)], time_s).instances for time_s in clips.times_s(start)])
        for start in starts
    ]
    looked_at = [through_a_box(*pair, config, number) for number, pair in enumerate(zip(frames, truth, strict=True))]
    found: dict[int, Point] = {}
    with _drawing, torch.random.fork_rng(devices=[]):  # this process's generator, which several cells may draw from
        began = first_student(config).backbone.eval()
    for number, path in enumerate([None, *files]):
        progress(number, 1 + len(files), "encoders", "what its masks cover")
        vit = load_encoder(path) if path else began
        see: Callable[[Any], Any] = partial(clip_tokens, vit)
        of_clips: list[Overlaps] = []
        for clip, (pictures, things) in enumerate(looked_at):
            seen = look(see, pictures, short_side=config.augment.global_size, patch_size=vit.patch_embed.patch_size[0])
            # As a training draws them, other heads for every clip.
            heads = draw_heads(len(seen.attention), config.tracking.n_objects, seed=config.seed, step=clip)
            of_clips.append(overlaps(tracked(seen, heads, config.tracking).masks, things))
        step = _step(path) if path else 0
        found[step] = summary(of_clips, step=step)  # the last epoch's networks are the finished ones
    progress(1 + len(files), 1 + len(files), "encoders")
    return sorted(found.values(), key=lambda point: point.step)


def through_a_box(
    frames: "UInt8[np.ndarray, 'T Y X 3']", things: "Int32[np.ndarray, 'T v u']", config: PretrainConfig, clip: int
) -> "tuple[UInt8[np.ndarray, 'T h w 3'], Int32[np.ndarray, 'T y x']]":
    """The same part of a clip's frames and of what is on them."""
    import torch

    from dora.data.draws import crop_boxes

    if config.augment.clip_scale is None:
        return frames, things
    height, width = frames.shape[1:3]
    generator = torch.Generator().manual_seed(derived_seed(config.seed, "covering", clip))
    down, across = things.shape[1] / height, things.shape[2] / width
    parts: list[np.ndarray] = []
    for top, left, h, w in crop_boxes(BOX_TRIES, height, width, config.augment.clip_scale, generator).tolist():
        rows = slice(round(top * down), max(round((top + h) * down), round(top * down) + 1))
        columns = slice(round(left * across), max(round((left + w) * across), round(left * across) + 1))
        parts = [frames[:, top : top + h, left : left + w], things[:, rows, columns]]
        if (parts[1][0] > 0).mean() >= LEAST_SHARE:
            break
    return parts[0], parts[1]


def _step(path: Path) -> int:
    from dora.training.tensor_file import read_tensors

    return int(read_tensors(path, prefix="teacher.backbone.norm")[0]["step"])
