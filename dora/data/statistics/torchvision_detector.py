"""Detectors of torchvision.models.detection, with weights from a file that the user names. Nothing is downloaded."""

import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from dora.data.statistics.detections import DetectorFacts, coco_categories

_CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"  # a row a class, of R-CNNs


class TorchvisionDetector:
    """Counts objects in pictures."""

    def __init__(self, model: nn.Module, facts: DetectorFacts, names: list[str], device: torch.device) -> None:
        self._model, self.facts, self._names, self._device = model.eval().to(device), facts, names, device

    @torch.inference_mode()
    def count_objects(self, pixels: UInt8[np.ndarray, "Y X 3"]) -> dict[str, int]:
        """How many objects of which class, of at least the least score."""
        image = torch.from_numpy(pixels.copy()).to(self._device).permute(2, 0, 1).float() / 255
        found = self._model([image])[0]
        labels = found["labels"][found["scores"] >= self.facts.min_score].tolist()
        return dict(sorted(Counter(self._names[label] for label in labels).items()))


def load_detector(
    path: Path, *, architecture: str | None, sha256: str, min_score: float, device: torch.device
) -> TorchvisionDetector:
    """A detector from its weights; the architecture is told by the file's name where it begins with it.

    Raises:
        ValueError: if the file holds no weights, or those of another architecture; says what to do.
    """
    from torchvision.models import get_model

    known = architectures()
    fitting = [name for name in known if path.name.startswith(name)]
    name = architecture or max(fitting, key=len, default=None)
    if name not in known:
        asked = f"no detector {name!r} in torchvision" if name else f"the name {path.name} tells no architecture"
        raise ValueError(f"{asked}: --detector-model takes one of {', '.join(known)}.")
    state = _tensors(path)
    n_classes = len(state[_CLASSIFIER]) if _CLASSIFIER in state else len(coco_categories())
    model = get_model(name, weights=None, weights_backbone=None, num_classes=n_classes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise ValueError(
            f"{path} does not fit {name} ({first[0].strip()[:200]}). Name its own: --detector-model."
        ) from None
    coco = coco_categories()
    names = coco if n_classes == len(coco) else [f"class {number}" for number in range(n_classes)]
    n_told_apart = sum(one not in ("__background__", "N/A") for one in names) if names is coco else n_classes - 1
    facts = DetectorFacts(kind=name, file=path.name, sha256=sha256, min_score=min_score, n_classes=n_told_apart)
    return TorchvisionDetector(model, facts, names, device)


def architectures() -> list[str]:
    """Names of torchvision's detectors."""
    from torchvision.models import detection, list_models

    return [name for name in list_models(module=detection) if not name.startswith("keypoint")]


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file; code that it brings along is never run."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} holds no weights that can be read without running code of its own ({str(error)[:120]})."
        ) from None
    found = found.get("model", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} is no dictionary of tensors, expected a detector's state_dict.")
    return cast(Mapping[str, Tensor], found)
