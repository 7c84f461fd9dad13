"""Batch norm over several processes equals batch norm over all their samples in one."""

from pathlib import Path

import finetuner
import pytest
import torch
from torch import Tensor, nn

from dora.training.distributed import Ranks, process_group
from eval.finetune.batch_norm import AllRanksBatchNorm, n_batch_norms, synchronize

torch.set_num_threads(1)
SIZES = (3, 1)  # samples of each rank
ALONE = Ranks(0, 1, torch.device("cpu"))


def network(n_dims: int) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if n_dims == 4 else nn.BatchNorm1d(4)
    return nn.Sequential(norm, nn.GELU(), nn.Sequential(nn.BatchNorm2d(4) if n_dims == 4 else nn.BatchNorm1d(4)))


def samples(n_dims: int) -> Tensor:
    return torch.rand(4, 4, *(3, 5)[: n_dims - 2], generator=torch.Generator().manual_seed(1)) * 3 + 1


def learnt(net: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients of a loss that is a mean over all four samples, and the running statistics."""
    x = x.clone().requires_grad_()
    y = net(x)
    (y * torch.arange(4.0).view(1, 4, *[1] * (x.dim() - 2))).square().sum().div(4).backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(net.named_buffers())}


@pytest.mark.parametrize("n_dims", [2, 3, 4])
def test_statistics_and_gradients_are_those_of_all_samples(tmp_path: Path, n_dims: int):
    def work() -> None:
        with process_group("cpu", 60) as ranks:
            net, own = network(n_dims), samples(n_dims).split(SIZES)[ranks.rank]
            before = [*net.parameters()]
            synchronize(net, ranks)
            assert n_batch_norms(net) == 2 and isinstance(net[0], AllRanksBatchNorm)
            assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
            found = learnt(net, own)
            found |= {"evaluated": net.eval()(own).detach()}
            torch.save(found, tmp_path / f"{ranks.rank}.pt")

    assert finetuner.side_by_side(2, work) == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    net = network(n_dims)
    whole = learnt(net, samples(n_dims))
    whole |= {"evaluated": net.eval()(samples(n_dims)).detach()}
    assert one.keys() == whole.keys()
    for name, value in whole.items():
        if name in ("y", "x", "evaluated"):
            found = torch.cat([one[name], two[name]])
        elif "running" in name or "num_batches" in name:
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=0)
            found = one[name]
        else:
            found = one[name] + two[name]
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_one_process_alone_keeps_its_norms():
    net = network(4)
    synchronize(net, ALONE)
    assert type(net[0]) is nn.BatchNorm2d


def test_a_norm_that_averages_over_all_batches_is_refused():
    with pytest.raises(ValueError, match="momentum None cannot be shared"):
        synchronize(nn.Sequential(nn.BatchNorm2d(4, momentum=None)), Ranks(0, 2, torch.device("cpu")))
