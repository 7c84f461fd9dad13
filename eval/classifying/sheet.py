"""Validation photos of some classes, and what they were taken for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eval.classifying.accuracy import Judged
from eval.classifying.augment import centre
from eval.classifying.photos import Sets
from eval.classifying.recipe import Finetuning
from eval.pictures import RIGHT, WRONG, evenly, framed, write_sheet

N_CLASSES, N_EACH = 8, 8


def write(path: Path, sets: Sets, judged: Judged, config: Finetuning) -> None:
    """Some photos of classes spread over the list: green if classified rightly, else red; captions say as what."""
    pixels = centre(config)
    labels = np.array(judged.labels)
    present = sorted(set(judged.labels) - {-1})
    rows: list[tuple[str, Sequence[np.ndarray]]] = []
    for label in (present[place] for place in evenly(len(present), N_CLASSES)):
        own = np.flatnonzero(labels == label)
        chosen = [int(own[place]) for place in evenly(len(own), N_EACH)]
        cells = [
            framed(pixels(sets.val[index][0]), RIGHT if judged.said[index] == label else WRONG) for index in chosen
        ]
        taken_for = dict.fromkeys(
            sets.classes[judged.said[index]] for index in chosen if judged.said[index] != label
        )  # once each, in their order
        rows.append((f"{sets.classes[label]}; red ones taken for: {', '.join(taken_for) or '-'}", cells))
    write_sheet(path, rows, cell_height=96)
