"""What a fine-tuning for classification says about itself. Loads no tensor library."""

import math
from typing import Any, Literal

from pydantic import Field

from eval.finetune.training import Training


class Finetuning(Training):
    """The Config that imagenet_finetune and the transfer sets share; each gives its own values (docs/finetuning.md)."""

    whole: bool = Field(default=True, description="all photos of the set must be there; false: however many")
    crop: int = Field(default=224, ge=8, description="pixels")
    lr: float = Field(gt=0, description="AdamW's peak, for the whole batch and the top layer")
    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="of the learning rate, from one layer to that below"
    )
    weight_decay: float = Field(default=0.05, ge=0, description="of matrices; none of vectors, positions and [CLS]")
    first_lr: float = Field(default=0.0, ge=0, description="where the warm-up begins")
    last_lr: float = Field(default=0.0, ge=0, description="where the cosine ends")
    warmup_iterations: int = Field(ge=0, description="linear")
    lr_every: int = Field(default=1, ge=1, description="iterations for which a learning rate is kept")
    cosine_after_warmup: bool = Field(
        default=True,
        description="the cosine begins after the warm-up; false: has fallen since the first iteration, and all is an "
        "epoch late, as timm's schedule is where it is asked after each epoch",
    )
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="of the last block; linear, from 0 in the first")
    head_scale: float = Field(default=1.0, ge=0, description="of the head's initial weights, whose deviation is 0.02")
    repeats: int = Field(default=1, ge=1, description="augmented versions of a photo, one after the other")
    auto_augment: str = Field(
        default="rand-m9-mstd0.5-inc1", pattern="^(rand-.*)?$", description="RandAugment, in timm's words; empty: none"
    )
    erase: float = Field(default=0.25, ge=0, le=1, description="probability that a rectangle is filled with noise")
    mixup: float = Field(default=0.8, ge=0, description="alpha; 0: none. Half of the batches, where both are on")
    cutmix: float = Field(default=1.0, ge=0, description="alpha; 0: none")
    smoothing: float = Field(default=0.1, ge=0, lt=1, description="of the labels")
    resize: Literal["bilinear", "bicubic"] = Field(
        default="bicubic", description="of validation photos, whose short side becomes 256/224 of the crop"
    )
    n_looks: int = Field(default=10, ge=1, description="measurements of the validation set, the last one at the end")

    def lr_factor(self, iteration: int) -> float:
        """What every learning rate is multiplied with in an iteration, counted from 0: warm-up, then half a cosine."""
        iteration -= iteration % self.lr_every
        if not self.cosine_after_warmup:
            iteration = max(0, iteration - self.lr_every)
        if iteration < self.warmup_iterations:
            return (self.first_lr + (self.lr - self.first_lr) * iteration / self.warmup_iterations) / self.lr
        start = self.warmup_iterations if self.cosine_after_warmup else 0
        done = (iteration - start) / max(1, self.iterations - start)
        return (self.last_lr + (self.lr - self.last_lr) * (1 + math.cos(math.pi * done)) / 2) / self.lr

    def looks(self) -> set[int]:
        """After how many iterations the validation set is looked at, but for the end."""
        return {self.iterations * look // self.n_looks for look in range(1, self.n_looks)} - {0}


class Transfer(Finetuning):
    """DeiT's recipe as iBOT uses it for the smaller sets: iterations, learning rate and lr_every are each set's own.

    bytedance/ibot run.sh and evaluation/eval_cls.py (c24f870): 8 GPUs of 96 photos, epochs that end with the last whole
    batch of each GPU.
    """

    batch_size: int = Field(default=768, ge=1, description="8 GPUs of 96")
    first_lr: float = Field(default=1e-6, ge=0, description="--warmup-lr")
    last_lr: float = Field(default=1e-5, ge=0, description="--min-lr")
    cosine_after_warmup: bool = False
    repeats: int = Field(default=3, ge=1, description="--repeated-aug: a pass sees a third of the photos, thrice each")


def toy(times: int) -> dict[str, Any]:
    """Values of a transfer set's miniature: a few iterations, which mixed and erased photos would not help."""
    return {
        "whole": False, "crop": 32, "iterations": 60 * times, "batch_size": 32, "lr": 2e-3, "lr_every": 1,
        "warmup_iterations": 5, "drop_path": 0, "mixup": 0, "cutmix": 0, "erase": 0, "auto_augment": "", "n_looks": 2,
        "precision": "fp32", "max_broken_share": 0,
    }  # fmt: skip
