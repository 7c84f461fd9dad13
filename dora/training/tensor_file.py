"""Tensors and what is said of them in one safetensors file: written at one go, and checked for damage when read.

The metadata entry `dora` is JSON. Its `checksums` are the tensors' CRC-32, its last key `crc32` is that of all text
before it: safetensors itself would not notice a bit that has changed on the disk.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dora.data.disk import sync_folder


class Damaged(ValueError):
    """A file that does not hold what was written to it."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors of the CPU and JSON values; a kill at any moment leaves the old file or the new one.

    Raises:
        OSError: if there is no space or no right to write.
    """
    checksums = {name: _checksum(tensors[name]) for name in sorted(tensors)}
    text = json.dumps({**about, "checksums": checksums})[:-1]
    temporary = path.with_name(f".tmp-{path.name.lstrip('.')}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), temporary, {"dora": f'{text}, "crc32": {zlib.crc32(text.encode())}}}'})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except (SafetensorError, OSError) as error:  # the first is how safetensors reports a full disk
        raise OSError(f"cannot write {path}: {error}. Free some space or set DORA_ROOT, then run again.") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path, *, prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON values, and the tensors whose names begin with `prefix`: views into the file, not copies of it.

    Raises:
        FileNotFoundError: if there is no such file.
        Damaged: if it is cut short, or a bit of what is read is not as it was written.
        ValueError: if it is somebody else's safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("dora")
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}
    except SafetensorError as error:
        raise Damaged(f"{path} is damaged or no safetensors file: {error}") from None
    if text is None:
        raise ValueError(f"{path} is a safetensors file, but no checkpoint that dora wrote (no 'dora' metadata)")
    about = _checked(path, text)
    checksums = about.pop("checksums", None)
    if checksums is not None:  # format 1 had none
        expected = {name: checksum for name, checksum in checksums.items() if name.startswith(prefix)}
        found = {name: _checksum(tensor) for name, tensor in tensors.items()}
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise Damaged(f"{path} is damaged: {wrong[0]}{more} is not what was written")
    return about, tensors


def _checked(path: Path, text: str) -> dict[str, Any]:
    body, _, checksum = text.rpartition(', "crc32": ')
    if body and checksum != f"{zlib.crc32(body.encode())}}}":
        raise Damaged(f"{path} is damaged: its metadata is not what was written")
    try:
        about = json.loads(f"{body}}}" if body else text)
    except json.JSONDecodeError as error:
        raise Damaged(f"{path} is damaged: its metadata is no JSON ({error})") from None
    if not body and "checksums" in about:
        raise Damaged(f"{path} is damaged: its metadata has no checksum")
    return about


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)
