"""LOST: one object of a photo, from how the keys of its patches correlate (Siméoni et al., arXiv:2109.14279, Sec. 3).

Two patches correlate positively if the product of their keys is above 0. Objects are smaller than what is around them:
the patch with fewest such relatives, the seed, is taken to lie in one. It grows by those of the next `n_candidates`
patches that correlate with it, and the object is what correlates with the sum of all these. Behaviour of
valeoai/LOST, object_discovery.py (fcedbec).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dora.method.products import product
from eval.discovery.boxes import Box, box_of, parts_of

ROWS_ON_CPU, ROWS_ON_GPU = 192, 8192  # of the affinity at once; it is never there as a whole


class Discovery(NamedTuple):
    """What was found in one photo."""

    box: Box
    seed: int
    similar: Int[Tensor, " s"]  # the patches that the seed has grown by, itself among them; best first
    mask: Bool[np.ndarray, "h w"]  # patches that correlate with them, the object's and others
    degree: Int[Tensor, " N"]


def degrees(keys: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
    """How many other patches correlate positively with each: #{j ≠ i : k_i · k_j > 0}.

    The relation is symmetric: only its upper half is computed, and of it only signs are kept.
    """
    n, rows = len(keys), ROWS_ON_GPU if keys.is_cuda else ROWS_ON_CPU
    counts = torch.zeros(n, dtype=torch.long, device=keys.device)
    for start in range(0, n, rows):
        related = product(keys[start : start + rows], keys[start:]) > 0
        here = len(related)
        related[:, :here].fill_diagonal_(False)
        counts[start : start + here] += related.sum(dim=1)
        counts[start + here :] += related[:, here:].view(torch.uint8).sum(dim=0)
    return counts


def discover(
    keys: Float[Tensor, "N D"], grid: tuple[int, int], *, patch: int, size: tuple[int, int], n_candidates: int
) -> Discovery:
    """The object of a photo of `size` (height, width) in pixels, whose patches are `grid` (rows, columns), row by row.

    Patches of equal degree rank by their place, row by row from the upper left: a stable order, the same everywhere,
    where the published code leaves ties to an unstable sort.
    """
    degree = degrees(keys)
    ranked = degree.argsort(stable=True)[:n_candidates]
    seed = int(ranked[0])
    similar = ranked[keys[ranked] @ keys[seed] > 0]
    # Its row of the affinity summed over the similar ones, but one product instead of many.
    mask = (keys @ keys[similar].sum(dim=0) > 0).reshape(grid).cpu().numpy()
    parts = parts_of(mask)
    label = int(parts.labels.flat[seed])
    row, column = divmod(seed, grid[1])
    # A key of zeros, as a dead network has them, correlates with nothing: then the seed is all there is.
    cells = parts.cells[label] if label else (column, row, 1, 1)
    return Discovery(box_of(cells, patch, size), seed, similar, mask, degree)
