"""DINO's projection head (arXiv:2104.14294, App. C): where teacher and student are compared."""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dora.config import HeadConfig


class WeightNormLinear(nn.Module):
    """Linear without bias whose rows have length `weight_g` (1 at first) and direction `weight_v`.

    torch's weight_norm is either deprecated or renames the parameters; here is its kernel, with the names that
    released weights have.
    """

    def __init__(self, in_features: int, out_features: int, *, train_length: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_length)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.trunc_normal_(self.weight_v, std=0.02)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Normalise all rows, then multiply."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class Head(nn.Module):
    """[CLS] token to prototype logits: MLP, L2 norm, weight-normalised linear.

    Normalising the K × D last layer costs more than using it on a few tokens, so call the head once with all of them.
    """

    def __init__(self, dim: int, config: HeadConfig) -> None:
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
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """Logits, each a cosine times its prototype's length."""
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))
