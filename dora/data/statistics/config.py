"""What is measured of a video."""

from pydantic import Field

from dora.config import Frozen, Share

SCHEMA = "dora.statistics/1"


class StatisticsConfig(Frozen):
    """The measures and their settings. The definitions are ours; the paper does not give its own in full."""

    sample_fps: float = Field(
        default=1.0, gt=0, le=1000, allow_inf_nan=False, description="pictures a second whose light, colour, motion "
        "and objects are measured; cuts are looked for between all pictures"
    )  # fmt: skip
    width: int = Field(default=256, ge=16, description="pixels to which pictures are averaged down before measuring")
    cuts: bool = Field(default=True, description="by PySceneDetect's ContentDetector, which looks at every picture")
    cut_threshold: float = Field(default=27.0, gt=0, description="PySceneDetect's default")
    min_shot_pictures: int = Field(default=15, ge=0, description="PySceneDetect's default: nearer cuts are one")
    motion: bool = Field(default=True, description="mean optical flow (Farnebäck's)")
    min_score: Share = Field(default=0.5, description="of a detection that counts")
