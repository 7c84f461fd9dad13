"""A training of a few steps on noise, with everything that ranks share but the data: alone, or under torchrun as

learner.py FOLDER ddp|fsdp N_STEPS [parameter|global] [recompute] [compile]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny import PRETRAIN
from torch import nn

from dora.config import PretrainConfig, TrackingConfig
from dora.method.network import build_network, project
from dora.training.blocks import compile_blocks, recompute_blocks
from dora.training.checkpoint import Means, TrainingState
from dora.training.distributed import Ranks, process_group, without_sync
from dora.training.job import CHECKPOINT
from dora.training.keeper import Keeper
from dora.training.optimizer import build_optimizer, clip_gradients, freeze_last_layer, set_rates, update_teacher

ALONE = Ranks(0, 1, torch.device("cpu"))
N_IMAGES = 8  # a step
CONFIG = PRETRAIN.model_copy(
    update={
        "objective": "ibot",
        "augment": PRETRAIN.augment.model_copy(
            update={"global_blur_probability": (1.0, 0.1), "solarize_probability": (0.0, 0.2)}
        ),
        "backbone": PRETRAIN.backbone.model_copy(update={"drop_path_rate": 0.0}),
        "tracking": TrackingConfig(),
        "ibot": PRETRAIN.ibot.model_copy(update={"n_patch_prototypes": 12}),
    }
)


def clipping(by: str) -> PretrainConfig:
    return CONFIG.model_copy(update={"optimizer": CONFIG.optimizer.model_copy(update={"clip_grad": by})})


class Learner:
    """A state, and the networks as they are called."""

    def __init__(
        self, config: PretrainConfig = CONFIG, ranks: Ranks = ALONE, parallel: str = "ddp", options: Sequence[str] = ()
    ) -> None:
        torch.manual_seed(0)
        networks = [build_network(config, drop_path=drop_path) for drop_path in (True, False)]
        networks[1].load_state_dict(networks[0].state_dict())
        networks[1].requires_grad_(False)
        if "recompute" in options:
            recompute_blocks(networks[0])
        if "compile" in options:
            for network in networks:
                compile_blocks(network)
        self.ranks = ranks
        self.student, self.teacher = (ranks.wrap(network, parallel) for network in networks)
        self.state = TrainingState(
            config=config, student=networks[0], teacher=networks[1], optimizer=build_optimizer(networks[0]),
            scaler=torch.amp.GradScaler("cpu", enabled=config.precision == "fp16"), centers={"cls": torch.zeros(16)},
        )  # fmt: skip

    def learn(self, n_steps: int, *, n_parts: int = 1) -> "Learner":
        """As the real loop: two tasks for each part of a batch, gradients exchanged at the last of all."""
        state, ranks = self.state, self.ranks
        for step in range(state.step, n_steps):
            images = torch.rand(N_IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(step))
            parts = images[ranks.rank :: ranks.world_size].chunk(n_parts)
            set_rates(state.optimizer, lr=0.01, weight_decay=0.1)
            for number, part in enumerate(parts, start=1):
                with torch.no_grad():
                    target = self.teacher(project, part).logits().softmax(-1)
                for kind in (cls_only, everything):
                    if number == len(parts) and kind is everything:
                        self._backward(kind, part, target)
                    else:
                        with without_sync(self.student):
                            self._backward(kind, part, target)
            state.scaler.unscale_(state.optimizer)
            by = state.config.optimizer.clip_grad
            clip_gradients(state.student.parameters(), 0.05, by=by)
            freeze_last_layer(state.student, epoch=step, n_epochs=1)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.optimizer.zero_grad()
            update_teacher(state.teacher, state.student, 0.5)
            state.centers["cls"] += 0.25
            state.step = step + 1
            state.shift, state.n_skipped, state.n_rollbacks = 5, 2, 1
            state.since_log, state.in_epoch = state.since_log.plus({"loss": 0.1}), Means().plus({"loss": 1 / 3})
        return self

    def _backward(self, kind, images: torch.Tensor, target: torch.Tensor) -> None:
        losses = -(self.student(kind, images) * target).sum(-1)
        self.state.scaler.scale(losses.sum() / N_IMAGES * self.ranks.world_size).backward()


def cls_only(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return project(network, images).logits()


def everything(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Uses every parameter, iBOT's too."""
    patches = network.head.last_layer2.prototypes()[:, 0] @ torch.linspace(-1, 1, 12) + network.mask_token.sin().sum()
    return cls_only(network, images) + patches


def finish(folder: Path, learner: Learner, n_steps: int, **options: int) -> None:
    """Go on from the newest state to the end."""
    keeper = Keeper(folder, keep_last=2, ranks=learner.ranks)
    keeper.newest(learner.state)
    learner.learn(n_steps, **options)
    keeper.save(learner.state)
    keeper.keep_epoch(learner.state, 0)
    keeper.finish(folder / CHECKPOINT, learner.state)


if __name__ == "__main__":
    folder, parallel, n_steps, *options = sys.argv[1:]
    with process_group("cpu", 60) as ranks:
        learner = Learner(clipping("global" if "global" in options else "parameter"), ranks, parallel, options)
        finish(Path(folder), learner, int(n_steps), n_parts=2)
