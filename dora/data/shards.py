"""A video becomes JPEG frames in WebDataset tars, decoded once, and an index to read any frame by offset.

shard-000000.tar …   <video name>/<frame, 8 digits>.jpg, in time order
index.safetensors    where each frame lies, and the tars' sha256 (dora/data/index.py)

The tars are shared out among threads, and among hosts that join (`dora shards join`); each is a stretch of time that
is decoded from a key frame before it. The same video and config give the same bytes, however many write and however
often they are killed.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import threading
import time
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dora.artifacts import Machine, Shards, Video
from dora.cache import MANIFEST, Built, build, fingerprint, for_run, is_of_this_run, read_manifest
from dora.config import Frozen, ShardsConfig
from dora.data import faces
from dora.data.claims import JOB, Claims
from dora.data.disk import require_space, whole_file
from dora.data.index import INDEX, STORE, Facts, open_index, write_index
from dora.data.pictures import choose_hardware
from dora.data.tar_pass import Layout, Scaler, Stopped, Work, lay_out, write_tars
from dora.data.tars import Record
from dora.lease import Lease, Meanwhile, while_waiting
from dora.progress import Progress, silent

log = logging.getLogger("dora.shards")

VERSION = 2
CORES_PER_PASS = 8  # libav's threads over frames gain little beyond
_LEAST_BYTES_PER_PIXEL = 0.05  # smooth pictures at quality 90 take more; a guess below that would refuse too much
_SPAN_S = 1.0  # errors no further apart are told as one span
_POLL_S = 0.25
_BEGUN_AGAIN_S = 30.0


class Job(Frozen):
    """What a host that joins is told."""

    video: Video
    config: ShardsConfig
    store: str | None
    key: str


def shard(
    video: Video, config: ShardsConfig, machine: Machine, *, rerun: bool = False, progress: Progress = silent
) -> Shards:
    """Decode a video and store its frames; what a store has lost of finished ones is made again.

    A slower video than `config.fps` and a smaller one than `config.short_side` are stored as they are. A killed run
    goes on after the finished tars and ends in the same bytes. Several who want the same share the tars out.

    Raises:
        ValueError: if the video breaks off or too much of it cannot be decoded.
        FileNotFoundError: if the face detector is not there.
        OSError: ENOSPC if the frames do not fit on the disk; or if a store cannot be used.
    """

    def build_them(*, rerun: bool) -> Built:
        return build(
            machine, "shards", VERSION, _request(config), {"video": video},
            lambda folder: write_shards(video, config, machine, folder, progress),
            rerun=rerun, records=("*.tar", STORE),
        )  # fmt: skip

    with while_waiting(_helping(machine, progress)):
        built = build_them(rerun=rerun)
        if built.reused and (loss := _loss(built.folder)):
            log.warning("shards %s are to be made again: %s", built.manifest.fingerprint[:8], loss)
            # A run of that name: of several who notice the same loss one makes them.
            with for_run(f"loss {hashlib.sha256(built.manifest.model_dump_json().encode()).hexdigest()}"):
                built = build_them(rerun=True)
    facts = built.manifest.facts
    _check_tars(built)
    _check_share(video, config, facts)
    return Shards(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        faces=facts["faces"]["detector"], n_faces=sum(facts["faces"]["per_minute"]),
        **{name: facts[name] for name in (
            "name", "n_frames", "n_tars", "size_bytes", "fps", "width", "height", "n_source_frames", "n_bad_frames",
            "store",
        )},
    )  # fmt: skip


def take_part(
    video: Video, config: ShardsConfig, machine: Machine, *, again_since: float | None = None,
    progress: Progress = silent,
) -> Shards:  # fmt: skip
    """As `shard`, for one of several who are started together.

    Any of them is enough: the first makes the shards, the others write some of the tars, and one of these goes on
    if the first dies. At `again_since`, in seconds since the epoch, another was told to make again what is finished;
    who comes when that is over finds nothing left to do.
    """
    folder = machine.root / "shards" / fingerprint("shards", VERSION, _request(config), {"video": video})[:16]
    give_up = time.monotonic() + _BEGUN_AGAIN_S
    while again_since and _will_be_begun_again(folder, again_since) and time.monotonic() < give_up:
        progress(0, 1, "", "waiting until it is begun again")
        time.sleep(_POLL_S)
    return shard(video, config, machine, progress=progress)


def _will_be_begun_again(folder: Path, since: float) -> bool:
    try:
        is_older = (folder / MANIFEST).stat().st_mtime < since
    except FileNotFoundError:
        return False
    return is_older and not is_of_this_run(read_manifest(folder))


def write_shards(
    video: Video, config: ShardsConfig, machine: Machine, folder: Path, progress: Progress = silent
) -> dict[str, Any]:
    """The facts, once tars and index are in the folder; what others write or a killed run finished is kept.

    Raises:
        ValueError, OSError: as `shard`, but for the share of what cannot be decoded.
    """
    where = _store(machine, folder)
    job = Job(video=video, config=config, store=where, key=_key(video, config, where))
    layout = lay_out(video, config)
    expected = max(1, round(video.duration_s * layout.fps))
    claims = _claims(job, layout, machine, folder)
    if not where:
        n_frames = expected - sum(layout.n_in(tar) for tar, record in enumerate(claims.refresh()) if record)
        needed = n_frames * layout.width * layout.height * _LEAST_BYTES_PER_PIXEL
        require_space(folder, needed, f"store {n_frames} frames of {video.name}")
    _check_length(video, layout, expected)
    with whole_file(folder / JOB) as file:
        file.write(job.model_dump_json().encode())
    records = _write_tars(job, layout, machine, folder, claims, progress)
    claims.close()
    return _finish(job, layout, folder, records)


def join(machine: Machine, *, progress: Progress = silent) -> int:
    """How many tars this process wrote of the videos that are being sharded below this root: help for other hosts.

    Raises:
        ValueError, OSError: as `shard`; also if a video is not at the path where its owner reads it.
    """
    n_tars, trouble = 0, list[str]()
    for path in sorted((machine.root / "shards").glob(f"*/{JOB}")):
        if not Lease(path.parent, timeout_s=machine.lease_timeout_s).owner():
            continue  # left by a run that was killed; the next run's to go on with
        try:
            n_tars += _join(path, machine, progress)
        except (ValueError, OSError) as error:
            if path.exists():  # else its owner has just finished it
                trouble.append(f"{path.parent.name}: {error}")
    if trouble:
        raise ValueError("\n".join(trouble))
    return n_tars


def _helping(machine: Machine, progress: Progress) -> Meanwhile:
    """For who waits for another's shards: write some of the tars."""
    told = set[str]()

    def help_owner(folder: Path, owner: str) -> None:
        path = folder / JOB
        try:
            if path.exists() and not told and (n_tars := _join(path, machine, progress)):
                log.info("wrote %d tars for %s, in process %d on %s", n_tars, owner, os.getpid(), platform.node())
        except (ValueError, OSError) as error:
            if path.exists():  # else the owner has just finished it
                log.warning("cannot help %s, which is sharding: %s", owner, error)
                told.add(owner)

    return help_owner


def _join(path: Path, machine: Machine, progress: Progress) -> int:
    try:
        job = Job.model_validate_json(path.read_bytes())
    except ValidationError:
        raise ValueError("its owner is of another version of dora. Install the same here.") from None
    if not job.video.path.is_file():
        raise ValueError(f"{job.video.name} is not at {job.video.path} here, where its owner reads it.")
    if job.key != _key(job.video, job.config, job.store):
        raise ValueError(
            f"here are other versions than its owner's (av {metadata.version('av')}, simplejpeg "
            f"{metadata.version('simplejpeg')}), or another face detector. Install the same here."
        )
    layout = lay_out(job.video, job.config)
    claims = _claims(job, layout, machine, path.parent)
    _write_tars(job, layout, machine, path.parent, claims, progress)
    return claims.n_written


def check(config: ShardsConfig, machine: Machine) -> None:
    """Refuse, before anything starts, what could not be done on this machine.

    Raises:
        ValueError, OSError: for a face detector that is not there, or a store that cannot be used.
    """
    faces.open_detector(config.faces)
    if machine.store:
        from dora.data import store

        store.check_store(machine.store)


def _store(machine: Machine, folder: Path) -> str | None:
    """URL of the folder that will keep the tars, if they are not to lie here."""
    if not machine.store:
        return None
    from dora.data import store

    where = f"{machine.store.rstrip('/')}/shards/{folder.name}"
    store.check_store(where)
    return where


def _request(config: ShardsConfig) -> dict[str, Any]:
    """What decides the bytes: how much damage is accepted changes nothing in them, nor where the face detector lies."""
    return config.model_dump(mode="json", exclude={"max_bad_share"}) | {"faces": faces.identity(config.faces)}


def _key(video: Video, config: ShardsConfig, store: str | None) -> str:
    """What decides the bytes of a tar, and where it lies: equal for all who may write tars of one job."""
    made_by = {name: metadata.version(name) for name in ("av", "simplejpeg", "pillow")}
    of = [VERSION, video.name, video.sha256, _request(config), store, made_by]
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def _claims(job: Job, layout: Layout, machine: Machine, folder: Path) -> Claims:
    return Claims(folder, key=job.key, n_tars=layout.n_tars, store=job.store, timeout_s=machine.lease_timeout_s)


def _write_tars(
    job: Job, layout: Layout, machine: Machine, folder: Path, claims: Claims, progress: Progress
) -> list[Record]:
    """Write what nobody else writes, then wait for what others write, or for their end; returns all records."""
    n_cores = machine.n_cores
    n_passes = machine.n_decoders or max(1, n_cores // CORES_PER_PASS)
    scaler = Scaler(layout.width, layout.height)
    is_auto = machine.hardware_decode == "auto"
    device = choose_hardware(job.video.path, layout.timeline, scaler) if is_auto else None
    work = Work(
        job.key, job.video, job.config, layout, folder, job.store, claims, faces.open_detector(job.config.faces),
        threads=max(1, n_cores // n_passes), device=device, written=[0] * layout.n_tars, stop=threading.Event(),
    )  # fmt: skip

    def write_some() -> None:
        while not work.stop.is_set() and (claim := claims.begin()):
            with contextlib.suppress(Stopped):
                write_tars(work, claim)

    with ThreadPoolExecutor(n_passes, "decode") as pool:
        try:
            while True:
                passes = [pool.submit(write_some) for _ in range(n_passes)]
                while futures.wait(passes, _POLL_S, futures.FIRST_EXCEPTION).not_done:
                    _raise_first(passes)
                    _tell(work, claims.refresh(), progress)
                _raise_first(passes)
                records = claims.refresh()
                _tell(work, records, progress, "" if all(records) else "others are writing")
                if all(records) or not claims.is_open():
                    return [record for record in records if record]
                time.sleep(_POLL_S)  # what others have claimed ends with them, or is ours when they die
        except BaseException:
            work.stop.set()
            raise


def _tell(work: Work, records: list[Record | None], progress: Progress, note: str = "") -> None:
    done = sum(work.layout.n_in(tar) if record else work.written[tar] for tar, record in enumerate(records))
    progress(done, work.layout.n_frames, "frames", note)


def _raise_first(passes: list[Future[None]]) -> None:
    for one in passes:
        if one.done() and (error := one.exception()):
            raise error


def _finish(job: Job, layout: Layout, folder: Path, records: list[Record]) -> dict[str, Any]:
    facts = Facts(
        name=job.video.name, fps=layout.fps, width=layout.width, height=layout.height,
        tars=tuple(record.tar for record in records),
    )  # fmt: skip
    time_s = [at for record in records for at in record.time_s]
    size = [n_bytes for record in records for n_bytes in record.size]
    write_index(
        folder / INDEX, facts, offset=[at for record in records for at in record.offset], size=size, time_s=time_s
    )
    if job.store:
        with whole_file(folder / STORE) as file:
            file.write(job.store.encode())
    bad_s = sorted(at for record in records for at in record.bad_s)
    if bad_s:
        log.warning("%s: %d of %d pictures could not be decoded whole, %s", job.video.path, len(bad_s),
                    layout.n_source_frames, _in_words(_spans(bad_s)))  # fmt: skip
    n_faces = [n for record in records for n in record.n_faces]
    return {
        "name": job.video.name, "n_frames": layout.n_frames, "n_tars": layout.n_tars, "size_bytes": sum(size),
        "fps": layout.fps, "width": layout.width, "height": layout.height, "store": job.store,
        "n_source_frames": layout.n_source_frames, "n_bad_frames": len(bad_s), "bad_spans": _spans(bad_s),
        "faces": faces.identity(job.config.faces) | {"per_minute": _per_minute(time_s, n_faces)},
    }  # fmt: skip


def _check_length(video: Video, layout: Layout, expected: int) -> None:
    if expected - layout.n_frames > max(2, 0.01 * expected):
        raise ValueError(
            f"{video.path} breaks off at {layout.n_frames / layout.fps:.1f} s of {video.duration_s:.1f} s: "
            f"expected {expected} frames, got {layout.n_frames}. Get the file again, or cut it there with ffmpeg."
        )


def _loss(folder: Path) -> str | None:
    """What the store has lost of finished shards, in words, or None."""
    if not (folder / STORE).is_file():
        return None
    from dora.data import store

    return store.damage(folder)


def _check_tars(built: Built) -> None:
    """Hold what the manifest found on the disk beside what was written."""
    for tar in open_index(built.folder).facts.tars:
        file = built.manifest.files.get(tar.name)
        if file and file.sha256 != tar.sha256:
            (built.folder / MANIFEST).unlink()
            raise OSError(f"{built.folder / tar.name} was altered while it was written. Run again: it is made anew.")


def _check_share(video: Video, config: ShardsConfig, facts: dict[str, Any]) -> None:
    share = facts["n_bad_frames"] / facts["n_source_frames"]
    if share > config.max_bad_share:
        raise ValueError(
            f"{video.path}: {facts['n_bad_frames']} of {facts['n_source_frames']} pictures ({100 * share:.2g} %) could "
            f"not be decoded whole, {_in_words(facts['bad_spans'])}; at most {100 * config.max_bad_share:.2g} % are "
            "accepted. Get the file again, or accept it: shards.max_bad_share=…"
        )


def _spans(times_s: list[float]) -> list[tuple[float, float, int]]:
    """Start, end and number of the times that lie close together."""
    if not times_s:
        return []
    gaps = [0, *(n + 1 for n, (a, b) in enumerate(pairwise(times_s)) if b - a > _SPAN_S), len(times_s)]
    return [(round(times_s[a], 3), round(times_s[b - 1], 3), b - a) for a, b in pairwise(gaps)]


def _in_words(spans: list[tuple[float, float, int]], *, most: int = 5) -> str:
    words = [f"{n} at {a:.2f} s" if a == b else f"{n} from {a:.2f} s to {b:.2f} s" for a, b, n in spans[:most]]
    return ", ".join(words) + (f" and in {len(spans) - most} more places" if len(spans) > most else "")


def _per_minute(times_s: list[float], counts: list[int]) -> list[int]:
    """Sums of `counts` over each minute of the video."""
    minutes = [0] * (int(max(times_s) // 60) + 1)
    for at, n in zip(times_s, counts, strict=True):
        minutes[int(at // 60)] += n
    return minutes
