"""A fine-tuning between two iterations, and the model that it ends with; both are safetensors files.

A state has `model.<name>` for what is trained and for buffers, and `optimizer.<name>.<what>`: `exp_avg`, `exp_avg_sq`
and `step` of AdamW, `momentum_buffer` of SGD.
Weights that are not trained are those that the task was built with, so neither file has them.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dora.config import Frozen
from dora.training.checkpoint import Means
from dora.training.states import STATES, saved_states
from dora.training.tensor_file import Damaged, read_tensors, write_tensors

log = logging.getLogger("eval.finetune")

FORMAT = 1
MODEL = "model.safetensors"


class About(Frozen):
    """The part of a state that is no tensor."""

    format: int = FORMAT
    training: dict[str, Any]
    iteration: int
    since_log: Means
    broken: dict[int, str]
    n_skipped: int
    scaler: dict[str, Any]


class AboutModel(Frozen):
    """What is said of a trained model."""

    format: int = FORMAT
    training: dict[str, Any]
    notes: tuple[str, ...]


@dataclass
class State:
    """Everything that a run carries from one iteration to the next."""

    training: dict[str, Any]  # a state of other values is not gone on from
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    iteration: int = 0  # iterations done
    since_log: Means = field(default_factory=Means)
    broken: dict[int, str] = field(default_factory=dict[int, str])
    n_skipped: int = 0  # iterations in a row, until now, whose loss was not finite


def save_state(folder: Path, state: State, *, keep_last: int) -> None:
    """Write the state into `folder`, and remove all but the last ones.

    Raises:
        OSError: if there is no space or no right to write.
    """
    about = About(
        training=state.training, iteration=state.iteration, since_log=state.since_log,
        broken=dict(sorted(state.broken.items())), n_skipped=state.n_skipped, scaler=state.scaler.state_dict(),
    )  # fmt: skip
    tensors = {f"model.{name}": tensor for name, tensor in _trained(state.model).items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):  # SGD without momentum remembers a None
                tensors[f"optimizer.{name}.{key}"] = value
    path = folder / STATES / f"step-{state.iteration:08d}.safetensors"
    write_tensors(path, _copies(tensors), about.model_dump(mode="json"))
    for old in saved_states(folder)[keep_last:]:
        old.unlink()


def newest_state(folder: Path) -> Path | None:
    """The newest readable state; a damaged one is put aside for the one before it.

    Raises:
        ValueError: if all that were saved are damaged.
    """
    for torn in (folder / STATES).glob(".tmp-*"):  # of a run that was killed
        torn.unlink()
    for path in saved_states(folder):
        try:
            read_tensors(path)
        except ValueError as error:
            aside = path.with_name(f"{path.name}.damaged")
            path.rename(aside)
            log.warning("%s. It is put aside as %s; the state before it is taken.", error, aside.name)
        else:
            return path
    damaged = sorted((folder / STATES).glob("*.damaged"))
    if damaged:
        raise ValueError(
            f"no training state in {folder / STATES} is readable any more: {damaged[-1].name} and {len(damaged) - 1} "
            f"others. Look after that disk. To train from the beginning, remove the folder {STATES} and run again."
        )
    return None


def load_state(path: Path, state: State) -> None:
    """Bring `state` to where the saved run was.

    Raises:
        ValueError: if the file is damaged, or of a run of other values or another model.
    """
    metadata, tensors = read_tensors(path)
    try:
        about = About.model_validate(metadata)
    except ValidationError as error:
        raise ValueError(f"{path} was written by another version of dora: {error}") from None
    _refuse_others(path, about.training, state.training)
    _fill(state.model, _part(tensors, "model."), path)
    for name, parameter in state.model.named_parameters():
        moments = _part(tensors, f"optimizer.{name}.")
        if moments:
            state.optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in moments.items()
            }
    state.scaler.load_state_dict(about.scaler)
    state.iteration, state.since_log, state.n_skipped = about.iteration, about.since_log, about.n_skipped
    state.broken = dict(about.broken)


def finish(folder: Path, state: State, notes: tuple[str, ...]) -> None:
    """Write the trained model; the states are removed then.

    Raises:
        OSError: if it cannot be written.
    """
    trained = _trained(state.model)
    odd = [name for name, value in trained.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if odd:
        raise ValueError(
            f"the model ends with numbers that are not finite in {odd[0]} and {len(odd) - 1} others; in half precision "
            f"an overflow may have reached batch norm. Remove {folder} and train with precision bf16 or a lower lr."
        )
    about = AboutModel(training=state.training, notes=notes)
    write_tensors(folder / MODEL, _copies(trained), about.model_dump(mode="json"))
    remove_states(folder)


def remove_states(folder: Path) -> None:
    """Of a training that has ended; also of one that was killed at its very end."""
    for path in (folder / STATES).glob("*"):
        path.unlink()
    if (folder / STATES).exists():
        (folder / STATES).rmdir()


def load_model(path: Path, model: nn.Module, training: Mapping[str, Any]) -> tuple[str, ...]:
    """Fill `model` with what was learnt; returns the notes that belong to it.

    Raises:
        ValueError: if the file is damaged, or of a training of other values or another model.
    """
    try:
        metadata, tensors = read_tensors(path)
    except Damaged as error:
        raise ValueError(f"{error}. Look after that disk; to train again, remove the file.") from None
    try:
        about = AboutModel.model_validate(metadata)
    except ValidationError as error:
        raise ValueError(f"{path} was written by another version of dora: {error}") from None
    _refuse_others(path, about.training, training)
    _fill(model, tensors, path)
    return about.notes


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Trained weights and buffers, by their names in the state dict."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: value
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor) and (name not in parameters or parameters[name].requires_grad)
    }


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, each with memory of its own: safetensors refuses tensors that share it."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


@torch.no_grad()
def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = _trained(model)
    odd = sorted(wanted.keys() ^ tensors.keys()) or [
        name for name, value in wanted.items() if value.shape != tensors[name].shape
    ]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise ValueError(f"the weights in {path} are of another model: {odd[0]}{more} differ. Use another folder.")
    for name, value in wanted.items():
        value.copy_(tensors[name])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _refuse_others(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    changed = [
        f"{name} {theirs.get(name)} there, {ours.get(name)} now"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if changed:
        raise ValueError(f"{path} is of a training with other values: {'; '.join(changed)}. Use another folder.")
