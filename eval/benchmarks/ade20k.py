"""ADE20K: semantic segmentation with UPerNet, the whole encoder fine-tuned; mIoU over 150 classes, in percent.

The recipe is iBOT's for ViT-S/16, which the paper follows (its README: "ADE20K/COCO follow iBOT"). For ViT-B iBOT has
lr=8e-5 and layer_decay=0.65. The backbone is plain torch (eval/dense/pyramid.py), the heads are mmsegmentation's, the
loop is ours (eval/finetune), so that a run that is killed goes on to the same bytes. `classes.json` has IoU of each
class; `results/` has labels 1 … 150 as the data set's server wants them, if `keep_results` asks for it.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.dense import ade20k as pictures
from eval.dense.ade20k import NAMES

if TYPE_CHECKING:
    from torch import Tensor

    from eval.dense.segmenting import Predict
    from eval.finetune.task import Task

log = logging.getLogger("dora.ade20k")

VERSION = 2
PROTOCOL = "ade20k-upernet-160k-512"
DATASET, HOW_TO_GET = pictures.DATASET, pictures.HOW_TO_GET
HEADLINE = "mIoU"
COST = "estimated, not measured: 2.56 million crops of 512 px, forward and back, 14 hours at 50 a second."
PARALLEL = True


class Config(pictures.Pictures):
    """iBOT's setting for ViT-S/16.

    [iBOT] is bytedance/ibot evaluation/semantic_segmentation/configs (c24f870), mostly
    upernet/vit_small_512_ade20k_160k_pt2ft.py.
    """

    lr: float = Field(default=3e-5, gt=0, description="of the heads, AdamW; below, less from block to block [iBOT]")
    layer_decay: float = Field(default=0.9, gt=0, le=1, description="of lr from a block to the one below [iBOT]")
    drop_path_rate: float = Field(default=0.1, ge=0, lt=1, description="of the last block [iBOT]")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before the classifiers [iBOT]")
    auxiliary_channels: int = Field(default=256, ge=1, description="of the FCN head [iBOT]")
    auxiliary_weight: float = Field(default=0.4, ge=0, description="of its loss [iBOT]")


# An eighth of the iterations on crops and photos of half the sides, so about a 32th of the work. The warm-up keeps its
# share of the iterations; a window's stride its share of the window.
PRESETS = {
    "short": Config(iterations=20_000, crop=256, short_side=256, long_side=1024, stride=170, warmup_iterations=188)
}


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of images and the hash of their names."""
    from eval import openmm

    openmm.installed()
    return pictures.check(data, config, "ade20k")


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """The mIoU after fine-tuning; goes on from what is in `out`."""
    from eval import openmm

    openmm.require()
    from eval.dense import segmenting
    from eval.finetune.loop import finetune
    from eval.finetune.team import joined

    with joined(machine, out) as team:
        model = network(checkpoint, config, recompute=machine.recompute).to(team.ranks.device)
        spent = finetune(task(model, config, machine), config, machine, out, team, progress)
        return segmenting.result(predictor(model, config), config, machine, out, team, progress, spent)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Moments of rendered streets in the real layout; training and validation show different streets."""
    from eval import openmm

    openmm.installed()  # before anything is drawn
    pictures.write_toys(world, folder, times)
    return Config(
        whole=False, crop=96, short_side=96, long_side=384, stride=64, iterations=40 * times, batch_size=4, lr=1e-3,
        warmup_iterations=10, drop_path_rate=0.0, precision="fp32", auxiliary_channels=64, max_broken_share=0,
    )  # fmt: skip


def network(checkpoint: Checkpoint, config: Config, *, recompute: bool = False) -> Any:
    """UPerNet around the checkpoint's ViT: mmsegmentation's EncoderDecoder, with heads as wide as the ViT."""
    import torch

    from eval.dense.pyramid import Pyramid, default_taps, trainable_vit
    from eval.openmm import segmentation

    torch.manual_seed(config.seed)  # the new layers' weights
    vit = trainable_vit(checkpoint, image_size=(config.crop, config.crop), drop_path_rate=config.drop_path_rate)
    pyramid = Pyramid(vit, taps=default_taps(len(vit.blocks)), with_norm=config.with_norm, recompute=recompute)
    return segmentation.segmentor(pyramid, _upernet(pyramid.out_channels, config))


def task(model: Any, config: Config, machine: Machine) -> "Task":
    """What the loop learns."""
    from eval.dense import segmenting
    from eval.dense.layer_decay import layer_decay_groups
    from eval.finetune.task import Task
    from eval.openmm import segmentation

    train = pictures.pairs(machine.datasets[DATASET], "train")
    groups = layer_decay_groups(
        model, lr=config.lr, weight_decay=config.weight_decay, decay=config.layer_decay,
        depth=len(model.backbone.vit.blocks),
    )  # fmt: skip
    return Task(
        model=model, loss=segmentation.losses, n_samples=len(train), groups=groups,
        least_at_once=2,  # the pyramid pooling's 1 x 1 map
        read=segmenting.reader(train, config),
        lr_factor=config.lr_factor(),
    )  # fmt: skip


def predictor(model: Any, config: Config) -> "Predict":
    """Labels of a photo, by the main head."""
    from eval.dense import segmenting
    from eval.dense.pyramid import STRIDES

    model.eval()

    def logits(windows: "Tensor") -> "Tensor":
        return model.decode_head(model.extract_feat(windows))

    return segmenting.predictor(
        logits, {"": lambda found: found}, model.data_preprocessor, config, multiple=max(STRIDES)
    )


def _upernet(width: int, config: Config) -> dict[str, Any]:
    """configs/_base_/models/upernet.py [iBOT]; SyncBN is made of BN where there are several processes."""
    head = {
        "num_classes": len(NAMES), "dropout_ratio": config.dropout, "align_corners": False,
        "norm_cfg": {"type": "BN", "requires_grad": True},
    }  # fmt: skip
    loss = {"type": "mmseg.CrossEntropyLoss", "use_sigmoid": False}
    return {
        "type": "mmseg.EncoderDecoder",
        "data_preprocessor": pictures.preprocessing(config),
        "decode_head": head | {
            "type": "mmseg.UPerHead", "in_channels": [width] * 4, "in_index": [0, 1, 2, 3],
            "pool_scales": (1, 2, 3, 6), "channels": width, "loss_decode": loss | {"loss_weight": 1.0},
        },
        "auxiliary_head": head | {
            "type": "mmseg.FCNHead", "in_channels": width, "in_index": 2, "channels": config.auxiliary_channels,
            "num_convs": 1, "concat_input": False, "loss_decode": loss | {"loss_weight": config.auxiliary_weight},
        },
        "train_cfg": {}, "test_cfg": {"mode": "whole"},
    }  # fmt: skip
