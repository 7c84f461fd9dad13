"""A training run between two steps, kept as one safetensors file.

Keys: `student.backbone.…` (timm's names), `student.head.…`, `teacher.…`, `centers.<name>`,
`optimizer.<parameter>.exp_avg`, `.exp_avg_sq`, `.step`. The metadata entry `dora` is JSON: what is not a tensor.
Random generators are missing on purpose: every draw is seeded by what it is for (dora/seeds.py).
Tensors are whole in the file, also where each rank has a share: any number of ranks goes on from it.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from dora.config import Frozen, PretrainConfig
from dora.method.network import Network
from dora.training.distributed import shared_as, whole
from dora.training.tensor_file import read_tensors, write_tensors

FORMAT = 2


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
    shift: int
    n_skipped: int
    n_rollbacks: int
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
    centers: dict[str, Tensor]
    step: int = 0  # steps done
    shift: int = 0  # clips' positions that were passed over when rolling back
    n_skipped: int = 0  # steps in a row, until now, whose gradient was not used
    n_rollbacks: int = 0
    since_log: Means = field(default_factory=Means)
    in_epoch: Means = field(default_factory=Means)


class Snapshot(NamedTuple):
    """A training state in the CPU's memory, which the training no longer touches."""

    about: About
    tensors: dict[str, Tensor]

    def write(self, path: Path) -> None:
        """Write it; a kill at any moment leaves the old file or the new one.

        Raises:
            OSError: if there is no space or no right to write.
        """
        write_tensors(path, self.tensors, self.about.model_dump(mode="json"))


@torch.no_grad()
def snapshot(state: TrainingState, *, keep: bool = True, networks_only: bool = False) -> Snapshot:
    """A copy of the state, or of student and teacher alone.

    Where ranks have shares of the networks, all of them call this together; `keep` on those that want the copy.
    """
    about = About(
        config=state.config, step=state.step, shift=state.shift, n_skipped=state.n_skipped,
        n_rollbacks=state.n_rollbacks, since_log=state.since_log, in_epoch=state.in_epoch,
        scaler=state.scaler.state_dict(),
    )  # fmt: skip
    copies: dict[str, Tensor] = {}
    for name, tensor in _tensors(state, networks_only=networks_only):
        full = whole(tensor)
        if keep:
            copy = torch.empty(full.shape, dtype=full.dtype, pin_memory=full.is_cuda)
            copies[name] = copy.copy_(full, non_blocking=True)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return Snapshot(about, copies)


def save_state(path: Path, state: TrainingState) -> None:
    """Write the state of a training by one process.

    Raises:
        OSError: if there is no space or no right to write.
    """
    snapshot(state).write(path)


def load_state(path: Path, state: TrainingState) -> None:
    """Bring `state` to where the saved run was.

    Raises:
        Damaged: if the file is not as it was written (a ValueError).
        ValueError: if it was written by a run of another config, or is no training state.
    """
    metadata, tensors = read_tensors(path)
    about = _about(path, metadata)
    configs = about.config.model_dump(), state.config.model_dump()
    for config in configs:
        if config["start"]:
            del config["start"]["path"]  # weights that were begun with may lie elsewhere by now
    changed = _differences(*configs)
    if changed:
        raise ValueError(f"{path} is of a run with other values: {changed}. Use another folder, or remove the file.")
    centers = _part(tensors, "centers.")
    if centers.keys() != state.centers.keys():
        raise ValueError(f"{path} has centers {sorted(centers)} where {sorted(state.centers)} are expected")
    load_strictly(state.student, _part(tensors, "student."), path)
    load_strictly(state.teacher, _part(tensors, "teacher."), path)
    for name, center in state.centers.items():
        center.copy_(centers[name])
    _load_optimizer(state, _part(tensors, "optimizer."))
    state.scaler.load_state_dict(about.scaler)
    state.step, state.since_log, state.in_epoch = about.step, about.since_log, about.in_epoch
    state.shift, state.n_skipped, state.n_rollbacks = about.shift, about.n_skipped, about.n_rollbacks


@torch.no_grad()
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
    for key, value in wanted.items():
        value.copy_(shared_as(tensors[key], value))


def _tensors(state: TrainingState, *, networks_only: bool) -> Generator[tuple[str, Tensor]]:
    for network, values in (("student", state.student.state_dict()), ("teacher", state.teacher.state_dict())):
        for name, value in values.items():
            yield f"{network}.{name}", value
    if networks_only:
        return
    for name, center in state.centers.items():
        yield f"centers.{name}", center
    for name, parameter in state.student.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            yield f"optimizer.{name}.{key}", value


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
    order = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}  # none for a layer that was frozen until now
    for index, parameter in enumerate(order):
        values = _part(tensors, f"{names[parameter]}.")
        if values:
            # A step's count has no dimension and is everybody's; the rest is kept as the parameter is.
            moments[index] = {k: shared_as(v, parameter) if v.ndim else v.clone() for k, v in values.items()}
    param_groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": param_groups})


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    found: list[str] = []
    for key, value in now.items():
        if isinstance(value, Mapping) and isinstance(before[key], Mapping):
            found.append(_differences(before[key], value, f"{path}{key}."))
        elif before[key] != value:
            found.append(f"{path}{key} was {before[key]!r}, is {value!r}")
    return ", ".join(filter(None, found))
