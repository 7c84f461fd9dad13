"""GOT-10k's one-pass evaluation: a tracker gets each sequence's first box, runs through once, and is measured.

In the benchmark's folder it leaves, beside the toolkit's own files (eval/trackers/results.py):

    sequences.json   a list with a row for each sequence: name, class, frames, counted (frames that count), AO, SR_0.50,
                     SR_0.75, AO_still_box; percent, null where no frame counts
    success.json     thresholds (of the IoU, 0 to 1), tracker and still_box: percent of the frames above each
    speed.json       fps, frames, seconds, device: frames a second of tracking alone
    got10k.jpg       contact sheet: the truth green, the tracker orange
    success.png      the curves of success.json
    films/*.mp4      all sequences if they are few, else some spread over all

Numbers are of the files that were written, as the toolkit's are: read back, they are the same. A sequence that is
complete in the folder is not tracked again, so a run that is killed goes on to the same bytes; only seconds differ.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from dora.artifacts import Machine
from dora.cache import span
from dora.launch import Interrupted
from dora.progress import Progress
from eval.benchmark import Result
from eval.finetune.records import measure_each
from eval.finetune.team import Team
from eval.images import read_ahead, read_video_frame
from eval.pictures import evenly
from eval.trackers import overlap, pictures, results, sequences
from eval.trackers.sequences import WITHOUT_TRUTH
from eval.trackers.tracker import Tracker

log = logging.getLogger("dora.got10k")

SEQUENCES, SUCCESS, SPEED, SHEET, PLOT, FILMS = (
    "sequences.json", "success.json", "speed.json", "got10k.jpg", "success.png", "films"
)  # fmt: skip
MOST_FILMS = 12
PROGRESS_EVERY_S = 1.0


def one_pass_evaluation(
    tracker: Tracker, machine: Machine, out: Path, team: Team, progress: Progress, *, data: Path, subset: str,
    name: str, whole_pixels: bool, max_broken_share: float,
) -> Result:  # fmt: skip
    """AO, SR_0.50 and SR_0.75 of a tracker called `name`, in percent; AO_still_box is that of the first box, unmoved.

    Of the test subset, whose truth is with its server, no metric but the zip that the server takes, with boxes rounded
    to `whole_pixels` if so asked. The sequences are shared by the team; rank 0 alone has the result. Sequences with a
    frame that cannot be read, up to `max_broken_share` of all, count for nothing.

    Raises:
        Interrupted: if asked to stop; what is complete is kept.
        FileNotFoundError, ValueError: for data that is not there or contradicts itself; more broken sequences; or if
            no frame counts.
        OSError: if `out` cannot be written.
    """
    folder = results.results_folder(out, name)
    videos = [sequences.read_sequence(data, subset, one) for one in sequences.listed(data, subset)]
    tell = _teller(videos, folder, team, progress)

    def work(number: int) -> int:
        video = videos[number]
        if not results.is_written(folder, video.name):
            boxes, seconds = _track(tracker, video, machine, team, tell)
            results.write_results(folder, video.name, boxes, seconds)
        return len(video.frames)

    measured = measure_each(out, len(videos), work, team, max_broken_share=max_broken_share)
    if team.ranks.rank:
        return Result({}, (), n_samples=0)
    tracked = [_tracked(videos[number], folder) for number in sorted(measured.records)]
    done = [videos[number] for number in sorted(measured.records)]
    _write_speed(out, folder, done, team)
    notes = measured.notes + _notes(done)
    if subset == WITHOUT_TRUTH:
        zipped = results.write_submission(folder, [video.name for video in done], whole_pixels=whole_pixels)
        notes += (f"the truth of the {subset} subset is with GOT-10k's server: upload {zipped.relative_to(out)}",)
        metrics, drawn = {}, (SHEET,)
        n = sum(len(video.frames) for video in done)
    else:
        metrics, n = _measures(out, done, tracked)
        drawn = (SHEET, PLOT)
    pictures.write_contact_sheet(out / SHEET, tracked)
    _write_films(out / FILMS, tracked, team)
    total = sum(len(video.frames) for video in videos)
    progress(total, total, "frames")
    return Result(metrics, drawn, n_samples=n, notes=notes, cost=team.cost())


def follow_all(
    tracker: Tracker, video: sequences.Sequence, machine: Machine, look: Callable[[], None]
) -> tuple[Float64[np.ndarray, "T 4"], Float64[np.ndarray, "T"]]:
    """The box in each frame, and the seconds that the tracker took for it: decoding, which runs ahead, apart.

    The first box is the one that is given. One without an area cannot be followed and stays where it is. `look` is
    called after each frame.
    """
    boxes = np.repeat(video.boxes[:1], len(video.frames), axis=0)
    seconds = np.zeros(len(video.frames))
    if not _has_area(video):
        return boxes, seconds
    for t, frame in enumerate(read_ahead(read_video_frame, video.frames, n_threads=machine.n_workers)):
        began_at = time.perf_counter()
        if t:
            boxes[t] = tracker.follow(frame)
        else:
            tracker.start(frame, boxes[0].copy())
        seconds[t] = time.perf_counter() - began_at
        look()
    return boxes, seconds


def _track(
    tracker: Tracker, video: sequences.Sequence, machine: Machine, team: Team, tell: Callable[[str], None]
) -> tuple[Float64[np.ndarray, "T 4"], Float64[np.ndarray, "T"]]:
    def look() -> None:
        tell(video.name)
        if team.should_stop():
            raise Interrupted

    return follow_all(tracker, video, machine, look)


def _has_area(video: sequences.Sequence) -> bool:
    return bool((video.boxes[0, 2:] > 0).all())


def _teller(
    videos: Sequence[sequences.Sequence], folder: Path, team: Team, progress: Progress
) -> Callable[[str], None]:
    """Tells how far the whole team is, about once a second, and when it will be done."""
    total = sum(len(video.frames) for video in videos)
    before = sum(len(video.frames) for video in videos if results.is_written(folder, video.name))
    began_at, told_at, own = time.monotonic(), 0.0, 0

    def tell(name: str) -> None:
        nonlocal told_at, own
        own += 1
        now = time.monotonic()
        if team.ranks.rank or now - told_at < PROGRESS_EVERY_S:
            return
        done = min(total, before + own * team.ranks.world_size)  # the others are about as far
        eta_s = (total - done) * (now - began_at) / max(1, done - before)
        progress(done, total, "frames", f"{name}, eta {span(eta_s)}")
        told_at = now

    return tell


def _tracked(video: sequences.Sequence, folder: Path) -> pictures.Tracked:
    found = results.read_results(folder, video.name, n_frames=len(video.frames))
    overlaps = None if video.cover is None else overlap.iou(found, video.boxes, size=video.size)
    caption = f"{video.name} ({video.kind})" if video.kind else video.name
    if video.cover is not None and overlaps is not None and overlap.counted(video.cover).any():
        caption += f": AO {100 * overlap.scores(overlaps[overlap.counted(video.cover)]).AO:.1f}"
    return pictures.Tracked(video.name, caption, video.frames, video.boxes, found, overlaps)


def _measures(
    out: Path, videos: Sequence[sequences.Sequence], tracked: Sequence[pictures.Tracked]
) -> tuple[dict[str, float], int]:
    """The metrics, and how many frames they are of; writes what is to be known about single sequences."""
    ours: list[np.ndarray] = []
    still: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for video, track in zip(videos, tracked, strict=True):
        assert video.cover is not None and track.overlaps is not None
        counts = overlap.counted(video.cover)
        unmoved = np.repeat(video.boxes[:1], len(video.frames), axis=0)
        ours.append(track.overlaps[counts])
        still.append(overlap.iou(unmoved, video.boxes, size=video.size)[counts])
        row = {"name": video.name, "class": video.kind, "frames": len(video.frames), "counted": int(counts.sum())}
        rows.append(row | {metric: _or_null(value) for metric, value in _percent(ours[-1], still[-1]).items()})
    overlaps, unmoved = np.concatenate(ours), np.concatenate(still)
    if not overlaps.size:
        raise ValueError(
            f"no frame of {len(videos)} sequences counts: each has one frame, or its thing is hidden in all others."
        )
    curves = {"tracker": overlap.success_curve(overlaps) * 100, "still_box": overlap.success_curve(unmoved) * 100}
    told = {"thresholds": overlap.THRESHOLDS.tolist()} | {one: curve.tolist() for one, curve in curves.items()}
    (out / SEQUENCES).write_text(json.dumps(rows, indent=1))
    (out / SUCCESS).write_text(json.dumps(told, indent=1))
    metrics = _percent(overlaps, unmoved)
    labels = (f"tracker: AO {metrics['AO']:.1f}", f"first box, unmoved: AO {metrics['AO_still_box']:.1f}")
    pictures.write_success_plot(out / PLOT, overlap.THRESHOLDS, list(zip(labels, curves.values(), strict=True)))
    return metrics, len(overlaps)


def _percent(ours: Float64[np.ndarray, "N"], still: Float64[np.ndarray, "N"]) -> dict[str, float]:
    found = overlap.scores(ours)
    shares = {"AO": found.AO, "SR_0.50": found.SR_50, "SR_0.75": found.SR_75, "AO_still_box": overlap.scores(still).AO}
    return {name: 100 * share for name, share in shares.items()}


def _or_null(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _notes(videos: Sequence[sequences.Sequence]) -> tuple[str, ...]:
    empty = [video.name for video in videos if not _has_area(video)]
    if not empty:
        return ()
    return (f"{len(empty)} sequences begin with a box without an area, which stayed unmoved; the first is {empty[0]}",)


def _write_speed(out: Path, folder: Path, videos: Sequence[sequences.Sequence], team: Team) -> None:
    """Of the frames after each first, as the tracker's files of seconds have them."""
    taken = [results.read_seconds(folder, video.name)[1:] for video in videos if _has_area(video)]
    seconds, n = float(sum(one.sum() for one in taken)), sum(map(len, taken))
    fps = n / seconds if seconds else None
    told = {"fps": fps, "frames": n, "seconds": seconds, "device": team.cost().device}
    (out / SPEED).write_text(json.dumps(told, indent=1))
    if fps:
        log.info("%.1f frames a second of tracking alone, on %s", fps, told["device"])


def _write_films(folder: Path, tracked: Sequence[pictures.Tracked], team: Team) -> None:
    folder.mkdir(exist_ok=True)
    for track in (tracked[i] for i in evenly(len(tracked), MOST_FILMS)):
        path = folder / f"{track.name}.mp4"
        if not path.exists():
            pictures.write_track_film(path, track)
        if team.should_stop():
            raise Interrupted
