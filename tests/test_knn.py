"""k-NN against naive loops, and on votes that can be counted."""

import math

import pytest
import torch
from torch.nn import functional

from eval.nearest_neighbours import Neighbours, accuracy, nearest_neighbours, votes


def unit(n: int, dim: int, *, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (4, 10), (100, 1000)])
@pytest.mark.parametrize("k", [1, 5, 31])
def test_neighbours_do_not_depend_on_the_chunks(rows: int, columns: int, k: int):
    test, train = unit(10, 6, seed=0), unit(31, 6, seed=1)
    similarity, index = (test @ train.T).sort(dim=1, descending=True)
    found = nearest_neighbours(test, train, k=k, rows_per_chunk=rows, columns_per_chunk=columns)
    assert torch.equal(found.train_index, index[:, :k])
    torch.testing.assert_close(found.similarity, similarity[:, :k])


def test_the_same_features_give_the_same_bits():
    test, train = unit(40, 16, seed=0), unit(300, 16, seed=1)
    once, again = (nearest_neighbours(test, train, k=20, columns_per_chunk=64) for _ in range(2))
    assert torch.equal(once.similarity, again.similarity) and torch.equal(once.train_index, again.train_index)


def test_more_neighbours_than_training_images_is_refused():
    with pytest.raises(ValueError, match="20 nearest neighbours need as many training images, there are 3"):
        nearest_neighbours(unit(2, 4, seed=0), unit(3, 4, seed=1), k=20)


def test_a_vote_weighs_exp_of_cosine_over_temperature():
    neighbours = Neighbours(torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[2, 0, 1]]))
    summed = votes(neighbours, torch.tensor([1, 1, 0]), n_classes=3, temperature=0.07)
    expected = [math.exp(0.9 / 0.07), 2 * math.exp(0.8 / 0.07), 0]
    torch.testing.assert_close(summed, torch.tensor([expected], dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_class_without_a_vote_is_never_in_the_top_five():
    summed = torch.tensor([[0.0, 0.0, 3.0, 1.0]])
    assert [accuracy(summed, torch.tensor([label]), top=5) for label in range(4)] == [0, 0, 1, 1]
    assert [accuracy(summed, torch.tensor([label]), top=1) for label in range(4)] == [0, 0, 1, 0]
