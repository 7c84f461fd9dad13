"""What a training process is told, and the files through which it tells how far it is. Loads no tensor library."""

import json
import os
from pathlib import Path
from typing import Any

from dora.artifacts import Machine
from dora.config import Frozen, PretrainConfig

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"
WARNINGS = "warnings.jsonl"
J_PER_KWH = 3.6e6
SPENT = ".seconds"
PROGRESS = ".progress.json"


class Job(Frozen):
    """One pretraining run in one folder."""

    config: PretrainConfig
    shards: tuple[Path, ...]
    machine: Machine
    folder: Path


class HowFar(Frozen):
    """What `progress` is called with."""

    done: float
    total: float
    unit: str
    note: str = ""


def write_progress(folder: Path, how_far: HowFar) -> None:
    """Replace the folder's progress file in one go."""
    temporary = folder / f"{PROGRESS}.{os.getpid()}"
    temporary.write_text(how_far.model_dump_json())
    temporary.replace(folder / PROGRESS)


def read_progress(folder: Path) -> HowFar | None:
    """What the job wrote last, None before its first word."""
    try:
        return HowFar.model_validate_json((folder / PROGRESS).read_bytes())
    except FileNotFoundError:
        return None


def read_log(folder: Path, name: str = LOG) -> list[dict[str, Any]]:
    """The complete lines of the training log, or of its warnings; a line torn by a kill ends it."""
    lines: list[dict[str, Any]] = []
    try:
        text = (folder / name).read_text()
    except FileNotFoundError:
        return lines
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def keep_until(step: int, folder: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a log up to a step; the file has no others afterwards."""
    lines = [line for line in read_log(folder, name) if line["step"] <= step]
    temporary = folder / f".{name}"
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(folder / name)
    return lines


def write_spent(folder: Path, seconds: float) -> None:
    """Remember how long all runs in the folder took so far, steps that were lost and done again included."""
    temporary = folder / f"{SPENT}.{os.getpid()}"
    temporary.write_text(f"{seconds:.3f}")
    temporary.replace(folder / SPENT)


def read_spent(folder: Path) -> float:
    """What `write_spent` remembered; 0 before the first run."""
    try:
        return float((folder / SPENT).read_text())
    except FileNotFoundError:
        return 0.0
