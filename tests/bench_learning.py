"""Whether a training still teaches something: minutes of DoRA on the rendered walk, beside untrained networks."""

import statistics
import tempfile
from functools import cache
from pathlib import Path

from bench import Measurement

from dora import recipes
from dora.artifacts import Machine
from dora.data.shards import shard
from dora.data.video import acquire
from dora.training.stage import pretrain
from eval.learning import Comparison, compare

N_UNTRAINED = 3
# Minutes on two cores, otherwise by the recipe that docs/learning.md calls short: its rate and teacher are for a third
# as many steps as the recipe's. KoLeo is not guarded here.
OVERRIDES = (
    "videos.0.duration_s=60", "pretrain.epochs=6", "pretrain.optimizer.lr_per_256=2e-2",
    "pretrain.optimizer.teacher_momentum=0.99", "pretrain.augment.clip_scale=[0.05,0.4]",
    "pretrain.augment.jitter=[0.6,0.6,0.8,0.4]", "pretrain.loss.teacher_temperature=0.02",
    "pretrain.loss.warmup_teacher_temperature=0.02", "pretrain.loss.koleo_weight=0",
)  # fmt: skip
BENCHMARKS = ("imagenet_knn", "davis", "got10k_propagation")


@cache
def _compared() -> dict[str, Comparison]:
    """One training for all figures."""
    recipe = recipes.override(recipes.miniature(), OVERRIDES)
    with tempfile.TemporaryDirectory() as name:
        machine = Machine(root=Path(name))
        video = acquire(recipe.videos[0], machine, index=0)
        checkpoint = pretrain([shard(video, recipe.shards, machine)], recipe.pretrain, machine)
        found = compare(checkpoint, BENCHMARKS, machine, n_seeds=N_UNTRAINED)
    return {one.benchmark: one for one in found.comparisons if one.headline}


def _margin(benchmark: str) -> Measurement:
    """The encoder's points minus those of each untrained network."""
    found = _compared()[benchmark]
    (learnt,) = found.trained
    margins = [learnt - value for value in found.untrained]
    return Measurement(statistics.fmean(margins), "points", margins)


def learning_margin() -> Measurement:
    """k-NN, top-1. Of 96 images one is a point, and three points are chance."""
    return _margin("imagenet_knn")


def learning_margin_davis() -> Measurement:
    """Label propagation, J&F: what a short training teaches first."""
    return _margin("davis")


def learning_margin_tracking() -> Measurement:
    """Boxes followed without training, AO."""
    return _margin("got10k_propagation")


BENCHES = {
    "learning_margin": learning_margin,
    "learning_margin_davis": learning_margin_davis,
    "learning_margin_tracking": learning_margin_tracking,
}
