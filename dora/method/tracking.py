"""The paper's idea (arXiv:2310.08584, Sec. 3): find objects in a clip's first frame and follow them through it.

    discover   a few attention heads of the teacher's [CLS] each look at something: pool the queries they look at
    refine     Sinkhorn-Knopp shares frame 0's patches out among these prototypes, so that they differ
    track      each prototype attends to the keys of every frame: where is it now?
    binarise   the patches that get more than an average share are the object

All of it sees only the teacher and carries no gradient.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dora.config import TrackingConfig
from dora.method.sinkhorn import sinkhorn
from dora.method.vit import LastBlock


class Tracks(NamedTuple):
    """Objects of a clip and where they are. A row of `soft` sums to 1."""

    prototypes: Float[Tensor, "B O D"]
    soft: Float[Tensor, "O T B N"]
    masks: Bool[Tensor, "O T B N"]


@torch.no_grad()
def object_masks(
    first: LastBlock, keys: Float[Tensor, "T B H M d"], *, head_indices: Sequence[int], config: TrackingConfig
) -> Tracks:
    """Discover an object for each of `head_indices` in frame 0, and find it in every frame, frame 0 included."""
    with torch.autocast(keys.device.type, enabled=False):  # half precision would flip patches near the threshold
        precise = torch.promote_types(keys.dtype, torch.float32)
        patches = first.tokens[:, 1:].to(precise)
        prototypes = discover_objects(
            first.attention[..., 1:].to(precise), _join_heads(first.query).to(precise), head_indices=head_indices
        )
        if config.refine:
            prototypes = refine_prototypes(
                prototypes, patches, epsilon=config.sinkhorn_epsilon, n_iterations=config.sinkhorn_iterations
            )
            if config.prototype == "mean":  # the paper's rows sum to 1/O, its columns to 1/N
                prototypes = prototypes / patches.shape[1]
        soft = track(prototypes, _join_heads(keys).to(precise))
        masks = binarise(soft, threshold=config.threshold, n_clips=config.threshold_clips)
        return Tracks(prototypes, soft, masks)


def discover_objects(
    attention: Float[Tensor, "B H N"], query: Float[Tensor, "B N D"], *, head_indices: Sequence[int]
) -> Float[Tensor, "B O D"]:
    """One prototype per object: the patch queries, summed by a head's [CLS] attention (eqs. 1-2).

    The [CLS] token's own share of the attention is left out and not made up for, as in the authors' code.

    Raises:
        ValueError: if an index is no head, or one comes twice.
    """
    n_heads = attention.shape[1]
    if len(set(head_indices)) < len(head_indices) or not set(head_indices) <= set(range(n_heads)):
        raise ValueError(f"expected different heads out of 0..{n_heads - 1}, got {list(head_indices)}")
    return attention[:, list(head_indices)] @ query


def refine_prototypes(
    prototypes: Float[Tensor, "B O D"], patches: Float[Tensor, "B N D"], *, epsilon: float, n_iterations: int
) -> Float[Tensor, "B O D"]:
    """Each prototype becomes the sum of the unit patch embeddings that Sinkhorn-Knopp gives it (eqs. 4-5).

    A sum over about N/O patches, not a mean: the paper's rows sum to 1/O, the authors' code's (and ours) to N/O,
    which makes the tracking softmax N times sharper.
    """
    patches = torch.nn.functional.normalize(patches, dim=-1)
    share = sinkhorn(patches @ prototypes.transpose(1, 2), epsilon=epsilon, n_iterations=n_iterations)
    return share.transpose(1, 2) @ patches


def track(prototypes: Float[Tensor, "B O D"], keys: Float[Tensor, "T B N D"]) -> Float[Tensor, "O T B N"]:
    """Cross-attention of each prototype over the patches of each frame, all heads' keys joined (eq. 6)."""
    scores = torch.einsum("bod,tbnd->otbn", prototypes, keys)
    return (scores * keys.shape[-1] ** -0.5).softmax(dim=-1)


def binarise(
    soft: Float[Tensor, "O T B N"], *, threshold: Literal["map", "batch"], n_clips: int | None = None
) -> Bool[Tensor, "O T B N"]:
    """Patches above the mean of their own map, or (authors) of the L2-normalised maps of `n_clips`, or of all clips.

    The authors' threshold ties clips together: the same clip gets another mask beside others. Fewer than `n_clips`,
    such as one that is only looked at, are a group of their own.
    """
    if threshold == "map":
        return soft > soft.mean(dim=-1, keepdim=True)
    n = soft.shape[2]
    unit = (soft / soft.norm(dim=-1, keepdim=True)).unflatten(2, (-1, min(n_clips or n, n)))
    return (unit > unit.mean(dim=(-2, -1), keepdim=True)).flatten(2, 3)


def _join_heads(per_head: Float[Tensor, "*batch H M d"]) -> Float[Tensor, "*batch N D"]:
    return per_head[..., 1:, :].transpose(-3, -2).flatten(-2)
