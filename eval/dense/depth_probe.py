"""Depth from a frozen ViT by one linear layer: DINOv2's probe (arXiv:2304.07193, Sec. 7.4).

A patch is told by its token and by [CLS], of the last block or of four. The layer gives 256 numbers for each, which say
how much of that patch is at each of 256 depths, evenly spaced; the depth is their mean.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dora.method.vit import last_blocks
from eval.dense.depth import Depth, Photo, Sample
from eval.features import normalised

N_BINS, UPSAMPLED = 256, 4
LEAST_WEIGHT = 0.1  # of a bin before weights are made to sum to 1, as AdaBins' linear normalisation has it
LEAST_DEPTH = 1e-3  # metres, added before a logarithm
VARIANCE_SHARE = 0.85  # the scale-invariant loss: variance + 0.15 mean², of differences of logarithms
GRADIENT_SCALES = 4


class DepthProbe(nn.Module):
    """The frozen ViT and the layer."""

    def __init__(
        self, vit: VisionTransformer, *, n_layers: int, nearest: float, farthest: float, batch_norm: bool
    ) -> None:
        super().__init__()
        depth = len(vit.blocks)
        # A quarter, a half, three quarters and all of the blocks: 3, 6, 9, 12 of 12.
        self.taps = sorted({max(1, round(depth * (n + 1) / n_layers)) - 1 for n in range(n_layers)})
        self.vit = vit.requires_grad_(False).eval()
        width = 2 * len(self.taps) * vit.embed_dim
        self.norm = nn.BatchNorm1d(width, affine=False) if batch_norm else nn.Identity()
        self.head = nn.Linear(width, N_BINS)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("bins", torch.linspace(nearest, farthest, N_BINS), persistent=False)

    def train(self, mode: bool = True) -> "DepthProbe":
        """As nn.Module, but for the ViT."""
        super().train(mode)
        self.vit.eval()
        return self

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B Y X"]:
        """Depth in metres. Pictures that patches do not divide are seen a little larger."""
        patch, size = self.vit.patch_embed.patch_size[0], images.shape[2:]
        grid = (-(-size[0] // patch), -(-size[1] // patch))
        whole = (patch * grid[0], patch * grid[1])
        if whole != tuple(size):
            images = F.interpolate(images, whole, mode="bilinear", antialias=True)
        with torch.no_grad():
            outputs = last_blocks(self.vit, images, len(self.vit.blocks) - self.taps[0])
            taps = [outputs[tap - len(self.vit.blocks)] for tap in self.taps]
            tokens = torch.cat([torch.cat([x[:, 1:], x[:, :1].expand_as(x[:, 1:])], dim=2) for x in taps], dim=2)
        # The layer and the enlargement are linear and may change places: 256 maps are enlarged, not thousands.
        logits = (
            self.head(self.norm(tokens.flatten(0, 1))).unflatten(0, tokens.shape[:2]).transpose(1, 2).unflatten(2, grid)
        )
        # Picture by picture: the maps of all at once are memory that the system has to give anew at every step.
        found = torch.cat([self._depth(one) for one in logits.float().split(1)])
        return F.interpolate(found[:, None], tuple(size), mode="bilinear", align_corners=False)[:, 0]

    def _depth(self, logits: Float[Tensor, "b K y x"]) -> Float[Tensor, "b Y X"]:
        """The mean depth at every place of the enlarged maps."""
        enlarged = F.interpolate(logits, scale_factor=UPSAMPLED, mode="bilinear", align_corners=False)
        weights = enlarged.relu() + LEAST_WEIGHT
        return torch.einsum("b k y x, k -> b y x", weights, self.bins) / weights.sum(dim=1)

    def groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW's."""
        return [{"name": "head", "params": list(self.head.parameters()), "lr": lr, "weight_decay": weight_decay}]


def losses(
    model: nn.Module, samples: list[Sample], *, nearest: float, farthest: float, gradient_weight: float
) -> dict[str, Tensor]:
    """Scale-invariant loss and the gradients' of a micro-batch, each the mean over its pictures."""
    device = next(model.parameters()).device
    images = normalised(np.stack([sample.photo for sample in samples]), device=device)
    truth = torch.from_numpy(np.stack([sample.depth for sample in samples])).to(device)
    known = (truth > nearest) & (truth < farthest)
    predicted = model(images).float()
    return {
        "loss_scale_invariant": scale_invariant(predicted, truth, known),
        "loss_gradient": gradient_weight * gradients(predicted, truth, known),
    }


def scale_invariant(
    predicted: Float[Tensor, "B Y X"], truth: Float[Tensor, "B Y X"], known: Bool[Tensor, "B Y X"]
) -> Tensor:
    """sqrt(mean d² − 0.85 (mean d)²) over a picture's known pixels, d = log predicted − log true; then the mean.

    Eigen et al., arXiv:1406.2283, Sec. 3.2, with AdaBins' share. Of each picture, where theirs is of the whole batch:
    a batch may be split then.
    """
    difference = _logarithms(predicted, truth, known)
    n = known.sum(dim=(1, 2)).clamp(min=1)
    mean, square = difference.sum(dim=(1, 2)) / n, difference.square().sum(dim=(1, 2)) / n
    # 1e-12: the root of 0 has no gradient.
    return (square - VARIANCE_SHARE * mean.square()).clamp(min=1e-12).sqrt().mean()


def gradients(predicted: Float[Tensor, "B Y X"], truth: Float[Tensor, "B Y X"], known: Bool[Tensor, "B Y X"]) -> Tensor:
    """How much d changes over two pixels down and across, at four scales, over known pixels; the mean over pictures.

    MegaDepth's term (arXiv:1804.00607, Sec. 4) as DINOv2's probe has it.
    """
    difference, total = _logarithms(predicted, truth, known), predicted.new_zeros(len(predicted))
    for scale in range(GRADIENT_SCALES):
        d, there = (x[:, :: 2**scale, :: 2**scale] for x in (difference, known))
        down, across = (d[:, 2:] - d[:, :-2]).abs(), (d[:, :, 2:] - d[:, :, :-2]).abs()
        down, across = down * (there[:, 2:] & there[:, :-2]), across * (there[:, :, 2:] & there[:, :, :-2])
        total = total + (down.sum(dim=(1, 2)) + across.sum(dim=(1, 2))) / there.sum(dim=(1, 2)).clamp(min=1)
    return total.mean()


@torch.inference_mode()
def predict(model: DepthProbe, photo: Photo, *, nearest: float, farthest: float) -> Depth:
    """Depth of a photo in metres, within the range."""
    image = normalised(photo[None], device=model.head.weight.device)
    return model(image)[0].clamp(nearest, farthest).cpu().numpy()


def _logarithms(predicted: Tensor, truth: Tensor, known: Tensor) -> Float[Tensor, "B Y X"]:
    """Log predicted − log true where the truth is known, else 0."""
    difference = (predicted + LEAST_DEPTH).log() - (truth.clamp(min=0) + LEAST_DEPTH).log()
    return torch.where(known, difference, 0.0)
