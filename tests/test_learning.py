"""The table that says whether an encoder has learnt: equal architectures, seeds, means by hand, a run for real."""

import json
import multiprocessing
import re
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import tiny_eval
import torch
from typecheck import unchecked

from dora.artifacts import Checkpoint, Machine
from dora.weights.load import load_encoder
from eval.learning import Comparison, Learning, architecture, compare, main, table
from eval.report.tables import markdown
from eval.untrained import untrained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


def test_an_untrained_network_has_the_checkpoints_architecture_and_its_seeds_weights(
    checkpoint: Checkpoint, tmp_path: Path
):
    machine = Machine(root=tmp_path)
    trained = load_encoder(checkpoint.path).state_dict()
    first, again, second = untrained(architecture(checkpoint.path), machine, seeds=(0, 0, 1))
    assert first.digest == again.digest != second.digest
    weights = [load_encoder(one.path).state_dict() for one in (first, second)]
    assert all({name: v.shape for name, v in w.items()} == {n: v.shape for n, v in trained.items()} for w in weights)
    drawn = "blocks.0.attn.qkv.weight"
    assert not torch.equal(weights[0][drawn], weights[1][drawn])
    assert weights[0][drawn].std() == pytest.approx(0.02, rel=0.1)  # DINO's initialisation


def write_many(root: Path, digests: "Queue[list[str]]", ready: "Barrier") -> None:
    backbone = tiny_eval.PRETRAIN.backbone
    ready.wait()
    digests.put([one.digest for one in untrained(backbone, Machine(root=root), seeds=range(20))])


def test_runs_that_share_a_root_may_write_the_same_untrained_networks_at_once(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    digests, ready = context.Queue(), context.Barrier(2)
    runs = [context.Process(target=write_many, args=(tmp_path, digests, ready)) for _ in range(2)]
    for run in runs:
        run.start()
    first, second = digests.get(timeout=120), digests.get(timeout=120)
    for run in runs:
        run.join()
    assert first == second and len({*first}) == 20 and [run.exitcode for run in runs] == [0, 0]
    assert len([*(tmp_path / "untrained").glob("*.safetensors")]) == 20


def learning(trained: tuple[float, ...], without: tuple[float, ...]) -> Learning:
    one = Comparison(
        benchmark="ade20k", protocol="ade20k-x-miniature", metric="mIoU", headline=True, n_samples=12, trained=trained,
        untrained=without,
    )  # fmt: skip
    other = one.model_copy(update={"metric": "aAcc", "headline": False})
    path = Path("folder/checkpoint.safetensors")
    return Learning(checkpoint=path, sha256="ab" * 32, seeds=(0, 1, 2), world=tiny_eval.WORLD, comparisons=(one, other))


def test_the_table_has_means_deviations_and_bold_differences_that_are_clear():
    rows = markdown(table(learning((12, 14, 16), (8, 10, 9)))).splitlines()
    cells = "| ade20k (ade20k-x-miniature, 12 samples) | mIoU | 9.0 ± 1.0 (3) | 14.0 ± 2.0 (3) | **+5.0** |"
    assert rows[-1] == cells and len(rows) == 5  # headlines only
    assert markdown(table(learning((12, 14, 16), (8, 12.5, 9.5)))).endswith(
        "| 10.0 ± 2.3 (3) | 14.0 ± 2.0 (3) | +4.0 |"
    )
    assert markdown(table(learning((9,), (12,)))).endswith("| 12.0 (1) | 9.0 (1) | -3.0 |")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--benchmarks", "davis17"], "unknown benchmark 'davis17'. Known: "),
        (["--benchmarks", "davis", "coco.iterations=3"], "coco.iterations=3: expected it to begin with one of davis."),
        (["--benchmarks", "davis", "davis.topk=3"], "there is no 'topk' here. Did you mean top_k?"),
        (["--benchmarks", "davis", "--seeds", "0"], "expected at least one seed, got 0."),
        (["--benchmarks", "davis", "--times", "0"], "expected miniatures at least as large as they are, got times=0."),
    ],
)
@pytest.mark.slow  # renders a miniature for one of them
def test_what_is_wrong_is_said_before_anything_is_measured(
    arguments: list[str], says: str, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with unchecked():
        assert main(["--checkpoint", str(checkpoint.path), "--out", str(tmp_path), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("score-*"))


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_untrained_networks_and_scores_are_kept(checkpoint: Checkpoint, tmp_path: Path):
    machine = Machine(root=tmp_path, threads=1, device="cpu")
    changes = ["ade20k_linear.iterations=2", "ade20k_linear.batch_size=2", "ade20k_linear.lrs=[1e-3]"]
    with unchecked():
        found = compare(checkpoint, ["ade20k_linear"], machine, n_seeds=2, overrides=changes, world=tiny_eval.WORLD)
    assert [(one.benchmark, len(one.trained), len(one.untrained)) for one in found.comparisons if one.headline] == [
        ("ade20k_linear", 2, 2),
    ]  # fmt: skip
    manifests = list(tmp_path.glob("score-*/*/manifest.json"))
    assert len(manifests) == 4
    written = [path.stat().st_mtime_ns for path in manifests]
    assert found == compare(checkpoint, ["ade20k_linear"], machine, n_seeds=2, overrides=changes, world=tiny_eval.WORLD)
    assert [path.stat().st_mtime_ns for path in manifests] == written


@pytest.mark.slow
def test_the_command_prints_the_table_and_writes_every_metric(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--checkpoint", str(checkpoint.path), "--out", str(tmp_path), "--seeds", "2", "--benchmarks"]
    with unchecked():
        assert main([*arguments, "davis", "davis.top_k=3"]) == 0
    said = capsys.readouterr().out
    row = r"\| davis \(davis2017-.*-miniature-\w{6}, \d+ samples\) \| J&F mean \| [\d.]+ ± [\d.]+ \(2\) \| [\d.]+ \(1\)"
    assert re.search(row, said)
    content = json.loads((tmp_path / "learning.json").read_text())
    assert {one["metric"] for one in content["comparisons"]} >= {"J_and_F_mean", "J_mean", "F_decay"}
    assert content["sha256"] == checkpoint.digest
