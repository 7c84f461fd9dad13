"""An encoder and a linear head on its [CLS] token, all of which learns."""

from typing import Any, cast

import torch
from jaxtyping import Float
from timm.layers import DropPath
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from dora.artifacts import Checkpoint
from dora.method.vit import cls_token
from dora.weights.load import load_encoder
from eval.classifying.recipe import Finetuning
from eval.dense.layer_decay import layer_decay_groups

STD = 0.02  # timm's and DeiT's, of linear layers
UNDECAYED = ("pos_embed", "cls_token")


class Classifier(nn.Module):
    """Logits of an image. The head's products are float32 whatever the precision: rounded logits would tie."""

    def __init__(self, vit: VisionTransformer, n_classes: int, *, drop_path: float, head_scale: float) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(True)
        for block, rate in zip(vit.blocks, torch.linspace(0, drop_path, len(vit.blocks)).tolist(), strict=True):
            cast(Block, block).drop_path1 = DropPath(rate) if rate else nn.Identity()
            cast(Block, block).drop_path2 = DropPath(rate) if rate else nn.Identity()
        self.head = nn.Linear(vit.embed_dim, n_classes)
        nn.init.trunc_normal_(self.head.weight, std=STD)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(head_scale)

    def forward(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B K"]:
        """K is the number of classes."""
        features = cls_token(self.vit, images)
        with torch.autocast(images.device.type, enabled=False):
            return self.head(features.float())


def network(checkpoint: Checkpoint, config: Finetuning, n_classes: int) -> Classifier:
    """The checkpoint's encoder with a fresh head.

    Raises:
        FileNotFoundError, ValueError: as `load_encoder`.
    """
    vit = load_encoder(checkpoint.path)
    torch.manual_seed(config.seed)
    return Classifier(vit, n_classes, drop_path=config.drop_path, head_scale=config.head_scale)


def groups(model: Classifier, config: Finetuning) -> list[dict[str, Any]]:
    """AdamW's groups: the deeper a layer, the slower."""
    return layer_decay_groups(
        model, lr=config.lr, weight_decay=config.weight_decay, decay=config.layer_decay, depth=len(model.vit.blocks),
        prefix="vit.", undecayed=UNDECAYED,
    )  # fmt: skip
