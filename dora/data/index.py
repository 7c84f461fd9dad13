"""Where every stored frame lies: the index of a shards folder, read without loading it.

index.safetensors holds one row a frame: `offset` and `size` of its JPEG in its tar, `time_s` in the video. Its header
names the tars in order, with their bytes and sha256. A file store.url beside it holds the fsspec URL of the folder that
keeps the tars, if it is not this one. The rows are mapped into memory: a long video costs no more than a short one.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64
from pydantic import Field, ValidationError
from safetensors.numpy import save

from dora.config import Frozen
from dora.data.disk import whole_file

INDEX = "index.safetensors"
STORE = "store.url"
Column = Sequence[int] | Sequence[float] | np.ndarray
_COLUMNS = {"offset": ("I64", np.int64), "size": ("I32", np.int32), "time_s": ("F64", np.float64)}


class Tar(Frozen):
    """One tar of a video's frames."""

    name: str = Field(pattern=r"^\w[\w.-]*$")  # leads nowhere else
    n_frames: int
    size_bytes: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Facts(Frozen):
    """What the index says of all frames."""

    name: str
    fps: float
    width: int
    height: int
    tars: tuple[Tar, ...]
    store: str | None = None  # not in the index itself: where the tars lie changes nothing in them


class ShardIndex(NamedTuple):
    """Where every frame of one video lies."""

    facts: Facts
    first_rows: Int64[np.ndarray, "tars+1"]  # row of each tar's first frame, and the number of all frames
    offset: Int64[np.ndarray, "T"]  # bytes, of the JPEG itself
    size: Int32[np.ndarray, "T"]  # bytes
    time_s: Float64[np.ndarray, "T"]  # of the picture in the video, from its first one

    @property
    def n_frames(self) -> int:
        """Frames in all tars."""
        return len(self.size)

    def tar_of(self, row: int) -> int:
        """Number of the tar that holds frame `row`."""
        return int(np.searchsorted(self.first_rows, row, side="right")) - 1


def write_index(path: Path, facts: Facts, *, offset: Column, size: Column, time_s: Column) -> None:
    """Write an index in one go; the same frames give the same bytes."""
    arrays = {"offset": np.array(offset, np.int64), "size": np.array(size, np.int32), "time_s": np.array(time_s, float)}
    # One metadata key: safetensors writes several in any order.
    with whole_file(path) as file:
        file.write(save(arrays, metadata={"shards": facts.model_dump_json(exclude={"store"})}))


def open_index(folder: Path) -> ShardIndex:
    """The index of a shards folder, checked against the sizes of the tars that lie there.

    Raises:
        FileNotFoundError: if the folder has no index, or a tar that it names is gone and no store keeps it.
        ValueError: if the index is damaged, or a tar has another size than it says.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"no shards in {folder} ({INDEX} missing). Make them with the shard stage.")
    try:
        index = _map(path)
    except (KeyError, TypeError, ValueError, struct.error, ValidationError) as error:
        reason = "its header is not one of ours" if isinstance(error, ValidationError) else error
        raise ValueError(f"{path} is damaged ({reason}). Remove {folder} and make the shards again.") from None
    for tar in index.facts.tars:
        _check(folder / tar.name, tar, is_stored=index.facts.store is not None)
    return index


def _map(path: Path) -> ShardIndex:
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        n_bytes = path.stat().st_size - 8 - header_bytes
        if n_bytes < 0:
            raise ValueError("it is cut off")
        header = json.loads(file.read(header_bytes))
    store = path.with_name(STORE)
    facts = Facts.model_validate_json(header["__metadata__"]["shards"])
    facts = facts.model_copy(update={"store": store.read_text() if store.is_file() else None})
    first_rows = np.cumsum([0, *(tar.n_frames for tar in facts.tars)])
    columns: dict[str, Any] = {}
    for name, (kind, dtype) in _COLUMNS.items():
        entry = header[name]
        start, end = entry["data_offsets"]
        if entry["dtype"] != kind or entry["shape"] != [int(first_rows[-1])] or end > n_bytes:
            raise ValueError(f"{name} is not one number a frame")
        columns[name] = np.memmap(path, dtype, "r", offset=8 + header_bytes + start, shape=(int(first_rows[-1]),))
    return ShardIndex(facts, first_rows, **columns)


def _check(path: Path, tar: Tar, *, is_stored: bool) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        if is_stored:
            return
        raise FileNotFoundError(f"{path} is gone, but the index names it. Make the shards again.") from None
    if found != tar.size_bytes:
        raise ValueError(f"{path} has {found} bytes, the index says {tar.size_bytes}. Make the shards again.")
