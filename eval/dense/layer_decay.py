"""Parameter groups for fine-tuning: the deeper a layer of the ViT, the slower it learns."""

import re
from collections.abc import Collection
from typing import Any

from torch import nn


def layer_decay_groups(
    model: nn.Module, *, lr: float, weight_decay: float, decay: float, depth: int, prefix: str = "backbone.vit.",
    undecayed: Collection[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """AdamW's groups of what is trained: `lr` times `decay` to the number of layers above, from the first layer on.

    Layer 0 are the embeddings, layer i + 1 is block i, and what follows the blocks (the last norm, adaptor and heads)
    is layer depth + 1, which learns at `lr`. Vectors and biases have no weight decay. iBOT means to spare pos_embed and
    cls_token too, but asks for names that its backbone's prefix keeps from ever matching; so they decay here as well
    (bytedance/ibot evaluation, LayerDecayOptimizerConstructor), unless they are among the `undecayed`, names after the
    prefix. Each group's "name" tells its layer.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = layer_of(name.removeprefix(prefix), depth) if name.startswith(prefix) else depth + 1
        is_decayed = parameter.ndim > 1 and not name.endswith(".bias") and name.removeprefix(prefix) not in undecayed
        group = groups.setdefault(
            (layer, is_decayed),
            {
                "name": f"layer {layer}{'' if is_decayed else ', no decay'}",
                "params": [],
                "lr": lr * decay ** (depth + 1 - layer),
                "weight_decay": weight_decay if is_decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_of(name: str, depth: int) -> int:
    """The layer of a ViT's parameter, by its name in timm."""
    if name.startswith(("cls_token", "pos_embed", "patch_embed.")):
        return 0
    block = re.match(r"blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1
