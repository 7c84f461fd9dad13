"""Flowers-102, read by torchvision: its train and val are learnt from, as is usual, and its test is measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora.data.labelled.flowers import LABELS, ROOT, SUBSETS
from dora.data.labelled.matlab import require_scipy
from eval.classifying.sets import there
from eval.identity import sampled

if TYPE_CHECKING:
    from eval.classifying.photos import Sets

LISTS = (f"{ROOT}/{LABELS}", f"{ROOT}/{SUBSETS}")
WHOLE = {"n_photos": 8189}


def check(data: Path, benchmark: str, *, whole: bool) -> dict[str, Any]:
    """The number of photos, the hashes of the lists and of some photos."""
    there.require(data, (f"{ROOT}/jpg", *LISTS), benchmark)
    require_scipy(benchmark)
    photos = there.photos(data / ROOT / "jpg")
    found = {"n_photos": len(photos)}
    if whole:
        there.refuse_parts(data, found, WHOLE, benchmark)
    return found | there.digests(data, LISTS) | {"sample_sha256": sampled(photos)}


def read(data: Path, *, whole: bool) -> "Sets":
    """Training and test set; a miniature's classes have no name, for no file of this layout has any.

    Raises:
        ValueError: for lists that are not the published ones, if `whole`.
    """
    from torchvision.datasets import Flowers102

    from eval.classifying.photos import Joined, Sets
    from eval.classifying.sets.checked import opened, without_sums
    from eval.images import open_photo

    kind: Any = Flowers102
    if not whole:
        kind = without_sums(kind, _file_dict={"label": (LABELS, None), "setid": (SUBSETS, None)})
    train, val, test = (
        opened(lambda split=split: kind(data, split=split, download=False, loader=open_photo), data)
        for split in ("train", "val", "test")
    )
    classes = tuple(Flowers102.classes) if whole else tuple(f"flower {n}" for n in range(1, _n_classes(data) + 1))
    return Sets(classes, Joined(train, val), test)


def _n_classes(data: Path) -> int:
    from scipy.io import loadmat

    return int(loadmat(data / ROOT / LABELS)["labels"].max())
