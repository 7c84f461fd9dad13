"""LOST against a plain version of the published procedure: the whole affinity of all patches, one operation at a time.

`lost_ratio` is from the keys to the box, features excluded, on the patches that a ViT-S/16 has of a usual photo of VOC
(500 x 375) and of COCO20k (640 x 480); `lost_thread_ratio` the same on one thread, `lost_fine_ratio` for a ViT-S/8, on
VOC's. `lost_total_ratio` begins with the photo's pixels, and is nearly all the network's: plain is a ViT whose
attention is three products. Seeds and boxes of both sides are compared before anything is timed.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from bench import Measurement, alternate
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.config import BackboneConfig
from dora.method.vit import build_vit, position_embedding
from eval.discovery.last_layer import last_layer, padded
from eval.discovery.lost import discover
from eval.features import normalised

DIM, K = 384, 100
VOC, COCO = (375, 500), (480, 640)  # height and width of usual photos


class Seen(NamedTuple):
    """A photo's keys."""

    keys: Tensor
    grid: tuple[int, int]
    patch: int
    size: tuple[int, int]


def plain_lost(seen: Seen) -> tuple[int, tuple[float, ...]]:
    """Seed and box, as the published code goes about it."""
    affinity = seen.keys @ seen.keys.T
    positive = affinity.clone()
    positive.fill_diagonal_(0)
    positive[positive < 0] = 0
    positive = positive + positive.T
    score = -torch.sum(positive > 0, dim=1).float()
    ranked = torch.argsort(score, descending=True, stable=True)
    seed, candidates = ranked[0], ranked[:K]
    similar = candidates[affinity[seed, candidates] > 0]
    summed = torch.sum(affinity[similar], dim=0).reshape(seen.grid)
    _, labels = cv2.connectedComponents((summed > 0).numpy().astype(np.uint8), connectivity=4)
    row, column = divmod(int(seed), seen.grid[1])
    rows, columns = np.where(labels == labels[row, column])
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    left, top, right, bottom = (float(seen.patch * side) for side in box)
    return int(seed), (left, top, min(right, float(seen.size[1])), min(bottom, float(seen.size[0])))


@torch.inference_mode()
def plain_keys(vit: VisionTransformer, photo: np.ndarray) -> Tensor:
    """Keys of the last layer, which is computed as far as the attention of all tokens."""
    image = padded(normalised(photo[None])[0], vit.patch_embed.patch_size[0])[None]
    x = vit.patch_embed.proj(image).flatten(2).transpose(1, 2)
    x = torch.cat([vit.cls_token, x], dim=1) + position_embedding(vit, *image.shape[2:])
    for block in vit.blocks:
        attention, y = block.attn, block.norm1(x)
        parts = F.linear(y, attention.qkv.weight, attention.qkv.bias)
        q, k, v = parts.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(2, 3) * attention.scale).softmax(dim=-1)
        if block is vit.blocks[-1]:
            break
        x = x + F.linear((weight @ v).transpose(1, 2).flatten(2), attention.proj.weight, attention.proj.bias)
        y = F.gelu(F.linear(block.norm2(x), block.mlp.fc1.weight, block.mlp.fc1.bias))
        x = x + F.linear(y, block.mlp.fc2.weight, block.mlp.fc2.bias)
    return k[0, :, 1:].transpose(0, 1).flatten(1)


def lost_ratio() -> Measurement:
    """Keys to box, ViT-S/16, a photo of VOC and one of COCO20k."""
    return _keys_to_box(_smooth_keys(VOC, 16), _smooth_keys(COCO, 16))


def lost_thread_ratio() -> Measurement:
    """The same on one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return lost_ratio()
    finally:
        torch.set_num_threads(n_threads)


def lost_fine_ratio() -> Measurement:
    """Keys to box, ViT-S/8, a photo of VOC."""
    return _keys_to_box(_smooth_keys(VOC, 8))


def lost_total_ratio() -> Measurement:
    """Pixels to box, ViT-S/16, a photo of VOC."""
    torch.manual_seed(0)
    vit = build_vit(BackboneConfig(architecture="vit_small_patch16_224"), drop_path=False).eval().requires_grad_(False)
    photo = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), VOC[::-1])

    def plain() -> tuple[int, tuple[float, ...]]:
        return plain_lost(Seen(plain_keys(vit, photo), _grid(VOC, 16), 16, VOC))

    def ours() -> tuple[int, tuple[float, ...]]:
        seen = last_layer(vit, photo)
        found = discover(seen.keys, seen.grid, patch=seen.patch, size=VOC, n_candidates=K)
        return found.seed, found.box

    assert plain() == ours()
    return alternate(plain, ours)


def _keys_to_box(*photos: Seen) -> Measurement:
    def plain() -> list[tuple[int, tuple[float, ...]]]:
        return [plain_lost(seen) for seen in photos]

    def ours() -> list[tuple[int, tuple[float, ...]]]:
        found = [discover(s.keys, s.grid, patch=s.patch, size=s.size, n_candidates=K) for s in photos]
        return [(one.seed, one.box) for one in found]

    assert plain() == ours()
    return alternate(plain, ours, rounds=25)


def _grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    return -(-size[0] // patch), -(-size[1] // patch)


def _smooth_keys(size: tuple[int, int], patch: int) -> Seen:
    """Keys that are alike where patches are near one another, and noise."""
    generator, grid = torch.Generator().manual_seed(0), _grid(size, patch)
    coarse = F.interpolate(torch.randn(1, DIM, 5, 7, generator=generator), grid, mode="bilinear")[0]
    keys = coarse.flatten(1).T + 0.3 * torch.randn(grid[0] * grid[1], DIM, generator=generator)
    return Seen(keys.contiguous(), grid, patch, size)


BENCHES = {
    "lost_ratio": lost_ratio,
    "lost_thread_ratio": lost_thread_ratio,
    "lost_fine_ratio": lost_fine_ratio,
    "lost_total_ratio": lost_total_ratio,
}
