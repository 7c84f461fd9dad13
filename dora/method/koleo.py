"""KoLeo (arXiv:1806.03198, as DINOv2 has it, arXiv:2304.07193): the student's [CLS] tokens keep apart.

    koleo = mean over b of - log(1e-8 + distance from x[b] to the nearest x[c], c ≠ b)          x: tokens of length 1

over the same view of different clips. Distillation alone strengthens what tells views apart at once, such as their
mean colour, and lets other directions fade (docs/learning-tried.md); this pushes a token away from its nearest.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dora.config import LossConfig
from dora.method.objective import Loss

TINY = 1e-8  # DINOv2's, in both places


def koleo(tokens: Float[Tensor, "*G B D"]) -> Float[Tensor, ""]:
    """The mean over groups of B tokens, in at least float32.

    Raises:
        ValueError: if a token has no other to keep away from.
    """
    n_tokens = tokens.shape[-2]
    if n_tokens < 2:
        raise ValueError(f"expected groups of at least 2 tokens, got {n_tokens}")
    with torch.autocast(tokens.device.type, enabled=False):
        unit = F.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1, eps=TINY)
        with torch.no_grad():
            itself = torch.eye(n_tokens, dtype=torch.bool, device=tokens.device)
            nearest = (unit @ unit.transpose(-1, -2)).masked_fill(itself, -torch.inf).argmax(-1, keepdim=True)
        other = unit.gather(-2, nearest.expand_as(unit))
        return -(F.pairwise_distance(unit, other, eps=TINY) + TINY).log().mean()


def keep_apart(cls: Float[Tensor, "*G B D"], config: LossConfig) -> Loss:
    """The term with its weight, of the B clips of a micro-batch in groups of `koleo_clips`; nothing at weight 0."""
    if not config.koleo_weight:
        return Loss(cls.new_zeros(()), {})
    value = koleo(cls.unflatten(-2, (-1, config.koleo_clips or cls.shape[-2])))
    return Loss(config.koleo_weight * value, {"koleo": value.detach()})
