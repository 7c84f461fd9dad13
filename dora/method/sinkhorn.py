"""Sinkhorn-Knopp: share the patches out among the prototypes, about equally."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def sinkhorn(logits: Float[Tensor, "B N O"], *, epsilon: float, n_iterations: int) -> Float[Tensor, "B N O"]:
    """Soft assignment of N patches to O prototypes: each patch's row sums to 1, each prototype's column to about N/O.

    exp(logits/epsilon), then in turn: scale each prototype's column to one sum, scale each patch's row to one sum
    (the paper's Sec. 3.2). All in log domain and float64: a confident teacher spreads the logits over more than
    87 epsilon, where float32 exponentials underflow and the authors' version yields NaN and, silently, empty masks.
    A logit of +inf counts as the item's largest finite one. One of -inf gets no share, unless its whole row or column
    is -inf: then it counts as the item's smallest finite one.
    """
    log_share = _finite(logits.double()) / epsilon
    for _ in range(n_iterations):
        log_share = log_share.log_softmax(dim=1)
        log_share = log_share.log_softmax(dim=2)
    return log_share.exp().to(logits.dtype)


def _finite(logits: Float[Tensor, "B N O"]) -> Float[Tensor, "B N O"]:
    infinite, never = logits.isinf(), logits.isneginf()
    highest = logits.masked_fill(infinite, -torch.inf).amax((1, 2), keepdim=True)
    lowest = logits.masked_fill(infinite, torch.inf).amin((1, 2), keepdim=True)
    left_out = never.all(1, keepdim=True) | never.all(2, keepdim=True)
    bounded = torch.where(never & left_out, lowest, logits.minimum(highest))
    # An item without any finite logit has no preference at all. NaN stays NaN, for the loop to see.
    return torch.where(highest.isneginf() & infinite, 0.0, bounded)
