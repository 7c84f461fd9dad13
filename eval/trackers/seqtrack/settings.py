"""Every number of SeqTrack's GOT-10k protocol. Loads no tensor library."""

from typing import Literal

from pydantic import Field, model_validator

from dora.config import Share
from eval.finetune.training import Training

SAMPLES_PER_EPOCH, EPOCHS = 30_000, 500


class Settings(Training):
    """SeqTrack-B256 trained on GOT-10k alone.

    [SeqT] is microsoft/VideoX SeqTrack, experiments/seqtrack/seqtrack_b256_got.yaml and the code that it names; its
    encoder is a ViT-B/16 of MAE, ours is the checkpoint's ViT. An epoch there is 30,000 samples, so 500 of them in
    batches of 64 are 30,000 x 500 / 64 = 234,375 iterations.
    """

    search_size: int = Field(
        default=256, ge=16, description="pixels, side of the crop that is searched; patches that do not divide it: "
        "the multiple next to it [SeqT]",
    )  # fmt: skip
    template_size: int = Field(default=256, ge=16, description="pixels, side of a template's crop, likewise [SeqT]")
    area_factor: float = Field(
        default=4.0, gt=1, description="side of the searched square, in sqrt(w h) of the last box [SeqT]"
    )
    template_area_factor: float = Field(default=4.0, ge=1, description="the same of a template's square [SeqT]")
    n_templates: int = Field(default=2, ge=1, description="the first one is never replaced [SeqT]")

    place_marks: float = Field(
        default=0.0, ge=0, description="size of sinusoids that both tables of positions begin with besides the "
        "encoder's; ours, for encoders whose own are faint, none [SeqT]",
    )  # fmt: skip

    n_bins: int = Field(default=4000, ge=2, description="words for a coordinate [SeqT]")
    decoder_width: int = Field(default=256, ge=8, description="HIDDEN_DIM [SeqT]")
    decoder_layers: int = Field(default=2, ge=1, description="DEC_LAYERS [SeqT]")
    decoder_heads: int = Field(default=8, ge=1, description="NHEADS [SeqT]")
    decoder_hidden: int = Field(default=1024, ge=8, description="DIM_FEEDFORWARD [SeqT]")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="in the decoder [SeqT]")
    drop_path_rate: float = Field(
        default=0.0, ge=0, lt=1, description="of the encoder's last block, less before [SeqT]"
    )

    iterations: int = Field(
        default=SAMPLES_PER_EPOCH * EPOCHS // 64,
        ge=1,
        description="500 epochs of 30,000 samples in batches of 64 [SeqT]",
    )
    batch_size: int = Field(default=64, ge=1, description="8 on each of 8 GPUs [SeqT]")
    lr: float = Field(default=1e-4, gt=0, description="AdamW's, of everything but the encoder [SeqT]")
    encoder_lr_share: float = Field(default=0.1, ge=0, description="of lr, for the encoder; 0: it stays [SeqT]")
    weight_decay: float = Field(default=1e-4, ge=0, description="of all parameters [SeqT]")
    decay_at: Share = Field(
        default=0.8, description="share of the iterations after which lr is a tenth: epoch 400 [SeqT]"
    )
    warmup_iterations: int = Field(default=0, ge=0, description="linear, from a hundredth of lr; none [SeqT]")
    clip_grad_norm: float = Field(default=0.1, ge=0, description="of all gradients together [SeqT]")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of training [SeqT]")
    special_weight: float = Field(
        default=0.01, ge=0, description="of END in the cross entropy, to a coordinate's 1 [SeqT]"
    )
    seed: int = Field(default=0, description="of new weights, frames, crops and everything else")

    max_gap: int = Field(default=400, ge=0, description="frames from the base frame to one of a sample's [SeqT]")
    least_frames: int = Field(default=20, ge=1, description="of a sequence that is learnt from [SeqT]")
    least_visible: int = Field(
        default=2, ge=0, description="a sequence shows its thing in more frames than this times a sample's [SeqT]"
    )
    grayscale: Share = Field(default=0.05, description="probability, all crops of a sample alike [SeqT]")
    joint_flip: Share = Field(default=0.5, description="probability of mirroring all crops of a sample [SeqT]")
    own_flip: Share = Field(default=0.5, description="probability of mirroring, for each crop [SeqT]")
    brightness: float = Field(default=0.2, ge=0, description="each crop's is multiplied by 1 - this … 1 + this [SeqT]")
    scale_jitter: float = Field(
        default=0.5, ge=0, description="of the searched crop's box: sides times exp(this N(0, 1))"
    )
    center_jitter: float = Field(
        default=3.5, ge=0, description="of the searched crop's centre, in sqrt(w h): this times -1/2 … 1/2 [SeqT]"
    )

    window: bool = Field(default=True, description="Hanning over the words of cx and cy, when tracking [SeqT]")
    chosen_word: Literal["likeliest", "median"] = Field(
        default="likeliest", description="of a coordinate's distribution, when tracking [SeqT]; median is ours: an "
        "unsure tracker's likeliest side is shorter than its median, and from frame to frame a box shrinks to nothing",
    )  # fmt: skip
    read_as_learnt: bool = Field(
        default=False, description="the crop's side counts one pixel less than it has where words are read, as where "
        "they are learnt; else all [SeqT]",
    )  # fmt: skip
    margin: float = Field(default=10.0, ge=0, description="pixels that a box has inside the image at least [SeqT]")
    update_every: int = Field(
        default=1, ge=0, description="frames after which the last template may be replaced; 0: never. "
        "As for GOT10K_TEST [SeqT]",
    )  # fmt: skip
    update_above: float = Field(
        default=0.6, ge=0, description="10 times the sum of the four words' probabilities that allows it [SeqT]"
    )
    track_precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of tracking; ours")

    @model_validator(mode="after")
    def _is_possible(self) -> "Settings":
        if self.decoder_width % (2 * self.decoder_heads):
            raise ValueError(
                f"decoder_width is {self.decoder_width}: expected a multiple of twice the {self.decoder_heads} heads"
            )
        if self.update_every and self.n_templates < 2:
            raise ValueError(
                "a single template is never replaced: expected n_templates of 2 or more, or update_every=0"
            )
        return self
