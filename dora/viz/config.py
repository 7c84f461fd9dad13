"""What is looked at, and how."""

import math
from typing import Literal

from pydantic import Field, model_validator

from dora.config import Finite

FILM_FPS = (1.0, 30.0)  # slower, one takes a film for a picture; faster, a player may drop some


class ViewConfig(Finite):
    """A clip of a video or folder, the heads whose objects are followed in it, and the size at which it is seen."""

    at_s: float | None = Field(default=None, ge=0, description="of the first frame; null: the clip lies in the middle")
    n_frames: int = Field(default=8, ge=1, description="of the clip; the paper's 8")
    gap_s: float = Field(default=1.0, gt=0, description="between two of them; the paper's 1 s")
    between: int = Field(default=3, ge=0, description="frames looked at between two of the clip, for the film alone")
    fps: float = Field(default=1.0, gt=0, description="images a second, of a folder: its clock")
    n_objects: int = Field(default=3, ge=1, description="the paper's k")
    heads: tuple[int, ...] | None = Field(default=None, description="one for each object; null: drawn from the seed")
    seed: int = Field(default=0, ge=0, description="of the draw")
    short_side: int | None = Field(default=None, ge=1, description="pixels seen; null: the size it was trained at")
    which: Literal["teacher", "student"] = "teacher"
    architecture: str | None = Field(default=None, description="timm's name, where the file does not tell it")

    @model_validator(mode="after")
    def _heads_differ(self) -> "ViewConfig":
        if self.heads is not None and (not self.heads or len(set(self.heads)) < len(self.heads)):
            raise ValueError(f"heads are one for each object, all different, got {list(self.heads)}")
        return self

    @property
    def span_s(self) -> float:
        """Seconds from the first frame to the last."""
        return (self.n_frames - 1) * self.gap_s

    @property
    def film_fps(self) -> float:
        """Pictures a second of the film: as fast as the clip is, within what one can watch."""
        slowest, fastest = FILM_FPS
        return min(fastest, max(slowest, (self.between + 1) / self.gap_s))

    def times_s(self, start_s: float) -> list[float]:
        """When each picture of the film is shown; every (between + 1)-th is a frame of the clip."""
        step_s = self.gap_s / (self.between + 1)
        n_pictures = (self.n_frames - 1) * (self.between + 1) + 1
        return [start_s + number * step_s for number in range(n_pictures)]

    def within(self, images_per_gap: float) -> "ViewConfig":
        """The same with no more pictures between two frames than there are images."""
        most = max(0, math.floor(images_per_gap + 1e-9) - 1)
        return self.model_copy(update={"between": min(self.between, most)})
