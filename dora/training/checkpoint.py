"""A training run between two steps, kept as one safetensors file; and the encoder taken out of it again.

Keys: `student.backbone.…` (timm's names), `student.head.…`, `teacher.…`, `center`,
`optimizer.<parameter>.exp_avg`, `.exp_avg_sq`, `.step`. The metadata entry `dora` is JSON: what is not a tensor.
Random generators are missing on purpose: every draw is seeded by what it is for (dora/seeds.py).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dora.config import BackboneConfig, Frozen, PretrainConfig
from dora.method.network import Network
from dora.method.vit import build_vit

FORMAT = 1


class Means(Frozen):
    """Sums of numbers over steps, exact over a save and a load, so that a resumed run logs the same means."""

    n: int = 0
    sums: dict[str, float] = Field(default_factory=dict)

    def plus(self, numbers: Mapping[str, float]) -> "Means":
        """With one more step."""
        return Means(n=self.n + 1, sums={name: self.sums.get(name, 0.0) + value for name, value in numbers.items()})

    def values(self) -> dict[str, float]:
        """The means."""
        return {name: total / self.n for name, total in self.sums.items()}


class About(Frozen):
    """The part of a training state that is no tensor."""

    format: int = FORMAT
    config: PretrainConfig
    step: int
    since_log: Means
    in_epoch: Means
    scaler: dict[str, Any]


@dataclass
class TrainingState:
    """Everything that a run carries from one step to the next."""

    config: PretrainConfig
    student: Network
    teacher: Network
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    center: Tensor
    step: int = 0  # steps done
    since_log: Means = field(default_factory=Means)
    in_epoch: Means = field(default_factory=Means)


def save_state(path: Path, state: TrainingState) -> None:
    """Write the state; a kill at any moment leaves the old file or the new one.

    Raises:
        OSError: if there is no space or no right to write.
    """
    tensors = {f"student.{key}": value for key, value in state.student.state_dict().items()}
    tensors |= {f"teacher.{key}": value for key, value in state.teacher.state_dict().items()}
    tensors["center"] = state.center
    for name, parameter in state.student.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    about = About(
        config=state.config, step=state.step, since_log=state.since_log, in_epoch=state.in_epoch,
        scaler=state.scaler.state_dict(),
    )  # fmt: skip
    temporary = path.with_name(f".tmp-{path.name.lstrip('.')}")
    try:
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, temporary, {"dora": about.model_dump_json()}
        )
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(f"cannot write {path}: {error}. Free some space or set DORA_ROOT, then run again.") from None
    finally:
        temporary.unlink(missing_ok=True)


def load_state(path: Path, state: TrainingState) -> None:
    """Bring `state` to where the saved run was.

    Raises:
        ValueError: if the file is damaged or was written by a run of another config.
    """
    metadata, tensors = _read(path, prefix="")
    about = _about(path, metadata)
    if about.config != state.config:
        changed = _differences(about.config.model_dump(), state.config.model_dump())
        raise ValueError(f"{path} is of a run with other values: {changed}. Use another folder, or remove the file.")
    load_strictly(state.student, _part(tensors, "student."), path)
    load_strictly(state.teacher, _part(tensors, "teacher."), path)
    state.center.copy_(tensors["center"])
    _load_optimizer(state, _part(tensors, "optimizer."))
    state.scaler.load_state_dict(about.scaler)
    state.step, state.since_log, state.in_epoch = about.step, about.since_log, about.in_epoch


def load_backbone(path: Path, which: Literal["teacher", "student"] = "teacher") -> VisionTransformer:
    """The pretrained ViT: float32, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of ours, truncated, or its weights do not fit its architecture.
    """
    metadata, tensors = _read(path, prefix=f"{which}.backbone.")
    try:
        # Only the part that is needed, so that files stay readable when other options come and go.
        config = BackboneConfig.model_validate(metadata["config"]["backbone"])
    except (KeyError, TypeError, ValidationError) as error:
        raise ValueError(f"{path} was written by another version of dora: {error}") from None
    vit = build_vit(config, drop_path=False)
    load_strictly(vit, _part(tensors, f"{which}.backbone."), path)
    return vit.eval()


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill every parameter and buffer of `module`.

    Raises:
        ValueError: listing what is missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in tensors]
    unexpected = [key for key in tensors if key not in wanted]
    reshaped = [
        f"{key} is {tuple(tensors[key].shape)} where {tuple(value.shape)} is expected"
        for key, value in wanted.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    faults = [
        f"{name}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for name, keys in (("missing", missing), ("unexpected", unexpected), ("other shape", reshaped))
        if keys
    ]
    if faults:
        raise ValueError(f"the weights in {path} are of another architecture. {'; '.join(faults)}")
    module.load_state_dict(dict(tensors))


def _read(path: Path, *, prefix: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The `dora` metadata and the tensors whose names begin with `prefix`."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("dora")
            names = [name for name in file.keys() if name.startswith(prefix)]
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    if metadata is None:
        raise ValueError(f"{path} is a safetensors file, but no checkpoint that dora wrote (no 'dora' metadata)")
    return json.loads(metadata), tensors


def _about(path: Path, metadata: dict[str, Any]) -> About:
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {metadata.get('format')}, this version of dora goes on from format {FORMAT}"
        )
    try:
        return About.model_validate(metadata)
    except ValidationError as error:
        raise ValueError(f"{path} was written by another version of dora: {error}") from None


def _load_optimizer(state: TrainingState, tensors: Mapping[str, Tensor]) -> None:
    """Through torch's own state dict, which counts parameters in the order of the groups."""
    names = {parameter: name for name, parameter in state.student.named_parameters()}
    order = [names[parameter] for group in state.optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        for index, name in enumerate(order)
    }
    state.optimizer.load_state_dict(
        {
            "state": {index: values for index, values in moments.items() if values},  # a frozen layer has none yet
            "param_groups": state.optimizer.state_dict()["param_groups"],
        }
    )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    found: list[str] = []
    for key, value in now.items():
        if isinstance(value, Mapping):
            found.append(_differences(before[key], value, f"{path}{key}."))
        elif before[key] != value:
            found.append(f"{path}{key} was {before[key]!r}, is {value!r}")
    return ", ".join(filter(None, found))
