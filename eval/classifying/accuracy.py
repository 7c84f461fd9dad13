"""How many validation photos a network classifies as they are labelled."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dora.progress import Progress, silent
from eval.classifying.augment import centre
from eval.classifying.network import Classifier
from eval.classifying.photos import Photos
from eval.classifying.recipe import Finetuning
from eval.features import normalised
from eval.finetune import broken
from eval.finetune.records import measure_each
from eval.finetune.step import DTYPES
from eval.finetune.team import Team

AT_ONCE = 64  # photos, whatever the machine: other numbers may be rounded otherwise
TOPS = (1, 5)


class Judged(NamedTuple):
    """What became of each photo: its label, the class said, and how many other classes scored at least as its own.

    A photo that could not be read has label -1, and so is said to be.
    """

    labels: list[int]
    said: list[int]
    above: list[int]
    notes: tuple[str, ...]

    def accuracy(self) -> dict[str, float]:
        """Percent of all photos whose class is the first, or among the five first: top1, top5."""
        return {f"top{top}": 100 * float(np.mean(np.array(self.above) < top)) for top in TOPS}

    def of_classes(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Top-1 of the photos of each class."""
        labels, above = np.array(self.labels), np.array(self.above)
        rows: list[dict[str, Any]] = []
        for label, name in enumerate(names):
            own = above[labels == label]
            rows.append({"name": name, "top1": 100 * float(np.mean(own < 1)) if len(own) else None, "photos": len(own)})
        return rows


class _Batch(NamedTuple):
    images: list[np.ndarray]  # of those that could be read
    labels: list[int]
    broken: dict[int, str]  # place in the batch -> reason


def judge(
    model: Classifier, photos: Photos, config: Finetuning, folder: Path, team: Team, *, n_workers: int,
    progress: Progress = silent,
) -> Judged:  # fmt: skip
    """Classify all photos, shared by the processes; the same on all ranks. Goes on from what is in `folder`.

    The model is in the mode that it was in afterwards.

    Raises:
        Interrupted: if asked to stop; what was measured is kept.
        ValueError: if more than the accepted share of photos cannot be read.
    """
    pixels, device, n = centre(config), team.ranks.device, len(photos)

    def read(number: int) -> _Batch:
        batch = _Batch([], [], {})
        for place, index in enumerate(range(number * AT_ONCE, min(n, (number + 1) * AT_ONCE))):
            try:
                image, label = photos[index]
                batch.images.append(pixels(image))
                batch.labels.append(label)
            except (ValueError, OSError) as error:
                batch.broken[place] = broken.reason(error)
        return batch

    @torch.inference_mode()
    def work(batch: _Batch) -> dict[str, Any]:
        verdicts = _verdicts(model, batch, config, device) if batch.images else []
        for place in sorted(batch.broken):
            verdicts.insert(place, [-1, -1, n])
        return {"verdicts": verdicts, "broken": batch.broken}

    def told(done: float, total: float, unit: str, note: str = "") -> None:
        progress(min(n, done * AT_ONCE), n, "photos", "validation")

    was_training = model.training
    model.eval()
    measured = measure_each(folder, -(-n // AT_ONCE), work, team, told, read=read, n_workers=n_workers)
    model.train(was_training)
    return team.ranks.decided_by_first(lambda: _gathered(measured.records, n, config))


def n_above(logits: Float[Tensor, "B K"], labels: Int[Tensor, "B"]) -> Int[Tensor, "B"]:
    """How many other classes score at least as the label's; all of them if it is no number."""
    own = logits.gather(1, labels[:, None])
    return (~(logits < own)).sum(1) - 1


def _verdicts(model: Classifier, batch: _Batch, config: Finetuning, device: torch.device) -> list[list[int]]:
    """Label, class said, and how many others score as high, of each photo."""
    is_mixed = config.precision != "fp32"
    with torch.autocast(device.type, DTYPES[config.precision]) if is_mixed else nullcontext():
        logits = model(normalised(np.stack(batch.images), device=device))
    labels = torch.tensor(batch.labels, device=device)
    return torch.stack([labels, logits.argmax(1), n_above(logits, labels)], dim=1).tolist()


def _gathered(records: Mapping[int, Any], n: int, config: Finetuning) -> Judged:
    verdicts: list[list[int]] = []
    lost: dict[int, str] = {}
    for number, record in sorted(records.items()):
        verdicts += record["verdicts"]
        lost |= {number * AT_ONCE + int(place): reason for place, reason in record["broken"].items()}
    broken.refuse_too_many(lost, n, max_share=config.max_broken_share, what="validation photos")
    labels, said, above = (list(column) for column in zip(*verdicts, strict=True))
    consequence = "count as wrong; the table of classes leaves them out"
    return Judged(labels, said, above, broken.notes(lost, n, what="validation photos", consequence=consequence))
