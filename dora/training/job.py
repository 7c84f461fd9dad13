"""What a training process is told, and the files through which it tells how far it is. Loads no tensor library."""

import json
import os
from pathlib import Path
from typing import Any

from dora.artifacts import Machine
from dora.config import Frozen, PretrainConfig

CHECKPOINT = "checkpoint.safetensors"
RESUME = ".resume.safetensors"
LOG = "log.jsonl"
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


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of the training log; a line torn by a kill ends it."""
    lines: list[dict[str, Any]] = []
    try:
        text = (folder / LOG).read_text()
    except FileNotFoundError:
        return lines
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
