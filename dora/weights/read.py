"""The tensors in a file of weights, whoever wrote it; code that a file brings along is never run."""

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dora.training.job import CHECKPOINT
from dora.training.tensor_file import read_tensors

Which = Literal["teacher", "student"]
# What a folder's weights may be called: ours, timm's and Hugging Face's, torch's.
FILES = (CHECKPOINT, "model.safetensors", "checkpoint.pth", "pytorch_model.bin")


class Source(NamedTuple):
    """The weights of one network, under the names of their file."""

    path: Path
    which: Which | None  # None: the file holds one network and does not say which
    tensors: Mapping[str, Tensor]
    dora: Mapping[str, Any]  # what a checkpoint of ours says: config, step; empty for another
    config: Mapping[str, Any]  # the config.json beside the file, timm's or Hugging Face's; or empty

    def __str__(self) -> str:
        return f"the {self.which} in {self.path}" if self.which else str(self.path)


class _Unused:
    """Stands where numpy's scalars are (learning rates in an optimizer), so that not even numpy is called."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_ALLOWED: list[Any] = [
    argparse.Namespace,  # DINO, iBOT and DoRA save their arguments beside the weights
    *[(_Unused, name) for name in ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")],
]


def read(path: Path, which: Which) -> Source:
    """The network `which` of a file or folder; the other one, or the only one, if that is not in it.

    The format is told by the content, not by the name. Tensors stay on disk until they are used, where possible.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no weights, is damaged, or cannot be read without running code of its own.
    """
    path = weights_file(path)
    with path.open("rb") as file:
        head = file.read(1024)
    _check_text(path, head)
    config = config_beside(path)
    if head[8:9] == b"{":  # after the header's length
        return _from_safetensors(path, which, config)
    found = _unpickle(path, is_zip=head.startswith(b"PK\x03\x04"))
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected a dictionary of tensors.")
    chosen, inner = _descend(cast(Mapping[str, Any], found), which)
    tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors where weights are expected, only {some(inner)}.")
    prefix, tensors_of = _flat(tensors, which)
    arguments = found.get("args")
    said = arguments if isinstance(arguments, Mapping) else {}
    return Source(path, prefix or chosen, tensors_of, cast(Mapping[str, Any], said.get("dora", {})), config)


def weights_file(path: Path) -> Path:
    """The file of weights that a path names: itself, or the one in that folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    path = path.expanduser()
    if path.is_dir():
        names = [name for name in FILES if (path / name).is_file()]
        if not names:
            raise FileNotFoundError(f"no weights in {path}: expected one of {', '.join(FILES)}. Name the file itself.")
        return path / names[0]
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}.")
    return path


def _check_text(path: Path, head: bytes) -> None:
    """Refuse what is often found under the name of weights."""
    start = head.lstrip().lower()
    if not head:
        raise ValueError(f"{path} is empty (0 bytes). Download or copy it again.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(f"{path} is a web page, not weights: its address may want a login. Download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights. Fetch them: git lfs pull.")


def config_beside(path: Path) -> Mapping[str, Any]:
    """What timm's or Hugging Face's config.json in the file's folder says of its network, {} if there is none."""
    try:
        config = json.loads((path.parent / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    is_models = isinstance(config, dict) and ("model_type" in config or "architecture" in config)
    return cast(Mapping[str, Any], config) if is_models else {}


def _from_safetensors(path: Path, which: Which, config: Mapping[str, Any]) -> Source:
    try:
        with safe_open(path, framework="pt") as file:
            is_ours = "dora" in (file.metadata() or {})
            prefix = _prefix(file.keys(), which)
            start = f"{prefix}." if prefix else ""
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(start)}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}). Download or copy it again.") from None
    dora: Mapping[str, Any] = {}
    if is_ours:
        dora, tensors = read_tensors(path, prefix=start)  # compares them with their checksums
    if not tensors:
        raise ValueError(f"{path} holds no tensors.")
    return Source(path, prefix, {name.removeprefix(start): value for name, value in tensors.items()}, dora, config)


def _unpickle(path: Path, *, is_zip: bool) -> Any:
    """What torch.save wrote; nothing is imported or called that is not torch's, or listed above."""
    mmap = False
    if is_zip:
        try:
            with zipfile.ZipFile(path) as archive:
                names = {Path(name).name for name in archive.namelist()}
                mmap = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged or incomplete ({error}). Download or copy it again.") from None
        if "constants.pkl" in names:
            raise ValueError(f"{path} is a TorchScript program, which is not run. Take the weights (a state dict).")
        if "data.pkl" not in names:
            raise ValueError(f"{path} is a zip archive, but not one that torch.save wrote (no data.pkl).")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ALLOWED):
            warnings.simplefilter("ignore")  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever torch's reader meets in damaged bytes
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise ValueError(
                f"{path} asks for {asked[1]!r}, which is code and no weights. Unpickling would run it, so the file is "
                "not loaded. Ask its authors for a state dict or safetensors; tensors and argparse.Namespace pass."
            ) from None
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise ValueError(f"{path} is damaged, incomplete or no file of weights ({said}).") from None


def _descend(found: Mapping[str, Any], which: Which) -> tuple[Which | None, Mapping[str, Any]]:
    """The dictionary of one network inside those that trainings save."""
    chosen: Which | None = None
    names: tuple[str, ...] = (which, "teacher", "student", "model", "state_dict", "model_state_dict")
    while inner := [name for name in names if isinstance(found.get(name), Mapping)]:
        if inner[0] in ("teacher", "student"):
            chosen = inner[0]
        found = found[inner[0]]
    return chosen, found


def _flat(tensors: Mapping[str, Tensor], which: Which) -> tuple[Which | None, Mapping[str, Tensor]]:
    """The tensors of one network where names begin with it, as in `teacher.backbone.norm.weight`."""
    prefix = _prefix(tensors, which)
    if prefix is None:
        return None, tensors
    start = f"{prefix}."
    return prefix, {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _prefix(names: Any, which: Which) -> Which | None:
    there = {name.partition(".")[0] for name in names}
    order: tuple[Which, ...] = (which, "teacher", "student")
    return next((name for name in order if name in there), None)


def some(names: Iterable[object]) -> str:
    """The first few names, and how many more there are."""
    every = [str(name) for name in names]
    return ", ".join(every[:4]) + (f" and {len(every) - 4} more" if len(every) > 4 else "") or "nothing"
