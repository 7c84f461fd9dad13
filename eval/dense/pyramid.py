"""A plain ViT as the backbone of dense prediction: the maps of four of its blocks, at strides 4, 8, 16 and 32."""

import logging
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import DropPath
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from dora.artifacts import Checkpoint
from dora.weights.load import load_encoder

log = logging.getLogger("dora.dense")

STRIDES = (4, 8, 16, 32)


def trainable_vit(
    checkpoint: Checkpoint, *, image_size: tuple[int, int], drop_path_rate: float
) -> VisionTransformer:  # fmt: skip
    """The whole backbone of a checkpoint, ready to be trained on images of `image_size` (height, width).

    Its position embedding is resized to their grid, from block to block more of what it adds is dropped (linearly, up
    to `drop_path_rate`), and the log says so.

    Raises:
        FileNotFoundError, ValueError: as `load_encoder`; ValueError for an image that patches do not divide.
    """
    vit = load_encoder(checkpoint.path)
    _resize(vit, grid_of(vit, *image_size), image_size)
    for block, rate in zip(vit.blocks, torch.linspace(0, drop_path_rate, len(vit.blocks)).tolist(), strict=True):
        cast(Block, block).drop_path1 = DropPath(rate) if rate else nn.Identity()
        cast(Block, block).drop_path2 = DropPath(rate) if rate else nn.Identity()
    return vit.requires_grad_(True).train()


def default_taps(depth: int) -> tuple[int, ...]:
    """Blocks, counted from 0, after a third, a half, two thirds and all of them: iBOT's 3, 5, 7, 11 of 12."""
    return tuple(max(1, round(depth * share)) - 1 for share in (1 / 3, 1 / 2, 2 / 3, 1))


def nominal_stride(patch_size: int) -> int:
    """The power of two that a patch stands for, in pixels of the image: 16 for 16, and for 14."""
    return 2 ** round(math.log2(patch_size))


def grid_of(vit: VisionTransformer, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches of an image.

    Raises:
        ValueError: if patches do not divide it.
    """
    patch = vit.patch_embed.patch_size[0]
    stride = nominal_stride(patch)
    if height % stride or width % stride:
        as_if = "" if stride == patch else f" (which stand for {stride})"
        raise ValueError(
            f"expected an image whose sides are multiples of {stride} for patches of {patch} px{as_if}, "
            f"got {height} x {width}. Pad it."
        )
    return height // stride, width // stride


class Pyramid(nn.Module):
    """Maps at strides 4, 8, 16, 32 of a ViT's blocks: the adaptor of iBOT.

    bytedance/ibot evaluation/semantic_segmentation and object_detection, as BEiT before it. With `with_norm` each map
    is normed by the ViT's last layer; without, that layer is not trained. A `frozen` ViT always is in evaluation mode.
    Without `levels`, maps are what the blocks say, all at the ViT's own stride. Patches that are no power of two see
    the image at another size, so that strides stay what they are for their neighbours. `recompute` keeps less for the
    backward pass and computes it again.
    """

    def __init__(
        self, vit: VisionTransformer, *, taps: tuple[int, ...], with_norm: bool, frozen: bool = False,
        levels: bool = True, recompute: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not taps or sorted(taps) != list(taps) or not 0 <= taps[0] <= taps[-1] < len(vit.blocks):
            raise ValueError(f"expected numbers of blocks from 0 to {len(vit.blocks) - 1} in order, got taps {taps}")
        if levels and len(taps) != len(STRIDES):
            raise ValueError(f"expected {len(STRIDES)} taps, one for each of the strides {STRIDES}, got {taps}")
        self.vit, self.taps, self.with_norm, self.frozen, self.recompute = vit, taps, with_norm, frozen, recompute
        self.out_channels = vit.embed_dim
        self.patch_size = vit.patch_embed.patch_size[0]
        self.stride = nominal_stride(self.patch_size)
        self.levels = nn.ModuleList(_level(self.out_channels, self.stride, s) for s in STRIDES) if levels else None
        # What no map depends on would wait for a gradient that never comes.
        for unused in (*vit.blocks[taps[-1] + 1 :], *(() if with_norm else (vit.norm,))):
            unused.requires_grad_(False)
        if frozen:
            vit.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Pyramid":
        """As nn.Module, but for a frozen ViT."""
        super().train(mode)
        if self.frozen:
            self.vit.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> tuple[Tensor, ...]:
        """One map for each tap, (B, D, Y / stride, X / stride)."""
        rows, columns = grid_of(self.vit, *images.shape[-2:])
        if self.stride != self.patch_size:
            size = (rows * self.patch_size, columns * self.patch_size)
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = tuple(x[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for x in self._taps(images))
        return maps if self.levels is None else tuple(f(x) for f, x in zip(self.levels, maps, strict=True))

    def _taps(self, images: Float[Tensor, "B 3 Y X"]) -> list[Float[Tensor, "B M D"]]:
        vit, outputs = self.vit, cast(list[Tensor], [])
        patches = vit.patch_embed.proj(images)
        grid = (patches.shape[-2], patches.shape[-1])
        patches = vit.patch_embed.norm(patches.flatten(2).transpose(1, 2))
        positions = resized_positions(
            cast(Tensor, vit.pos_embed), cast(tuple[int, int], vit.patch_embed.grid_size), grid
        )
        x = torch.cat([cast(Tensor, vit.cls_token).expand(len(images), -1, -1), patches], dim=1)
        x = vit.norm_pre(x + positions)
        for number, block in enumerate(vit.blocks[: self.taps[-1] + 1]):
            is_recomputed = self.recompute and torch.is_grad_enabled()
            x = cast(Tensor, recomputed(block, x, use_reentrant=False) if is_recomputed else block(x))
            if times := self.taps.count(number):
                outputs += [vit.norm(x) if self.with_norm else x] * times
        return outputs


def resized_positions(
    learnt: Float[Tensor, "1 M D"], before: tuple[int, int], after: tuple[int, int]
) -> Float[Tensor, "1 L D"]:
    """A position embedding for another grid: bicubic, corners not aligned, [CLS] as it is.

    So iBOT's dense evaluations load weights. It is not DINO's rule, by which features for other benchmarks are computed
    (dora/method/vit.py position_embedding) and iBOT's network resamples once more for photos of another grid: that
    shifts every sampling point a little (docs/dense.md).
    """
    if before == after:
        return learnt
    grid = learnt[:, 1:].unflatten(1, before).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=after, mode="bicubic", align_corners=False)
    return torch.cat([learnt[:, :1].float(), grid.flatten(2).transpose(1, 2)], dim=1).to(learnt.dtype)


def _resize(vit: VisionTransformer, grid: tuple[int, int], image_size: tuple[int, int]) -> None:
    learnt, before = cast(nn.Parameter, vit.pos_embed), cast(tuple[int, int], vit.patch_embed.grid_size)
    sizes = (
        f"{before[0]} x {before[1]} patches to {grid[0]} x {grid[1]}, for images of {image_size[0]} x {image_size[1]}"
    )
    if before == grid:
        log.info("position embedding kept: %d x %d patches, as images of %d x %d have", *grid, *image_size)
        return
    with torch.no_grad():
        vit.pos_embed = nn.Parameter(resized_positions(learnt, before, grid))
    embed: Any = vit.patch_embed
    patch = embed.patch_size[0]
    embed.grid_size, embed.img_size, embed.num_patches = grid, (grid[0] * patch, grid[1] * patch), grid[0] * grid[1]
    log.info("position embedding resized from %s (bicubic)", sizes)


def _level(width: int, before: int, after: int) -> nn.Module:
    """From maps of stride `before` to maps of stride `after`; normed and activated between two enlargements."""
    if before == after:
        return nn.Identity()
    if before < after:
        return nn.MaxPool2d(after // before)
    parts: list[nn.Module] = []
    for _ in range(int(math.log2(before // after))):
        between = [nn.BatchNorm2d(width), nn.GELU()] if parts else []
        parts += [*between, nn.ConvTranspose2d(width, width, 2, stride=2)]
    return nn.Sequential(*parts)
