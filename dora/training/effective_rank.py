"""In how many directions features differ: what a falling loss does not tell, and a collapse of dimensions shows.

Features that only tell light from dark differ in one direction, and those that tell all hues too in three, however
well they do it. It needs no labels (RankMe, arXiv:2210.02885, uses it to choose between networks).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(features: Float[Tensor, "N D"]) -> float:
    """Exponential of the entropy of the singular values' shares, 1 … min(N - 1, D); 1 if all features are alike.

    Roy and Vetterli, EUSIPCO 2007, of features less their mean: RankMe leaves the mean in, which is a direction too.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp().item()
