"""What is done to parameters after the backward pass: clip, freeze, AdamW, and the teacher's moving average."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dora.method.network import Network
from dora.training.distributed import own_part


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
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float, *, by: Literal["parameter", "global"]
) -> Float[Tensor, ""]:  # fmt: skip
    """The norm of all gradients together, before they are shortened to `max_norm`; 0: they are left as they are.

    "parameter": each by its own norm, as DINO does; "global": all by their common one. Where ranks have shares of the
    parameters, norms are of the whole ones.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = _norms(gradients)
    total = torch.linalg.vector_norm(norms)
    if max_norm > 0:
        factors = (max_norm / ((norms if by == "parameter" else total.expand_as(norms)) + 1e-6)).clamp(max=1)
        torch._foreach_mul_([own_part(gradient) for gradient in gradients], list(factors.unbind()))
    return total


def freeze_last_layer(network: Network, *, epoch: int, n_epochs: int) -> None:
    """In the first `n_epochs`, drop the last layer's gradients: the optimiser then skips it, decay included.

    Call it after `clip_gradients` and before the optimiser's step. iBOT's second last layer is one too.
    """
    if epoch < n_epochs:
        for layer in (network.head.last_layer, network.head.last_layer2):
            for parameter in layer.parameters() if layer is not None else ():
                parameter.grad = None


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter: teacher = momentum · teacher + (1 - momentum) · student; backbone and head."""
    ours, theirs = ([own_part(parameter) for parameter in network.parameters()] for network in (teacher, student))
    torch._foreach_lerp_(ours, theirs, 1 - momentum)


def _norms(gradients: list[Tensor]) -> Float[Tensor, "N"]:
    """Of each whole gradient."""
    norms = torch.stack(torch._foreach_norm([own_part(gradient) for gradient in gradients]))
    first = gradients[0]
    if isinstance(first, DTensor):
        squares = norms.square()
        dist.all_reduce(squares, group=first.device_mesh.get_group())
        norms = squares.sqrt()
    return norms
