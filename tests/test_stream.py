"""Batches of views: from videos of any size, from this machine or from a store, the same."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from s3_server import s3_server
from safetensors.torch import load_file
from tiny import PRETRAIN, write_shards

from dora.artifacts import Machine
from dora.config import AugmentConfig
from dora.data.augment import MEAN, STD, Views
from dora.data.clips import Clips
from dora.data.index import STORE, open_index
from dora.data.order import own_places
from dora.data.store import upload
from dora.data.stream import ReadAhead, batches
from dora.seeds import derived_seed
from dora.training.run import reading_threads

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


def views_of(clips: Clips, *, n_workers: int = 0, n_threads: int = 0) -> dict[str, torch.Tensor]:
    """All views of a training of ten steps."""
    places = own_places(len(clips), PRETRAIN, first_step=0, n_steps=10, rank=0, world_size=1)
    with batches(
        clips, places, [4], PRETRAIN, device=CPU, n_workers=n_workers, n_threads=n_threads
    ) as read:  # fmt: skip
        views = [*read]
    assert len(views) == 10
    return {name: torch.stack([getattr(v, name) for v in views]) for name in ("global_views", "local_views")}


def test_videos_of_different_sizes_and_rates_share_a_batch(tmp_path: Path):
    wide = write_shards(tmp_path / "wide", name="wide", width=96)
    slow = write_shards(tmp_path / "slow", name="slow", fps=5, n_frames=12)
    clips = Clips([wide, slow], PRETRAIN.clip)
    places = [*own_places(len(clips), PRETRAIN, first_step=0, n_steps=3, rank=0, world_size=1)]
    assert {clips.source(place.start) for place in places[:4]} == {"wide", "slow"}
    with batches(clips, places, [4], PRETRAIN, device=CPU, n_workers=0) as read:
        for views in read:
            assert views.global_views.shape[:3] == (1, 4, 2) and views.local_views.shape[:3] == (2, 4, 2)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_that_read_change_no_bit(tmp_path: Path, n_threads: int):
    clips = Clips([write_shards(tmp_path / "walk")], PRETRAIN.clip)
    torch.testing.assert_close(views_of(clips, n_threads=n_threads), views_of(clips), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("device", "n_cores", "augment", "n_threads"),
    [
        ("cuda", 16, "auto", 4),
        ("cuda", 3, "device", 2),
        ("cuda", 1, "auto", 0),
        ("cuda", 16, "workers", 0),
        ("cpu", 16, "auto", 0),
    ],
)
def test_threads_decode_for_a_gpu_and_leave_a_core_to_its_process(
    tmp_path: Path, device: str, n_cores: int, augment: Literal["auto", "device", "workers"], n_threads: int
):
    machine = Machine(root=tmp_path, threads=n_cores, augment=augment)
    assert reading_threads(machine, torch.device(device)) == n_threads


def test_what_a_clip_becomes_depends_on_its_place_alone(tmp_path: Path):
    """However the stream is cut: two ranks and one, batches of four and of two."""
    clips = Clips([write_shards(tmp_path / "walk")], PRETRAIN.clip)

    def views(rank: int, world_size: int, sizes: list[int]) -> torch.Tensor:
        places = own_places(len(clips), PRETRAIN, first_step=3, n_steps=6, rank=rank, world_size=world_size)
        with batches(clips, places, sizes, PRETRAIN, device=CPU, n_workers=0) as read:
            return torch.cat([views.global_views for views in read], 1)

    whole = views(0, 1, [4])
    for rank in (0, 1):
        torch.testing.assert_close(views(rank, 2, [2]), whole[:, rank::2])


def test_views_say_which_clips_of_the_stream_they_show(tmp_path: Path):
    clips = Clips([write_shards(tmp_path / "walk")], PRETRAIN.clip)
    places = own_places(len(clips), PRETRAIN, first_step=3, n_steps=5, rank=1, world_size=2)
    with batches(clips, places, [2], PRETRAIN, device=CPU, n_workers=0) as views:
        assert [v.positions for v in views] == [(13, 15), (17, 19)]


def test_a_clip_is_cut_as_its_place_says(tmp_path: Path):
    """Plain views of a whole grey frame show which frame it was: the second is of the other start."""
    clip = PRETRAIN.clip.model_copy(update={"n_cuts": 1})
    still = AugmentConfig(
        clip_size=40, global_size=8, global_scale=(1, 1), clip_scale=(1, 1), n_local_crops=0, jitter_probability=0,
        grayscale_probability=0, global_blur_probability=(0,),
    )  # fmt: skip
    config = PRETRAIN.model_copy(update={"clip": clip, "augment": still})
    clips = Clips([write_shards(tmp_path / "walk")], clip)
    places = [*own_places(len(clips), config, first_step=0, n_steps=3, rank=0, world_size=1)]
    with batches(clips, places, [1], config, device=CPU, n_workers=0) as read:
        shown_views = [*read]
    for views, place in zip(shown_views, places, strict=True):
        (cut,) = clips.cuts(place.start, derived_seed(config.seed, "cuts", place.position))
        shown = (views.global_views[0, 0, :, 2, -1, 4] * STD[2] + MEAN[2]) * 255 / 10  # blue, below the square
        assert shown.round().tolist() == [place.start, cut.start + 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_read_ahead_on_a_gpu_is_made_beside_the_consumers_work_and_waited_for():
    """Slow to make and slow to use: values are right only if each side waits for the other where it must."""
    gpu, n, late = torch.device("cuda"), 20, 10**7  # clock cycles
    streams: list[torch.cuda.Stream] = []

    def made() -> Iterator[Views]:
        for number in range(n):
            streams.append(torch.cuda.current_stream())
            views = torch.empty(1, 1, 1, 3, 512, 512, device=gpu)
            torch.cuda._sleep(late)
            yield Views(views.fill_(number), views + 1, (number,))

    ahead, sums = ReadAhead(made(), depth=2, device=gpu), list[torch.Tensor]()
    for number in range(n):
        views = next(ahead)
        assert views.positions == (number,)
        torch.cuda._sleep(2 * late)
        sums.append(views.global_views.mean() + views.local_views.mean())
        del views
    ahead.close()
    assert torch.stack(sums).tolist() == [2 * number + 1 for number in range(n)]
    assert {*streams} == {streams[0]} and streams[0] != torch.cuda.current_stream()


IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from safetensors.torch import save_file
from test_stream import PRETRAIN, Clips, views_of
from dora.data.tar_cache import TarCache
folder, kept, bound, out = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
save_file(views_of(Clips([folder], PRETRAIN.clip, TarCache(kept, bound)), n_workers=2), out)
"""


@pytest.mark.slow
def test_loader_processes_read_from_s3_through_a_cache_smaller_than_the_set(tmp_path: Path):
    folder, kept = write_shards(tmp_path / "walk", n_frames=60), tmp_path / "kept"
    local, out = views_of(Clips([folder], PRETRAIN.clip)), tmp_path / "views.safetensors"
    tars = open_index(folder).facts.tars
    bound = tars[0].size_bytes * 3.5
    assert len(tars) > 4
    with s3_server("tours") as url:
        for tar in tars:
            upload(folder / tar.name, f"{url}/walk", tar.name)
            (folder / tar.name).unlink()
        (folder / STORE).write_text(f"{url}/walk")
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder), str(kept), str(bound), str(out)]
        for _ in range(2):  # filling the cache, and with what is in it
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr
            torch.testing.assert_close(load_file(out), local)
            out.unlink()
        assert 0 < sum(path.stat().st_size for path in kept.glob("*.tar")) <= bound
