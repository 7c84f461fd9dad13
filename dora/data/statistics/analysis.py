"""Videos -> statistics.json, a figure and a table."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import simplejpeg
import torch

from dora.artifacts import Machine
from dora.data.disk import whole_file
from dora.data.statistics import cuts, motion
from dora.data.statistics.config import SCHEMA, StatisticsConfig
from dora.data.statistics.detections import Detections, DetectorFacts, read_detections
from dora.data.statistics.figure import draw_figure
from dora.data.statistics.schema import Statistics, VideoStatistics, read_statistics
from dora.data.statistics.summary import summarise
from dora.data.statistics.survey import Pixels, Surveyed, Wishes, survey
from dora.data.statistics.table import table
from dora.data.statistics.torchvision_detector import TorchvisionDetector, load_detector
from dora.progress import Progress, silent

FILE, FIGURE, TABLE, MEASURED, FRAMES = "statistics.json", "statistics.png", "statistics.md", "measured", "frames"
_JPEG_QUALITY = 95


class Analysis(NamedTuple):
    """What was measured and written."""

    statistics: Statistics  # of the videos that were named, without those compared with
    folder: Path


def analyse(
    videos: Sequence[Path], out: Path, config: StatisticsConfig | None = None, *, detector: Path | None = None,
    architecture: str | None = None, compare: Sequence[Path] = (), write_frames: bool = False,
    machine: Machine | None = None, progress: Progress = silent,
) -> Analysis:  # fmt: skip
    """Measure videos, and write statistics.json, statistics.png and statistics.md into `out`.

    `detector` is a file of detections (JSON, of a single video, or a folder with NAME.json of each) or of weights of
    torchvision's `architecture`. What is measured is kept in `out` as it goes: run again, it goes on.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if one cannot be read, a library is missing, or detections are of other pictures.
    """
    config, machine = config or StatisticsConfig(), machine or Machine()
    others = [video for path in compare for video in read_statistics(path).videos]
    named = _names(videos)
    if config.cuts:
        cuts.require()
    if config.motion:
        motion.require()
    counter, detections = _detector(detector, named, architecture, config, machine)
    measured: list[VideoStatistics] = []
    for name, path in named.items():
        found = _measure(name, path, out, config, counter, write_frames=write_frames, machine=machine,
                         progress=progress)  # fmt: skip
        measured.append(_told(name, found, config, counter, detections.get(name)))
    statistics = Statistics(schema=SCHEMA, config=config, versions=_versions(config), videos=measured)
    _write(out, statistics, others)
    return Analysis(statistics, out)


def _names(videos: Sequence[Path]) -> dict[str, Path]:
    """A name for each video: its file's, with the folder's before it where two are the same."""
    for path in videos:
        if not path.exists():
            raise FileNotFoundError(f"no video at {path}. Check the path.")
    stems = [path.stem for path in videos]
    named = {
        path.stem if stems.count(path.stem) == 1 else f"{path.resolve().parent.name}-{path.name}": path
        for path in videos
    }
    if len(named) < len(videos):
        raise ValueError(f"two videos have the same name: {', '.join(map(str, videos))}. Rename one.")
    return named


def _detector(
    path: Path | None, named: Mapping[str, Path], architecture: str | None, config: StatisticsConfig, machine: Machine
) -> tuple[TorchvisionDetector | None, Mapping[str, Detections]]:
    """What counts objects in the pass, or what has been found before, by the video's name."""
    if path is None:
        return None, {}
    if not path.exists():
        raise FileNotFoundError(f"no detector at {path}. It is a file of detections (JSON) or of weights.")
    files = {name: path / f"{name}.json" for name in named} if path.is_dir() else dict.fromkeys(named, path)
    if path.is_dir() or path.suffix == ".json":
        if path.is_file() and len(named) > 1:
            raise ValueError(f"{path} has detections of one video: for several, name a folder with NAME.json of each.")
        missing = [str(file) for file in files.values() if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"no detections at {', '.join(missing)}.")
        return None, {
            name: read_detections(file, sha256=_sha256(file), min_score=config.min_score)
            for name, file in files.items()
        }
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if machine.device == "auto" else machine.device)
    return load_detector(
        path, architecture=architecture, sha256=_sha256(path), min_score=config.min_score, device=device
    ), {}  # fmt: skip


def _measure(
    name: str, path: Path, out: Path, config: StatisticsConfig, counter: TorchvisionDetector | None, *,
    write_frames: bool, machine: Machine, progress: Progress,
) -> Surveyed:  # fmt: skip
    """One pass, or what is left of it."""
    file, folder = path.stat(), out / FRAMES / name
    listing = folder / "images.json"
    # What decides about the numbers; the least score of detections in a file is applied later.
    kept = config.model_dump(mode="json", exclude=set() if counter else {"min_score"})
    key = {
        "schema": SCHEMA, "size_bytes": file.st_size, "mtime_ns": file.st_mtime_ns, "config": kept,
        "versions": _versions(config), "detector": counter and counter.facts.model_dump(mode="json"),
    }  # fmt: skip
    digits = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    journal = out / MEASURED / f"{name}-{digits}.jsonl"
    # Pictures are written as they pass: those that are not there want another pass.
    begun = folder / f".{digits}"
    afresh = write_frames and not listing.is_file() and not begun.is_file()
    if write_frames and not listing.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        begun.touch()
    wishes = Wishes(counter.count_objects if counter else None, _writer(folder) if write_frames else None)
    found = survey(
        path, journal, config, wishes, key=key, threads=machine.threads, afresh=afresh, progress=progress
    )  # fmt: skip
    if write_frames:
        _list_images(listing, found)
        begun.unlink(missing_ok=True)
    return found


def _told(
    name: str, found: Surveyed, config: StatisticsConfig, counter: TorchvisionDetector | None,
    detections: Detections | None,
) -> VideoStatistics:  # fmt: skip
    counts: list[Mapping[str, int]] | None = None
    facts: DetectorFacts | None = None
    if counter:
        counts, facts = [sample["objects"] for sample in found.samples], counter.facts
    elif detections:
        detections.check(1 + max(sample["place"] for sample in found.samples), name)
        counts, facts = [detections.counts.get(sample["place"], {}) for sample in found.samples], detections.facts
    return summarise(name, found, config, counts=counts, detector=facts)


def _writer(folder: Path) -> Callable[[int, Pixels], None]:
    def write(place: int, pixels: Pixels) -> None:
        with whole_file(folder / f"{place:06d}.jpg") as file:
            file.write(simplejpeg.encode_jpeg(pixels, _JPEG_QUALITY, "RGB", "420"))

    return write


def _list_images(path: Path, found: Surveyed) -> None:
    """The written pictures as COCO's annotation files list them, so that any detector's script reads them."""
    size = {"width": found.file.width, "height": found.file.height}
    images = [
        {"id": sample["place"], "file_name": f"{sample['place']:06d}.jpg", **size, "time_s": sample["time_s"]}
        for sample in found.samples
    ]
    with whole_file(path) as file:
        file.write(json.dumps({"images": images, "annotations": [], "categories": []}, indent=1).encode())


def _write(out: Path, statistics: Statistics, others: Sequence[VideoStatistics]) -> None:
    everything = [*statistics.videos, *others]
    with whole_file(out / FILE) as file:
        file.write(statistics.model_dump_json(by_alias=True).encode())
    with whole_file(out / FIGURE) as file:
        draw_figure(everything).save(file, "PNG")
    with whole_file(out / TABLE) as file:
        file.write(table(everything).encode())


def _versions(config: StatisticsConfig) -> dict[str, str]:
    names = ["av"]
    names += ["scenedetect"] if config.cuts else []
    names += ["opencv-python-headless"] if config.cuts or config.motion else []
    return {name: version(name) for name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
