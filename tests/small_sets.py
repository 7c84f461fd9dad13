"""Every benchmark's data set in miniature, in its real layout, and archives of them as publishers make them."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from typecheck import unchecked

from dora.data.datasets.table import SETS, Archive, DataSet
from dora.data.labelled import ade20k, coco, davis, got10k, imagenet, nyu, voc
from dora.data.labelled.moments import Still, moments, still
from dora.data.miniature import World

WORLD = World(seed=1000, width=96, height=54)


def write(root: Path, *names: str) -> None:
    """A folder for each of the sets, by its name in the table."""
    with unchecked():
        pictures = {"train": list(map(still, moments(WORLD, "train", 3)))}
        pictures["val"] = list(map(still, moments(WORLD, "val", 2)))
        for name in names:
            _write(name, root / name, pictures)


def _write(name: str, folder: Path, pictures: dict[str, list[Still]]) -> None:
    stills = {"ade20k": ade20k, "coco": coco, "voc2012": voc, "voc2007": voc}
    if name in stills:
        stills[name].write(folder, pictures)
    elif name == "nyu":
        nyu.write(folder, {"train": nyu.shots(WORLD, "train", 3), "val": nyu.shots(WORLD, "val", 2)})
    elif name == "davis":
        walks = davis.walks(WORLD, "val", 2)
        davis.write(folder, {"train": walks[:1], "val": walks[1:]})
    elif name == "got10k":
        films = list(got10k.walked(got10k.tracks(WORLD, "val", 2)))
        got10k.write(folder, {"train": films, "val": films[:1], "test": films[:1]})
    else:
        imagenet.write(folder, WORLD, {"train": 2, "val": 1})


def zipped(folder: Path, top: str) -> bytes:
    """A zip of the folder's content below `top`, with an entry for each folder, as zip -r makes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{top}/{path.relative_to(folder)}" if top else str(path.relative_to(folder)))
        archive.writestr(f"__MACOSX/{top}/._README", b"a Mac's leftover")
    return file.getvalue()


def tarred(folder: Path, top: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(folder, top)
    return file.getvalue()


def served(name: str, *archives: tuple[str, bytes, str], size_bytes: float = 20e6, with_sums: bool = True) -> DataSet:
    """The table's set, but from these archives (address, content, top folder), and of any size."""
    entries = tuple(
        Archive(
            url=url, top=top, size_bytes=len(content) if with_sums else None,
            sha256=hashlib.sha256(content).hexdigest() if with_sums else None,
        )
        for url, content, top in archives
    )  # fmt: skip
    return SETS[name].model_copy(update={"archives": entries, "size_bytes": size_bytes, "counts": {}})
