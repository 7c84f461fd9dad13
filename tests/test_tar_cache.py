"""Clips of a store read through the node's cache: the same pictures, whatever is fetched, kept, lost or thrown away."""

import fcntl
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, file_server
from tiny import write_shards

from dora.artifacts import Machine
from dora.config import ClipConfig
from dora.data.clips import Clips
from dora.data.index import Tar, open_index
from dora.data.store import upload
from dora.data.tar_cache import TarCache, tar_cache

CLIP = ClipConfig(n_frames=3, gap_s=0.5)  # 11 frames: over two tars of eight
ROOT = Path(__file__).parents[1]


class Walk:
    """Five tars whose frames are known, in a store of their own."""

    def __init__(self, root: Path, store: str | None = None, n_frames: int = 40) -> None:
        self.store = store or f"file://{root}/store"
        self.folder = write_shards(root / "walk", n_frames=n_frames, store=self.store)
        self.tars = open_index(self.folder).facts.tars
        local = Clips([self.folder], CLIP)
        self.clips = [local.read(start) for start in range(len(local))]
        for tar in self.tars if store is None else ():
            upload(self.folder / tar.name, self.store, tar.name)
            (self.folder / tar.name).unlink()

    def stored(self, number: int) -> Path:
        return Path(self.store.removeprefix("file://")) / self.tars[number].name

    def check(self, clips: Clips) -> None:
        """Every clip is what it was before the tars went away."""
        for start, expected in enumerate(self.clips):
            assert np.array_equal(clips.read(start), expected)


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    return Walk(tmp_path)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def until(happened: Callable[[], object], *, within_s: float = 20) -> None:
    give_up_at = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.01)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.[tp]a*")) if folder.exists() else []


def cached(tar: Tar) -> str:
    return f"{tar.sha256}.tar"


def fetched(cache: TarCache, store: str, tar: Tar) -> None:
    """Ask for the tar until it is here."""

    def is_here() -> bool:
        file = cache.open(store, tar)
        if file:
            file.close()
        return file is not None

    until(is_here)


def settle(cache: TarCache) -> None:
    """Wait for the fetch that is under way."""
    if cache._fetcher:
        cache._fetcher.join()


def idle(path: Path, hours: float) -> None:
    os.utime(path, (time.time() - 3600 * hours,) * 2)


def test_without_a_cache_frames_are_read_from_the_store(walk: Walk):
    clips = Clips([walk.folder], CLIP)
    walk.check(clips)
    walk.stored(1).unlink()
    with pytest.raises(FileNotFoundError, match=r"cannot read shard-000000.tar, shard-000001.tar from file://"):
        clips.read(0)


def test_tars_that_lie_in_the_folder_are_not_asked_from_the_store(tmp_path: Path):
    folder = write_shards(tmp_path / "walk", store="file:///not/there")
    assert Clips([folder], CLIP).read(0).shape == (3, 48, 64, 3)


def test_what_fits_is_fetched_once_and_then_read_without_the_store(walk: Walk, kept: Path):
    cache = TarCache(kept, 1e9)
    clips = Clips([walk.folder], CLIP, cache)
    walk.check(clips)  # while nothing is here yet
    for tar in walk.tars:
        fetched(cache, walk.store, tar)
    for number in range(len(walk.tars)):
        walk.stored(number).unlink()
    walk.check(clips)
    assert names(kept) == sorted(map(cached, walk.tars))


def test_a_set_larger_than_the_bound_fills_the_cache_and_stays(walk: Walk, kept: Path):
    bound = walk.tars[0].size_bytes + walk.tars[1].size_bytes + 1
    cache = TarCache(kept, bound)
    clips = Clips([walk.folder], CLIP, cache)
    until(lambda: walk.check(clips) or len([name for name in names(kept) if name.endswith(".tar")]) == 2)
    before = names(kept)
    cache._not_before = 0.0  # as a minute later
    for _ in range(3):
        walk.check(clips)
        settle(cache)
    assert names(kept) == before
    assert sum(path.stat().st_size for path in kept.iterdir()) <= bound


def test_a_bound_of_nothing_keeps_nothing(walk: Walk, kept: Path):
    walk.check(Clips([walk.folder], CLIP, TarCache(kept, 0)))
    assert not kept.exists()


def test_a_tar_that_was_cut_off_on_the_disk_is_fetched_again(walk: Walk, kept: Path):
    cache, tar = TarCache(kept, 1e9), walk.tars[0]
    fetched(cache, walk.store, tar)
    os.truncate(kept / cached(tar), tar.size_bytes - 1)  # behind the last frame: no picture shows it
    clips = Clips([walk.folder], CLIP, cache)
    assert np.array_equal(clips.read(0), walk.clips[0])
    fetched(cache, walk.store, tar)
    assert (kept / cached(tar)).read_bytes() == walk.stored(0).read_bytes()


def test_a_tar_that_was_altered_on_the_disk_is_read_from_the_store_and_fetched_again(walk: Walk, kept: Path):
    cache, tar = TarCache(kept, 1e9), walk.tars[0]
    fetched(cache, walk.store, tar)
    (kept / cached(tar)).write_bytes(bytes(tar.size_bytes))
    assert np.array_equal(Clips([walk.folder], CLIP, cache).read(0), walk.clips[0])
    fetched(cache, walk.store, tar)
    assert (kept / cached(tar)).read_bytes() == walk.stored(0).read_bytes()


@pytest.mark.parametrize("same_size", [True, False])
def test_a_tar_that_was_altered_in_the_store_is_found_and_named(walk: Walk, kept: Path, same_size: bool):
    content = bytearray(walk.stored(0).read_bytes())
    content[-1] ^= 1  # behind the last frame: no picture shows it
    walk.stored(0).write_bytes(content if same_size else content[:-1])
    cache = TarCache(kept, 1e9)
    clips = Clips([walk.folder], CLIP, cache)

    def read() -> bool:
        return clips.read(0) is None

    with pytest.raises(ValueError, match=r"store/shard-000000.tar is not the file that the index names"):
        until(read)
    settle(cache)
    assert cached(walk.tars[0]) not in names(kept) and not [*kept.glob("*.part")]


def test_a_broken_frame_in_the_store_is_named(walk: Walk):
    content = bytearray(walk.stored(1).read_bytes())
    content[512:530] = bytes(18)  # the head of frame 8's JPEG
    walk.stored(1).write_bytes(content)
    clips = Clips([walk.folder], ClipConfig(n_frames=1))
    with pytest.raises(ValueError, match=r"frame 8 of walk \(in file://.*/store/shard-000001.tar\) is no readable"):
        clips.read(8)


def test_what_was_unused_for_long_goes_first_and_only_if_that_helps(walk: Walk, kept: Path):
    first, second, third = walk.tars[:3]
    bound = first.size_bytes + second.size_bytes + 1
    cache = TarCache(kept, bound)
    for tar in (first, second):
        fetched(cache, walk.store, tar)
    assert cache.open(walk.store, third) is None  # neither has been unused for long: it stays outside
    settle(cache)
    assert names(kept) == sorted([cached(first), cached(second)])
    in_use = cache.open(walk.store, first)
    assert in_use
    with in_use:
        idle(kept / cached(first), 30)
        idle(kept / cached(second), 20)
        fetched(TarCache(kept, bound), walk.store, third)
        assert names(kept) == sorted([cached(second), cached(third)])
        assert in_use.read() == walk.stored(0).read_bytes()  # what is open outlives its name


def test_what_others_keep_in_the_folder_is_left_alone(walk: Walk, kept: Path):
    tar = walk.tars[0]
    kept.mkdir()
    theirs = ["results.tar", "film.mp4.part", f"{tar.sha256}.part", f"{tar.sha256[:63]}.tar", "x.part"]
    for name in theirs:
        (kept / name).write_bytes(b"years of work")
        idle(kept / name, 30)
    cache = TarCache(kept, tar.size_bytes)
    with (kept / "x.part").open("rb+") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        fetched(cache, walk.store, tar)
    assert {path.name for path in kept.iterdir()} == {*theirs, cached(tar), ".lock"}


def test_a_process_that_is_forked_under_the_lock_keeps_nobody_waiting(kept: Path):
    cache = TarCache(kept, 1e9)
    with cache._locked():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with (kept / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        child.kill()
        child.join()


def test_reading_a_tar_says_that_it_is_in_use(walk: Walk, kept: Path):
    cache, tar = TarCache(kept, 1e9), walk.tars[0]
    fetched(cache, walk.store, tar)
    idle(kept / cached(tar), 30)
    fetched(cache, walk.store, tar)
    assert time.time() - (kept / cached(tar)).stat().st_mtime < 60


def test_a_folder_that_cannot_be_used_is_told_and_done_without(
    walk: Walk, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_bytes(b"")
    cache = TarCache(tmp_path / "file" / "kept", 1e9)
    with caplog.at_level(logging.WARNING):
        walk.check(Clips([walk.folder], CLIP, cache))
        until(lambda: caplog.records)
        settle(cache)
        walk.check(Clips([walk.folder], CLIP, cache))
    assert len(caplog.records) == 1  # not once a clip
    assert "is not kept on this node, its frames are read from the store" in caplog.text


def test_a_cache_travels_to_another_process(walk: Walk, kept: Path):
    cache = TarCache(kept, 1e9)
    for number in (0, 1):  # clip 0 is in both
        fetched(cache, walk.store, walk.tars[number])
        walk.stored(number).unlink()
    clips = pickle.loads(pickle.dumps(Clips([walk.folder], CLIP, cache)))
    assert np.array_equal(clips.read(0), walk.clips[0])


def test_the_machine_says_where_tars_are_kept_and_how_many(tmp_path: Path):
    default = tar_cache(Machine(root=tmp_path))
    assert (default._folder, default._bound_bytes) == (tmp_path / ".tars", 100e9)
    other = tar_cache(Machine(root=tmp_path, store_cache=tmp_path / "ssd", store_cache_gb=0.5))
    assert (other._folder, other._bound_bytes) == (tmp_path / "ssd", 5e8)


READER = """
import sys
from pathlib import Path
from dora.config import ClipConfig
from dora.data.clips import Clips
from dora.data.tar_cache import TarCache
folder, kept, bound, n_rounds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
clips = Clips([folder], ClipConfig(n_frames=3, gap_s=0.5), TarCache(kept, bound))
for round in range(n_rounds):
    for start in range(len(clips)):
        clips.read(start)
        print("read", start, flush=True)
"""


@contextmanager
def reader(walk: Walk, kept: Path, *, n_rounds: int) -> Generator["subprocess.Popen[str]"]:
    """Another process of this node that reads all clips, round after round."""
    command = [sys.executable, "-c", READER, str(walk.folder), str(kept), "1e9", str(n_rounds)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.fixture
def web(tmp_path: Path):
    """The walk's tars behind a web server."""
    (tmp_path / "served").mkdir()
    with file_server(tmp_path / "served") as server:
        walk = Walk(tmp_path, server.url)
        for tar in walk.tars:
            (walk.folder / tar.name).rename(tmp_path / "served" / tar.name)
        yield server, walk


def test_processes_of_a_node_fetch_each_tar_once(web: tuple[FileServer, Walk], kept: Path):
    server, walk = web
    server.goes_on.clear()
    with ExitStack() as until_the_end:
        readers = [until_the_end.enter_context(reader(walk, kept, n_rounds=20)) for _ in range(3)]
        until(lambda: len([*kept.glob("*.part")]) == 3)  # all want the first tar first
        server.goes_on.set()
        for running in readers:
            output, said = running.communicate(timeout=60)
            assert running.returncode == 0 and output.count("read") == 20 * len(walk.clips), said
    assert len(names(kept)) == len(walk.tars)
    assert set(server.wholes.values()) == {1}


def test_another_process_is_not_waited_for_and_its_death_costs_nothing(web: tuple[FileServer, Walk], kept: Path):
    server, walk = web
    server.goes_on.clear()
    with reader(walk, kept, n_rounds=10**6) as fetching:
        until(lambda: any(path.stat().st_size for path in kept.glob("*.part")))
        part = next(kept.glob("*.part"))
        tar = next(tar for tar in walk.tars if tar.sha256 == part.name.split(".")[0])
        cache = TarCache(kept, 1e9)
        assert cache.open(walk.store, tar) is None
        settle(cache)
        walk.check(Clips([walk.folder], CLIP, TarCache(kept, 0)))
        assert part.exists()  # it is the other's
        fetching.kill()
        fetching.communicate()
    assert 0 < part.stat().st_size < tar.size_bytes
    server.goes_on.set()
    fetched(cache, walk.store, tar)
    assert not part.exists() and (kept / cached(tar)).stat().st_size == tar.size_bytes


def test_a_process_may_end_while_it_fetches(web: tuple[FileServer, Walk], kept: Path):
    server, walk = web
    server.goes_on.clear()
    with reader(walk, kept, n_rounds=1) as fetching:
        output, said = fetching.communicate(timeout=20)
    assert (fetching.returncode, said, output.count("read")) == (0, "", len(walk.clips))
    assert len(names(kept)) == 1
    server.goes_on.set()
    for tar in walk.tars:
        fetched(cache := TarCache(kept, 1e9), walk.store, tar)
        settle(cache)
    assert names(kept) == sorted(map(cached, walk.tars))


def test_what_another_process_is_fetching_counts_as_there(web: tuple[FileServer, Walk], kept: Path):
    """Two that come at once must not both find room for one."""
    server, walk = web
    server.goes_on.clear()
    bound = walk.tars[0].size_bytes * 1.5
    one, other = TarCache(kept, bound), TarCache(kept, bound)
    assert one.open(walk.store, walk.tars[0]) is None
    until(lambda: names(kept))
    assert other.open(walk.store, walk.tars[1]) is None
    settle(other)
    server.goes_on.set()
    settle(one)
    assert names(kept) == [cached(walk.tars[0])]
