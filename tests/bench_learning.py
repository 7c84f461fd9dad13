"""Whether a training still teaches something: minutes of DoRA on the rendered walk, beside untrained networks."""

import atexit
import shutil
import statistics
import tempfile
from functools import cache
from pathlib import Path

from bench import Measurement

from dora import recipes
from dora.artifacts import Checkpoint, Machine
from dora.data.shards import shard
from dora.data.video import acquire
from dora.training.stage import pretrain
from eval.learning import compare

N_UNTRAINED = 3
# The recipe in a tenth of its steps, with a teacher that follows in so few.
OVERRIDES = ("pretrain.epochs=15", "pretrain.optimizer.teacher_momentum=0.99")
# How large the miniatures are: 1,536 photos ask k-NN, of which fifteen are a point.
TIMES = {"imagenet_knn": 16, "davis": 1, "got10k_propagation": 1}


@cache
def _trained() -> Checkpoint:
    """One training for all figures."""
    recipe = recipes.override(recipes.miniature(), OVERRIDES)
    video = acquire(recipe.videos[0], _machine(), index=0)
    return pretrain([shard(video, recipe.shards, _machine())], recipe.pretrain, _machine())


@cache
def _machine() -> Machine:
    folder = Path(tempfile.mkdtemp(prefix="learning-margin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Machine(root=folder)


def _margin(benchmark: str) -> Measurement:
    """The encoder's points minus those of each untrained network."""
    found = compare(_trained(), [benchmark], _machine(), n_seeds=N_UNTRAINED, times=TIMES[benchmark])
    (headline,) = (one for one in found.comparisons if one.headline)
    (learnt,) = headline.trained
    margins = [learnt - value for value in headline.untrained]
    return Measurement(statistics.fmean(margins), "points", margins)


def learning_margin() -> Measurement:
    """k-NN, top-1. One point is chance."""
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
