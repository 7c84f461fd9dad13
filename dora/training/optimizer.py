"""What is done to parameters after the backward pass: clip, freeze, AdamW, and the teacher's moving average."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dora.method.network import Network


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Weights with decay, then biases and other vectors without; position embedding and [CLS] count as weights."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1]},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(network: nn.Module) -> torch.optim.AdamW:
    """AdamW with torch's defaults (the authors'), its fused kernel; `set_rates` sets lr and decay before each step."""
    return torch.optim.AdamW(parameter_groups(network), lr=0.0, weight_decay=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Set this step's learning rate everywhere and its weight decay in the first of `parameter_groups`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.param_groups[0]["weight_decay"] = weight_decay


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Shorten each gradient by itself to `max_norm`, as DINO does, not all by their common norm; 0: leave them."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients or max_norm == 0:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (max_norm / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, list(factors.unbind()))


def freeze_last_layer(network: Network, *, epoch: int, n_epochs: int) -> None:
    """In the first `n_epochs`, drop the last layer's gradients: the optimiser then skips it, decay included.

    Call it after `clip_gradients` and before the optimiser's step.
    """
    if epoch < n_epochs:
        for parameter in network.head.last_layer.parameters():
            parameter.grad = None


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter: teacher = momentum · teacher + (1 - momentum) · student; backbone and head."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
