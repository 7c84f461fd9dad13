import copy
from typing import Literal

import pytest
import torch
from torch import nn

from dora.config import BackboneConfig, HeadConfig, PretrainConfig
from dora.method.head import Head
from dora.method.network import Network, build_network
from dora.training.optimizer import (
    build_optimizer,
    clip_gradients,
    freeze_last_layer,
    parameter_groups,
    set_rates,
    update_teacher,
)


def tiny(*, norm_last_layer: bool = False) -> Network:
    torch.manual_seed(0)
    backbone = BackboneConfig(image_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2)
    head = HeadConfig(n_prototypes=4, hidden_dim=4, bottleneck_dim=4, norm_last_layer=norm_last_layer)
    return build_network(PretrainConfig(backbone=backbone, head=head), drop_path=False)


def give_gradients(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)


@pytest.mark.parametrize("norm_last_layer", [False, True])
def test_every_trained_parameter_is_in_exactly_one_group(norm_last_layer: bool):
    network = tiny(norm_last_layer=norm_last_layer)
    decayed, plain = parameter_groups(network)
    in_groups = [id(parameter) for parameter in decayed["params"] + plain["params"]]
    assert sorted(in_groups) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert (id(network.head.last_layer.weight_g) in in_groups) != norm_last_layer
    assert all(parameter.ndim == 1 for parameter in plain["params"])


def test_only_weights_decay():
    network = tiny()
    before = copy.deepcopy(network)
    optimizer = build_optimizer(network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_rates(optimizer, lr=0.5, weight_decay=0.2)
    optimizer.step()
    for new, old in zip(network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(new, old * 0.9 if old.ndim > 1 else old)


def test_the_fused_optimizer_equals_the_plain_one():
    network, reference = tiny(), tiny()
    fused = build_optimizer(network)
    plain = torch.optim.AdamW(parameter_groups(reference), foreach=False)
    for step in range(3):
        give_gradients(network)
        for parameter, other in zip(network.parameters(), reference.parameters(), strict=True):
            assert parameter.grad is not None
            other.grad = parameter.grad.clone()
        for optimizer in (fused, plain):
            set_rates(optimizer, lr=0.01 * (step + 1), weight_decay=0.1)
            optimizer.step()
    torch.testing.assert_close(network.state_dict(), reference.state_dict())


def test_each_gradient_is_clipped_by_its_own_norm():
    large, small, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    large.grad, small.grad = torch.tensor([30.0, 40.0]), torch.tensor([0.3, 0.4])
    total = clip_gradients([large, small, none], 3.0, by="parameter")
    assert total.item() == pytest.approx((50**2 + 0.5**2) ** 0.5)
    torch.testing.assert_close(large.grad, torch.tensor([1.8, 2.4]))
    assert small.grad.tolist() == pytest.approx([0.3, 0.4]) and none.grad is None


def test_clipping_at_zero_is_off():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    assert clip_gradients([parameter], 0.0, by="parameter").item() == 50
    assert parameter.grad.tolist() == [30, 40]


@pytest.mark.parametrize("max_norm", [0.01, 3.0, 1e6])
def test_all_gradients_are_clipped_by_their_common_norm_as_torch_does(max_norm: float):
    ours, theirs = tiny(), tiny()
    torch.manual_seed(1)
    give_gradients(ours)
    torch.manual_seed(1)
    give_gradients(theirs)
    total = clip_gradients(ours.parameters(), max_norm, by="global")
    torch.testing.assert_close(total, torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm))
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


@pytest.mark.parametrize("by", ["parameter", "global"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(by: Literal["parameter", "global"], bad: float):
    network = tiny()
    give_gradients(network)
    network.head.last_layer.weight_v.grad[0, 0] = bad
    assert not clip_gradients(network.parameters(), 3.0, by=by).isfinite()


@pytest.mark.parametrize("n_patch_prototypes", [None, 3])
def test_a_frozen_last_layer_stays_put_and_undecayed(n_patch_prototypes: int | None):
    network = tiny()
    network.head = Head(8, HeadConfig(n_prototypes=4, bottleneck_dim=4), n_patch_prototypes=n_patch_prototypes)
    before = copy.deepcopy(network)
    optimizer = build_optimizer(network)
    give_gradients(network)
    freeze_last_layer(network, epoch=0, n_epochs=1)
    set_rates(optimizer, lr=0.5, weight_decay=0.2)
    optimizer.step()
    for (name, new), old in zip(network.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(new, old) == name.startswith("head.last_layer"), name


def test_the_last_layer_is_trained_after_its_frozen_epochs():
    network = tiny()
    give_gradients(network)
    freeze_last_layer(network, epoch=1, n_epochs=1)
    assert network.head.last_layer.weight_v.grad is not None


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_the_teacher_moves_to_the_student_by_the_momentum(momentum: float):
    student, teacher = tiny(), tiny()
    for parameter in student.parameters():
        nn.init.normal_(parameter)
    before = copy.deepcopy(teacher)
    update_teacher(teacher, student, momentum)
    for new, old, target in zip(teacher.parameters(), before.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * target)
