"""Batches of views: from videos of any size, from this machine or from a store, the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from s3_server import s3_server
from safetensors.torch import load_file
from tiny import PRETRAIN, write_shards

from dora.data.clips import Clips
from dora.data.index import STORE, open_index
from dora.data.order import own_places
from dora.data.store import upload
from dora.data.stream import batches

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]


def views_of(clips: Clips, n_workers: int = 0) -> dict[str, torch.Tensor]:
    """All views of a training of ten steps."""
    places = own_places(len(clips), PRETRAIN, first_step=0, n_steps=10, rank=0, world_size=1)
    views = [*batches(clips, places, [4], PRETRAIN, device=CPU, n_workers=n_workers)]
    assert len(views) == 10
    return {name: torch.stack([getattr(v, name) for v in views]) for name in ("global_views", "local_views")}


def test_videos_of_different_sizes_and_rates_share_a_batch(tmp_path: Path):
    wide = write_shards(tmp_path / "wide", name="wide", width=96)
    slow = write_shards(tmp_path / "slow", name="slow", fps=5, n_frames=12)
    clips = Clips([wide, slow], PRETRAIN.clip)
    places = [*own_places(len(clips), PRETRAIN, first_step=0, n_steps=3, rank=0, world_size=1)]
    assert {clips.source(place.start) for place in places[:4]} == {"wide", "slow"}
    for views in batches(clips, places, [4], PRETRAIN, device=CPU, n_workers=0):
        assert views.global_views.shape[:2] == (4, 2)


def test_what_a_clip_becomes_depends_on_its_place_alone(tmp_path: Path):
    """However the stream is cut: two ranks and one, batches of four and of two."""
    clips = Clips([write_shards(tmp_path / "walk")], PRETRAIN.clip)

    def views(rank: int, world_size: int, sizes: list[int]) -> torch.Tensor:
        places = own_places(len(clips), PRETRAIN, first_step=3, n_steps=6, rank=rank, world_size=world_size)
        return torch.cat([v.global_views for v in batches(clips, places, sizes, PRETRAIN, device=CPU, n_workers=0)])

    whole = views(0, 1, [4])
    for rank in (0, 1):
        torch.testing.assert_close(views(rank, 2, [2]), whole[rank::2])


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
        # In a process of its own: the server that forks loader processes keeps the environment it was started in.
        command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(folder), str(kept), str(bound), str(out)]
        for _ in range(2):  # filling the cache, and with what is in it
            run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stderr
            torch.testing.assert_close(load_file(out), local)
            out.unlink()
        assert 0 < sum(path.stat().st_size for path in kept.glob("*.tar")) <= bound
