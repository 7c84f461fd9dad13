"""Frozen features on disk: those that the network gives, each computed once, the same bytes after any kill."""

import os
import signal
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import finetuner
import numpy as np
import pytest
import tiny_eval
import torch
from PIL import Image

from dora import cache
from dora.artifacts import Checkpoint, Machine
from dora.launch import Interrupted
from dora.method.vit import cls_token, last_blocks
from dora.progress import Progress, silent
from eval.features import frozen_backbone, normalised
from eval.finetune.team import joined
from eval.frozen import store
from eval.frozen.rows import MARKS, Rows
from eval.frozen.store import class_tokens
from eval.frozen.tokens import last_class_tokens
from eval.identity import identity
from eval.images import read_photo

torch.set_num_threads(1)
N, CROP = 11, 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / ("a", "b")[n % 2] / f"{n}.jpg" for n in range(N)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks of two batches: as many places to be killed at."""
    monkeypatch.setattr(store, "IMAGES_PER_BATCH", 2)
    monkeypatch.setattr(store, "ROWS_PER_BLOCK", 3)


def compute(
    root: Path, checkpoint: Checkpoint, photos: Sequence[Path], progress: Progress = silent, *, n_blocks: int = 2,
    avgpool: bool = False,
) -> np.ndarray:  # fmt: skip
    machine = Machine(root=root, device="cpu", threads=1)
    with joined(machine, root / "job") as team:
        return class_tokens(
            checkpoint, photos, crop=CROP, n_blocks=n_blocks, avgpool=avgpool, machine=machine, team=team,
            progress=progress,
        )  # fmt: skip


def files(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(root.glob("features/*/features.npy"))]


def test_features_are_the_class_tokens_of_the_last_blocks_after_the_final_norm(
    checkpoint: Checkpoint, photos: list[Path], tmp_path: Path
):
    vit = frozen_backbone(checkpoint, Machine(device="cpu"))
    pixels = normalised(np.stack([read_photo(path, crop=CROP) for path in photos]))
    with torch.inference_mode():
        expected = torch.stack([x[:, 0] for x in last_blocks(vit, pixels, 2)], dim=1)
        found = torch.from_numpy(np.array(compute(tmp_path, checkpoint, photos)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[:, 1], cls_token(vit, pixels), rtol=0, atol=1e-5)
        assert torch.equal(last_class_tokens(vit, pixels, 2)[:, -1:], last_class_tokens(vit, pixels, 1))
    assert not any(block._forward_hooks for block in vit.blocks)


def test_class_and_mean_patch_token_take_turns_if_asked(checkpoint: Checkpoint, photos: list[Path], tmp_path: Path):
    vit = frozen_backbone(checkpoint, Machine(device="cpu"))
    pixels = normalised(np.stack([read_photo(path, crop=CROP) for path in photos]))
    found = compute(tmp_path, checkpoint, photos, n_blocks=1, avgpool=True)
    assert found.shape == (N, 1, 2 * vit.embed_dim)
    with torch.inference_mode():
        (every,) = last_blocks(vit, pixels, 1)
    np.testing.assert_allclose(found[:, 0, ::2], every[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[:, 0, 1::2], every[:, 1:].mean(1), rtol=0, atol=1e-5)
    compute(tmp_path, checkpoint, photos, n_blocks=1)
    assert len(files(tmp_path)) == 2
    with pytest.raises(ValueError, match="goes with \\[CLS\\] of one block, got 2"):
        last_class_tokens(vit, pixels, 2, avgpool=True)


def test_features_are_computed_once_and_mapped_from_the_file(
    checkpoint: Checkpoint, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    once = compute(tmp_path, checkpoint, photos)
    monkeypatch.setattr(store, "_fill", None)  # would be called in vain
    again = compute(tmp_path, checkpoint, photos)
    assert isinstance(again, np.memmap) and not again.flags.writeable and np.array_equal(once, again)
    (folder,) = (tmp_path / "features").iterdir()
    assert cache.read_manifest(folder) and sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == [
        "features.npy",
        "manifest.json",
    ]


def test_another_order_size_or_content_of_photos_are_other_features(photos: list[Path], tmp_path: Path):
    copies = [tmp_path / path.parent.name / path.name for path in photos]
    for copy, path in zip(copies, photos, strict=True):
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    assert identity(copies) == identity(photos)  # of another folder, all the same
    assert identity(photos[::-1]) != identity(photos) != identity(photos[1:])
    content = bytearray(copies[3].read_bytes())
    content[-10] ^= 1
    copies[3].write_bytes(content)
    assert identity(copies) != identity(photos)
    with pytest.raises(ValueError, match="expected photos to compute features of, got none"):
        identity([])


@pytest.mark.parametrize("n_told", [1, 4, 7])
def test_a_killed_job_goes_on_to_the_same_bytes(
    checkpoint: Checkpoint, photos: list[Path], tmp_path: Path, n_told: int, monkeypatch: pytest.MonkeyPatch
):
    compute(tmp_path / "whole", checkpoint, photos)
    n_written, write = 0, Rows.write

    def count(self: Rows, block: int, values: np.ndarray) -> None:
        nonlocal n_written
        n_written += 1
        write(self, block, values)

    def die_later(vit: object, pixels: torch.Tensor, n_blocks: int, *, avgpool: bool) -> torch.Tensor:
        nonlocal n_told
        n_told -= 1
        if n_told == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return last_class_tokens(vit, pixels, n_blocks, avgpool=avgpool)  # pyright: ignore[reportArgumentType]

    def killed() -> None:
        store.last_class_tokens = die_later
        compute(tmp_path / "killed", checkpoint, photos)

    process = get_context("fork").Process(target=killed)
    n_blocks_done = (n_told - 1) // 2
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not list(tmp_path.glob("killed/features/*/manifest.json"))
    (marks,) = tmp_path.glob(f"killed/features/*/{MARKS}")
    assert len(list(marks.iterdir())) == n_blocks_done
    monkeypatch.setattr(Rows, "write", count)
    compute(tmp_path / "killed", checkpoint, photos)
    assert n_written == 4 - n_blocks_done
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_processes_share_the_photos_and_any_number_goes_on(checkpoint: Checkpoint, photos: list[Path], tmp_path: Path):
    compute(tmp_path / "whole", checkpoint, photos)
    write = Rows.write

    def stopped(self: Rows, block: int, values: np.ndarray) -> None:
        write(self, block, values)
        if block < 2:  # each process' first
            os.kill(os.getpid(), signal.SIGTERM)

    def stop() -> None:
        Rows.write = stopped
        compute(tmp_path / "shared", checkpoint, photos)

    def go_on() -> None:
        found = compute(tmp_path / "shared", checkpoint, photos)
        assert np.array_equal(found, np.load(next(tmp_path.glob("whole/features/*/features.npy"))))

    assert any(finetuner.side_by_side(2, stop))
    assert not list(tmp_path.glob("shared/features/*/manifest.json"))
    assert finetuner.side_by_side(3, go_on) == [0, 0, 0]
    assert files(tmp_path / "shared") == files(tmp_path / "whole")


def test_asked_to_stop_it_keeps_the_finished_blocks(
    checkpoint: Checkpoint, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(self: Rows, block: int, values: np.ndarray) -> None:
        write(self, block, values)
        os.kill(os.getpid(), signal.SIGTERM)

    write = Rows.write
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Rows, "write", stop)
        compute(tmp_path, checkpoint, photos)
    (marks,) = tmp_path.glob(f"features/*/{MARKS}")
    assert len(list(marks.iterdir())) == 1
    assert compute(tmp_path, checkpoint, photos).shape == (N, 2, 24)


def test_a_file_that_was_torn_while_it_was_begun_is_begun_anew(tmp_path: Path):
    rows = Rows(tmp_path / "x.npy", (5, 2), rows_per_block=2)
    (tmp_path / MARKS).mkdir()
    (tmp_path / MARKS / "0").touch()
    rows.path.write_bytes(b"\x93NUMPY")
    rows.begin()
    assert rows.left() == [0, 1, 2] and [len(rows.span(block)) for block in range(3)] == [2, 2, 1]
    rows.write(2, np.full((1, 2), 7, np.float32))
    rows.begin()  # a run that goes on
    assert rows.left() == [0, 1]
    assert np.load(rows.path).tolist() == [[0, 0]] * 4 + [[7, 7]]


@pytest.mark.parametrize(
    ("n_blocks", "crop", "says"),
    [(5, CROP, "expected 1 to 2 blocks"), (1, 30, "8 px patches do not divide 30 px")],
)
def test_what_the_backbone_cannot_give_is_refused_before_anything_is_written(
    checkpoint: Checkpoint, photos: list[Path], tmp_path: Path, n_blocks: int, crop: int, says: str
):
    machine = Machine(root=tmp_path, device="cpu")
    with joined(machine, tmp_path / "job") as team, pytest.raises(ValueError, match=says):
        class_tokens(checkpoint, photos, crop=crop, n_blocks=n_blocks, machine=machine, team=team)
    assert not (tmp_path / "features").exists()
