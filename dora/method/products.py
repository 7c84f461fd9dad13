"""Parts of a ViT that are faster on a CPU and keep less for the backward pass; equal to timm's, but for rounding.

torch's float32 products on a CPU are MKL's, which on AMD's processors leaves half of the machine idle. oneDNN, which
torch brings along for half precision and convolutions, does not. On Intel's it is the slower one, as it copies what it
is given transposed, and MKL does not: docs/benchmarks.md has the figures.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Attention, Mlp
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
BY_ONEDNN = HAS_ONEDNN and "intel" not in str(torch.cpu.get_capabilities().get("cpu_name", "")).lower()


def product(a: Float[Tensor, "*M K"], b: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None = None) -> Tensor:
    """The rows of `a` times those of `b`, plus `bias`; without gradient."""
    if BY_ONEDNN and a.dtype == b.dtype == torch.float32 and a.device.type == "cpu" and a.numel() and b.numel():
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def linear(x: Float[Tensor, "*M K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, "N"] | None) -> Tensor:
    """F.linear, with gradients."""
    is_for_onednn = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and BY_ONEDNN
    if is_for_onednn and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling():
        return cast(Tensor, _Linear.apply(x, weight, bias))
    return F.linear(x, weight, bias)


def lighten(module: nn.Module) -> None:
    """Give linear layers, MLPs and attentions below the forward passes of this file; parameters stay as they are."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
    for part in module.modules():
        if type(part) is Mlp and type(part.fc1) is Linear and isinstance(part.norm, nn.Identity):
            if type(part.act) is nn.GELU and part.act.approximate == "none":
                part.__class__ = LightMlp
        elif type(part) is Attention:
            part.__class__ = LightAttention


class Linear(nn.Linear):
    """nn.Linear by another product."""

    def forward(self, input: Float[Tensor, "*M K"]) -> Float[Tensor, "*M N"]:  # noqa: A002 (torch's name)
        """As nn.Linear."""
        return linear(input, self.weight, self.bias)


class LightAttention(Attention):
    """timm's attention; on a CPU in half precision as three products, which take a third of torch's fused kernel."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """As timm's."""
        in_parts = x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and attn_mask is None
        self.fused_attn = not in_parts  # pyright: ignore[reportAttributeAccessIssue, reportGeneralTypeIssues]
        return super().forward(x, attn_mask, is_causal)


class LightMlp(Mlp):
    """timm's MLP that computes its activation again in the backward pass: little time for half of its memory."""

    def forward(self, x: Float[Tensor, "*M D"]) -> Float[Tensor, "*M D"]:
        """As timm's."""
        drops = self.training and max(self.drop1.p, self.drop2.p) > 0
        if drops or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return super().forward(x)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return cast(Tensor, _Mlp.apply(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, dtype))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        d_x = product(gradients[0], weight.T) if ctx.needs_input_grad[0] else None
        rows = _rows(gradients[0])
        d_weight = product(rows.T, _rows(x).T) if ctx.needs_input_grad[1] else None
        return d_x, d_weight, rows.sum(0) if ctx.has_bias else None


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        with torch.autocast(x.device.type, enabled=False):
            inner = x.to(dtype)
            hidden = product(inner, weight1.to(dtype), None if bias1 is None else bias1.to(dtype))
            ctx.save_for_backward(inner, hidden, weight1, weight2)
            ctx.dtypes = [None if part is None else part.dtype for part in (x, bias1, bias2)]
            return product(F.gelu(hidden), weight2.to(dtype), None if bias2 is None else bias2.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, hidden, weight1, weight2 = ctx.saved_tensors
        of_x, of_bias1, of_bias2 = ctx.dtypes
        with torch.autocast(x.device.type, enabled=False):
            out, rows = _rows(gradients[0].to(hidden.dtype)), _rows(hidden)
            d_weight2 = product(out.T, F.gelu(rows).T)
            d_hidden = product(out, weight2.to(out.dtype).T)
            torch.ops.aten.gelu_backward.grad_input(d_hidden, rows, grad_input=d_hidden)
            d_weight1 = product(d_hidden.T, _rows(x).T)
            d_x = product(d_hidden, weight1.to(out.dtype).T).view(x.shape)
            d_bias1 = None if of_bias1 is None else d_hidden.sum(0, dtype=of_bias1)
            d_bias2 = None if of_bias2 is None else out.sum(0, dtype=of_bias2)
        return d_x.to(of_x), d_weight1.to(weight1.dtype), d_bias1, d_weight2.to(weight2.dtype), d_bias2, None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])
