"""The smallest real inputs of an evaluation: a checkpoint as pretraining leaves it, and a small world."""

from pathlib import Path

import torch
from tiny import PRETRAIN

from dora.artifacts import Checkpoint
from dora.data.miniature import World
from dora.method.network import build_network
from dora.training.checkpoint import TrainingState, save_state
from eval.benchmark import checkpoint_from_file

torch.set_num_threads(1)  # nothing here is large enough for two
WORLD = World(seed=1000, width=160, height=90)


def write_checkpoint(path: Path) -> Checkpoint:
    torch.manual_seed(0)
    student, teacher = (build_network(PRETRAIN, drop_path=False) for _ in range(2))
    optimizer, scaler = torch.optim.AdamW(student.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    save_state(path, TrainingState(PRETRAIN, student, teacher, optimizer, scaler, {"cls": torch.zeros(16)}))
    return checkpoint_from_file(path)
