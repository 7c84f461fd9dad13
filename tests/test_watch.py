import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PRETRAIN, write_shards

from dora.config import WatchConfig
from dora.data.clips import Clips
from dora.training.nonfinite import MOST_DUMPS, after_nonfinite, dump, nonfinite_names
from dora.training.watch import Watch

CPU = torch.device("cpu")
MOST = math.log(16)  # nats over PRETRAIN's prototypes


def lines(n: int = 150, **numbers: float | Iterable[float]) -> list[dict[str, float]]:
    """A healthy log, but for the numbers given: one value, or one for each line."""
    wave = [math.sin(step) for step in range(n)]
    healthy = {
        "epoch": 1, "lr": 1e-3, "loss": [2 + 0.1 * w for w in wave], "teacher_entropy": [1.5 + 0.2 * w for w in wave],
        "feature_spread": 0.5, "gradient_norm": [1 + 0.3 * w for w in wave], "mask_share": 0.4,
        "data_wait_share": 0.01, "memory_bytes": 5e9,
    }  # fmt: skip
    columns = {
        name: [*values] if isinstance(values, Iterable) else [values] * n
        for name, values in (healthy | numbers).items()
    }
    return [
        {"step": 10 * (row + 1)} | {name: column[row] for name, column in columns.items() if column[row] is not None}
        for row in range(n)
    ]


def said(log: list[dict[str, float]], *, memory_bytes: int | None = None) -> list[tuple[int, str]]:
    watch = Watch(PRETRAIN, memory_bytes=memory_bytes)
    return [(int(line["step"]), sentence) for line in log for sentence in watch.read(line)]


def test_nothing_is_said_of_a_healthy_training():
    assert said(lines(), memory_bytes=8 * 10**9) == []


@pytest.mark.parametrize(
    ("numbers", "at", "words"),
    [
        ({"teacher_entropy": 0.995 * MOST}, 200, "evenly over all prototypes: its entropy is 2.76 nats, and 2.77 is"),
        ({"teacher_entropy": 0.001}, 200, r"certain of a single prototype.*loss.center_momentum \(0.9\)"),
        ({"feature_spread": 0.002}, 200, "says the same of every frame: feature_spread is 0.0020.*That is a collapse"),
        ({"loss": 2.772}, 1000, r"the loss does not move: it is 2.7720.*teacher_entropy is 1.\d\d of at most 2.77"),
        ({"mask_share": 0.999}, 100, r"keep 99.9% of the patches.*tracking.sinkhorn_epsilon \(0.05\)"),
        ({"data_wait_share": 0.62}, 100, r"waits for data 62% of the time.*Raise Machine.n_workers"),
        ({"memory_bytes": 7.9e9}, 10, "memory is nearly full: 7.9 GB of 8 GB.*DORA_MICRO_BATCH"),
        ({"gradient_norm": [1.0] * 110 + [60.0] * 40}, 1150, r"its norm is 60, over ten times what it was"),
    ],
)
def test_what_is_wrong_is_said_once_and_in_words(numbers: dict[str, float], at: int, words: str):
    ((step, sentence),) = said(lines(**numbers), memory_bytes=8 * 10**9)
    assert step == at
    assert re.search(words, sentence), sentence


def test_an_even_teacher_is_usual_while_the_learning_rate_warms_up():
    warming = lines(teacher_entropy=MOST, epoch=[0] * 100 + [1] * 50)
    assert [step for step, _ in said(warming)] == [1200]  # twenty lines after it


def test_trouble_is_told_again_only_after_it_was_over():
    wait = [0.5] * 20 + [0.2] * 20 + [0.5] * 20 + [0.0] * 20 + [0.5] * 20
    # It is not over at 0.2, and over at 0: the means of ten lines pass 0.3 twice.
    assert [step for step, _ in said(lines(100, data_wait_share=wait))] == [100, 870]


def test_features_that_forget_are_noticed_by_the_online_knn():
    knn = [None] * 150
    knn[49], knn[99], knn[149] = 15.0, 44.0, 12.0
    ((step, sentence),) = said(lines(online_knn=knn, online_knn_chance=10.0))
    assert step == 1500 and "online_knn fell to 12.0 % (chance is 10.0 %)" in sentence
    knn[149] = 30.0
    assert said(lines(online_knn=knn, online_knn_chance=10.0)) == []
    knn[99] = 18.0  # never knew much
    assert said(lines(online_knn=knn, online_knn_chance=10.0)) == []


def test_a_watch_that_read_the_old_lines_goes_on_as_if_it_had_never_stopped():
    log = lines(data_wait_share=[0.5] * 60 + [0.0] * 30 + [0.5] * 60)
    unbroken = said(log)
    watch = Watch(PRETRAIN)
    for line in log[:75]:
        watch.read(line)
    rest = [(int(line["step"]), sentence) for line in log[75:] for sentence in watch.read(line)]
    assert len(unbroken) == 2 and rest == [told for told in unbroken if told[0] > 750]


def test_steps_that_are_not_finite_are_skipped_then_rolled_back_then_refused_with_advice():
    config = PRETRAIN.model_copy(update={"watch": WatchConfig(max_skipped=2, max_rollbacks=1)})
    bad = {"loss": math.nan, "gradient_norm": math.inf}
    assert [after_nonfinite(7, bad, config, n_skipped=n, n_rollbacks=0) for n in range(3)] == ["skip"] * 2 + [
        "roll back"
    ]
    assert after_nonfinite(9, bad, config, n_skipped=0, n_rollbacks=1) == "skip"
    with pytest.raises(ValueError, match=(
        r"the loss is nan and the gradient's norm inf at step 9 after 2 steps skipped and 1 times gone back\. "
        r".*lower optimizer\.lr_per_256 \(0\.05\), lengthen optimizer\.warmup_epochs \(1\).*\(it is fp32\)"
    )):  # fmt: skip
        after_nonfinite(9, bad, config, n_skipped=2, n_rollbacks=1)


def test_what_a_bad_step_saw_is_kept_with_where_it_is_from(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], PRETRAIN.clip)
    numbers = {"loss": math.nan, "gradient_norm": 3.5}
    place = dump(tmp_path, 123, numbers, clips, PRETRAIN, shift=8, device=CPU, names=["head.last_layer.weight_g"])
    assert place == tmp_path / "nonfinite" / "step-00000124"
    report = json.loads((place / "report.json").read_text())
    assert report["numbers"] == {"loss": "nan", "gradient_norm": 3.5}
    assert report["not_finite"] == ["head.last_layer.weight_g"]
    positions = [clip["position"] for clip in report["clips"]]
    assert positions == [8 + 4 * 123 + number for number in range(4)]  # four clips a step, moved on by eight
    for clip in report["clips"]:
        assert clip["video"] == "walk" and clip["times_s"] == clips.times_s(clip["start"])
    with Image.open(place / "batch.jpg") as image:
        assert image.size == (190 + 960, 4 * (480 + 4) + 24)  # clips of two square frames, columns named once
        assert np.asarray(image)[24:500, 190:].std() > 3


def test_only_the_first_few_bad_steps_are_kept_and_nothing_half(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], PRETRAIN.clip)

    def keep(step: int) -> Path | None:
        return dump(tmp_path, step, {"loss": math.inf}, clips, PRETRAIN, shift=0, device=CPU)

    (tmp_path / "nonfinite" / ".step-00000001" / "half").mkdir(parents=True)  # as a kill leaves it
    assert all(keep(step) for step in range(MOST_DUMPS))
    assert keep(0) is None and keep(99) is None
    names = {path.name for path in (tmp_path / "nonfinite").iterdir()}
    assert names == {f"step-{step:08d}" for step in range(1, MOST_DUMPS + 1)}


def test_tensors_that_are_not_finite_are_named():
    whole, torn = torch.ones(2), torch.tensor([0.0, math.nan])
    assert nonfinite_names([("a", whole), ("b", torn), ("c", None), ("d", whole / 0)]) == ["b", "d"]
