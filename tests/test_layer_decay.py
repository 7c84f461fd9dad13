"""The deeper a layer of the ViT, the slower it learns: groups against a table computed by hand."""

import pytest
import torch
from torch import nn

from dora.config import BackboneConfig
from dora.method.vit import build_vit
from eval.dense.layer_decay import layer_decay_groups, layer_of
from eval.dense.pyramid import Pyramid, default_taps

torch.set_num_threads(1)


class Model(nn.Module):
    """What mmsegmentation would make of it: a backbone and a head."""

    def __init__(self, depth: int, **how: bool) -> None:
        super().__init__()
        config = BackboneConfig(
            architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=12, depth=depth, num_heads=3
        )
        self.backbone = Pyramid(build_vit(config, drop_path=False), taps=default_taps(depth), **how)
        self.decode_head = nn.Sequential(nn.Conv2d(12, 4, 1), nn.BatchNorm2d(4))


def names_of(model: nn.Module, group: dict) -> set[str]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter] for parameter in group["params"]}


BLOCK_VECTORS = {
    "norm1.weight", "norm1.bias", "attn.qkv.bias", "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.bias",
    "mlp.fc2.bias",
}  # fmt: skip
BLOCK_MATRICES = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}


# By hand: 3e-5 x 0.9^(depth + 1 - layer), to six digits.
RATES = {
    12: {
        0: 7.62560e-6, 1: 8.47289e-6, 2: 9.41432e-6, 3: 1.04604e-5, 4: 1.16226e-5, 5: 1.29140e-5, 6: 1.43489e-5,
        7: 1.59432e-5, 8: 1.77147e-5, 9: 1.96830e-5, 10: 2.18700e-5, 11: 2.43000e-5, 12: 2.70000e-5, 13: 3.00000e-5,
    },
    2: {0: 2.18700e-5, 1: 2.43000e-5, 2: 2.70000e-5, 3: 3.00000e-5},
}  # fmt: skip


@pytest.mark.parametrize("depth", [12, 2])
def test_groups_equal_the_table(depth: int):
    model = Model(depth, with_norm=True)
    groups = layer_decay_groups(model, lr=3e-5, weight_decay=0.05, decay=0.9, depth=depth)
    above = {
        True: {"decode_head.0.weight", "backbone.levels.0.0.weight"},
        False: {
            "decode_head.0.bias", "decode_head.1.weight", "decode_head.1.bias", "backbone.vit.norm.weight",
            "backbone.vit.norm.bias", "backbone.levels.0.0.bias",
        },
    }  # fmt: skip
    table: list[tuple[float, float, set[str]]] = []
    for layer, rate in RATES[depth].items():
        if layer == 0:
            vectors = {"backbone.vit.patch_embed.proj.bias"}
            matrices = {f"backbone.vit.{name}" for name in ("cls_token", "pos_embed", "patch_embed.proj.weight")}
        elif layer == depth + 1:
            vectors, matrices = above[False], above[True]
        else:
            vectors, matrices = (
                {f"backbone.vit.blocks.{layer - 1}.{name}" for name in names}
                for names in (BLOCK_VECTORS, BLOCK_MATRICES)
            )
        table += [(rate, 0.0, vectors), (rate, 0.05, matrices)]
    assert len(groups) == len(table)
    for group, (rate, weight_decay, names) in zip(groups, table, strict=True):
        assert group["lr"] == pytest.approx(rate, rel=1e-5)
        assert group["weight_decay"] == weight_decay
        assert names_of(model, group) == names


def test_every_trained_parameter_is_in_one_group_and_no_other():
    for how in ({"with_norm": True}, {"with_norm": False}, {"with_norm": True, "frozen": True}):
        model = Model(2, **how)
        groups = layer_decay_groups(model, lr=1, weight_decay=0.05, decay=0.9, depth=2)
        grouped = [parameter for group in groups for parameter in group["params"]]
        trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
        assert len(grouped) == len(set(grouped)) and set(grouped) == trained


def test_vectors_and_biases_do_not_decay_but_positions_and_the_class_token_do():
    model = Model(2, with_norm=True)
    decays = {
        name: group["weight_decay"] for group in layer_decay_groups(model, lr=1, weight_decay=1, decay=1, depth=2)
        for name in names_of(model, group)
    }  # fmt: skip
    for name, parameter in model.named_parameters():
        assert decays[name] == (parameter.ndim > 1 and not name.endswith(".bias")), name
    assert decays["backbone.vit.pos_embed"] == decays["backbone.vit.cls_token"] == 1


def test_a_decay_of_one_is_none():
    groups = layer_decay_groups(Model(2, with_norm=True), lr=3e-5, weight_decay=0.05, decay=1, depth=2)
    assert {group["lr"] for group in groups} == {3e-5}


def test_adamw_takes_the_groups():
    optimizer = torch.optim.AdamW(
        layer_decay_groups(Model(2, with_norm=True), lr=1e-3, weight_decay=0.05, decay=0.9, depth=2)
    )
    assert optimizer.param_groups[0]["name"] == "layer 0, no decay"


def test_a_name_that_only_begins_like_a_block_is_no_block():
    names = ("blocks.10.norm1.bias", "blocks.1.norm1.bias", "norm.bias", "fc_norm.bias")
    assert [layer_of(name, 12) for name in names] == [11, 2, 13, 13]
