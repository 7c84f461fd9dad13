"""Artifacts -> ReportData: read manifests, the training log and the paper's numbers; copy the benchmarks' pictures."""

import json
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Shards, Video
from dora.config import PretrainConfig, Recipe, TrackingConfig, VideoConfig
from dora.data.web import shareable
from dora.training.job import J_PER_KWH, read_log
from eval import benchmark
from eval.benchmark import Cost, Score
from eval.paper import MEASURED, numbers
from eval.report.data import (
    BenchmarkPicture,
    ClassTable,
    ClipPictures,
    Curves,
    Measurement,
    MeasuringCost,
    ReportData,
    RunFacts,
    ScoreRow,
    StageRow,
    Training,
    VideoRow,
)
from eval.report.tables import PARTS, label, number

MAX_CURVE_POINTS = 300
MOST_SAID = 6  # scores in the sentence at the top; of more it tells how many
OBJECTIVES = {"dora": "DoRA", "dino": "DINO", "ibot": "iBOT"}


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
        recipe=shareable(recipe.model_dump(mode="json")) if trained else None,
        scores=rows,
        failures=dict(failures),
        training=read_training(checkpoint.folder, n_prototypes=recipe.pretrain.head.n_prototypes) if trained else None,
        clips=tuple(clips),
        pictures=_copy_pictures(scores, out),
        stages=tuple(stages),
        videos=tuple(map(_video, recipe.videos, videos, shards)),
        measurements=measurements(scores),
    )


def score_rows(scores: Sequence[Score]) -> tuple[ScoreRow, ...]:
    """Every metric of every score, headline first, with the paper's numbers of the same metric."""
    return tuple(
        ScoreRow(
            benchmark=score.benchmark, protocol=score.protocol,
            paper_protocol=score.benchmark in MEASURED
            and score.protocol == benchmark.load(score.benchmark).PROTOCOL,
            metric=metric, headline=metric == score.headline, value=value, n_samples=score.n_samples,
            paper=numbers(score.benchmark, metric), variant=_variant(score),
        )
        for score in scores
        for metric, value in sorted(score.metrics.items(), key=lambda item: item[0] != score.headline)
    )  # fmt: skip


def measurements(scores: Sequence[Score]) -> tuple[Measurement, ...]:
    """What each score says besides its numbers; its folder's log and tables of classes are read if it has them."""
    return tuple(
        Measurement(
            benchmark=score.benchmark, protocol=score.protocol, n_samples=score.n_samples, seconds=score.seconds,
            notes=score.notes + _speed(score.folder), cost=_measuring_cost(score.cost),
            training=_learning(score.folder), classes=read_classes(score),
        )
        for score in scores
    )  # fmt: skip


def read_training(folder: Path, *, n_prototypes: int) -> Training | None:
    """The curves of a checkpoint's log, None if it has no line."""
    columns = _columns(read_log(folder))
    if not columns:
        return None
    return Training(
        **dict(_thinned(columns)),
        uniform_entropy=math.log(n_prototypes),
        clips_per_s=statistics.median(columns["clips_per_s"]) if "clips_per_s" in columns else None,
        data_wait_share=statistics.fmean(columns["data_wait_share"]) if "data_wait_share" in columns else None,
        memory_bytes=int(max(columns["memory_bytes"])) if "memory_bytes" in columns else None,
        energy_kwh=max(columns["energy_j"]) / J_PER_KWH if "energy_j" in columns else None,
    )


def read_classes(score: Score) -> tuple[ClassTable, ...]:
    """The benchmark's numbers for each class, object or sequence, () if it left none.

    A file is a list of rows with a `name`, or the rows by their names; or several such lists by the name of what they
    are of, such as one of several heads: then the list of that which the headline is of counts.
    """
    tables: list[ClassTable] = []
    for file in PARTS:
        if not (score.folder / file).is_file():
            continue
        content = json.loads((score.folder / file).read_bytes())
        if isinstance(content, dict) and all(isinstance(part, list) for part in content.values()):
            quoted = score.metrics[score.headline]
            content = next(
                rows for name, rows in content.items() if score.metrics[f"{score.headline}_{name}"] == quoted
            )
        rows: list[dict[str, Any]] = (
            content if isinstance(content, list) else [{"name": name, **row} for name, row in content.items()]
        )
        names = tuple(dict.fromkeys(name for row in rows for name in row))
        # A share of nothing is null; a class where all are has no object to find and none that was found.
        shares = [name for name in names if any(isinstance(row.get(name), float) for row in rows)]
        kept = [row for row in rows if any(row.get(name) is not None for name in shares)]
        tables.append(
            ClassTable(
                file=file, columns=names, rows=tuple(tuple(row.get(name) for name in names) for row in kept),
                n_left_out=len(rows) - len(kept),
            )
        )  # fmt: skip
    return tuple(tables)


def _variant(score: Score) -> str:
    return score.protocol.removeprefix(benchmark.load(score.benchmark).PROTOCOL).removeprefix("-")


def _measuring_cost(cost: Cost | None) -> MeasuringCost | None:
    return cost and MeasuringCost(**cost.model_dump(exclude={"device_seconds"}), device_hours=cost.device_hours)


def _speed(folder: Path) -> tuple[str, ...]:
    """What a tracker's folder says of how fast it is. Not a metric: another time it is another number."""
    path = folder / "speed.json"
    told = json.loads(path.read_bytes()) if path.is_file() else {}
    return (f"{told['fps']:.1f} frames a second on {told['device']}",) if told.get("fps") else ()


def _learning(folder: Path) -> Curves | None:
    columns = _columns(read_log(folder))
    return _thinned(columns) if "loss" in columns else None


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """What all lines of a log have, step included."""
    names = [name for name in rows[0] if all(name in row for row in rows)] if rows else []
    return {name: [float(row[name]) for row in rows] for name in names}


def _thinned(columns: Mapping[str, Sequence[float]]) -> Curves:
    steps = columns["step"]
    size = -(-len(steps) // MAX_CURVE_POINTS)
    starts = range(0, len(steps), size)
    return Curves(
        steps=tuple(int(steps[min(start + size, len(steps)) - 1]) for start in starts),
        curves={
            name: tuple(statistics.fmean(values[start : start + size]) for start in starts)
            for name, values in columns.items()
            if name != "step"
        },
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
            file = f"pictures/{score.protocol}-{Path(name).name}"
            shutil.copyfile(score.folder / name, out / file)
            copied.append(
                BenchmarkPicture(
                    benchmark=score.benchmark, name=Path(name).stem, file=file, protocol=score.protocol
                )
            )  # fmt: skip
    return tuple(copied)


def _learnt(recipe: Recipe, videos: Sequence[Video], checkpoint: Checkpoint) -> str:
    footage = cache.span(sum(video.duration_s for video in videos))
    of = f"the video {videos[0].name}" if len(videos) == 1 else f"{len(videos)} videos"
    encoder = f"A {recipe.pretrain.backbone.architecture}"
    objective = OBJECTIVES[recipe.pretrain.objective]
    return f"{encoder} learnt from {footage} of {of} with {objective} in {checkpoint.n_steps:,} steps, without a label"


def _given(checkpoint: Checkpoint) -> str:
    return f"The encoder in {checkpoint.path.name} was given as a file"


def _summary(encoder: str, rows: Sequence[ScoreRow]) -> str:
    headlines = [row for row in rows if row.headline]
    if not headlines:
        return f"{encoder}; nothing was measured."
    are_ours = not any(row.paper_protocol for row in headlines)
    if len(headlines) > MOST_SAID:
        share = "all" if are_ours else "some"
        caution = (
            "" if all(row.paper_protocol for row in headlines) else f", {share} by other protocols than the paper's"
        )
        return f"{encoder}; {len(headlines)} benchmarks have measured it{caution}."

    def result(row: ScoreRow) -> str:
        caution = "" if row.paper_protocol or are_ours else f" ({row.variant or 'standard'} protocol)"
        return f"{label(row.metric)} {number(row.value, row.metric)} on {row.benchmark}{caution}"

    caution = ", by other protocols than the paper's" if are_ours else ""
    return f"{encoder}; it scores {' and '.join(map(result, headlines))}{caution}."


def _setting(recipe: Recipe) -> dict[str, str]:
    """The values that a reader asks for first; the whole recipe is in report.json."""
    pretrain: PretrainConfig = recipe.pretrain
    clip, augment, tracking = pretrain.clip, pretrain.augment, pretrain.tracking
    changed = pretrain.backbone.model_dump(exclude_none=True, exclude={"architecture", "image_size", "drop_path_rate"})
    n_views = "one" if augment.n_global_views == 1 else f"{augment.n_global_views}"
    return {
        "encoder": ", ".join(
            [
                pretrain.backbone.architecture,
                *(f"{name.replace('_', ' ')} {value:g}" for name, value in changed.items()),
            ]
        ),
        "frames": f"stored {recipe.shards.fps:g} a second, short side {recipe.shards.short_side} px",
        "clips": f"{clip.n_frames} frames, {clip.gap_s:g} s apart",
        "objective": OBJECTIVES[pretrain.objective],
        "views": f"{n_views} of {augment.global_size} px, "
        f"{augment.n_local_crops} local crops of {augment.local_size} px",
        **({"objects": _objects(tracking)} if pretrain.objective == "dora" else {}),
        "head": f"{pretrain.head.n_prototypes:,} prototypes",
        "training": f"{pretrain.epochs} epochs, {pretrain.clips_per_batch} clips a step, "
        f"{pretrain.precision}, seed {pretrain.seed}",
    }


def _objects(tracking: TrackingConfig) -> str:
    """What the student is shown of a frame besides crops."""
    if tracking.mask == "none":
        return "none: the student sees frames whole"
    if tracking.mask != "tracked":
        kind = {"block": "a random block", "patch": "random patches"}[tracking.mask]
        return f"{tracking.n_objects} a clip, each {kind} of {tracking.kept_share:.0%} of a frame"
    sinkhorn = f"Sinkhorn-Knopp ε {tracking.sinkhorn_epsilon:g}, {tracking.sinkhorn_iterations} iterations"
    return f"{tracking.n_objects} a clip, {sinkhorn if tracking.refine else 'not refined'}"
