"""One truth, on disk: reuse a finished folder, or make it and write its manifest last.

    root/<stage>/<fingerprint, 16 digits>/manifest.json

A folder is finished when its manifest exists and its files are what the manifest says. The fingerprint is the
sha256 of what was asked for: stage, the stage's VERSION, its config, its inputs' fingerprints. The digest is the
sha256 of what came out; a manifest records its inputs' digests, so an input that was made again and came out
different makes everything after it again, and one that came out the same does not.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from dora.artifacts import Artifact, Machine
from dora.config import Frozen
from dora.lease import Lease, LeaseLost

log = logging.getLogger("dora.cache")

MANIFEST = "manifest.json"
REQUEST = ".request.json"
REQUESTS = "requests.jsonl"
Config = Frozen | Mapping[str, Any]


class Input(Frozen):
    """What a finished folder was made from."""

    fingerprint: str
    digest: str


class FileRecord(Frozen):
    """One file of a finished folder. The time stamp only decides whether the content is read again."""

    size_bytes: int
    sha256: str
    mtime_ns: int


class Request(Frozen):
    """What was asked for. An unfinished folder holds one, so that it can be explained too."""

    stage: str
    version: int
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, Input]


class Manifest(Request):
    """What was asked for, what came out, what it cost and on what machine."""

    digest: str
    facts: dict[str, Any]
    files: dict[str, FileRecord]
    seconds: float  # of the run that finished it
    created: str
    commit: str | None
    libraries: dict[str, str]
    host: str
    gpu: str | None
    run: str | None = None  # that it was made for, if a run has a name

    @property
    def total_s(self) -> float:
        """Seconds over all the runs of what was stopped and gone on with, where the stage counts them."""
        return float(self.facts.get("seconds", self.seconds))


class Built(NamedTuple):
    """A finished folder, and whether it was there already."""

    folder: Path
    manifest: Manifest
    reused: bool


class Look(NamedTuple):
    """What `build` would do for a request; told by `looking`."""

    request: Request
    folder: Path
    manifest: Manifest | None  # of the finished folder, if there is one
    why_again: str | None  # why a finished folder would be made again; None: it is reused

    @property
    def is_reused(self) -> bool:
        """Whether nothing would be made."""
        return self.manifest is not None and self.why_again is None


class Looked(Exception):
    """`build` has only looked and has nothing to return."""

    def __init__(self, look: Look) -> None:
        super().__init__(f"only looked for {look.request.stage} {look.request.fingerprint[:8]}")
        self.look = look


class _Looking(NamedTuple):
    looks: list[Look]
    returns: bool


_looking: ContextVar[_Looking | None] = ContextVar("looking", default=None)


@contextmanager
def looking(*, returns: bool = True) -> Generator[list[Look]]:
    """Inside, `build` in this thread makes nothing: it notes what it would do, in the list that this gives.

    What is there it returns, also what would be made again although its files are whole, so that what comes after can
    be looked at too; with `returns` false not even that. Else it raises Looked.
    """
    looks: list[Look] = []
    token = _looking.set(_Looking(looks, returns))
    try:
        yield looks
    finally:
        _looking.reset(token)


_run: ContextVar[str | None] = ContextVar("run", default=None)


@contextmanager
def for_run(name: str | None) -> Generator[None]:
    """Inside, `rerun` leaves alone what was made inside a block of the same name.

    A run that was stopped and goes on is asked for the same again, and has made some of it anew already.
    """
    token = _run.set(name)
    try:
        yield
    finally:
        _run.reset(token)


def is_of_this_run(manifest: Manifest | None) -> bool:
    """Whether a finished folder was made for the run of `for_run`."""
    return manifest is not None and manifest.run is not None and manifest.run == _run.get()


def fingerprint(stage: str, version: int, config: Config, inputs: Mapping[str, Artifact]) -> str:
    """Sha256 of what is asked for; equal requests have equal fingerprints on every machine."""
    request = {
        "stage": stage,
        "version": version,
        "config": plain(config),
        "inputs": {name: artifact.fingerprint for name, artifact in inputs.items()},
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def build(
    machine: Machine, stage: str, version: int, config: Config, inputs: Mapping[str, Artifact],
    make: Callable[[Path], dict[str, Any]], *, rerun: bool = False, records: Sequence[str] = (),
) -> Built:  # fmt: skip
    """Return the finished folder of this request, calling `make(folder) -> facts` unless it is there already.

    `make` may find its own half-done work in the folder and go on from it; names that start with "." are its
    scratch and are removed at the end. One builder at a time: others wait for it, or take over when it has died.
    `rerun` makes a finished folder again, but none that was made for this very run (`for_run`); a rerun that was
    interrupted is finished by the next call of any kind. Under `looking` nothing is made.
    `records` are patterns of files that tell how it went (times in a log) rather than what came out: they are kept and
    checked, but do not enter the digest.

    Raises:
        PermissionError, OSError: if the root cannot be written.
        Looked: only under `looking`.
        Whatever `make` raises; the half-made folder stays for the next call.
    """
    wanted = fingerprint(stage, version, config, inputs)
    made_from = {name: Input(fingerprint=a.fingerprint, digest=a.digest) for name, a in inputs.items()}
    folder = machine.root / stage / wanted[:16]
    request = Request(stage=stage, version=version, fingerprint=wanted, config=plain(config), inputs=made_from)
    if only := _looking.get():
        return _look(folder, request, only, rerun=rerun)
    # What is finished is served without a turn at the folder: whoever makes it again removes its manifest first.
    manifest = read_manifest(folder)
    is_tidy = not (folder / REQUEST).exists()
    if manifest and is_tidy and not _is_asked_again(rerun, manifest) and not _why_again(folder, manifest, made_from):
        return _reuse(machine.root, folder, manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"cannot make artifacts in {machine.root}: {error.strerror}. "
            "Give the folder write permission, or set DORA_ROOT to another one."
        ) from None
    while True:
        with Lease(folder, timeout_s=machine.lease_timeout_s) as lease:
            try:
                return _build(machine.root, folder, request, make, lease, rerun=rerun, records=records)
            except LeaseLost as lost:
                if lost.lease is not lease:
                    raise
                log.warning("%s while it was asleep; what the other makes is waited for", lost)
        rerun = False  # the other does it


def _build(
    root: Path, folder: Path, request: Request, make: Callable[[Path], dict[str, Any]], lease: Lease, *,
    rerun: bool, records: Sequence[str],
) -> Built:  # fmt: skip
    """What `build` does when it is its turn."""
    stage, wanted = request.stage, request.fingerprint
    manifest = read_manifest(folder)
    if manifest and not _is_asked_again(rerun, manifest):
        reason = _why_again(folder, manifest, request.inputs)
        if not reason:  # another has made it meanwhile, or was killed before it had tidied up
            _remove_scratch(folder)
            return _reuse(root, folder, manifest)
        log.warning("%s %s is made again: %s", stage, wanted[:8], reason)
    elif reason := _begun_otherwise(folder, request.inputs):
        log.warning("%s %s is begun anew: %s", stage, wanted[:8], reason)
        clear(folder)
    if manifest:
        clear(folder)
    # Written before any work, so that an unfinished folder says what it was meant to be.
    _write_json(folder / REQUEST, request.model_dump(mode="json"))
    _note(root, stage, wanted)
    log.info("making %s %s", stage, wanted[:8])
    started = time.monotonic()
    facts = make(folder)
    files = _records(folder)
    manifest = Manifest(
        **dict(request), digest=_digest(files, records), facts=facts, files=files,
        seconds=round(time.monotonic() - started, 2), created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(), libraries=_libraries(), host=platform.node(), gpu=_gpu(), run=_run.get(),
    )  # fmt: skip
    unsaid = set[str]() if manifest.run else {"run"}  # so that code of before there were runs can read it
    with lease.holding():
        _write_json(folder / MANIFEST, manifest.model_dump(mode="json", exclude=unsaid))
        # Not before: what is in there a killed run goes on from, and reading all files may take minutes.
        _remove_scratch(folder)
    log.info("made %s %s in %s (%s)", stage, wanted[:8], span(manifest.seconds), human_size(size_bytes(manifest)))
    return Built(folder, manifest, False)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder, None for an unfinished one or one whose manifest is not readable."""
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValidationError, UnicodeDecodeError):
        log.warning("%s is not a manifest of this version; the folder counts as unfinished", folder / MANIFEST)
        return None


def changed_input(made: Request, inputs: Mapping[str, Input]) -> str | None:
    """The input whose content is no longer what this folder was made from, in words, or None."""
    for name, now in inputs.items():
        before = made.inputs[name]
        if before.digest != now.digest:
            return f"its input {name} came out different ({before.digest[:8]} before, {now.digest[:8]} now)"
    return None


def damage(folder: Path, manifest: Manifest, *, full: bool = False) -> str | None:
    """What is wrong with a finished folder's files, or None.

    Sizes and time stamps are looked at always; content is read where a time stamp moved, and everywhere if `full`.
    """
    for name, record in manifest.files.items():
        path = folder / name
        try:
            stat = path.stat()
        except OSError:
            return f"its file {name} is gone"
        if stat.st_size != record.size_bytes:
            return f"its file {name} has {stat.st_size} bytes, the manifest says {record.size_bytes}"
        if (full or stat.st_mtime_ns != record.mtime_ns) and sha256(path) != record.sha256:
            return f"its file {name} was altered"
    return None


def clear(folder: Path) -> None:
    """Empty a folder, manifest first: from the first moment on it counts as unfinished."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.iterdir():
        if not Lease.owns(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def plain(config: Config) -> dict[str, Any]:
    """A config as JSON values."""
    return config.model_dump(mode="json") if isinstance(config, Frozen) else json.loads(json.dumps(config))


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_bytes(manifest: Manifest) -> int:
    """Bytes of all files of a finished folder."""
    return sum(record.size_bytes for record in manifest.files.values())


def human_size(n_bytes: float) -> str:
    """18.2 GB rather than 18200000000; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def span(seconds: float) -> str:
    """9.4 h rather than 33840 s."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _is_asked_again(rerun: bool, manifest: Manifest) -> bool:
    return rerun and not is_of_this_run(manifest)


def _why_again(folder: Path, manifest: Manifest, inputs: Mapping[str, Input]) -> str | None:
    return changed_input(manifest, inputs) or damage(folder, manifest)


def _reuse(root: Path, folder: Path, manifest: Manifest) -> Built:
    _note(root, manifest.stage, manifest.fingerprint)
    made = f"made {manifest.created[:16]} in {span(manifest.seconds)}"
    log.info("reused %s %s (%s)", manifest.stage, manifest.fingerprint[:8], made)
    return Built(folder, manifest, True)


def _look(folder: Path, request: Request, only: _Looking, *, rerun: bool) -> Built:
    manifest = read_manifest(folder)
    broken = damage(folder, manifest) if manifest else None
    again = "it is asked to be made again" if rerun else changed_input(manifest, request.inputs) if manifest else None
    look = Look(request, folder, manifest, why_again=broken or (again if manifest else None))
    only.looks.append(look)
    if manifest is None or broken or not only.returns:
        raise Looked(look)
    return Built(folder, manifest, True)


def _begun_otherwise(folder: Path, inputs: Mapping[str, Input]) -> str | None:
    """The input that an unfinished folder was begun with in another state, in words, or None."""
    try:
        return changed_input(Request.model_validate_json((folder / REQUEST).read_bytes()), inputs)
    except (OSError, ValidationError):
        return None  # nothing was begun, or so long ago that it cannot be told


def _records(folder: Path) -> dict[str, FileRecord]:
    records: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            stat = path.stat()
            record = FileRecord(size_bytes=stat.st_size, sha256=sha256(path), mtime_ns=stat.st_mtime_ns)
            records[str(name)] = record
    return records


def _digest(files: Mapping[str, FileRecord], records: Sequence[str]) -> str:
    results = {name: file for name, file in files.items() if not any(fnmatch(name, pattern) for pattern in records)}
    return hashlib.sha256("".join(f"{name}\0{file.sha256}\n" for name, file in results.items()).encode()).hexdigest()


def _remove_scratch(folder: Path) -> None:
    """Last of all the request: as long as it is there, something may be left."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == REQUEST):
        if path.name.startswith(".") and not Lease.owns(path):
            # A process of another host may be leaving a folder just now; what stays of it does no harm.
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _note(root: Path, stage: str, wanted: str) -> None:
    """Remember which folder a stage asked for last; `dora cache why` and `gc` read it."""
    with (root / REQUESTS).open("a") as file:
        file.write(json.dumps({"stage": stage, "fingerprint": wanted, "at": time.time()}) + "\n")


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--dirty"]
        run = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel, or no git here
    return run.stdout.strip()


def _libraries() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "numpy", "av", "simplejpeg")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def _gpu() -> str | None:
    nvidia_smi = shutil.which("nvidia-smi")
    if not nvidia_smi:
        return None
    query = [nvidia_smi, "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")
    return ", ".join(sorted({name.strip() for name in names if name.strip()})) or None
