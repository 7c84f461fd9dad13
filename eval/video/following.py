"""One DAVIS sequence from its frames to its result PNGs, scores and film: the network goes ahead of all the rest.

Each frame's labels are drawn, written, scored and filmed by other threads while the next frames are being propagated.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.data.ahead import read_ahead
from dora.data.labelled.files import write_labels
from dora.film import write_film
from eval.features import patch_features, patch_size
from eval.images import read_labels, read_palette, read_video_frame, resized
from eval.pictures import overlay
from eval.propagation import grid_labels, label_map, network_size, propagate
from eval.region_contour import FrameScore, SequenceScore, count_objects, require_objects, score_frame, sequence_score
from eval.video.how import Propagation
from eval.video.sequences import Sequence, first_labels

RESULTS, FILMS, UNFINISHED = "results", "films", ".unfinished"
# The red channel's 0.228 is what DINO's script has, where everything else has 0.229.
STD = (0.228, 0.224, 0.225)
# Bounds memory; frames are independent, so it changes no score.
FRAMES_PER_BATCH = 8
FILM_FPS = 24.0  # as DAVIS' videos are shown

Record = dict[str, Any]  # of a sequence, fit for JSON: J and F by frame and object, n_objects, lost


class Given(NamedTuple):
    """What is known of a sequence before it starts."""

    labels: UInt8[np.ndarray, "Y X"]
    palette: list[int]
    grid: Float[Tensor, "h w C"]  # the same at patch resolution
    patch: int
    size: tuple[int, int]  # height and width that the network sees


class Finished(NamedTuple):
    """A frame when all is done with it."""

    score: FrameScore
    picture: UInt8[np.ndarray, "Y X 3"]


def follow(
    vit: VisionTransformer,
    sequence: Sequence,
    how: Propagation,
    out: Path,
    *,
    n_threads: int,
    told: Callable[[int], None],
) -> Record:
    """Scores of a sequence; leaves its PNGs in results/ and its film in films/.

    PNGs that are complete are not made again. `told` hears each frame's number when that frame is finished, and may
    raise to stop here: then nothing is left of the sequence.

    Raises:
        ValueError: for a frame or annotation that cannot be read, or has another size; it names the sequence.
    """
    given, results = _given(vit, sequence, how), out / RESULTS / sequence.name
    unfinished = None if results.exists() else _new_folder(out / UNFINISHED / sequence.name)
    n_objects, scores = count_objects(given.labels), list[FrameScore]()

    def finish(item: tuple[int, Tensor | None]) -> Finished:
        t, soft = item
        path = (unfinished or results) / sequence.annotations[t].name
        if unfinished is None:
            labels = read_labels(path)
        else:
            height, width = given.labels.shape
            drawn = None if soft is None else label_map(soft, patch_size=given.patch, size=(height, width))
            labels = given.labels if drawn is None else drawn
            write_labels(path, labels, given.palette)
        truth, photo = read_labels(sequence.annotations[t]), read_video_frame(sequence.photos[t])
        try:
            if 0 < t < len(sequence.annotations) - 1:
                require_objects(t, labels, n_objects=n_objects)
            score = score_frame(t, truth, labels, n_objects=n_objects)
        except ValueError as error:
            raise ValueError(f"davis, sequence {sequence.name}: {error}") from None
        if photo.shape[:2] != truth.shape:
            raise ValueError(f"{sequence.photos[t]} is {photo.shape[:2]} pixels, its annotation {truth.shape}.")
        return Finished(score, drawn_frame(photo, truth, labels, given.palette, f"{sequence.name} {path.stem}", score))

    def pictures() -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
        waiting = _labels(vit, sequence, given, how, n_threads) if unfinished else _none(sequence)
        for t, finished in enumerate(read_ahead(finish, waiting, n_threads=max(1, n_threads))):
            scores.append(finished.score)
            told(t)
            yield finished.picture

    (out / FILMS).mkdir(exist_ok=True)
    write_film(out / FILMS / f"{sequence.name}.mp4", pictures(), fps=FILM_FPS)
    if unfinished:
        # Renamed when complete: what is in results need not be done again after an interruption.
        results.parent.mkdir(exist_ok=True)
        unfinished.rename(results)
    lost = set(np.unique(given.labels).tolist()) - set(given.grid.flatten(0, 1).argmax(1).tolist())
    return {"J": [s.J for s in scores], "F": [s.F for s in scores], "n_objects": n_objects, "lost": sorted(lost)}


def scores_of(record: Record) -> SequenceScore:
    """J and F in the frames that are evaluated, from what `follow` has said."""
    frames = [FrameScore(J, F) for J, F in zip(record["J"], record["F"], strict=True)]
    return sequence_score(frames[1:-1], n_objects=record["n_objects"])


def drawn_frame(
    photo: UInt8[np.ndarray, "Y X 3"], truth: UInt8[np.ndarray, "Y X"], labels: UInt8[np.ndarray, "Y X"],
    palette: list[int], caption: str, score: FrameScore,
) -> UInt8[np.ndarray, "Y X 3"]:  # fmt: skip
    """The photo with the result tinted in each object's colour and the truth outlined in white; J and F in words."""
    picture = overlay(photo, labels, palette)
    outline = cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))
    picture[np.asarray(outline) > 0] = 255
    means = f"  J {100 * np.mean(score.J):.0f}  F {100 * np.mean(score.F):.0f}" if score.J else ""
    words = caption + means
    height = len(picture)
    scale = max(height / 800, 0.35)
    left, bottom = round(10 * scale), height - round(12 * scale)
    # White on black neighbours of itself: thicker letters would be wider too.
    for x, y, colour in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 255)):
        place = (left + x, bottom + y)
        cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (colour,) * 3, 1, cv2.LINE_AA)
    return picture


def _given(vit: VisionTransformer, sequence: Sequence, how: Propagation) -> Given:
    labels = first_labels(sequence)
    size = network_size(*labels.shape, short_side=how.short_side, multiple=how.long_side_multiple)
    patch = patch_size(vit, *size)
    grid = grid_labels(labels, (size[0] // patch, size[1] // patch))
    return Given(labels, read_palette(sequence.annotations[0]), grid, patch, size)


def _labels(
    vit: VisionTransformer, sequence: Sequence, given: Given, how: Propagation, n_threads: int
) -> Iterator[tuple[int, Tensor | None]]:
    """Number and soft labels of each frame; the first one's are given."""

    def read(path: Path) -> UInt8[np.ndarray, "Y X 3"]:
        return resized(read_video_frame(path), *given.size)

    yield 0, None
    images = read_ahead(read, sequence.photos, n_threads=n_threads)
    features = patch_features(vit, images, batch_size=FRAMES_PER_BATCH, std=STD, precision=how.precision)
    yield from enumerate(
        propagate(
            features, given.grid, n_last_frames=how.n_last_frames, top_k=how.top_k, radius=how.radius,
            temperature=how.temperature,
        ),
        start=1,
    )  # fmt: skip


def _none(sequence: Sequence) -> Iterator[tuple[int, Tensor | None]]:
    return ((t, None) for t in range(len(sequence.photos)))


def _new_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
