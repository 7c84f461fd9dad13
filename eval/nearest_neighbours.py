"""Weighted k-nearest-neighbour classification of frozen features: DINO's protocol, exact and in bounded memory.

Each of the k most similar training images votes for its class with weight exp(cosine / temperature)
(Wu et al., CVPR 2018; arXiv:2104.14294, Sec. 4.2; behaviour of facebookresearch/dino eval_knn at commit 7c446df).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Neighbours(NamedTuple):
    """The nearest training images of M test images, most similar first, on the CPU."""

    similarity: Float[Tensor, "M k"]
    train_index: Int[Tensor, "M k"]

    def first(self, k: int) -> "Neighbours":
        """The `k` nearest of these."""
        return Neighbours(self.similarity[:, :k], self.train_index[:, :k])


def nearest_neighbours(
    test: Float[Tensor, "M D"], train: Float[Tensor, "N D"], *, k: int, rows_per_chunk: int = 1024,
    columns_per_chunk: int = 65536,
) -> Neighbours:  # fmt: skip
    """The `k` training features of highest cosine for each test feature; both must have unit length.

    Exact: every pair is compared, `rows_per_chunk` x `columns_per_chunk` at a time, on the device of `train`.

    Raises:
        ValueError: if there are fewer than `k` training features.
    """
    if k > len(train):
        raise ValueError(f"{k} nearest neighbours need as many training images, there are {len(train)}.")
    chunks = [
        _nearest_of_chunk(rows.to(train.device), train, k, columns_per_chunk) for rows in test.split(rows_per_chunk)
    ]
    similarity, index = zip(*chunks, strict=True)
    return Neighbours(torch.cat(similarity).cpu(), torch.cat(index).cpu())


def votes(
    neighbours: Neighbours, train_labels: Int[Tensor, " N"], *, n_classes: int, temperature: float
) -> Float[Tensor, "M C"]:
    """Summed weight of each class. On the CPU in float64: a GPU's scattered adds have no fixed order."""
    weight = (neighbours.similarity.double() / temperature).exp()
    summed = torch.zeros(len(weight), n_classes, dtype=torch.float64)
    return summed.scatter_add_(1, train_labels.cpu()[neighbours.train_index], weight)


def accuracy(votes: Float[Tensor, "M C"], labels: Int[Tensor, " M"], *, top: int) -> float:
    """Share of test images whose class is among the `top` with most votes.

    A class without a vote never counts. The reference fills up its five with such classes in whatever order its
    sort leaves them, so its top-5 may be higher by chance. Equal votes go to the lower class, the same everywhere.
    """
    ranked = votes.argsort(dim=1, descending=True, stable=True)[:, :top]
    correct = (ranked == labels[:, None]) & (votes.gather(1, ranked) > 0)
    return correct.any(dim=1).double().mean().item()


def _nearest_of_chunk(test: Tensor, train: Tensor, k: int, columns_per_chunk: int) -> tuple[Tensor, Tensor]:
    best, best_index = test.new_empty(len(test), 0), torch.empty(len(test), 0, dtype=torch.long, device=test.device)
    for start in range(0, len(train), columns_per_chunk):
        columns = train[start : start + columns_per_chunk]
        similarity, index = (test @ columns.T).topk(min(k, len(columns)), dim=1)
        best, best_index = torch.cat([best, similarity], dim=1), torch.cat([best_index, start + index], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        best_index = best_index.gather(1, order)
    return best, best_index
