"""ImageNet-1k: classification after fine-tuning the whole encoder, top-1 and top-5 in percent. On request.

iBOT's recipe for ViT-S/16: 200 epochs with layer decay, mixed and augmented photos. `top1` and `top5` are of the
network as training leaves it; `top1_best` is the best at which the validation set was looked, which is what the
recipe's authors print. docs/finetuning.md tells more.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import portraits
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.benchmarks import imagenet_knn
from eval.classifying.recipe import Finetuning

if TYPE_CHECKING:
    from eval.classifying.photos import Sets

VERSION = 1
PROTOCOL = "imagenet1k-finetune-200ep-224"
DATASET, HOW_TO_GET = imagenet_knn.DATASET, imagenet_knn.HOW_TO_GET
HEADLINE = "top1"
COST = "estimated, not measured: 256 million augmented photos through the encoder and back, 36 hours at 2000 a second."
PARALLEL = True
ON_REQUEST = True

NAME = "imagenet_finetune"
WHOLE = {"n_classes": 1000, "n_train": 1_281_167, "n_val": 50_000}


class Config(Finetuning):
    """iBOT's setting for ViT-S/16.

    [iBOT] is bytedance/ibot run.sh, evaluation/README.md and evaluation/classification_layer_decay (c24f870); an epoch
    has 1251 whole batches.
    """

    iterations: int = Field(default=250_200, ge=1, description="200 epochs [iBOT]")
    batch_size: int = Field(default=1024, ge=1, description="8 GPUs of 128 [iBOT]")
    lr: float = Field(default=4e-3, gt=0, description="the default of what the authors sweep [iBOT]")
    layer_decay: float = Field(default=0.75, gt=0, le=1, description="[iBOT]")
    last_lr: float = Field(default=1e-6, ge=0, description="[iBOT]")
    warmup_iterations: int = Field(default=25_020, ge=0, description="20 epochs [iBOT]")
    head_scale: float = Field(default=0.001, ge=0, description="[iBOT]")
    resize: Literal["bilinear", "bicubic"] = Field(default="bilinear", description="[iBOT]")


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of classes and images, and the hash of all file names."""
    facts = imagenet_knn.facts(*imagenet_knn.listing(data, benchmark=NAME))
    for name, expected in WHOLE.items():
        if config.whole and facts[name] != expected:
            raise ValueError(
                f"{NAME}: {data} has {name} = {facts[name]:,}, expected {expected:,}. Unpack it again. A subset on "
                "purpose: whole=false, which is another protocol."
            )
    return facts


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Train the encoder and measure it; goes on from what is in `out`."""
    from eval.classifying import finetuning

    return finetuning.evaluate(checkpoint, config, machine, out, progress, sets(machine.datasets[DATASET]))


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Pictures of single things in the street, by class; training and validation come from different streets."""
    portraits.write_folders(folder, portraits.few(world, times))
    return Config(
        whole=False, crop=32, iterations=60 * times, batch_size=32, warmup_iterations=5, n_looks=2, precision="fp32",
        max_broken_share=0,
    )  # fmt: skip


def sets(data: Path) -> "Sets":
    """The photos; classes are called as the data set says, if it does."""
    from eval.classifying.photos import Files, Sets

    folders, train, val = imagenet_knn.listing(data, benchmark=NAME)
    names = imagenet_knn.class_names(data)
    return Sets(tuple(names.get(folder, folder) for folder in folders), Files(train), Files(val))
