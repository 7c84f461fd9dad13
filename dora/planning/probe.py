"""How fast this machine is at a recipe's three kinds of work: short runs of the very code that will do it."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import simplejpeg

from dora.artifacts import Machine
from dora.config import PretrainConfig, Recipe
from dora.data.clips import Clips
from dora.data.faces import open_detector
from dora.data.index import INDEX, Facts, write_index
from dora.data.pictures import Faults, Run, choose_hardware, pictures
from dora.data.tar_pass import Scaler
from dora.data.tars import tar_name, writing
from dora.data.timeline import read_timeline
from dora.planning.amounts import VideoAmounts
from dora.progress import Progress

SHARES = {"shard": 0.3, "read": 0.1, "train": 0.6}  # of the seconds there are
GPU_BATCH = 16  # clips; enough to fill a GPU
FILM_S = 2
MANY = 10**6  # steps; the clock ends the run


class Speeds(NamedTuple):
    """What was measured."""

    film: str  # what was decoded
    pictures_per_s: float  # decoded, and as many of them scaled and encoded as the recipe stores
    bytes_per_pixel: float | None  # of what was stored; None for a film that we made
    clips_read_per_s: float  # by one loader process
    clips_trained_per_s: float  # by one device
    device: str
    on_gpu: bool
    n_cores: int


def probe(recipe: Recipe, machine: Machine, video: VideoAmounts, *, seconds: float, progress: Progress) -> Speeds:
    """Measure for about so many seconds; two steps of a large model on a small machine may take longer."""
    with tempfile.TemporaryDirectory(prefix="dora-plan-") as name:
        folder = Path(name)
        progress(0, seconds, "s of probing", "sharding")
        film = video.known.path or make_film(folder / "film.mp4", video)
        speed, jpegs = _shard(film, video, recipe, machine, seconds * SHARES["shard"])
        progress(seconds * SHARES["shard"], seconds, "s of probing", "reading")
        _write_clip(folder, video, jpegs, recipe.pretrain)
        read = _read(folder, recipe.pretrain, seconds * SHARES["read"])
        progress(seconds * (1 - SHARES["train"]), seconds, "s of probing", "training")
        trained, device, on_gpu = _train(folder, recipe.pretrain, machine, seconds * SHARES["train"])
        progress(seconds, seconds, "s of probing")
    size = sum(map(len, jpegs)) / len(jpegs) / video.width / video.height
    made = f"a film made for it, {video.known.width}x{video.known.height}"
    is_real = video.known.path is not None
    return Speeds(
        film.name if is_real else made, speed, size if is_real else None, read, trained, device, on_gpu, machine.n_cores
    )


def make_film(path: Path, like: VideoAmounts) -> Path:
    """A short H.264 film of moving detail, as large and as fast as a video that is not here yet."""
    of = like.known
    rate = Fraction(of.fps).limit_denominator(1001)
    source = f"testsrc2=size={of.width}x{of.height}:rate={rate}:duration={FILM_S},noise=alls=14:allf=t"
    with av.open(source, format="lavfi") as drawn, av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = of.width, of.height, "yuv420p"
        for frame in drawn.decode(video=0):
            film.mux(stream.encode(frame.reformat(format="yuv420p")))
        film.mux(stream.encode(None))
    return path


def _shard(
    film: Path, video: VideoAmounts, recipe: Recipe, machine: Machine, seconds: float
) -> tuple[float, list[bytes]]:
    """Pictures a second through decoder, scaler and encoder, and the JPEGs that came out."""
    scaler, timeline = Scaler(video.width, video.height), read_timeline(film)
    device = choose_hardware(film, timeline, scaler) if machine.hardware_decode == "auto" else None
    run = Run(film, machine.n_cores, device)
    blur, every = open_detector(recipe.shards.faces), video.known.fps / video.fps
    jpegs: list[bytes] = []
    n_pictures, started = 0, time.perf_counter()
    with closing(pictures(run, timeline, int(timeline.times[0]), Faults())) as decoded:
        for frame in decoded:
            if n_pictures >= len(jpegs) * every:
                pixels = blur.blur(scaler(frame))[0] if blur else scaler(frame)
                jpegs.append(simplejpeg.encode_jpeg(pixels, recipe.shards.jpeg_quality, "RGB", "420"))
            n_pictures += 1
            if time.perf_counter() - started > seconds:
                break
    return n_pictures / (time.perf_counter() - started), jpegs


def _write_clip(folder: Path, video: VideoAmounts, jpegs: list[bytes], config: PretrainConfig) -> None:
    """Shards of two clips or more; frames repeat if there are too few."""
    n_frames = round((config.clip.n_frames - 1) * config.clip.gap_s * video.fps) + 2 + GPU_BATCH
    with writing(folder / tar_name(0), "probe") as tar:
        for frame in range(n_frames):
            tar.add(frame, jpegs[frame % len(jpegs)], time_s=frame / video.fps, n_faces=0)
        record = tar.finish(tar_name(0), key="", bad_s=[])
    facts = Facts(name="probe", fps=video.fps, width=video.width, height=video.height, tars=(record.tar,))
    write_index(folder / INDEX, facts, offset=record.offset, size=record.size, time_s=record.time_s)


def _read(folder: Path, config: PretrainConfig, seconds: float) -> float:
    clips, n_read, started = Clips([folder], config.clip), 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        clips.read(n_read % len(clips))
        n_read += 1
    return n_read / (time.perf_counter() - started)


def _train(folder: Path, config: PretrainConfig, machine: Machine, seconds: float) -> tuple[float, str, bool]:
    """Clips a second of the real loop, data and optimiser included, after its first step."""
    import torch

    from dora.training.job import Job
    from dora.training.pretrain import train

    on_gpu = machine.device != "cpu" and torch.cuda.is_available()
    at_once = (machine.micro_batch or min(GPU_BATCH, config.clips_per_batch)) if on_gpu else 1
    # What compares clips takes little of a step, and there may be fewer of them here than it needs.
    short = config.clip_by_clip().model_copy(
        update={
            "clips_per_batch": at_once, "epochs": 1, "steps_per_epoch": MANY,
            "optimizer": config.optimizer.model_copy(update={"warmup_epochs": 0}),
        }
    )  # fmt: skip
    starts: list[float] = []

    def enough() -> bool:
        if on_gpu:
            torch.cuda.synchronize()
        starts.append(time.perf_counter())
        return len(starts) > 2 and starts[-1] - starts[1] > seconds

    quiet = machine.model_copy(
        update={"log_every_steps": MANY, "watch_every_steps": 0, "save_every_s": 1e9, "micro_batch": 0}
    )
    (folder / "run").mkdir()
    train(Job(config=short, shards=(folder,), machine=quiet, folder=folder / "run"), enough)
    name = torch.cuda.get_device_name() if on_gpu else f"a CPU, {torch.get_num_threads()} threads"
    return at_once * steady_rate(starts), name, on_gpu


def steady_rate(starts: Sequence[float]) -> float:
    """Steps a second, of three starts or more; without the first step, in which blocks may be compiled."""
    _, first, *_, last = starts
    return (len(starts) - 2) / (last - first)
