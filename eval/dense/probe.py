"""Linear heads on the maps of a frozen ViT: several, with learning rates of their own, trained at once.

A head is a 1 × 1 convolution of the taps' maps side by side, mmsegmentation's FCNHead without convolutions. Heads share
the crops and the frozen features, which is nearly all of the work; none sees another's gradient, and AdamW treats each
weight by itself: every head comes out as if it had been trained alone (tests/test_ade20k_linear.py). With fp16 they
share the scale of the loss, so that what overflows in one head skips that iteration for all.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from eval.dense.confusion import VOID
from eval.dense.pyramid import Pyramid

# conv_seg's initial weights in every head of mmsegmentation.
STD = 0.01


class Probe(nn.Module):
    """Heads by name, all alike to begin with."""

    def __init__(self, pyramid: Pyramid, names: Sequence[str], *, n_classes: int, preprocess: nn.Module) -> None:
        super().__init__()
        self.pyramid, self.data_preprocessor = pyramid, preprocess
        width = len(pyramid.taps) * pyramid.out_channels
        first = nn.Conv2d(width, n_classes, 1)
        nn.init.normal_(first.weight, std=STD)
        nn.init.constant_(cast(Tensor, first.bias), 0)
        self.names = tuple(names)
        self.heads = nn.ModuleDict({_key(name): nn.Conv2d(width, n_classes, 1) for name in names})
        for head in self.heads.values():
            head.load_state_dict(first.state_dict())

    def to(self, *args: Any, **kwargs: Any) -> "Probe":
        """As nn.Module; OpenMMLab's preprocessor knows its device only if it is told so itself."""
        self.data_preprocessor.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def by_name(self) -> dict[str, nn.Module]:
        """Each head by the name that it was given."""
        return {name: self.heads[_key(name)] for name in self.names}

    def features(self, images: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B F y x"]:
        """The taps' maps side by side."""
        return torch.cat(self.pyramid(images), dim=1)

    def losses(self, images: Float[Tensor, "B 3 Y X"], labels: Int[Tensor, "B Y X"]) -> dict[str, Tensor]:
        """Cross-entropy of each head; pixels without label count as right.

        Logits of 150 classes for every pixel are what takes the memory: they are computed again for the gradient.
        """
        features = self.features(images)
        return {
            f"{name}.loss_ce": recomputed(cross_entropy, head, features, labels, use_reentrant=False)
            for name, head in self.by_name().items()
        }

    def groups(self, rates: dict[str, float], *, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW's groups: the rate of each head."""
        heads = self.by_name()
        return [
            {"name": name, "params": list(heads[name].parameters()), "lr": lr, "weight_decay": weight_decay}
            for name, lr in rates.items()
        ]


def _key(name: str) -> str:
    """A name such as lr_1.25e-3 without the dot, which the name of a module must not have."""
    return name.replace(".", "_")


def cross_entropy(head: nn.Module, features: Float[Tensor, "B F y x"], labels: Int[Tensor, "B Y X"]) -> Tensor:
    """At the labels' resolution, the mean over all pixels (mmsegmentation's avg_non_ignore=False)."""
    logits = F.interpolate(head(features), labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum") / labels.numel()
