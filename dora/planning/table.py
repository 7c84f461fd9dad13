"""A plan as text: what a recipe takes, and how long on this machine and on others."""

from collections.abc import Iterator

from dora.cache import human_size, span
from dora.config import Recipe
from dora.planning.amounts import Amounts
from dora.planning.probe import Speeds
from dora.training.flops import PEAK_FLOPS

GPUS = ("A100", "H100", "RTX 4090")
SUSTAINED = 0.3  # of its peak, when it trains a ViT-S: taken to be so


def amounts_table(recipe: Recipe, found: Amounts) -> Iterator[str]:
    """What can be counted: one line a video, then the sums."""
    yield f"{'video':14} {'length':>8} {'pictures/s':>10} {'stored':>9} {'size':>9} {'tars':>5} {'clips':>8}   known"
    for one in found.videos:
        yield (
            f"{one.known.name:14} {span(one.known.duration_s):>8} {one.known.fps:10.4g} {one.n_frames:9,} "
            f"{one.width:>4}x{one.height:<4} {one.n_tars:5} {one.n_starts:8,}   {one.known.source}"
        )
    config = recipe.pretrain
    yield ""
    yield (
        f"frames     {sum(one.n_frames for one in found.videos):,} stored in "
        f"{sum(one.n_tars for one in found.videos)} tars, about {human_size(found.size_bytes)}"
    )
    yield f"clips      {found.n_starts:,} of {config.clip.n_frames} frames, {config.clip.gap_s:g} s apart"
    yield (
        f"steps      {found.steps_per_epoch:,} an epoch, {found.n_steps:,} in {config.epochs} epochs of "
        f"{config.clips_per_batch} clips a step"
    )
    yield f"seen       {found.n_clips:,} clips: each start {found.n_clips / found.n_starts:.3g} times"


def speeds_table(found: Amounts, speeds: Speeds, *, n_devices: int) -> Iterator[str]:
    """Hours on this machine, from what was measured on it."""
    shard_s = found.n_source_frames / speeds.pictures_per_s
    train_s = found.n_clips / (speeds.clips_trained_per_s * n_devices)
    need = speeds.clips_trained_per_s * n_devices / speeds.clips_read_per_s
    rate = f"{speeds.pictures_per_s:.3g} pictures a second"
    yield f"sharding   {span(shard_s)}: {rate}, {speeds.n_cores} cores ({speeds.film})"
    yield f"reading    {speeds.clips_read_per_s:.3g} clips a second and process; training wants {need:.2g} of them busy"
    devices = f"{n_devices} x {speeds.device}" if n_devices > 1 else speeds.device
    yield f"training   {span(train_s)}: {speeds.clips_trained_per_s:.3g} clips a second and device ({devices})"
    if speeds.on_gpu:
        yield f"GPU-hours  {train_s * n_devices / 3600:,.0f} of this kind"


def gpu_table(found: Amounts, flops_per_clip: float) -> Iterator[str]:
    """Hours on GPUs that are not here: arithmetic, and said to be."""
    total = flops_per_clip * found.n_clips
    yield f"work       {flops_per_clip / 1e9:,.0f} GFLOP a clip, {total / 1e18:,.3g} EFLOP in all"
    hours = gpu_hours(found, flops_per_clip)
    told = ", ".join(f"{name} {span(3600 * value)}" for name, value in hours.items())
    yield f"one GPU    {told}: by arithmetic, at {100 * SUSTAINED:.0f} % of the bf16 peak, not measured"


def gpu_hours(found: Amounts, flops_per_clip: float) -> dict[str, float]:
    """Hours of the whole training on one GPU of each kind, by arithmetic."""
    total = flops_per_clip * found.n_clips
    return {name: total / (PEAK_FLOPS[name] * SUSTAINED) / 3600 for name in GPUS}
