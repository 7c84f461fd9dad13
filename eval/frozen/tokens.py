"""What a probe reads of a photo: [CLS] of the last blocks, in one pass that computes no row it does not need."""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.method.vit import cls_token, tokens


def require_blocks(vit: VisionTransformer, n_blocks: int) -> None:
    """Refuse a number of blocks that the backbone has not.

    Raises:
        ValueError: if it has fewer.
    """
    if not 1 <= n_blocks <= len(vit.blocks):
        raise ValueError(f"expected 1 to {len(vit.blocks)} blocks (the backbone's depth), got {n_blocks}.")


@torch.inference_mode()
def last_class_tokens(
    vit: VisionTransformer, pixels: Float[Tensor, "B 3 Y X"], n_blocks: int, *, avgpool: bool = False
) -> Float[Tensor, "B L W"]:
    """[CLS] after each of the last `n_blocks` blocks and then the final LayerNorm, the last block's last; W = D.

    However many are asked for, those of the last blocks are the same bits. With `avgpool`, which goes with one block,
    W = 2 D: a number of [CLS] and one of the patch tokens' mean by turns, as published heads have their weights.

    Raises:
        ValueError: if the backbone has fewer blocks, or `avgpool` and several blocks are asked for.
    """
    require_blocks(vit, n_blocks)
    if avgpool:
        if n_blocks != 1:
            raise ValueError(f"the patch tokens' mean goes with [CLS] of one block, got {n_blocks} blocks.")
        every = tokens(vit, pixels)
        return torch.stack([every[:, 0], every[:, 1:].mean(1)], dim=-1).flatten(1)[:, None]
    rows: list[Tensor] = []

    def keep(block: Any, inputs: Any, output: Tensor) -> None:
        rows.append(output[:, 0])

    hooks = [block.register_forward_hook(keep) for block in list(vit.blocks)[-n_blocks:-1]]
    try:
        last = cls_token(vit, pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([*(vit.norm(row) for row in rows), last], dim=1)
