"""What a benchmark's Config says about a training. Loads no tensor library."""

from typing import Annotated, Literal

from pydantic import Field

from dora.config import Finite

BrokenShare = Annotated[float, Field(ge=0, le=1)]


class Training(Finite):
    """The part of a benchmark's Config that the loop reads: `class Config(Training)`, or a field of it."""

    iterations: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="samples of an iteration, over all processes and micro-batches")
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    seed: int = 0
    max_broken_share: BrokenShare = Field(default=0.001, description="of the samples; more that cannot be read stop it")
    clip_grad_norm: float = Field(default=0, ge=0, description="of all gradients together; 0: no clipping")
