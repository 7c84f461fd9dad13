"""Which clip comes when: a pure function of seed and step, the same for any number of ranks and loader processes.

All clips of a training are one endless stream: pass after pass over the starts, each in an order of its own. A clip's
position in the stream decides which start it is and how it is augmented. Step s reads the positions from
s x clips_per_batch on, so a batch may end one pass and begin the next, and no start is ever left out of a pass. After
a rollback the stream may be moved on, so that the same steps read other clips.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from dora.config import PretrainConfig
from dora.seeds import derived_seed

# Four rounds make a Feistel network a good permutation of many numbers; of three to six numbers it takes more.
N_ROUNDS = 16
_GOLDEN = 0x9E3779B97F4A7C15


class Place(NamedTuple):
    """A clip's turn: the `position`-th of the whole training, and which start that is."""

    position: int
    start: int


def steps_per_epoch(n_starts: int, config: PretrainConfig) -> int:
    """Whole batches in an epoch; what is left over of its passes opens the next epoch.

    A recipe that fixes the number sees a part of a long video's clips in an epoch, or a short one's several times.

    Raises:
        ValueError: if there is not even one.
    """
    if config.steps_per_epoch:
        return config.steps_per_epoch
    n_clips = n_starts * config.passes_per_epoch
    if n_clips < config.clips_per_batch:
        raise ValueError(
            f"an epoch has {n_clips} clips ({n_starts} starts x {config.passes_per_epoch} passes), fewer than one "
            f"batch of {config.clips_per_batch}. Lower pretrain.clips_per_batch, raise pretrain.passes_per_epoch, "
            "or use a longer video."
        )
    return n_clips // config.clips_per_batch


def own_places(
    n_starts: int, config: PretrainConfig, *, first_step: int, n_steps: int, rank: int, world_size: int, shift: int = 0
) -> Iterator[Place]:
    """The clips that `rank` reads from `first_step` on. Pure, so a resumed run reads what an unbroken one would.

    Clips that have to be together follow one another. `shift` is by how many positions the stream is moved on.
    """
    batch, together = config.clips_per_batch, config.clips_together
    own = np.arange(batch).reshape(together, -1).T[rank::world_size].ravel()
    for step in range(first_step, n_steps):
        positions = shift + step * batch + own
        starts = starts_at(positions, n_starts, seed=config.seed)
        yield from map(Place, positions.tolist(), starts.tolist())


def starts_at(positions: Int64[np.ndarray, "b"], n_starts: int, *, seed: int) -> Int64[np.ndarray, "b"]:
    """The starts at these positions of the stream."""
    passes, numbers = np.divmod(positions, n_starts)
    starts = np.empty_like(positions)
    for number in np.unique(passes):
        here = passes == number
        starts[here] = permuted(numbers[here], n_starts, key=derived_seed(seed, "order", int(number)))
    return starts


def permuted(numbers: Int64[np.ndarray, "b"], n: int, *, key: int) -> Int64[np.ndarray, "b"]:
    """Where a permutation of 0 … n - 1, chosen by `key`, sends `numbers`. It is computed, never stored.

    A Feistel network over the next power of two, walked on until it comes to a number below n: the cycle-walking
    cipher of Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (CT-RSA 2002). On average less than two walks.
    """
    # Products wrap around in arrays of uint64, as is wanted; numpy warns of it in single numbers.
    round_keys = _mixed(np.uint64(key) + np.arange(1, N_ROUNDS + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    n_bits = (n - 1).bit_length()
    found = _feistel(numbers.astype(np.uint64), n_bits, round_keys)
    while (outside := found >= n).any():
        found[outside] = _feistel(found[outside], n_bits, round_keys)
    return found.astype(np.int64)


def _feistel(
    numbers: UInt64[np.ndarray, "b"], n_bits: int, round_keys: UInt64[np.ndarray, "rounds"]
) -> UInt64[np.ndarray, "b"]:
    """A permutation of the numbers of `n_bits` bits: in turns, one half is changed by a hash of the other."""
    n_low = n_bits // 2
    low_mask, high_mask = np.uint64((1 << n_low) - 1), np.uint64((1 << (n_bits - n_low)) - 1)
    high, low = numbers >> np.uint64(n_low), numbers & low_mask
    for number, key in enumerate(round_keys):
        if number % 2:
            low = low ^ (_mixed(high ^ key) & low_mask)
        else:
            high = high ^ (_mixed(low ^ key) & high_mask)
    return high << np.uint64(n_low) | low


def _mixed(numbers: UInt64[np.ndarray, "b"]) -> UInt64[np.ndarray, "b"]:
    """splitmix64's finaliser: each bit of the result depends on all bits of the number (Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
