"""Batch normalisation with the statistics of all ranks: torch's own on GPUs, one that gloo can exchange on CPUs."""

from typing import Any, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from dora.training.distributed import Ranks


def synchronize(model: nn.Module, ranks: Ranks) -> None:
    """Let the model's batch norms see the samples of all ranks; their weights stay the very same tensors.

    Raises:
        ValueError: if one of them averages over all batches rather than the last ones (momentum None).
    """
    if ranks.world_size == 1:
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, AllRanksBatchNorm):
                setattr(module, name, _synchronized(child, ranks))


def n_batch_norms(model: nn.Module) -> int:
    """How many batch norms use the statistics of the batch that they see."""
    return sum(isinstance(module, _BatchNorm) and module.training for module in model.modules())


class AllRanksBatchNorm(_BatchNorm):
    """As nn.SyncBatchNorm, for tensors of the CPU: mean and variance are those of all ranks' samples together."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  (torch's name)
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions (samples, channels, …), got {input.dim()}")

    def forward(self, input: Float[Tensor, "B D *YX"]) -> Float[Tensor, "B D *YX"]:  # noqa: A002
        """Normalise; in training mode with this batch's statistics, which the running ones follow."""
        self._check_input_dim(input)
        if not self.training:
            return super().forward(input)
        x = input.float()
        over = [dim for dim in range(x.dim()) if dim != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        sums = _over_ranks(torch.cat([x.sum(over), x.new_full((1,), x.numel() / x.shape[1])]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        # A second exchange: a mean of squares less the squared mean would lose what float32 has few digits for.
        centered = x - mean.view(shape)
        variance = _over_ranks(centered.square().sum(over)) / n
        self._follow(mean.detach(), variance.detach() * n / (n - 1))
        y = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = cast(float, self.momentum)
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def _over_ranks(tensor: Tensor) -> Tensor:
    return cast(Tensor, _SumOverRanks.apply(tensor))


class _SumOverRanks(torch.autograd.Function):
    """What every rank adds to a sum has its share in every rank's loss: gradients are added up likewise."""

    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _synchronized(norm: _BatchNorm, ranks: Ranks) -> nn.Module:
    if norm.momentum is None:
        raise ValueError("a BatchNorm with momentum None cannot be shared by several processes. Give it a momentum.")
    if ranks.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    shared = AllRanksBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    if norm.affine:
        shared.weight, shared.bias = norm.weight, norm.bias
    shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
    shared.num_batches_tracked = norm.num_batches_tracked
    return shared.train(norm.training)
