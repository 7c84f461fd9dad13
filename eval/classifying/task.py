"""What the loop learns when a whole encoder is fine-tuned to classify."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dora.training.distributed import Ranks
from eval.classifying.augment import Sample, mixing, reader
from eval.classifying.network import Classifier, groups
from eval.classifying.photos import Sets
from eval.classifying.recipe import Finetuning
from eval.finetune.order import shuffled
from eval.finetune.task import Task


def task(model: Classifier, sets: Sets, config: Finetuning, ranks: Ranks, after: Callable[[int], None]) -> Task:
    """Cross-entropy with smoothed labels of mixed photos."""
    mix = mixing(config, len(sets.classes))

    def loss(model: nn.Module, samples: list[Sample]) -> dict[str, Tensor]:
        images = torch.stack([sample.image for sample in samples]).to(ranks.device)
        labels = torch.tensor([sample.label for sample in samples], device=ranks.device)
        images, shares = mix(images, labels)
        return {"loss_ce": F.cross_entropy(model(images), shares)}

    n = len(sets.train)
    return Task(
        model=model, loss=loss, read=reader(sets.train, config), n_samples=n, groups=groups(model, config),
        lr_factor=config.lr_factor, order=repeated(n, times=config.repeats, seed=config.seed), after=after,
    )  # fmt: skip


def repeated(n_samples: int, *, times: int, seed: int) -> Callable[[int], int]:
    """Which sample is at a position: each, `times` in a row; a pass has n positions and sees a part of the samples.

    DeiT's repeated augmentation. Each pass is shuffled anew, so that over many of them all samples come equally often.
    """
    sample_at = shuffled(n_samples, seed=seed)

    def sample(position: int) -> int:
        start = position - position % n_samples
        return sample_at(start + (position - start) // times)

    return sample
