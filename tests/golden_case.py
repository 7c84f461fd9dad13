"""A golden case: inputs and outputs computed with a public reference implementation (see tests/golden/README.md)."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(os.environ.get("GOLDEN_DIR") or Path(__file__).parent / "golden")

# A file's kind is the longest of these that its name starts with.
CHECKED = (
    "sinkhorn", "mot", "vit_weights", "vit_io", "dino_head", "dora_loss", "ibot_loss", "schedules", "train_step",
    "knn", "davis_prop", "davis_preprocess", "davis_metrics", "davis_edge", "got10k", "mmcv_ops",
    "lost", "attention_jaccard", "linear_features",
)  # fmt: skip


class Case(NamedTuple):
    """One golden file pair: NAME.json describes NAME.safetensors."""

    name: str
    kind: str
    tensors: dict[str, Tensor]
    doc: dict[str, Any]
    folder: Path


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def kind_of(name: str) -> str:
    kinds = [kind for kind in CHECKED if name.startswith(kind)]
    if not kinds:
        raise ValueError(f"golden case {name} is of no known kind; known: {', '.join(CHECKED)}")
    return max(kinds, key=len)


def load(name: str) -> Case:
    doc = json.loads((FOLDER / f"{name}.json").read_text())
    return Case(name, kind_of(name), load_file(FOLDER / f"{name}.safetensors"), doc, FOLDER)
