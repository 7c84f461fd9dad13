"""The benchmark that tracks without training, from GOT-10k's folders to its numbers."""

import shutil
from pathlib import Path

import pytest
import small_tracks
import tiny_eval

from dora.artifacts import Checkpoint, Machine
from dora.progress import silent
from eval import benchmark
from eval.benchmark import Result
from eval.benchmarks import got10k_propagation
from eval.benchmarks.got10k_propagation import Config

CONFIG = Config(grid=12, radius=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


def evaluate(checkpoint: Checkpoint, data: Path, out: Path, config: Config = CONFIG) -> Result:
    return got10k_propagation.evaluate(checkpoint, config, Machine(datasets={"got10k": data}), out, silent)


def test_squares_that_move_are_followed_better_than_by_a_still_box(checkpoint: Checkpoint, tmp_path: Path):
    small_tracks.write_subset(tmp_path / "data", "val", 3, n_frames=8, seed=40)
    result = evaluate(checkpoint, tmp_path / "data", tmp_path / "out")
    assert result.n_samples == 3 * 7
    assert result.metrics["AO"] > result.metrics["AO_still_box"] + 15, result.metrics


def test_the_test_subset_needs_no_truth_and_gives_no_metric(checkpoint: Checkpoint, tmp_path: Path):
    names = small_tracks.write_subset(tmp_path / "data", "test", 1, n_frames=3, seed=0)
    folder = tmp_path / "data/test" / names[0]
    (folder / "groundtruth.txt").write_text((folder / "groundtruth.txt").read_text().splitlines()[0])
    for label in folder.glob("*.label"):
        label.unlink()
    config = CONFIG.model_copy(update={"subset": "test"})
    assert got10k_propagation.check(tmp_path / "data", config)["n_frames"] == 3
    result = evaluate(checkpoint, tmp_path / "data", tmp_path / "out", config)
    assert result.metrics == {} and result.pictures == ("got10k.jpg", f"films/{names[0]}.mp4")
    assert (tmp_path / "out/results/GOT-10k/dora-propagation.zip").stat().st_size


def test_what_is_broken_is_refused_before_anything_starts(checkpoint: Checkpoint, tmp_path: Path):
    data = tmp_path / "data"
    names = small_tracks.write_subset(data, "val", 2, n_frames=3, seed=0)
    facts = got10k_propagation.check(data, CONFIG)
    assert (facts["n_sequences"], facts["n_frames"]) == (2, 6)
    machine = Machine(root=tmp_path / "root", datasets={"got10k": data})
    (data / "val" / names[1] / "cover.label").write_text("8\n8\n")
    with pytest.raises(ValueError, match=r"cover.label has 2 labels, but there are 3 frames"):
        benchmark.score(checkpoint, "got10k_propagation", CONFIG, machine)
    shutil.rmtree(data / "val" / names[1])
    with pytest.raises(FileNotFoundError, match=rf"no val/{names[1]}/\*.jpg in .*DORA_DATASETS__GOT10K"):
        benchmark.score(checkpoint, "got10k_propagation", CONFIG, machine)
    assert not (tmp_path / "root").exists()
