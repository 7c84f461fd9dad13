"""Every now and then a look at the teacher: two numbers and a sheet of pictures, of frames that stay the same."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from dora.artifacts import Machine
from dora.config import PretrainConfig
from dora.method.network import Network
from dora.training.distributed import Ranks
from dora.training.effective_rank import effective_rank
from dora.training.online_knn import Frames, accuracy, chance, features, read_frames
from dora.training.sheets import SheetClip, draw_sheet, look_at, sheet_clips

AT_ONCE = 64  # images; a teacher without gradient takes more of them than a training step does


class Sight(NamedTuple):
    """What was seen; on rank 0."""

    numbers: dict[str, float]  # for the log
    sheet: Image.Image


class Lookout:
    """Reads its frames once, when they are needed first."""

    def __init__(
        self, shards: Sequence[Path], config: PretrainConfig, machine: Machine, *, n_steps: int, ranks: Ranks
    ) -> None:
        self._shards, self._config, self._ranks = shards, config, ranks
        self._every, self._n_steps, self._all_look = machine.watch_every_steps, n_steps, machine.parallel == "fsdp"

    def is_due(self, step: int) -> bool:
        """Whether to look after so many steps; the last one is always looked at, unless none is."""
        return self._every > 0 and (step % self._every == 0 or step == self._n_steps)

    def look(self, teacher: Network, *, title: str) -> Sight | None:
        """Called by all ranks together, as a teacher that is shared out takes all of them; None beside rank 0."""
        if self._ranks.rank and not self._all_look:
            return None
        with torch.compiler.set_stance("force_eager"):  # compiling for these few images would take longer
            cls = features(teacher, self._frames.images, at_once=AT_ONCE, device=self._ranks.device)
            seen = look_at(teacher, self._clips, self._config, device=self._ranks.device)
        if self._ranks.rank:
            return None
        numbers = {
            "online_knn": accuracy(cls, self._frames), "online_knn_chance": chance(self._frames),
            "effective_rank": effective_rank(cls),
        }  # fmt: skip
        return Sight(numbers, draw_sheet(seen, self._clips, self._config, title=title))

    @cached_property
    def _frames(self) -> Frames:
        return read_frames(self._shards, self._config.augment.global_size)

    @cached_property
    def _clips(self) -> list[SheetClip]:
        return sheet_clips(self._shards, self._config)
