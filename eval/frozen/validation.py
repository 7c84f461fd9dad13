"""Heads measured on features that are kept: quick enough for every epoch, and the same for any number of processes."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from eval.finetune.team import Team
from eval.frozen.epochs import Epoch, Measured
from eval.frozen.probe import Heads, n_correct

# A chunk is always of the same images; a product of another shape may be rounded otherwise.
ROWS_PER_CHUNK = 1024
TOPS = (1, 5)


class Validation:
    """N images' features, of which each process looks at some chunks; `shown` are the images of the sheet.

    Raises:
        ValueError: if a feature is NaN or infinite.
    """

    def __init__(
        self, features: Float[np.ndarray, "N L D"], labels: Sequence[int], *, shown: Sequence[int], team: Team
    ) -> None:
        self._features, self._labels = features, torch.tensor(labels)
        self._shown, self._team = list(shown), team
        for start in range(0, len(labels), ROWS_PER_CHUNK):
            rows = features[start : start + ROWS_PER_CHUNK].reshape(-1, features.shape[1] * features.shape[2])
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"the features of validation image {start + int(finite.argmin())} are no finite numbers. Has the "
                    "checkpoint NaN weights?"
                )

    @torch.no_grad()
    def measure(self, heads: Heads, epoch: int, *, iteration: int) -> Epoch:
        """Accuracies of all heads after `iteration` iterations. All ranks call it together and get the same."""
        team, n = self._team, len(self._labels)
        device = team.ranks.device
        counts = torch.zeros(len(heads.names), len(TOPS), dtype=torch.float64, device=device)
        for start in self._own_chunks():
            if start < n:
                labels = self._labels[start : start + ROWS_PER_CHUNK].to(device)
                logits = heads(self._rows(slice(start, start + ROWS_PER_CHUNK)))
                counts += torch.stack([n_correct(one, labels, tops=TOPS) for one in logits.values()])
            team.tell(iteration)
        team.ranks.sum_(counts)
        shown = heads(self._rows(self._shown))
        return Epoch(
            epoch=epoch,
            heads={
                name: Measured(top1=100 * top1 / n, top5=100 * top5 / n, shown=tuple(shown[name].argmax(1).tolist()))
                for name, (top1, top5) in zip(heads.names, counts.tolist(), strict=True)
            },
        )

    def _own_chunks(self) -> Iterator[int]:
        """Where this rank's chunks begin; as many on each rank, some beyond the end."""
        ranks, n_chunks = self._team.ranks, -(-len(self._labels) // ROWS_PER_CHUNK)
        for turn in range(-(-n_chunks // ranks.world_size)):
            yield (turn * ranks.world_size + ranks.rank) * ROWS_PER_CHUNK

    def _rows(self, which: slice | list[int]) -> Float[Tensor, "n F"]:
        rows = np.array(self._features[which], np.float32)
        return torch.from_numpy(rows).flatten(1).to(self._team.ranks.device)
