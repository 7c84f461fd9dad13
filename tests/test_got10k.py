"""GOT-10k with SeqTrack: from the real layout to AO, killed and gone on with, and better than a box that stays."""

import json
import os
import signal
import threading
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tiny_eval
import torch
from small_tracks import write_subset
from typecheck import unchecked

from dora.artifacts import Checkpoint, Machine
from dora.data.labelled.files import write_lines
from dora.launch import Interrupted
from dora.progress import silent
from dora.training.states import STATES
from eval import benchmark
from eval.benchmark import RECORDS, Result
from eval.benchmarks import got10k
from eval.benchmarks.got10k import Config, check, evaluate
from eval.trackers import results

torch.set_num_threads(1)
N_FRAMES = 21
CONFIG = Config(
    search_size=32, template_size=16, area_factor=2.0, n_bins=16, decoder_width=16, decoder_heads=2, decoder_hidden=24,
    iterations=3, batch_size=2, margin=2, max_broken_share=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, subset in enumerate(("train", "val")):
        write_subset(tmp_path / "GOT-10k", subset, 2, n_frames=N_FRAMES, seed=10 * seed)
    return tmp_path / "GOT-10k"


def run(checkpoint: Checkpoint, data: Path, out: Path, config: Config = CONFIG, n_workers: int = 0, **values) -> Result:
    machine = Machine(
        root=out, datasets={"got10k": data}, device="cpu", threads=1, n_workers=n_workers, log_every_steps=1, **values
    )
    return evaluate(checkpoint, config, machine, out, silent)


def content(folder: Path) -> dict[str, bytes]:
    names = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if not any(part.startswith(".") for part in Path(name).parts)
        and not any(fnmatch(name, pattern) for pattern in RECORDS)
    }


def test_the_papers_training_is_500_epochs_of_30000_samples_and_short_is_a_tenth():
    config = Config()
    assert config.iterations * config.batch_size == 30_000 * 500
    assert round(config.iterations * config.decay_at * config.batch_size / 30_000) == 400
    assert got10k.PRESETS["short"].iterations == pytest.approx(config.iterations / 10, abs=1)


def test_metrics_are_those_of_the_files_in_the_toolkits_format(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    result = run(checkpoint, data, tmp_path / "out")
    assert result.n_samples == 2 * (N_FRAMES - 1) and {"AO", "SR_0.50", "SR_0.75"} <= set(result.metrics)
    folder = results.results_folder(tmp_path / "out", got10k.TRACKER)
    for name in ("GOT-10k_Val_000001", "GOT-10k_Val_000002"):
        assert results.read_results(folder, name, n_frames=N_FRAMES).shape == (N_FRAMES, 4)
    lines = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert (tmp_path / "out/model.safetensors").exists()


def test_stopped_in_training_and_gone_on_with_it_ends_with_the_same_bytes(
    checkpoint: Checkpoint, data: Path, tmp_path: Path
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run(checkpoint, data, whole)

    def stop_after_the_first_iteration() -> None:
        while not (parts / "log.jsonl").exists() or not (parts / "log.jsonl").read_text().count("\n"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    config = CONFIG.model_copy(update={"iterations": 3})
    watcher = threading.Thread(target=stop_after_the_first_iteration)
    watcher.start()
    try:
        with pytest.raises(Interrupted):
            run(checkpoint, data, parts, config, n_workers=1)
        assert list((parts / STATES).iterdir())
    finally:
        watcher.join()
    found = run(checkpoint, data, parts, config, n_workers=1)
    assert found._replace(cost=None) == expected._replace(cost=None)
    assert content(parts) == content(whole)


def test_of_the_test_subset_there_is_a_zip_and_no_metric(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    write_subset(data, "test", 1, n_frames=3, seed=30)
    config = CONFIG.model_copy(update={"subset": "test", "iterations": 1})
    result = run(checkpoint, data, tmp_path / "out", config)
    assert result.metrics == {} and list((tmp_path / "out").rglob("*.zip"))
    assert any("upload" in note for note in result.notes)


def test_broken_sequences_and_frames_are_told_beside_the_numbers(checkpoint: Checkpoint, data: Path, tmp_path: Path):
    name = "GOT-10k_Train_000002"
    write_lines(data / "train" / name / "absence.label", ["0"] * 5)
    with pytest.raises(ValueError, match=rf"1 of 2 sequences of train cannot be read.*{name}.*max_broken_share"):
        run(checkpoint, data, tmp_path / "strict")
    result = run(checkpoint, data, tmp_path / "out", CONFIG.model_copy(update={"max_broken_share": 0.5}))
    assert any("1 of 2 sequences of train could not be read" in note and name in note for note in result.notes)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("train/list.txt", "got10k: no train/list.txt"),
        ("val/list.txt", "got10k: no val/list.txt"),
        ("val/GOT-10k_Val_000002/cover.label", "got10k: no val/GOT-10k_Val_000002/cover.label"),
    ],
)
def test_what_is_missing_is_found_out_before_anything_starts(data: Path, path: str, says: str):
    (data / path).unlink()
    with pytest.raises(FileNotFoundError, match=says):
        check(data, CONFIG)


def test_a_frame_that_is_missing_is_found_out_before_anything_starts(data: Path):
    (data / "train/GOT-10k_Train_000001/00000007.jpg").unlink()
    with pytest.raises(ValueError, match=r"has 20 frames, but no 00000007.jpg before 00000008.jpg"):
        check(data, CONFIG)


def test_facts_tell_other_lists_apart(data: Path):
    facts = check(data, CONFIG)
    assert (facts["n_train"], facts["n_val"]) == (2, 2)
    write_lines(data / "train/list.txt", ["GOT-10k_Train_000002", "GOT-10k_Train_000001"])
    assert check(data, CONFIG)["list_sha256"] != facts["list_sha256"]


def test_the_protocol_says_which_subset_and_how_long():
    ids = {
        benchmark.protocol("got10k", config, None)
        for config in (Config(), got10k.PRESETS["short"], Config(subset="test"), Config(iterations=5))
    }
    assert len(ids) == 4 and {got10k.PROTOCOL, f"{got10k.PROTOCOL}-short"} < ids


@pytest.mark.slow
def test_a_tracker_trained_briefly_follows_what_it_has_never_seen(checkpoint: Checkpoint, tmp_path: Path):
    """Textured squares over noise: those of val have textures, places and ways of their own."""
    data = tmp_path / "GOT-10k"
    write_subset(data, "train", 16, n_frames=24, seed=0)
    write_subset(data, "val", 6, n_frames=24, seed=100)
    config = Config(
        search_size=48, template_size=32, area_factor=2.0, template_area_factor=2.0, n_templates=1, update_every=0,
        place_marks=0.5, n_bins=32, read_as_learnt=True, decoder_width=96, decoder_hidden=256, decoder_heads=4,
        dropout=0.0, iterations=250, batch_size=16, lr=2e-3, encoder_lr_share=1.0, warmup_iterations=20,
        clip_grad_norm=1.0, center_jitter=1.2, scale_jitter=0.2, margin=2, max_broken_share=0,
    )  # fmt: skip
    with unchecked():
        trained = run(checkpoint, data, tmp_path / "trained", config).metrics
    untrained = run(checkpoint, data, tmp_path / "untrained", config.model_copy(update={"iterations": 1})).metrics
    assert trained["AO"] > 70 and trained["SR_0.50"] > 80
    assert trained["AO_still_box"] < 30 and untrained["AO"] < 30
