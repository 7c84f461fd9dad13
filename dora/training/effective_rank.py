"""In how many directions features differ: what a falling loss does not tell, and a collapse of dimensions shows.

Features that only tell light from dark differ in one direction, and those that tell all hues too in three, however
well they do it. It needs no labels.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(features: Float[Tensor, "N D"]) -> float:
    """Exponential of the entropy of each direction's share of the variance, 1 … min(N - 1, D); 1 if all are alike.

    NaN if not all are finite. Roy and Vetterli (EUSIPCO 2007), of the covariance's eigenvalues. RankMe
    (arXiv:2210.02885) takes singular values and leaves the mean in, so that many faint directions count for more.
    """
    if not features.isfinite().all():
        return math.nan  # a number for a curve ends no training; LAPACK would raise
    centred = features.double() - features.double().mean(0)
    variance = torch.linalg.svdvals(centred).square()
    share = variance / variance.sum().clamp(min=torch.finfo(variance.dtype).tiny)
    return torch.special.entr(share).sum().exp().item()
