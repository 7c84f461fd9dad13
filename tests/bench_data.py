"""The data path: sharding against the decoder alone, clips from shards against clips from the 4K file, augmentation
against torchvision, and what a large index takes to open.

The film is made here: 12 s of 3840x2160 at 60 frames a second, H.264, moving detail and noise everywhere.
"""

import statistics
import subprocess
import tempfile
import tracemalloc
from functools import lru_cache
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import torch
from bench import OUT, ROUNDS, Measurement, alternate, seconds
from torchvision.transforms import v2

from dora.artifacts import Machine
from dora.config import AugmentConfig, ClipConfig, FileVideo, PretrainConfig, ShardsConfig
from dora.data.augment import MEAN, STD, augment_clip
from dora.data.clips import Clips
from dora.data.index import INDEX, Facts, Tar, open_index, write_index
from dora.data.order import own_places
from dora.data.shards import shard
from dora.data.video import acquire

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
FILM_S, FPS = 12, 60
AUGMENT = AugmentConfig()
CLIPS_A_ROUND = 6  # what is drawn for each decides how long it takes
N_VIDEOS, N_FRAMES = 10, 400_000


@lru_cache(maxsize=1)
def _film() -> Path:
    """The 4K film, made once (0.6 GB)."""
    path = OUT.with_name(f"bench-{FILM_S}s-4k60.mp4")
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        unfinished = path.with_suffix(".unfinished.mp4")
        source = f"testsrc2=size=3840x2160:rate={FPS}:duration={FILM_S},noise=alls=14:allf=t,format=yuv420p"
        encode = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "24", "-g", "120"]
        command = [FFMPEG, "-y", "-loglevel", "error", "-f", "lavfi", "-i", source, *encode, str(unfinished)]
        subprocess.run(command, check=True)
        unfinished.replace(path)
    return path


def shard_of_decode() -> Measurement:
    """Speed of sharding as a share of ffmpeg's decoding the same file to nowhere, with the same threads."""
    machine = Machine(root=Path(tempfile.mkdtemp()))
    video = acquire(FileVideo(path=_film()), machine)
    decode = [FFMPEG, "-loglevel", "error", "-i", str(video.path), "-map", "0:V:0", "-f", "null", "-"]

    def ours() -> None:
        shard(video, ShardsConfig(), machine, rerun=True)

    return alternate(lambda: subprocess.run(decode, check=True), ours, rounds=ROUNDS)


def read_clips_ratio() -> Measurement:
    """Clips a second of one worker, read and augmented, against opening the 4K file and decoding for each clip."""
    machine = Machine(root=Path(tempfile.mkdtemp()))
    folder = shard(acquire(FileVideo(path=_film()), machine), ShardsConfig(), machine).folder
    clips = Clips([folder], ClipConfig())
    generator, plain_starts, our_starts = torch.Generator().manual_seed(0), iter(range(999)), iter(range(99999))

    def plain() -> None:
        _plain_views(_plain_clip(_film(), 37 * next(plain_starts) % 240))

    def ours() -> None:
        for _ in range(10):
            frames = clips.read(7 * next(our_starts) % clips.n_starts)
            augment_clip(torch.from_numpy(frames), AUGMENT, generator)

    ratio = alternate(plain, ours)
    return Measurement(10 * ratio.value, "x", [10 * value for value in ratio.rounds])


def augment_ratio() -> Measurement:
    """Views of clips of 480p frames on one thread, against torchvision's transforms frame by frame."""
    torch.set_num_threads(1)
    frames = torch.randint(0, 256, (8, 480, 854, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)

    def plain() -> None:
        for _ in range(CLIPS_A_ROUND):
            _plain_views(frames)

    def ours() -> None:
        for _ in range(CLIPS_A_ROUND):
            augment_clip(frames, AUGMENT, generator)

    return alternate(plain, ours)


def index_open_s() -> Measurement:
    """Opening the indices of ten videos of 400,000 frames each."""
    folders = _large_indices()
    return seconds(lambda: [open_index(folder) for folder in folders])


def reader_memory_mb() -> Measurement:
    """What the reader of ten such videos and its order of clips hold, in MB; the rows alone would be 80."""
    folders, config, held = _large_indices(), PretrainConfig(), list[float]()
    for _ in range(ROUNDS):
        tracemalloc.start()
        clips = Clips(folders, ClipConfig())
        for place in own_places(len(clips), config, first_step=0, n_steps=200, rank=0, world_size=1):
            clips.times_s(place.start)
        held.append(tracemalloc.get_traced_memory()[1] / 1e6)  # at its highest
        tracemalloc.stop()
    return Measurement(statistics.median(held), "MB", held)


@lru_cache(maxsize=1)
def _large_indices() -> list[Path]:
    root = Path(tempfile.mkdtemp())
    return [_large_index(root / str(number)) for number in range(N_VIDEOS)]


def _plain_clip(film: Path, start: int) -> torch.Tensor:
    """Eight frames a second apart, at full size: the file is opened and, for each, sought and decoded up to it."""
    frames: list[np.ndarray] = []
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        assert stream.average_rate is not None and stream.time_base is not None
        for number in range(8):
            wanted = (start + FPS * number) / FPS
            container.seek(int(wanted / stream.time_base), stream=stream)
            frame = next(f for f in container.decode(stream) if f.time is not None and f.time >= wanted - 1e-6)
            frames.append(frame.to_ndarray(format="rgb24"))
    return torch.from_numpy(np.stack(frames))


def _plain_views(frames: torch.Tensor) -> list[torch.Tensor]:
    """The recipe of dora/data/augment.py with torchvision's own transforms, each image by itself."""
    a = AUGMENT
    assert a.clip_scale
    clip = v2.RandomResizedCrop(a.clip_size, a.clip_scale, antialias=True)(frames.permute(0, 3, 1, 2).float() / 255)
    whole = v2.RandomResizedCrop(a.global_size, a.global_scale, antialias=True)(clip)
    whole = v2.RandomHorizontalFlip(a.flip_probability)(whole)
    bicubic = v2.InterpolationMode.BICUBIC
    local_crop = v2.RandomResizedCrop(a.local_size, a.local_scale, interpolation=bicubic, antialias=True)
    views = [_plain_colour(image, a.global_blur_probability[0]) for image in whole]
    for _ in range(a.n_local_crops):
        views += [_plain_colour(local_crop(frame).clamp(0, 1), a.local_blur_probability) for frame in clip]
    return views


def _plain_colour(image: torch.Tensor, blur_probability: float) -> torch.Tensor:
    a = AUGMENT
    jitter = v2.RandomApply([v2.ColorJitter(*a.jitter)], p=a.jitter_probability)
    kernel = 2 * int(np.ceil(3 * a.blur_sigma[1])) + 1
    blur = v2.RandomApply([v2.GaussianBlur(kernel, a.blur_sigma)], p=blur_probability)
    return v2.Normalize(MEAN, STD)(blur(v2.RandomGrayscale(a.grayscale_probability)(jitter(image))))


def _large_index(folder: Path) -> Path:
    """An index of N_FRAMES frames over tars that are as long as it says and take no room."""
    folder.mkdir()
    per_tar, size = 2000, 60_000
    number = np.arange(N_FRAMES)
    offset = (number % per_tar) * (size + 512) + 512
    tars = [f"shard-{tar:06d}.tar" for tar in range(N_FRAMES // per_tar)]
    for name in tars:
        with (folder / name).open("wb") as file:
            file.truncate(per_tar * (size + 512))
    all_tars = tuple(
        Tar(name=name, n_frames=per_tar, size_bytes=per_tar * (size + 512), sha256="0" * 64) for name in tars
    )
    facts = Facts(name="large", fps=10, width=910, height=512, store=None, tars=all_tars)
    write_index(folder / INDEX, facts, offset=offset, size=np.full(N_FRAMES, size), time_s=number / 10)
    return folder


BENCHES = {
    "shard_of_decode": shard_of_decode,
    "read_clips_ratio": read_clips_ratio,
    "augment_ratio": augment_ratio,
    "index_open_s": index_open_s,
    "reader_memory_mb": reader_memory_mb,
}
