"""CIFAR-10 and CIFAR-100, read by torchvision once their MD5 sums are right."""

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora.data.labelled.cifar import Layout, files
from eval.classifying.sets import there

if TYPE_CHECKING:
    from eval.classifying.photos import Sets

# What a pickle of arrays names: anything else could be code that runs.
HARMLESS = {"_reconstruct", "_frombuffer", "ndarray", "dtype", "encode"}


def check(data: Path, layout: Layout, benchmark: str) -> dict[str, Any]:
    """The hash of each file."""
    there.require(data, files(layout), benchmark)
    return there.digests(data, files(layout))


def read(data: Path, layout: Layout, *, whole: bool) -> "Sets":
    """Training and test set.

    Raises:
        ValueError: for files that are not the published ones if `whole`, else for those that hold more than arrays.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    from eval.classifying.photos import Sets
    from eval.classifying.sets.checked import opened, without_sums

    kind: Any = CIFAR10 if layout.n_classes == 10 else CIFAR100
    if not whole:
        for name in files(layout):
            refuse_code(data / name)
        lists = {
            "train_list": [[name, None] for name in layout.train],
            "test_list": [[name, None] for name in layout.val],
        }
        kind = without_sums(kind, **lists, meta=kind.meta | {"md5": None})
    train, val = (opened(lambda train=train: kind(data, train=train, download=False), data) for train in (True, False))
    return Sets(tuple(train.classes), train, val)


def refuse_code(path: Path) -> None:
    """Check a pickle whose checksum nobody knows.

    Raises:
        ValueError: if it holds anything but arrays, lists, numbers and text.
    """
    try:
        _Arrays(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is no file of CIFAR: {error}. Unpack the data set again.") from None


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if module.split(".")[0] in ("numpy", "_codecs") and name in HARMLESS:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
