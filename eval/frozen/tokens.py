"""[CLS] of the last blocks, in one pass that computes no row it does not need."""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.method.vit import cls_token


def require_blocks(vit: VisionTransformer, n_blocks: int) -> None:
    """Refuse a number of blocks that the backbone has not.

    Raises:
        ValueError: if it has fewer.
    """
    if not 1 <= n_blocks <= len(vit.blocks):
        raise ValueError(f"expected 1 to {len(vit.blocks)} blocks (the backbone's depth), got {n_blocks}.")


@torch.inference_mode()
def last_class_tokens(
    vit: VisionTransformer, pixels: Float[Tensor, "B 3 Y X"], n_blocks: int
) -> Float[Tensor, "B L D"]:
    """[CLS] after each of the last `n_blocks` blocks and then the final LayerNorm, the last block's last.

    However many are asked for, those of the last blocks are the same bits.

    Raises:
        ValueError: if the backbone has fewer blocks.
    """
    require_blocks(vit, n_blocks)
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
