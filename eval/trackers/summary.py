"""What is left in the folder of a one-pass evaluation once all is tracked: numbers, pictures, films, the zip.

    sequences.json   a list with a row for each sequence: name, class, frames, counted (frames that count), AO, SR_0.50,
                     SR_0.75, AO_still_box; percent, null where no frame counts
    success.json     thresholds (of the IoU, 0 to 1), tracker and still_box: percent of the frames above each
    speed.json       fps, frames, seconds, device: frames a second of tracking alone, in one process
    got10k.jpg       contact sheet: the truth green, the tracker orange
    success.png      the curves of success.json
    films/*.mp4      all sequences if they are few, else some spread over all

Numbers are of the files that were written, as the toolkit's are: read back, they are the same.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from eval.pictures import evenly
from eval.trackers import overlap, pictures, results
from eval.trackers.sequences import Sequence as Video

log = logging.getLogger("dora.got10k")

SEQUENCES, SUCCESS, SPEED, SHEET, PLOT, FILMS = (
    "sequences.json", "success.json", "speed.json", "got10k.jpg", "success.png", "films"
)  # fmt: skip
MOST_FILMS = 6


class Measures(NamedTuple):
    """The metrics in percent, and how many frames they are of."""

    metrics: dict[str, float]
    n_frames: int


def tracked(video: Video, folder: Path) -> pictures.Tracked:
    """A sequence with what the tracker's `folder` says of it."""
    found = results.read_results(folder, video.name, n_frames=len(video.frames))
    overlaps = None if video.cover is None else overlap.iou(found, video.boxes, size=video.size)
    caption = f"{video.name} ({video.kind})" if video.kind else video.name
    if video.cover is not None and overlaps is not None and overlap.counted(video.cover).any():
        caption += f": AO {100 * overlap.scores(overlaps[overlap.counted(video.cover)]).AO:.1f}"
    return pictures.Tracked(video.name, caption, video.frames, video.boxes, found, overlaps)


def measure(out: Path, videos: Sequence[Video], tracks: Sequence[pictures.Tracked]) -> Measures:
    """AO and SR of all sequences together, and AO_still_box; writes those of each, and the success curve.

    Raises:
        ValueError: if no frame counts.
    """
    ours: list[np.ndarray] = []
    still: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for video, track in zip(videos, tracks, strict=True):
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
    return Measures(metrics, len(overlaps))


def _percent(ours: Float64[np.ndarray, "N"], still: Float64[np.ndarray, "N"]) -> dict[str, float]:
    found = overlap.scores(ours)
    shares = {"AO": found.AO, "SR_0.50": found.SR_50, "SR_0.75": found.SR_75, "AO_still_box": overlap.scores(still).AO}
    return {name: 100 * share for name, share in shares.items()}


def _or_null(value: float) -> float | None:
    return value if np.isfinite(value) else None


def write_speed(out: Path, folder: Path, videos: Sequence[Video], *, device: str) -> None:
    """Frames a second of the frames after each first, by the tracker's own files of seconds.

    The clock runs while the tracker has the frame: decoding is apart, though it may run on the same cores meanwhile.
    """
    taken = [results.read_seconds(folder, video.name)[1:] for video in videos if video.can_be_followed]
    seconds, n = float(sum(one.sum() for one in taken)), sum(map(len, taken))
    fps = n / seconds if seconds else None
    (out / SPEED).write_text(json.dumps({"fps": fps, "frames": n, "seconds": seconds, "device": device}, indent=1))
    if fps:
        log.info("%.1f frames a second of tracking alone, on %s", fps, device)


def write_films(out: Path, tracks: Sequence[pictures.Tracked]) -> Iterator[str]:
    """The film's name in `out`, of a few sequences spread over all; one that is there already is left as it is."""
    (out / FILMS).mkdir(exist_ok=True)
    for track in (tracks[i] for i in evenly(len(tracks), MOST_FILMS)):
        name = f"{FILMS}/{track.name}.mp4"
        if not (out / name).exists():
            pictures.write_track_film(out / name, track)
        yield name
