"""Which frames make a training sample: drawn by SeqTrack's sampler of mode "order", from a generator of one's own.

microsoft/VideoX SeqTrack, lib/train/data/sampler.py.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from dora.seeds import derived_seed
from eval.trackers.seqtrack.settings import Settings
from eval.trackers.seqtrack.tracks import Tracks


class Chosen(NamedTuple):
    """Frames of a sequence, counted from 0: of the templates, and the one to search."""

    sequence: int
    templates: tuple[int, ...]
    search: int


def generator(seed: int, number: int) -> np.random.Generator:
    """What draws everything of the sample of that number, frames first."""
    return np.random.default_rng(derived_seed(seed, "seqtrack", number))


def eligible(tracks: Tracks, settings: Settings) -> Int64[np.ndarray, "S"]:
    """Sequences that are long enough, and show their thing often enough.

    Raises:
        ValueError: if there is none.
    """
    least = settings.least_visible * (settings.n_templates + 1)
    seen = np.array([tracks.visible_frames(number).size for number in range(len(tracks.names))], np.int64)
    found = np.flatnonzero((np.diff(tracks.starts) >= settings.least_frames) & (seen > least))
    if not found.size:
        raise ValueError(
            f"none of the {len(tracks.names)} sequences in {tracks.folder} has {settings.least_frames} frames and its "
            f"thing in more than {least} of them. Lower least_frames or least_visible, or unpack the data set again."
        )
    return found


def choose(
    tracks: Tracks, among: Int64[np.ndarray, "S"], settings: Settings, draw: np.random.Generator
) -> Chosen:  # fmt: skip
    """A sequence, and frames of it in which its thing is seen: templates before the searched one, or all backwards.

    A base frame is drawn, then each frame, with replacement, from those at most `max_gap` away from it. (The published
    sampler widens the gap as long as nothing is found; the base frame itself always is.)
    """
    sequence = int(among[draw.integers(len(among))])
    seen = tracks.visible_frames(sequence)
    base = seen[draw.integers(len(seen))]
    near = seen[np.abs(seen - base) <= settings.max_gap]
    frames = sorted(near[draw.integers(len(near), size=settings.n_templates + 1)].tolist())
    if draw.random() < 0.5:
        frames.reverse()
    return Chosen(sequence, tuple(frames[:-1]), frames[-1])
