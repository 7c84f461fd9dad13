"""What a ViT's last attention layer has of a photo at its own size: keys of the patches, and what [CLS] looks at."""

from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from dora.method.products import linear
from dora.method.vit import position_embedding
from eval.features import normalised


class LastLayer(NamedTuple):
    """Of one photo, patches row by row."""

    keys: Float[Tensor, "N D"]  # the heads' side by side, as LOST takes them
    attention: Float[Tensor, "H N"]  # of [CLS], after softmax; [CLS] itself is left out
    grid: tuple[int, int]  # rows and columns
    patch: int  # pixels


def padded(photo: Float[Tensor, "C Y X"], patch: int) -> Float[Tensor, "C y x"]:
    """The photo with zeros below and to the right, up to whole patches, as LOST does after normalising."""
    height, width = photo.shape[1:]
    return F.pad(photo, (0, -width % patch, 0, -height % patch))


@torch.inference_mode()
def last_layer(vit: VisionTransformer, photo: UInt8[np.ndarray, "Y X 3"]) -> LastLayer:
    """Keys and [CLS] attention of a photo of any size; of the last block nothing else is computed."""
    patch = vit.patch_embed.patch_size[0]
    device = next(vit.parameters()).device
    image = padded(normalised(photo[None], device=device)[0], patch)
    key, attention = _keys_and_attention(vit, image[None])
    return LastLayer(
        keys=key.transpose(0, 1).flatten(1), attention=attention,
        grid=(image.shape[1] // patch, image.shape[2] // patch), patch=patch,
    )  # fmt: skip


def _keys_and_attention(
    vit: VisionTransformer, image: Float[Tensor, "1 3 Y X"]
) -> tuple[Float[Tensor, "H N d"], Float[Tensor, "H N"]]:
    patches = vit.patch_embed.norm(vit.patch_embed.proj(image).flatten(2).transpose(1, 2))
    x = torch.cat([cast(Tensor, vit.cls_token), patches], dim=1)
    x = vit.norm_pre(x + position_embedding(vit, image.shape[2], image.shape[3]))
    for block in vit.blocks[:-1]:
        x = block(x)
    last = cast(Block, vit.blocks[-1])
    attn = cast(Attention, last.attn)
    weight, bias, x = attn.qkv.weight, cast(Tensor | None, attn.qkv.bias), last.norm1(x)[0]

    def part(tokens: Float[Tensor, "M D"], number: int) -> Float[Tensor, "H M d"]:
        rows = slice(number * attn.attn_dim, (number + 1) * attn.attn_dim)
        found = linear(tokens, weight[rows], None if bias is None else bias[rows])
        return found.unflatten(1, (attn.num_heads, attn.head_dim)).transpose(0, 1)

    query, key = attn.q_norm(part(x[:1], 0)), attn.k_norm(part(x, 1))
    attention = (query @ key.transpose(1, 2) * attn.scale).softmax(dim=-1)
    return key[:, 1:], attention[:, 0, 1:]
