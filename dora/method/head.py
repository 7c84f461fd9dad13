"""DINO's projection head (arXiv:2104.14294, App. C): where teacher and student are compared."""

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dora.config import HeadConfig
from dora.method.products import lighten


class Projected(NamedTuple):
    """Tokens where student and teacher are compared, before they are multiplied with the prototypes.

    The logits of many prototypes are large; dora/method/cross_entropy.py needs only a few columns of them at a time.
    """

    points: Float[Tensor, "*B d"]  # of length 1
    prototypes: Float[Tensor, "K d"]

    def logits(self) -> Float[Tensor, "*B K"]:
        """Cosines times the prototypes' lengths."""
        return self.points @ self.prototypes.T

    def mean_logits(self) -> Float[Tensor, "K"]:
        """The mean of `logits` over all tokens."""
        with torch.autocast(self.points.device.type, enabled=False):  # a centre is a small number at the end of a sum
            return self.prototypes @ self.points.flatten(0, -2).mean(0, dtype=self.prototypes.dtype)


class WeightNormLinear(nn.Module):
    """Linear without bias whose rows have length `weight_g` (1 at first) and direction `weight_v`.

    torch's weight_norm is either deprecated or renames the parameters; here is its kernel, with the names that
    released weights have.
    """

    def __init__(self, in_features: int, out_features: int, *, train_length: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_length)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        # As nn.Linear begins: DINO, iBOT and DoRA make this layer after their truncated normal has filled the others.
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))

    def prototypes(self) -> Float[Tensor, "K D"]:
        """The weight: `weight_v`'s directions at `weight_g`'s lengths."""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)


class Head(nn.Module):
    """Tokens to prototype logits: MLP, L2 norm, weight-normalised linear.

    Normalising the K × D last layer costs more than using it on a few tokens, so call the head once with all of them.
    `last_layer2` is iBOT's, for patches, where they do not share the [CLS] token's prototypes (its released names).
    """

    def __init__(self, dim: int, config: HeadConfig, *, n_patch_prototypes: int | None = None) -> None:
        super().__init__()
        widths = [dim, *[config.hidden_dim] * (config.n_layers - 1), config.bottleneck_dim]
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.GELU()]
        layers.pop()  # no activation before the L2 norm
        self.mlp = nn.Sequential(*layers) if len(layers) > 1 else layers[0]  # DINO's key of one layer is mlp.weight
        self.last_layer = WeightNormLinear(
            config.bottleneck_dim, config.n_prototypes, train_length=not config.norm_last_layer
        )
        self.last_layer2 = (
            WeightNormLinear(config.bottleneck_dim, n_patch_prototypes, train_length=not config.norm_last_layer)
            if n_patch_prototypes
            else None
        )
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        lighten(self)

    def project(self, x: Float[Tensor, "*B D"], *, patches: bool = False) -> Projected:
        """[CLS] tokens, or patches, among the prototypes that they are compared with."""
        own = self.last_layer2 if patches and self.last_layer2 is not None else self.last_layer
        return Projected(F.normalize(self.mlp(x), dim=-1), own.prototypes())

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
        """Logits, each a cosine times its prototype's length."""
        return self.project(x).logits()
