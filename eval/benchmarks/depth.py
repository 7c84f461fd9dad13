"""NYU Depth v2: depth by one linear layer on the frozen encoder; share of pixels within a quarter (delta1), in percent.

DINOv2's linear probe: 256 depths to choose from, on each patch's token and [CLS] (eval/dense/depth_probe.py), trained
with the loop of the other benchmarks. delta1, delta2, delta3 and AbsRel are in percent, RMSE_m in metres; each is the
mean over pictures. The paper of DoRA is not known to report depth. docs/depth.md tells more.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled import nyu as layout
from dora.data.miniature import World
from dora.progress import Progress
from eval.benchmark import Result
from eval.finetune.training import Training
from eval.identity import sampled

if TYPE_CHECKING:
    from eval.dense.depth import Photo, Sample
    from eval.dense.depth_probe import DepthProbe
    from eval.finetune.task import Spent, Task
    from eval.finetune.team import Team

VERSION = 4
PROTOCOL = "nyu-depth-linear1-38k"
DATASET = "nyu"
HOW_TO_GET = (
    "`dora data get nyu` says how: the folder that holds the scenes and both lists of pairs, "
    "nyudepthv2_train_files_with_gt.txt and nyudepthv2_test_files_with_gt.txt."
)
HEADLINE = "delta1"
COST = "estimated, not measured: 614,400 crops through the frozen encoder, 50 minutes at 200 a second."
PARALLEL = True

SHEET = "depth.jpg"
N_TOY = {"train": 48, "val": 24}
WHOLE = {"train": 24_231, "val": 654}


class Config(Training):
    """DINOv2's lin. 1 for NYU Depth v2.

    [DINOv2] is arXiv:2304.07193, Sec. 7.4, and the repository's depth configs as they are remembered: not looked up.
    """

    whole: bool = Field(default=True, description="all 24,231 and 654 pairs must be there; false: however many")
    layers: Literal[1, 4] = Field(default=1, description="blocks whose tokens are seen: lin. 1 or lin. 4 [DINOv2]")
    batch_norm: bool = Field(
        default=False, description="each channel by its mean and deviation over the batch before the layer; ours"
    )
    crop: tuple[int, int] = Field(default=(416, 544), description="height and width to train on [DINOv2]")
    nearest: float = Field(default=1e-3, gt=0, description="metres: the first of the 256 depths [DINOv2]")
    farthest: float = Field(default=10.0, gt=0, description="metres: the last; beyond it nothing counts [DINOv2]")
    eigen_crop: bool = Field(default=True, description="what is evaluated (arXiv:1406.2283), of 640 x 480 pixels")
    gradient_weight: float = Field(default=0.5, ge=0, description="of the second term of the loss [DINOv2]")
    iterations: int = Field(default=38_400, ge=1, description="[DINOv2]")
    batch_size: int = Field(default=16, ge=1, description="[DINOv2]")
    lr: float = Field(default=1e-3, gt=0, description="AdamW [DINOv2]")
    weight_decay: float = Field(default=0.01, ge=0, description="[DINOv2]")
    warmup_iterations: int = Field(default=1_000, ge=0, description="linear, from nothing; ours")
    power: float = Field(default=1.0, gt=0, description="of the polynomial down to 0; ours")


PRESETS = {"lin4": Config(layers=4), "short": Config(iterations=4_800, warmup_iterations=125)}


def check(data: Path, config: Config) -> dict[str, Any]:
    """Numbers of pairs and the hash of their names; all files of the lists are there, and the first has a size to use.

    Raises:
        FileNotFoundError: for a list that is not there.
        ValueError: for a subset, a file that is not there, or pictures that the crops do not fit.
    """
    from eval.dense.depth import Pair, pairs, require_size

    facts: dict[str, Any] = {}
    names: list[str] = []
    listed: list[Pair] = []
    for subset, expected in WHOLE.items():
        found = pairs(data, subset)
        if config.whole and len(found) != expected:
            raise ValueError(
                f"depth: {data / layout.LISTS[subset]} lists {len(found):,} pairs, expected {expected:,}. "
                "A subset on purpose: whole=false, which is another protocol."
            )
        absent = [path for pair in found for path in pair if not path.is_file()]
        if absent:
            raise ValueError(f"depth: {absent[0]} and {len(absent) - 1:,} more files of the list are not there.")
        require_size(found[0], crop=config.crop if subset == "train" else None, eigen=config.eigen_crop)
        facts[f"n_{subset}"] = len(found)
        names += [pair.name for pair in found]
        listed += found
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    sample = sampled([pair.photo for pair in listed]) + sampled([pair.depth for pair in listed])
    return facts | {"list_sha256": digest, "sample_sha256": sample}


def evaluate(checkpoint: Checkpoint, config: Config, machine: Machine, out: Path, progress: Progress) -> Result:
    """Train the layer and measure it on the test pairs; goes on from what is in `out`."""
    from eval.finetune.loop import finetune
    from eval.finetune.team import joined

    with joined(machine, out) as team:
        model = network(checkpoint, config).to(team.ranks.device)
        spent = finetune(task(model, config, machine), config, machine, out, team, progress)
        return _result(model.eval(), config, machine, out, team, progress, spent)


def miniature(world: World, folder: Path, *, times: int = 1) -> Config:
    """Pictures of streets that no video shows, other streets for the test; what is farther than 12 m does not count."""
    layout.write(folder, {subset: layout.shots(world, subset, n * times) for subset, n in N_TOY.items()})
    crop = (_share(world.height, 416 / 480), _share(world.width, 544 / 640))  # of a picture, as NYU's
    return Config(
        whole=False, crop=crop, nearest=1.0, farthest=12.0, eigen_crop=False, iterations=60 * times,
        batch_size=8, lr=3e-3, batch_norm=True, warmup_iterations=5, precision="fp32", max_broken_share=0,
    )  # fmt: skip


def _share(length: int, share: float) -> int:
    """A share of a picture's side, in whole patches of 16 pixels."""
    return int(length * share) // 16 * 16


def network(checkpoint: Checkpoint, config: Config) -> "DepthProbe":
    """The frozen ViT of the checkpoint and the layer."""
    import torch

    from dora.weights.load import load_encoder
    from eval.dense.depth_probe import DepthProbe

    vit = load_encoder(checkpoint.path)
    torch.manual_seed(config.seed)
    return DepthProbe(
        vit, n_layers=config.layers, nearest=config.nearest, farthest=config.farthest, batch_norm=config.batch_norm
    )


def task(model: "DepthProbe", config: Config, machine: Machine) -> "Task":
    """What the loop learns."""
    from eval.dense.depth import pairs, reader
    from eval.dense.depth_probe import losses
    from eval.finetune.rates import poly
    from eval.finetune.task import Task

    def loss(model: Any, samples: "list[Sample]") -> dict[str, Any]:
        return losses(
            model, samples, nearest=config.nearest, farthest=config.farthest, gradient_weight=config.gradient_weight
        )

    train = pairs(machine.datasets[DATASET], "train")
    return Task(
        model=model, loss=loss, read=reader(train, config.crop), n_samples=len(train),
        groups=model.groups(config.lr, config.weight_decay),
        lr_factor=poly(
            config.iterations, power=config.power, warmup_iterations=config.warmup_iterations, warmup_ratio=1e-6
        ),
    )  # fmt: skip


def _result(
    model: "DepthProbe", config: Config, machine: Machine, out: Path, team: "Team", progress: Progress, spent: "Spent"
) -> Result:
    import numpy as np

    from eval.dense.depth import errors, evaluated, pairs, read
    from eval.dense.depth_probe import predict
    from eval.dense.depth_sheet import write_sheet
    from eval.finetune.records import measure_each

    val = pairs(machine.datasets[DATASET], "val")
    span = {"nearest": config.nearest, "farthest": config.farthest}

    def predicted(photo: "Photo") -> Any:
        return predict(model, photo, **span)

    def work(sample: "Sample") -> dict[str, float] | None:
        counts = evaluated(sample.depth, **span, eigen=config.eigen_crop)
        return errors(predicted(sample.photo), sample.depth, counts) if counts.any() else None

    measured = measure_each(
        out, len(val), work, team, progress, config.max_broken_share, read=lambda i: read(val[i]),
        n_workers=machine.n_workers,
    )  # fmt: skip
    if team.ranks.rank:
        return Result({}, (), n_samples=0)
    records = [record for record in measured.records.values() if record]
    if not records:
        raise ValueError(
            "depth: no test picture has a pixel of known depth within the range. Fetch the data set again."
        )
    metrics = {name: float(np.mean([record[name] for record in records])) for name in records[0]}
    write_sheet(out / SHEET, val, predicted, **span, eigen=config.eigen_crop)
    notes = (*spent.notes, *measured.notes)
    return Result(metrics, (SHEET,), n_samples=len(records), notes=notes, cost=team.cost())
