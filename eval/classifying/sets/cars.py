"""Stanford Cars, read by torchvision."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora.data.labelled.cars import LABELS, NAMES, PHOTOS, ROOT
from dora.data.labelled.matlab import require_scipy
from eval.classifying.sets import there
from eval.identity import sampled

if TYPE_CHECKING:
    from eval.classifying.photos import Sets

LISTS = tuple(f"{ROOT}/{name}" for name in (*LABELS.values(), NAMES))
WHOLE = {"n_train": 8144, "n_val": 8041}


def check(data: Path, benchmark: str, *, whole: bool) -> dict[str, Any]:
    """The numbers of photos, the hashes of the lists and of some photos."""
    there.require(data, (*(f"{ROOT}/{photos}" for photos in PHOTOS.values()), *LISTS), benchmark)
    require_scipy(benchmark)
    photos = {subset: there.photos(data / ROOT / folder) for subset, folder in PHOTOS.items()}
    found = {f"n_{subset}": len(listed) for subset, listed in photos.items()}
    if whole:
        there.refuse_parts(data, found, WHOLE, benchmark)
    return found | there.digests(data, LISTS) | {"sample_sha256": "".join(map(sampled, photos.values()))}


def read(data: Path) -> "Sets":
    """Training and test set.

    Raises:
        ValueError: if files are not there.
    """
    from torchvision.datasets import StanfordCars

    from eval.classifying.photos import Sets
    from eval.classifying.sets.checked import opened
    from eval.images import open_photo

    train, val = (
        opened(
            lambda split=split: StanfordCars(
                data, split=split, download=False, loader=lambda path: open_photo(Path(path))
            ),
            data,
        )
        for split in ("train", "test")
    )
    return Sets(tuple(train.classes), train, val)
