"""Boxes as sentences: cx, cy, w, h, each one of `n_bins` words, between START and END."""

import numpy as np
from jaxtyping import Float, Int64

N_COORDINATES = 4


def end(n_bins: int) -> int:
    """The word that ends a sentence."""
    return n_bins


def start(n_bins: int) -> int:
    """The word that begins one."""
    return n_bins + 1


def n_words(n_bins: int) -> int:
    """Coordinates' words, END and START."""
    return n_bins + 2


def words(shares: Float[np.ndarray, "4"], *, n_bins: int) -> Int64[np.ndarray, "4"]:
    """The words of coordinates from 0 to 1: int(share (n_bins - 1)), as SeqTrack learns them.

    Raises:
        ValueError: for a coordinate outside.
    """
    if not bool(np.all((shares >= 0) & (shares <= 1))):
        raise ValueError(f"expected coordinates from 0 to 1, got {shares.tolist()}")
    return (shares * (n_bins - 1)).astype(np.int64)


def shares(words: Int64[np.ndarray, "4"], *, n_bins: int) -> Float[np.ndarray, "4"]:
    """Coordinates from 0 to 1: the middles of what the words stand for, so at most half a bin from what was said.

    SeqTrack reads the lower end, word / (n_bins - 1), though it has rounded down to it: half a bin too far to the
    upper left, which is 0.03 of 256 px with its 4,000 bins and a whole pixel of 128 with 64.
    """
    return np.minimum((words + 0.5) / (n_bins - 1), 1.0)
