"""Artifacts -> ReportData: read manifests, the training log and the paper's numbers; copy the benchmarks' pictures."""

import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Shards, Video
from dora.config import PretrainConfig, Recipe, VideoConfig
from dora.training.job import read_log
from eval import benchmark
from eval.benchmark import Score
from eval.paper import numbers
from eval.report.data import (
    BenchmarkPicture,
    ClipPictures,
    ReportData,
    RunFacts,
    ScoreRow,
    StageRow,
    Training,
    VideoRow,
)
from eval.report.tables import label, number

MAX_CURVE_POINTS = 300


def collect(
    recipe: Recipe, videos: Sequence[Video], shards: Sequence[Shards], checkpoint: Checkpoint, scores: Sequence[Score],
    *, failures: Mapping[str, str], run: RunFacts, clips: Sequence[ClipPictures], out: Path,
) -> ReportData:  # fmt: skip
    """Everything that the report of one run says. The benchmarks' pictures are copied into `out`."""
    trained = bool(shards)  # in this chain, by this recipe; otherwise the checkpoint is a file that was given
    stages = [_stage("video", video.name, video) for video in videos]
    stages += [_stage("shards", made.name, made) for made in shards]
    stages += [_stage("checkpoint", recipe.pretrain.backbone.architecture, checkpoint)] if trained else []
    stages += [_stage("score", score.benchmark, score) for score in scores]
    rows = score_rows(scores)
    return ReportData(
        title=f"DoRA: {run.name}",
        summary=_summary(_learnt(recipe, videos, checkpoint) if trained else _given(checkpoint), rows),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        run=run,
        setting=_setting(recipe) if trained else {"encoder": str(checkpoint.path), "sha256": checkpoint.digest},
        recipe=recipe.model_dump(mode="json") if trained else None,
        scores=rows,
        failures=dict(failures),
        training=read_training(checkpoint.folder, n_prototypes=recipe.pretrain.head.n_prototypes) if trained else None,
        clips=tuple(clips),
        pictures=_copy_pictures(scores, out),
        stages=tuple(stages),
        videos=tuple(map(_video, recipe.videos, videos, shards)),
    )


def score_rows(scores: Sequence[Score]) -> tuple[ScoreRow, ...]:
    """Every metric of every score, headline first, with the paper's numbers of the same metric."""
    return tuple(
        ScoreRow(
            benchmark=score.benchmark, protocol=score.protocol,
            paper_protocol=score.protocol == benchmark.load(score.benchmark).PROTOCOL,
            metric=metric, headline=metric == score.headline, value=value, n_samples=score.n_samples,
            paper=numbers(score.benchmark, metric),
        )
        for score in scores
        for metric, value in sorted(score.metrics.items(), key=lambda item: item[0] != score.headline)
    )  # fmt: skip


def read_training(folder: Path, *, n_prototypes: int) -> Training | None:
    """The curves of a checkpoint's log, None if it has no line."""
    rows = read_log(folder)
    if not rows:
        return None
    names = [name for name in rows[0] if name != "step" and all(name in row for row in rows)]
    columns = {name: [float(row[name]) for row in rows] for name in names}
    size = -(-len(rows) // MAX_CURVE_POINTS)
    starts = range(0, len(rows), size)
    return Training(
        steps=tuple(int(rows[min(start + size, len(rows)) - 1]["step"]) for start in starts),
        curves={
            name: tuple(statistics.fmean(c[start : start + size]) for start in starts) for name, c in columns.items()
        },
        uniform_entropy=math.log(n_prototypes),
        clips_per_s=statistics.median(columns["clips_per_s"]) if "clips_per_s" in columns else None,
        data_wait_share=statistics.fmean(columns["data_wait_share"]) if "data_wait_share" in columns else None,
        memory_bytes=int(max(columns["memory_bytes"])) if "memory_bytes" in columns else None,
    )


def _stage(stage: str, name: str, artifact: Artifact) -> StageRow:
    manifest = cache.read_manifest(artifact.folder)
    if manifest is None:
        raise FileNotFoundError(f"no manifest in {artifact.folder}: the artifact was removed meanwhile. Run again.")
    return StageRow(
        stage=stage, name=name, reused=artifact.reused, seconds=manifest.seconds, size_bytes=cache.size_bytes(manifest),
        host=manifest.host, gpu=manifest.gpu, created=manifest.created, fingerprint=artifact.fingerprint,
        digest=artifact.digest, version=manifest.version,
        inputs={name: made_from.fingerprint for name, made_from in manifest.inputs.items()},
        commit=manifest.commit, libraries=manifest.libraries,
    )  # fmt: skip


def _video(config: VideoConfig, video: Video, made: Shards) -> VideoRow:
    faces = f"{made.n_faces:,} in the stored frames, found by {made.faces}" if made.faces != "none" else "none"
    return VideoRow(
        name=video.name, duration_s=video.duration_s, n_frames=video.n_frames, fps=video.fps, width=video.width,
        height=video.height, size_bytes=video.path.stat().st_size, sha256=video.sha256,
        source=video.source, n_bad_frames=made.n_bad_frames,
        faces_blurred="rendered, no real faces" if config.kind == "miniature" else faces,
    )  # fmt: skip


def _copy_pictures(scores: Sequence[Score], out: Path) -> tuple[BenchmarkPicture, ...]:
    (out / "pictures").mkdir(exist_ok=True)
    copied: list[BenchmarkPicture] = []
    for score in scores:
        for name in score.pictures:
            file = f"pictures/{score.benchmark}-{Path(name).name}"
            shutil.copyfile(score.folder / name, out / file)
            copied.append(BenchmarkPicture(benchmark=score.benchmark, name=Path(name).stem, file=file))
    return tuple(copied)


def _learnt(recipe: Recipe, videos: Sequence[Video], checkpoint: Checkpoint) -> str:
    footage = cache.span(sum(video.duration_s for video in videos))
    of = f"the video {videos[0].name}" if len(videos) == 1 else f"{len(videos)} videos"
    encoder = f"A {recipe.pretrain.backbone.architecture}"
    return f"{encoder} learnt from {footage} of {of} with DoRA in {checkpoint.n_steps:,} steps, without a label"


def _given(checkpoint: Checkpoint) -> str:
    return f"The encoder in {checkpoint.path.name} was given as a file"


def _summary(encoder: str, rows: Sequence[ScoreRow]) -> str:
    headlines = [row for row in rows if row.headline]
    if not headlines:
        return f"{encoder}; nothing was measured."
    results = " and ".join(f"{label(row.metric)} {number(row.value)} on {row.benchmark}" for row in headlines)
    caution = "" if any(row.paper_protocol for row in headlines) else ", by other protocols than the paper's"
    return f"{encoder}; it scores {results}{caution}."


def _setting(recipe: Recipe) -> dict[str, str]:
    """The values that a reader asks for first; the whole recipe is in report.json."""
    pretrain: PretrainConfig = recipe.pretrain
    clip, augment, tracking = pretrain.clip, pretrain.augment, pretrain.tracking
    changed = pretrain.backbone.model_dump(exclude_none=True, exclude={"architecture", "image_size", "drop_path_rate"})
    sinkhorn = f"Sinkhorn-Knopp ε {tracking.sinkhorn_epsilon:g}, {tracking.sinkhorn_iterations} iterations"
    return {
        "encoder": ", ".join(
            [
                pretrain.backbone.architecture,
                *(f"{name.replace('_', ' ')} {value:g}" for name, value in changed.items()),
            ]
        ),
        "frames": f"stored {recipe.shards.fps:g} a second, short side {recipe.shards.short_side} px",
        "clips": f"{clip.n_frames} frames, {clip.gap_s:g} s apart",
        "views": f"one of {augment.global_size} px, {augment.n_local_crops} local crops of {augment.local_size} px",
        "objects": f"{tracking.n_objects} a clip, {sinkhorn if tracking.refine else 'not refined'}",
        "head": f"{pretrain.head.n_prototypes:,} prototypes",
        "training": f"{pretrain.epochs} epochs, {pretrain.clips_per_batch} clips a step, "
        f"{pretrain.precision}, seed {pretrain.seed}",
    }
