"""What is done about a loss or gradient that is not finite, and what is kept to find out why.

nonfinite/step-00000123/report.json    numbers, rates, the clips and where they are from, which tensors are not finite
nonfinite/step-00000123/batch.jpg      the clips' global views as the networks saw them
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dora.config import PretrainConfig
from dora.data.augment import MEAN, STD
from dora.data.clips import Clips
from dora.data.contact_sheet import clock
from dora.data.order import own_places
from dora.data.stream import batches
from dora.drawing import Row, draw_rows, side_by_side
from dora.seeds import derived_seed

FOLDER = "nonfinite"
MOST_DUMPS, MOST_CLIPS = 5, 16


def after_nonfinite(
    step: int, numbers: Mapping[str, float], config: PretrainConfig, *, n_skipped: int, n_rollbacks: int
) -> Literal["skip", "roll back"]:
    """What to do about a step that is not finite, as were `n_skipped` directly before it, after `n_rollbacks` in all.

    Raises:
        ValueError: if going back has not helped often enough, with what to change.
    """
    if n_skipped < config.watch.max_skipped:
        return "skip"
    if n_rollbacks < config.watch.max_rollbacks:
        return "roll back"
    tried = f" after {n_skipped} steps skipped and {n_rollbacks} times gone back" if n_skipped or n_rollbacks else ""
    raise ValueError(
        f"the loss is {numbers['loss']} and the gradient's norm {numbers['gradient_norm']} at step {step}{tried}. To "
        f"run again would repeat it: lower optimizer.lr_per_256 ({config.optimizer.lr_per_256:g}), lengthen "
        f"optimizer.warmup_epochs ({config.optimizer.warmup_epochs}), or take precision bf16 or fp32 (it is "
        f"{config.precision}). The batches are in {FOLDER}/."
    )


def nothing_learnt(config: PretrainConfig) -> str:
    """What is wrong, and what to change, if a training ends without a finite step."""
    what_to_do = (
        "The scale of fp16's gradients is halved at each step until they do not overflow, and this training is too "
        "short for that: take precision bf16 or fp32, or more steps."
        if config.precision == "fp16"
        else f"See {FOLDER}/, and lower watch.max_skipped ({config.watch.max_skipped}) to hear of it earlier."
    )
    return f"not one step of the last epoch was finite, so that nothing was learnt in it. {what_to_do}"


def nonfinite_names(tensors: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """Which of the named tensors hold a value that is not finite."""
    return [name for name, tensor in tensors if tensor is not None and not torch.isfinite(tensor).all()]


def dump(
    folder: Path, step: int, numbers: Mapping[str, float], clips: Clips, config: PretrainConfig, *,
    shift: int, device: torch.device, names: Sequence[str] = (),
) -> Path | None:  # fmt: skip
    """Keep what a step saw, whole or not at all; None if enough is kept already.

    The views are made again: a clip's position decides all of them. `step` is how many were done before; the folder
    and the report count as the log does, from 1. `shift` is how far the stream of clips was moved on, `names` are those
    of tensors that are not finite (`nonfinite_names`).
    """
    place = folder / FOLDER / f"step-{step + 1:08d}"
    if place.exists() or len([*place.parent.glob("step-*")]) >= MOST_DUMPS:
        return None
    unfinished = place.with_name(f".{place.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    places = [*own_places(len(clips), config, first_step=step, n_steps=step + 1, rank=0, world_size=1, shift=shift)]
    shown = places[:MOST_CLIPS]
    with batches(clips, shown, [len(shown)], config, device=device, n_workers=0) as all_views:
        views = next(all_views)
    times_s = [
        clips.times_s(place.start, clips.cuts(place.start, derived_seed(config.seed, "cuts", place.position)))
        for place in places
    ]
    report: dict[str, Any] = {
        "step": step + 1,
        "numbers": {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()},
        "not_finite": list(names),
        "clips": [
            place._asdict() | {"video": clips.source(place.start), "times_s": moments}
            for place, moments in zip(places, times_s, strict=True)
        ],
    }
    (unfinished / "report.json").write_text(json.dumps(report, indent=1))
    rows = [
        _row(pictures, clips.source(place.start), moments)
        for pictures, place, moments in zip(views.global_views[0], shown, times_s, strict=False)
    ]
    draw_rows(rows).save(unfinished / "batch.jpg", quality=85)
    unfinished.replace(place)
    return place


def _row(clip: Float[Tensor, "T 3 Y X"], video: str, times_s: Sequence[float]) -> Row:
    mean, std = (torch.tensor(colour)[:, None, None] for colour in (MEAN, STD))
    pictures = clip.cpu() * std + mean
    after = tuple(f"{time_s - times_s[0]:+.1f} s" for time_s in times_s)
    return Row(f"{video[:14]} {clock(times_s[0])}", side_by_side(list(pictures)), after)
