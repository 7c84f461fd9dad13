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
    An infinite logit counts as the item's largest (smallest) finite one.
    """
    log_share = _finite(logits.double()) / epsilon
    for _ in range(n_iterations):
        log_share = log_share.log_softmax(dim=1)
        log_share = log_share.log_softmax(dim=2)
    return log_share.exp().to(logits.dtype)


def _finite(logits: Float[Tensor, "B N O"]) -> Float[Tensor, "B N O"]:
    infinite = logits.isinf()
    highest = logits.masked_fill(infinite, -torch.inf).amax((1, 2), keepdim=True)
    lowest = logits.masked_fill(infinite, torch.inf).amin((1, 2), keepdim=True)
    # An item without any finite logit is clamped to -inf: no preference at all. NaN stays NaN, for the loop to see.
    return logits.clamp(lowest, highest).nan_to_num(nan=torch.nan, neginf=0.0)
