import pytest
import torch
from torch import Tensor

from dora.method.sinkhorn import sinkhorn


def naive(logits: Tensor, epsilon: float, n_iterations: int) -> Tensor:
    """The formula as loops over one clip's patches and prototypes."""
    n_patches, n_prototypes = logits.shape
    share = (logits.double() / epsilon).exp()
    for _ in range(n_iterations):
        for prototype in range(n_prototypes):
            share[:, prototype] /= share[:, prototype].sum() * n_prototypes
        for patch in range(n_patches):
            share[patch] /= share[patch].sum() * n_patches
    return share * n_patches


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (2, 1, 3), (2, 12, 3), (3, 9, 5)])
def test_equals_naive_loops(shape: tuple[int, int, int]):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    got = sinkhorn(logits, epsilon=0.5, n_iterations=4)
    torch.testing.assert_close(got, torch.stack([naive(item, 0.5, 4) for item in logits]))


def test_each_patch_is_shared_out_and_the_prototypes_get_equal_shares():
    logits = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    share = sinkhorn(logits, epsilon=0.05, n_iterations=200)
    torch.testing.assert_close(share.sum(2), torch.ones(2, 30))
    torch.testing.assert_close(share.sum(1), torch.full((2, 3), 10.0))


def test_prototypes_that_like_the_same_patches_are_pulled_apart():
    logits = torch.tensor([[[1.0, 0.9], [0.9, 0.5], [0.1, 0.0], [0.0, 0.2]]])  # both like patch 0 best
    share = sinkhorn(logits, epsilon=0.05, n_iterations=100)
    assert share[0, 1, 0] > 0.9 and share[0, 3, 1] > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_confident_logits_do_not_underflow(dtype: torch.dtype):
    logits = torch.tensor([[[500.0, 0.0], [0.0, 0.0], [-500.0, 0.0]]], dtype=dtype)
    share = sinkhorn(logits, epsilon=0.05, n_iterations=30)
    assert share.dtype == dtype and share.isfinite().all()
    torch.testing.assert_close(share[0, ::2], torch.eye(2, dtype=dtype), rtol=0, atol=1e-6)


LOGITS = torch.tensor([[[0.3, -0.1], [0.2, 0.0], [-0.2, 0.1]]], dtype=torch.float64)


def test_a_logit_of_infinity_counts_as_the_largest_finite_one():
    infinite, bounded = LOGITS.clone(), LOGITS.clone()
    infinite[0, 1, 0], bounded[0, 1, 0] = torch.inf, 0.3
    got, want = (sinkhorn(each, epsilon=0.05, n_iterations=30) for each in (infinite, bounded))
    assert torch.equal(got, want)


def test_a_logit_of_minus_infinity_has_no_share():
    logits = LOGITS.clone()
    logits[0, 1, 0] = -torch.inf
    share = (logits / 0.05).exp()  # by the definition: exp, then columns and rows in turn
    for _ in range(30):
        share = share / share.sum(1, keepdim=True)
        share = share / share.sum(2, keepdim=True)
    got = sinkhorn(logits, epsilon=0.05, n_iterations=30)
    assert got[0, 1].tolist() == [0, 1]
    torch.testing.assert_close(got, share, rtol=0, atol=1e-12)


@pytest.mark.parametrize("where", [(0, 1), (0, slice(None), 1)], ids=["a patch", "a prototype"])
def test_what_minus_infinity_would_leave_without_any_share_is_finite_all_the_same(where: tuple[int, ...]):
    logits, bounded = LOGITS.clone(), LOGITS.clone()
    logits[where] = -torch.inf
    bounded[where] = logits[logits.isfinite()].min()
    got, want = (sinkhorn(each, epsilon=0.05, n_iterations=30) for each in (logits, bounded))
    assert got.isfinite().all() and torch.equal(got, want)


def test_only_infinite_logits_mean_no_preference():
    share = sinkhorn(torch.full((1, 4, 2), torch.inf), epsilon=0.05, n_iterations=30)
    torch.testing.assert_close(share, torch.full((1, 4, 2), 0.5))


def test_a_broken_clip_does_not_spread_to_the_others():
    logits = torch.zeros(2, 4, 2)
    logits[0, 0, 0] = torch.nan
    share = sinkhorn(logits, epsilon=0.05, n_iterations=3)
    assert share[0].isnan().all() and share[1].isfinite().all()


def test_no_gradient_flows_through_the_assignment():
    assert not sinkhorn(torch.zeros(1, 4, 2, requires_grad=True), epsilon=0.05, n_iterations=3).requires_grad
