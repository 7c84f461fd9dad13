"""What the method asks of a ViT: timm's modules, DINO's position rule, and no more of the last block than is used.

Dimension letters beside the usual ones: M = N + 1 tokens ([CLS], then the patches), d the width of one head.
"""

import difflib
import math
from typing import NamedTuple, cast

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dora.config import BackboneConfig
from dora.method.products import lighten, linear


class LastBlock(NamedTuple):
    """What the last block sees and says; `attention` is the [CLS] query's row after softmax."""

    tokens: Float[Tensor, "B M D"]
    attention: Float[Tensor, "B H M"]
    query: Float[Tensor, "B H M d"]
    key: Float[Tensor, "B H M d"]


class ClipTokens(NamedTuple):
    """What tracking and distillation need from the teacher's pass over a clip."""

    cls: Float[Tensor, "T B D"]
    first: LastBlock  # of frame 0
    keys: Float[Tensor, "T B H M d"]


def build_vit(config: BackboneConfig, *, drop_path: bool) -> VisionTransformer:
    """A fresh timm ViT without classifier, initialised as DINO does (arXiv:2104.14294, released code).

    Raises:
        ValueError: if timm has no such architecture, cannot build it at these sizes, or it is no plain
            VisionTransformer with class token.
    """
    if not timm.is_model(config.architecture):
        close = difflib.get_close_matches(config.architecture, timm.list_models("vit_*"), n=5)
        raise ValueError(
            f"unknown architecture '{config.architecture}'. Close names in timm: {', '.join(close) or 'none'}"
        )
    sizes = config.model_dump(include={"patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio"}, exclude_none=True)
    rate = config.drop_path_rate if drop_path else 0.0
    try:
        vit = timm.create_model(
            config.architecture, num_classes=0, img_size=config.image_size, drop_path_rate=rate, **sizes
        )
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(f"timm cannot build {config.architecture} with {sizes}: {error!r}") from error
    _require_plain(vit, config.architecture)
    vit = cast(VisionTransformer, vit)
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
    nn.init.trunc_normal_(cast(Tensor, vit.cls_token), std=0.02)  # timm's is 1e-6
    lighten(vit)
    return vit


def _require_plain(vit: nn.Module, name: str) -> None:
    if type(vit) is not VisionTransformer:  # its subclasses add tokens or heads
        raise ValueError(f"{name} is a {type(vit).__name__}; DoRA tracks with a plain timm VisionTransformer")
    reasons = {
        "it has no [CLS] token": not vit.has_class_token,
        "it has register tokens": vit.num_reg_tokens > 0,
        "it has no learnt position embedding for [CLS] and patches": vit.pos_embed is None or vit.no_embed_class,
        "its patch embedding is not a single convolution": type(vit.patch_embed) is not PatchEmbed,
        "its blocks are not timm's pre-norm Block": any(type(block) is not Block for block in vit.blocks),
        "its attention is gated, normalised or differential": any(
            type(attn) is not Attention or attn.gate is not None or not isinstance(attn.norm, nn.Identity)
            for attn in (getattr(block, "attn", None) for block in vit.blocks)
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{name} cannot be used: {reason}. Take a plain one such as vit_small_patch16_224")


def position_embedding(vit: VisionTransformer, height: int, width: int) -> Float[Tensor, "1 M D"]:
    """The learnt position embedding, bicubically resized for an image of `height` × `width` pixels.

    DINO adds 0.1 to the target grid "to avoid floating point error" and samples by that scale factor, not by the
    size ratio, which moves every sampling point; released weights were trained so.
    """
    learnt = cast(Tensor, vit.pos_embed)
    side = math.isqrt(learnt.shape[1] - 1)
    patch_height, patch_width = vit.patch_embed.patch_size
    rows, columns = height // patch_height, width // patch_width
    if rows * columns == side * side and height == width:
        return learnt
    grid = learnt[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic")
    return torch.cat([learnt[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def tokens(
    vit: VisionTransformer, images: Float[Tensor, "B 3 Y X"], *, mask: Bool[Tensor, "B N"] | None = None,
    mask_token: Float[Tensor, "... D"] | None = None,
) -> Float[Tensor, "B M D"]:  # fmt: skip
    """[CLS] and patch tokens after the final LayerNorm; patches under `mask`, if given, begin as `mask_token`."""
    return vit.norm(vit.blocks[-1](_before_last_block(vit, _embed(vit, images, mask, mask_token))))


def cls_token(
    vit: VisionTransformer, images: Float[Tensor, "B 3 Y X"], *, kept: Bool[Tensor, "B N"] | None = None
) -> Float[Tensor, "B D"]:
    """Row 0 of `tokens`, without computing the last block's other rows; of the `kept` patches only, if given."""
    x, present = _embed(vit, images), None
    if kept is not None:
        x, present = _drop(x, kept)
    return _cls_row(vit, _before_last_block(vit, x, present), present)[0]


def last_blocks(vit: VisionTransformer, images: Float[Tensor, "B 3 Y X"], n: int) -> list[Float[Tensor, "B M D"]]:
    """Normed outputs of the last `n` blocks, oldest first; the last one equals `tokens`."""
    if not 1 <= n <= len(vit.blocks):
        raise ValueError(f"expected 1 to {len(vit.blocks)} blocks (the depth), got {n}")
    x = _embed(vit, images)
    outputs: list[Tensor] = []
    for block in vit.blocks:
        x = block(x)
        outputs = [*outputs, x][-n:]
    return [vit.norm(x) for x in outputs]


def last_block(vit: VisionTransformer, images: Float[Tensor, "B 3 Y X"]) -> LastBlock:
    """Tokens, [CLS] attention row, queries and keys of the last block."""
    return _last_block(vit, _before_last_block(vit, _embed(vit, images)))


def clip_tokens(vit: VisionTransformer, frames: Float[Tensor, "T B 3 Y X"]) -> ClipTokens:
    """One pass over all frames of a clip; only frame 0's last block is computed in full."""
    x = _before_last_block(vit, _embed(vit, frames.flatten(0, 1)))
    cls, keys = _cls_row(vit, x)
    shape = frames.shape[:2]
    return ClipTokens(cls.unflatten(0, shape), _last_block(vit, x[: shape[1]]), keys.unflatten(0, shape))


def _embed(
    vit: VisionTransformer, images: Tensor, mask: Tensor | None = None, mask_token: Tensor | None = None
) -> Float[Tensor, "B M D"]:
    height, width = images.shape[-2:]
    patch_height, patch_width = vit.patch_embed.patch_size
    if height % patch_height or width % patch_width:
        raise ValueError(
            f"expected image sides in multiples of {patch_height} x {patch_width} pixels, got {height} x {width}"
        )
    patches = vit.patch_embed.norm(vit.patch_embed.proj(images).flatten(2).transpose(1, 2))
    if mask is not None and mask_token is not None:  # before the positions are added: the student knows where it is
        patches = torch.where(mask[..., None], mask_token.to(patches.dtype), patches)
    cls = cast(Tensor, vit.cls_token).expand(len(images), -1, -1)
    return vit.norm_pre(torch.cat([cls, patches], dim=1) + position_embedding(vit, height, width))


def _drop(x: Tensor, kept: Bool[Tensor, "B N"]) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B 1 1 L"]]:
    """[CLS] and the kept patches, moved to the front; shorter rows are filled up with tokens that are not present."""
    n_kept = kept.sum(1)
    longest = int(n_kept.max())
    patches = kept.int().argsort(dim=1, descending=True, stable=True)[:, :longest] + 1
    places = torch.cat([patches.new_zeros(len(patches), 1), patches], dim=1)
    present = torch.arange(longest + 1, device=x.device) <= n_kept[:, None]
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1])), present[:, None, None]


def _before_last_block(vit: VisionTransformer, x: Tensor, present: Tensor | None = None) -> Float[Tensor, "B M D"]:
    is_recomputed = vit.grad_checkpointing and torch.is_grad_enabled()
    for block in vit.blocks[:-1]:
        x = checkpoint(block, x, present, use_reentrant=False) if is_recomputed else block(x, present)
    return x


def _project(attn: Attention, x: Tensor, first: int, last: int) -> Float[Tensor, "n B H M d"]:
    """Parts `first` to `last` (excluded) of query, key, value of the normed tokens `x`."""
    rows = slice(first * attn.attn_dim, last * attn.attn_dim)
    bias = cast(Tensor | None, attn.qkv.bias)
    parts = linear(x, attn.qkv.weight[rows], None if bias is None else bias[rows])
    return parts.unflatten(-1, (last - first, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)


def _last_block(vit: VisionTransformer, x: Tensor) -> LastBlock:
    block = cast(Block, vit.blocks[-1])
    attn = cast(Attention, block.attn)
    query, key = _project(attn, block.norm1(x), 0, 2)
    query, key = attn.q_norm(query), attn.k_norm(key)
    with torch.autocast(x.device.type, enabled=False):  # the tracking reads this row: at least float32
        precise = torch.promote_types(query.dtype, torch.float32)
        scores = query[:, :, :1].to(precise) @ key.to(precise).transpose(-2, -1)
        attention = (scores.squeeze(2) * attn.scale).softmax(-1)
    return LastBlock(vit.norm(block(x)), attention, query, key)


def _cls_row(
    vit: VisionTransformer, x: Tensor, present: Tensor | None = None
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B H M d"]]:
    """The last block and final norm for [CLS] alone, and the keys of all tokens."""
    block = cast(Block, vit.blocks[-1])
    attn = cast(Attention, block.attn)
    normed = block.norm1(x)
    (query,) = _project(attn, normed[:, :1], 0, 1)
    key, value = _project(attn, normed, 1, 3)
    query, key = attn.q_norm(query), attn.k_norm(key)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=present, scale=attn.scale)
    row = x[:, :1] + block.drop_path1(block.ls1(attn.proj(attended.transpose(1, 2).flatten(2))))
    row = row + block.drop_path2(block.ls2(block.mlp(block.norm2(row))))
    return vit.norm(row)[:, 0], key
