"""GOT-10k's one-pass evaluation: a tracker gets each sequence's first box, runs through once, and is measured.

In the benchmark's folder are then the toolkit's own files (eval/trackers/results.py) and what they amount to
(eval/trackers/summary.py). A sequence that is complete in the folder is not tracked again, so a run that is killed goes
on to the same bytes; only seconds differ.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from dora.artifacts import Machine
from dora.cache import span
from dora.data.ahead import read_ahead
from dora.launch import Interrupted
from dora.progress import Progress
from eval.benchmark import Result
from eval.finetune.records import measure_each
from eval.finetune.team import Team
from eval.images import read_video_frame
from eval.trackers import pictures, results, sequences, summary
from eval.trackers.sequences import WITHOUT_TRUTH
from eval.trackers.sequences import Sequence as Video
from eval.trackers.tracker import Tracker

PROGRESS_EVERY_S = 1.0


class Run(NamedTuple):
    """A tracker's way through one sequence."""

    boxes: Float64[np.ndarray, "T 4"]
    seconds: Float64[np.ndarray, "T"]  # of the tracker alone: decoding, which runs ahead, is apart


def one_pass_evaluation(
    tracker: Tracker, machine: Machine, out: Path, team: Team, progress: Progress, *, data: Path, subset: str,
    name: str, whole_pixels: bool, max_broken_share: float, notes: Sequence[str] = (),
) -> Result:  # fmt: skip
    """AO, SR_0.50 and SR_0.75 of a tracker called `name`, in percent; AO_still_box is that of the first box, unmoved.

    Of the test subset, whose truth is with its server, no metric but the zip that the server takes, with boxes cut
    to `whole_pixels` if so asked. The sequences are shared by the team; rank 0 alone has the result. Sequences with a
    frame that cannot be read, up to `max_broken_share` of all, count for nothing. `notes` come first in the result's.

    Raises:
        Interrupted: if asked to stop; what is complete is kept.
        FileNotFoundError, ValueError: for data that is not there or contradicts itself; more broken sequences; or if
            no frame counts.
        OSError: if `out` cannot be written.
    """
    folder = results.results_folder(out, name)
    videos = [sequences.read_sequence(data, subset, one) for one in sequences.listed(data, subset)]
    tell = _teller(videos, folder, team, progress)

    def look(number: int) -> None:
        tell(videos[number].name)
        team.tell(number)  # a video may take longer than a silent process is waited for
        if team.should_stop():
            raise Interrupted

    def work(number: int) -> int:
        video = videos[number]
        if not results.is_written(folder, video.name):
            run = follow_all(tracker, video, n_threads=machine.n_workers, look=lambda: look(number))
            results.write_results(folder, video.name, run.boxes, run.seconds)
        return len(video.frames)

    measured = measure_each(out, len(videos), work, team, max_broken_share=max_broken_share, what="video")
    if team.ranks.rank:
        return Result({}, (), n_samples=0)
    done = [videos[number] for number in measured.records]
    if not done:
        raise ValueError(f"none of the {len(videos)} sequences of {data / subset} could be read. Unpack them again.")
    tracks = [summary.tracked(video, folder) for video in done]
    metrics, n, shown = {}, sum(len(video.frames) for video in done), [summary.SHEET]
    said = [*notes, *measured.notes, *_unmoved(done)]
    if subset == WITHOUT_TRUTH:
        zipped = results.write_submission(folder, [video.name for video in done], whole_pixels=whole_pixels)
        said.append(f"the truth of the test subset is with GOT-10k's server: upload {zipped.relative_to(out)}")
    else:
        metrics, n = summary.measure(out, done, tracks)
        shown.append(summary.PLOT)
    summary.write_speed(out, folder, done, device=team.cost().device)
    pictures.write_contact_sheet(out / summary.SHEET, tracks)
    for film in summary.write_films(out, tracks):
        shown.append(film)
        if team.should_stop():
            raise Interrupted
    total = sum(len(video.frames) for video in videos)
    progress(total, total, "frames")
    return Result(metrics, tuple(shown), n_samples=n, notes=tuple(said), cost=team.cost())


def follow_all(tracker: Tracker, video: Video, *, n_threads: int, look: Callable[[], None]) -> Run:
    """The tracker's box in each frame; frames are read ahead by `n_threads`, and `look` is called after each.

    The first box is the one that is given. One without an area cannot be followed and stays where it is.

    Raises:
        ValueError: for a frame that cannot be read.
    """
    boxes = np.repeat(video.boxes[:1], len(video.frames), axis=0)
    seconds = np.zeros(len(video.frames))
    if not video.can_be_followed:
        return Run(boxes, seconds)
    for t, frame in enumerate(read_ahead(read_video_frame, video.frames, n_threads=n_threads)):
        began_at = time.perf_counter()
        if t:
            boxes[t] = tracker.follow(frame)
        else:
            tracker.start(frame, boxes[0].copy())
        seconds[t] = time.perf_counter() - began_at
        look()
    return Run(boxes, seconds)


def _teller(videos: Sequence[Video], folder: Path, team: Team, progress: Progress) -> Callable[[str], None]:
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


def _unmoved(videos: Sequence[Video]) -> tuple[str, ...]:
    empty = [video.name for video in videos if not video.can_be_followed]
    if not empty:
        return ()
    return (f"{len(empty)} sequences begin with a box without an area, which stayed unmoved; the first is {empty[0]}",)
