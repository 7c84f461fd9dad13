"""What is in the cache: list it, explain it, check it, throw it away (`dora cache …`)."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dora.artifacts import Machine
from dora.cache import REQUEST, REQUESTS, Manifest, Request, clear, damage, read_manifest, size_bytes
from dora.lease import Lease


class Entry(NamedTuple):
    """One folder of the cache; an unfinished one has no manifest."""

    folder: Path
    request: Request | None
    manifest: Manifest | None

    @property
    def name(self) -> str:
        """As typed by a user: stage/first digits."""
        return f"{self.folder.parent.name}/{self.folder.name}"


def entries(root: Path, stage: str = "*") -> Iterator[Entry]:
    """Every folder of every stage, or of one, finished or not, by stage and age."""
    folders = [folder for folder in root.glob(f"{stage}/*") if _is_entry(folder)]
    for folder in sorted(folders, key=lambda folder: (folder.parent.name, folder.stat().st_mtime)):
        manifest = read_manifest(folder)
        request = folder / REQUEST
        asked = manifest or (Request.model_validate_json(request.read_bytes()) if request.exists() else None)
        yield Entry(folder, asked, manifest)


def find(root: Path, name: str) -> Entry:
    """The entry of that name, "stage/digits" or the digits alone, as few as tell it from the others.

    Raises:
        ValueError: if none or several match, listing them.
    """
    stage, _, digits = name.rpartition("/")
    found = [e for e in entries(root) if e.folder.name.startswith(digits) and stage in ("", e.folder.parent.name)]
    if len(found) != 1:
        known = ", ".join(entry.name for entry in found or entries(root)) or "nothing"
        raise ValueError(f"{name!r} names {len(found)} artifacts, expected one. There is: {known}.")
    return found[0]


def last_requests(root: Path) -> dict[str, list[str]]:
    """For every stage the fingerprints that were asked for, the latest last, each once."""
    asked: dict[str, dict[str, None]] = {}
    for stage, wanted, _ in _requests(root):
        of_stage = asked.setdefault(stage, {})
        of_stage.pop(wanted, None)
        of_stage[wanted] = None
    return {stage: list(fingerprints) for stage, fingerprints in asked.items()}


def why(root: Path, stage: str) -> Iterator[str]:
    """Sentences: what the last request of a stage was, how it differs from the one before, what depends on it.

    Raises:
        ValueError: if the stage was never asked for.
    """
    asked = last_requests(root)
    if stage not in asked:
        raise ValueError(f"no stage {stage!r} was asked for in {root}. Known: {', '.join(asked) or 'none yet'}.")
    known = {entry.request.fingerprint: entry for entry in entries(root) if entry.request}
    history = [known[wanted] for wanted in asked[stage] if wanted in known]
    if not history:
        yield f"every {stage} that was asked for has been removed; the next request makes it."
        return
    last = history[-1]
    assert last.request is not None
    if last.manifest is None:
        yield f"{last.name} is unfinished; the next request goes on with it."
    elif broken := damage(last.folder, last.manifest):
        yield f"{last.name} is made again by the next request: {broken}."
    else:
        yield f"{last.name} is finished (made {last.manifest.created} in {last.manifest.total_s:.0f} s) and reused."
    if len(history) > 1 and history[-2].request is not None:
        yield f"it differs from {history[-2].name}, which was asked for before, in:"
        yield from (f"  {line}" for line in difference(history[-2].request, last.request))
    dependent = [e for e in known.values() if e.manifest and _depends(e.manifest, last.request.fingerprint, known)]
    if dependent:
        cost = sum(entry.manifest.total_s for entry in dependent if entry.manifest)
        yield f"made from it ({cost:.0f} s to make again): {', '.join(entry.name for entry in dependent)}"


def nearest(root: Path, request: Request) -> tuple[Entry, list[str]] | None:
    """The finished artifact of the same stage that differs least from what is asked for, and the differences."""
    found = [(entry, difference(entry.manifest, request)) for entry in entries(root, request.stage) if entry.manifest]
    return min(reversed(found), key=lambda one: len(one[1]), default=None)  # of several the newest


def difference(before: Request, now: Request) -> list[str]:
    """What differs between two requests of one stage, a line each: path: before -> now."""
    lines = [f"VERSION: {before.version} -> {now.version}"] if before.version != now.version else []
    old, new = dict(_flat(before.config)), dict(_flat(now.config))
    for path in old.keys() | new.keys():
        if old.get(path, _ABSENT) != new.get(path, _ABSENT):
            lines.append(f"config {path}: {old.get(path, _ABSENT)} -> {new.get(path, _ABSENT)}")
    for name in before.inputs.keys() | now.inputs.keys():
        was, is_now = before.inputs.get(name), now.inputs.get(name)
        if was is None or is_now is None or was.fingerprint != is_now.fingerprint:
            lines.append(f"input {name}: {was.fingerprint[:8] if was else _ABSENT} -> "
                         f"{is_now.fingerprint[:8] if is_now else _ABSENT}")  # fmt: skip
        elif was.digest != is_now.digest:
            lines.append(f"input {name}: asked for the same, came out different")
    return sorted(lines) or ["nothing: it was asked for again"]


def verify(root: Path) -> Iterator[tuple[Entry, str | None]]:
    """Every finished artifact with what is wrong with it, or None: all content read, of tars in a store their sizes.

    Raises:
        ValueError, OSError: if a store cannot be asked.
    """
    from dora.data import store

    for entry in entries(root):
        if entry.manifest:
            yield entry, damage(entry.folder, entry.manifest, full=True) or store.damage(entry.folder)


def remove(machine: Machine, entry: Entry) -> str | None:
    """Delete an artifact, its tars in a store too; waits for whoever is making it. What stays, in words."""
    from dora.data import store

    with Lease(entry.folder, timeout_s=machine.lease_timeout_s):
        stays = store.remove_tars(entry.folder)  # first: one that is left without them is found damaged
        clear(entry.folder)
    shutil.rmtree(entry.folder)
    return stays


def garbage(machine: Machine, *, keep_days: float) -> list[Entry]:
    """Artifacts, finished or not, that nobody asked for within the last `keep_days` days and nothing else is made from.

    What is being made is kept, and what it is made from: a training may be older than that.
    """
    oldest = time.time() - keep_days * 86400
    asked = {wanted for _, wanted, at in _requests(machine.root) if at >= oldest}
    found = {entry.request.fingerprint if entry.request else entry.name: entry for entry in entries(machine.root)}
    to_keep = [
        name
        for name, entry in found.items()
        if name in asked or entry.folder.stat().st_mtime >= oldest or _is_being_made(entry, machine)
    ]
    while to_keep:
        entry = found.pop(to_keep.pop(), None)
        if entry and entry.request:
            to_keep += [record.fingerprint for record in entry.request.inputs.values()]
    return [*found.values()]


def table(root: Path) -> Iterator[str]:
    """`dora cache list`: a line for every folder."""
    yield f"{'artifact':42} {'made':17} {'took':>9} {'size':>9}  made from"
    for entry in entries(root):
        made = entry.manifest
        if made is None:
            yield f"{entry.name:42} unfinished"
            continue
        inputs = ", ".join(f"{name} {record.fingerprint[:8]}" for name, record in made.inputs.items())
        size = f"{size_bytes(made) / 1e6:.1f} MB"
        yield f"{entry.name:42} {made.created[:16]:17} {made.total_s:7.1f} s {size:>9}  {inputs}"


_ABSENT = "absent"


def _is_entry(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not folder.parent.name.startswith(".") and (
        (folder / "manifest.json").exists() or (folder / REQUEST).exists()
    )  # fmt: skip


def _is_being_made(entry: Entry, machine: Machine) -> bool:
    return entry.manifest is None and Lease(entry.folder, timeout_s=machine.lease_timeout_s).owner() is not None


def _requests(root: Path) -> Iterator[tuple[str, str, float]]:
    path = root / REQUESTS
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line that was cut off by a full disk
        yield record["stage"], record["fingerprint"], record["at"]


def _depends(manifest: Manifest, on: str, known: dict[str, Entry]) -> bool:
    for record in manifest.inputs.values():
        maker = known.get(record.fingerprint)
        if record.fingerprint == on or (maker and maker.manifest and _depends(maker.manifest, on, known)):
            return True
    return False


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield from _flat(inner, f"{path}.{key}" if path else str(key))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, list):
        for index, inner in enumerate(value):  # pyright: ignore[reportUnknownArgumentType]
            yield from _flat(inner, f"{path}.{index}")
    else:
        yield path, value
