"""Weighted k-nearest-neighbour classification of frozen features: DINO's protocol, exact and in bounded memory.

Each of the k most similar training images votes for its class with weight exp(cosine / temperature)
(Wu et al., CVPR 2018; arXiv:2104.14294, Sec. 4.2; behaviour of facebookresearch/dino eval_knn at commit 7c446df).

The same neighbours and the same bits for any size of chunk, number of threads or device: float32 products, whose
rounding depends on all of these, only say which pairs cannot be among the nearest; the others are scored again in
float64 with sums in a fixed order (eval/frozen/exact.py). Equal scores go to the lower index.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from eval.frozen.exact import exact_sum
from eval.frozen.unit import UnitFeatures

# What bounds memory beside the features themselves: 32 MB of products, 80 MB of candidates, a strip's worst 80 MB.
ROWS_PER_CHUNK, COLUMNS_PER_CHUNK = 1024, 8192
PAIRS_HELD = 1 << 22
ROWS_PER_STRIP = 128
PAIRS_AT_ONCE = 1024  # scored again: their products stay in the processor's cache
GROUPS_PER_NEIGHBOUR, LARGEST_GROUP = 2, 32


class Neighbours(NamedTuple):
    """The nearest training images of M test images, most similar first, on the CPU."""

    similarity: Float[Tensor, "M k"]
    train_index: Int[Tensor, "M k"]

    def first(self, k: int) -> "Neighbours":
        """The `k` nearest of these."""
        return Neighbours(self.similarity[:, :k], self.train_index[:, :k])


class _Pairs(NamedTuple):
    """Pairs of a test image (its row in the chunk) and a training image (its column), and their float32 product."""

    row: Int[np.ndarray, " n"]
    column: Int[np.ndarray, " n"]
    product: Float[np.ndarray, " n"]

    def only(self, which: np.ndarray) -> "_Pairs":
        return _Pairs(self.row[which], self.column[which], self.product[which])


def nearest_neighbours(
    test: Float[Tensor, "M D"] | UnitFeatures, train: Float[Tensor, "N D"] | UnitFeatures, *, k: int,
    rows_per_chunk: int = ROWS_PER_CHUNK, columns_per_chunk: int = COLUMNS_PER_CHUNK,
    device: torch.device | None = None, told: Callable[[], None] = lambda: None,
) -> Neighbours:  # fmt: skip
    """The `k` training features of highest cosine for each test feature, in float64.

    Exact: every pair is compared, `rows_per_chunk` x `columns_per_chunk` at a time, on `device` (else that of `train`,
    or the CPU). `told` is called after each of these.

    Raises:
        ValueError: if there are fewer than `k` training features.
    """
    if k > len(train):
        raise ValueError(f"{k} nearest neighbours need as many training images, there are {len(train)}.")
    device = device or (train.device if isinstance(train, Tensor) else torch.device("cpu"))
    test, train = _of_unit_length(test), _of_unit_length(train)
    chunks = [
        _nearest_of_chunk(test.chunk(start, start + rows_per_chunk, device), train, k, columns_per_chunk, told)
        for start in range(0, len(test), rows_per_chunk)
    ]
    similarity, index = zip(*chunks, strict=True)
    return Neighbours(torch.cat(similarity), torch.cat(index))


def votes(
    neighbours: Neighbours, train_labels: Int[Tensor, " N"], *, n_classes: int, temperature: float
) -> Float[Tensor, "M C"]:
    """Summed weight of each class. On the CPU in float64: a GPU's scattered adds have no fixed order."""
    weight = (neighbours.similarity.double() / temperature).exp()
    summed = torch.zeros(len(weight), n_classes, dtype=torch.float64)
    return summed.scatter_add_(1, train_labels.cpu()[neighbours.train_index], weight)


def is_correct(votes: Float[Tensor, "M C"], labels: Int[Tensor, " M"], *, top: int) -> Bool[Tensor, " M"]:
    """Whether each test image's class is among the `top` with most votes.

    A class without a vote never counts. The reference fills up its five with such classes in whatever order its
    sort leaves them, so its top-5 may be higher by chance. Equal votes go to the lower class, the same everywhere.
    """
    own = votes.gather(1, labels[:, None])
    lower = torch.arange(votes.shape[1]) < labels[:, None]
    n_before = ((votes > own) | ((votes == own) & lower)).sum(dim=1)
    return (n_before < top) & (own[:, 0] > 0)


def _of_unit_length(features: Tensor | UnitFeatures) -> UnitFeatures:
    return features if isinstance(features, UnitFeatures) else UnitFeatures(features.cpu().numpy())


def _nearest_of_chunk(
    test: Float[Tensor, "R D"], train: UnitFeatures, k: int, columns_per_chunk: int, told: Callable[[], None]
) -> tuple[Float[Tensor, "R k"], Int[Tensor, "R k"]]:
    """Columns go by once. What may be among the nearest of those seen is held, and thinned out where that is much."""
    margin = 2 * rounding_error(train.width)
    # Maxima of different groups of columns: as many columns are at least as similar as the smallest of them.
    best = test.new_empty(len(test), 0)
    least = test.new_full((len(test), 1), -torch.inf)
    precise = test.cpu().double()
    held: list[_Pairs] = []
    for start in range(0, len(train), columns_per_chunk):
        columns = train.chunk(start, start + columns_per_chunk, test.device)
        grouped, maxima = _grouped(test, columns, k)
        best = torch.cat([best, maxima], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1, sorted=False).values
        if best.shape[1] == k:
            least = best.amin(dim=1, keepdim=True) - margin
        for first in range(0, len(test), ROWS_PER_STRIP):
            strip = slice(first, first + ROWS_PER_STRIP)
            found = _candidates(grouped[strip], maxima[strip], least[strip])
            held.append(found._replace(row=found.row + first, column=found.column + start))
            if sum(len(pairs.row) for pairs in held) > PAIRS_HELD:
                held = [_thinned(held, least, precise, train, k)]
        told()
    pairs, similarity = _nearest(_likely(held, least), precise, train, k)
    return torch.from_numpy(similarity).view(-1, k), torch.from_numpy(pairs.column).view(-1, k)


def rounding_error(width: int) -> float:
    """How far a float32 product of two unit vectors may be from the exact one, whatever the order of its sum.

    Higham, Accuracy and Stability of Numerical Algorithms (2002), Sec. 3.1: n u / (1 - n u) times the sum of the
    terms' sizes, which is at most 1 for unit vectors; 1.001 for lengths that are themselves rounded.
    """
    error = width * 2.0**-24
    return 1.001 * error / (1 - error)


def _grouped(
    test: Float[Tensor, "R D"], columns: Float[Tensor, "C D"], k: int
) -> tuple[Float[Tensor, "R g n"], Float[Tensor, "R n"]]:
    """All products, every n-th column in the same group of g; and the groups' maxima. -inf fills the groups up."""
    size = min(LARGEST_GROUP, max(1, len(columns) // (GROUPS_PER_NEIGHBOUR * k)))
    n_lacking = -len(columns) % size
    products = test @ torch.nn.functional.pad(columns, (0, 0, 0, n_lacking)).T
    products[:, len(columns) :] = -torch.inf
    grouped = products.unflatten(1, (size, -1))
    return grouped, grouped.amax(dim=1)


def _candidates(grouped: Float[Tensor, "R g n"], maxima: Float[Tensor, "R n"], least: Float[Tensor, "R 1"]) -> _Pairs:
    """All pairs whose product is at least that of their row; only groups whose maximum is are looked into."""
    row, group = (maxima >= least).nonzero(as_tuple=True)
    products = grouped[row, :, group]
    which, member = ((products >= least[row]) & (products > -torch.inf)).nonzero(as_tuple=True)
    index = member * grouped.shape[2] + group[which]
    return _Pairs(row[which].cpu().numpy(), index.cpu().numpy(), products[which, member].cpu().numpy())


def _likely(held: list[_Pairs], least: Tensor) -> _Pairs:
    """Those that are still near enough now that more is known."""
    pairs = _Pairs(*(np.concatenate(values) for values in zip(*held, strict=True)))
    return pairs.only(pairs.product >= least.cpu().numpy()[pairs.row, 0])


def _thinned(held: list[_Pairs], least: Tensor, precise: Tensor, train: UnitFeatures, k: int) -> _Pairs:
    pairs = _likely(held, least)
    return pairs if len(pairs.row) < PAIRS_HELD // 2 else _nearest(pairs, precise, train, k)[0]


def _nearest(
    pairs: _Pairs, precise: Float[Tensor, "R D"], train: UnitFeatures, k: int
) -> tuple[_Pairs, Float[np.ndarray, " n"]]:
    """The `k` nearest of each row (all, if it has fewer), row by row, most similar first; and how similar they are."""
    pairs = pairs.only(pairs.row.argsort(kind="stable"))
    similarity = np.empty(len(pairs.row))
    ends = np.searchsorted(pairs.row, np.arange(len(precise)), side="right").tolist()
    for row, (first, end) in enumerate(pairwise([0, *ends])):
        for start in range(first, end, PAIRS_AT_ONCE):
            some = slice(start, min(start + PAIRS_AT_ONCE, end))
            products = train.take(pairs.column[some]).double().mul_(precise[row])
            similarity[some] = exact_sum(products).numpy()
    order = np.lexsort((pairs.column, -similarity, pairs.row))
    rows = pairs.row[order]
    first_of_row = np.searchsorted(rows, rows)
    kept = order[np.arange(len(order)) - first_of_row < k]
    return pairs.only(kept), similarity[kept]
