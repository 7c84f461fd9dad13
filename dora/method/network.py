"""Backbone and head of a student or a teacher."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dora.config import PretrainConfig
from dora.method.head import Head, Projected
from dora.method.vit import build_vit, cls_token

P = ParamSpec("P")
T = TypeVar("T")


class Network(nn.Module):
    """A backbone and its head. `mask_token` is iBOT's."""

    def __init__(self, backbone: VisionTransformer, head: Head, *, mask_token: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.mask_token = nn.Parameter(torch.zeros(1, backbone.embed_dim)) if mask_token else None

    def forward(self, work: Callable[Concatenate["Network", P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(self, …)`. DDP and FSDP act around forward, so whatever uses the parameters comes through here."""
        return work(self, *args, **kwargs)


def embed(
    network: Network, images: Float[Tensor, "B 3 Y X"], **options: Any
) -> tuple[Float[Tensor, "B D"], Projected]:  # fmt: skip
    """Each image's [CLS] token, and it in the head's space; `options` are `cls_token`'s."""
    cls = cls_token(network.backbone, images, **options)
    return cls, network.head.project(cls)


def project(network: Network, images: Float[Tensor, "B 3 Y X"]) -> Projected:
    """Each image's [CLS] token in the head's space."""
    return embed(network, images)[1]


def build_network(config: PretrainConfig, *, drop_path: bool) -> Network:
    """A freshly initialised network for the objective; give `drop_path` to the student only."""
    vit = build_vit(config.backbone, drop_path=drop_path)
    is_ibot = config.objective == "ibot"
    head = Head(vit.embed_dim, config.head, n_patch_prototypes=config.ibot.n_patch_prototypes if is_ibot else None)
    return Network(vit, head, mask_token=is_ibot)
