"""Linear classifiers on features that are not trained: several, with learning rates of their own, trained at once.

All begin alike and see the same features; none sees another's gradient, and SGD treats each weight by itself: every one
comes out bit by bit as if it had been trained alone (tests/test_imagenet_linear.py).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

# Of the initial weights (facebookresearch/dino eval_linear.py, 7c446df); biases begin at 0.
STD = 0.01
MOMENTUM = 0.9  # the same


class Heads(nn.Module):
    """One linear layer for each name."""

    def __init__(self, names: Sequence[str], *, width: int, n_classes: int) -> None:
        super().__init__()
        self.names = tuple(names)
        first = nn.Linear(width, n_classes)
        nn.init.normal_(first.weight, std=STD)
        nn.init.zeros_(first.bias)
        self.layers = nn.ModuleList([nn.Linear(width, n_classes) for _ in names])
        for layer in self.layers:
            layer.load_state_dict(first.state_dict())

    def forward(self, features: Float[Tensor, "B F"]) -> dict[str, Float[Tensor, "B K"]]:
        """Logits by name, in float32 whatever precision the features were computed in."""
        with torch.autocast(features.device.type, enabled=False):
            x = features.float()
            return {name: layer(x) for name, layer in zip(self.names, self.layers, strict=True)}

    def losses(self, features: Float[Tensor, "B F"], labels: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """Cross-entropy of each."""
        return {f"{name}.loss_ce": F.cross_entropy(logits, labels) for name, logits in self(features).items()}

    def groups(self, rates: Sequence[float], *, weight_decay: float) -> list[dict[str, Any]]:
        """The optimizer's groups: the rate of each."""
        return [
            {"name": name, "params": list(layer.parameters()), "lr": lr, "weight_decay": weight_decay}
            for name, layer, lr in zip(self.names, self.layers, rates, strict=True)
        ]


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(groups, momentum=MOMENTUM)


def cosine_by_epochs(n_epochs: int, *, iterations_per_epoch: int) -> Callable[[int], float]:
    """(1 + cos(pi e / n)) / 2, the same throughout epoch e; what comes to 0 is the epoch after the last."""

    def factor(iteration: int) -> float:
        return (1 + math.cos(math.pi * (iteration // iterations_per_epoch) / n_epochs)) / 2

    return factor


def n_correct(logits: Float[Tensor, "B K"], labels: Int[Tensor, " B"], *, tops: Sequence[int]) -> Int[Tensor, " tops"]:
    """How many rows have their label among the `top` largest logits, for each of `tops`.

    Of equal logits the lower class comes first: a library's topk takes whichever it likes.
    """
    own = logits.gather(1, labels[:, None])
    is_lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    place = ((logits > own) | ((logits == own) & is_lower)).sum(dim=1)
    return torch.stack([(place < top).sum() for top in tops])
