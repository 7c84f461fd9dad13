"""Backbone and head of a student or a teacher."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dora.config import BackboneConfig, HeadConfig
from dora.method.head import Head
from dora.method.vit import build_vit, cls_token


class Network(nn.Module):
    """Images of several resolutions to prototype logits, with one call of the head."""

    def __init__(self, backbone: VisionTransformer, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Sequence[Float[Tensor, "_ 3 _ _"]]) -> list[Float[Tensor, "_ K"]]:
        """Logits of each batch in `images`; a batch holds one resolution and may be empty."""
        cls = [cls_token(self.backbone, batch) for batch in images if len(batch)]
        return list(self.head(torch.cat(cls)).split([len(batch) for batch in images]))


def build_network(backbone: BackboneConfig, head: HeadConfig, *, drop_path: bool) -> Network:
    """A freshly initialised network; give `drop_path` to the student only."""
    vit = build_vit(backbone, drop_path=drop_path)
    return Network(vit, Head(vit.embed_dim, head))
