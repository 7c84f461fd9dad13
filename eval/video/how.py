"""How labels are carried through a video: what a benchmark's Config says about it. Loads no tensor library."""

from typing import Literal

from pydantic import Field

from dora.config import Finite


class Propagation(Finite):
    """DINO's setting, which the paper's comparison uses (facebookresearch/dino eval_video_segmentation, 7c446df)."""

    short_side: int = Field(default=480, ge=1, description="pixels, to which frames are resized")
    long_side_multiple: int = Field(default=64, ge=1, description="the long side is floored to a multiple of this")
    n_last_frames: int = Field(default=7, ge=0, description="context besides the first frame; --n_last_frames")
    top_k: int = Field(default=5, ge=1, description="patches that vote for a patch's label; --topk")
    radius: int = Field(
        default=12, ge=0, description="patches; how far away they may be, 0 for anywhere; --size_mask_neighborhood"
    )
    temperature: float = Field(default=0.1, gt=0, description="of the votes' weights; fixed in the script")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of the features' products; similarities are computed in float32 either way"
    )
