"""All of it to look at: a video of the miniature walk, and every labelled set in its real layout."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from dora.config import MiniatureVideo
from dora.data.labelled import ade20k, coco, davis, got10k, imagenet, nyu, voc
from dora.data.labelled.moments import FIRST_SEED, STREETS_PER_SUBSET, SUBSETS, Still, moments, still
from dora.data.labelled.sheet import write_sheet
from dora.data.miniature import World, write_video
from dora.progress import Progress, silent

VIDEO, SHEET = "walk.mp4", "sheet.jpg"
N_STILLS = {"train": 24, "val": 12}
N_PICTURES = {"train": 10, "val": 5}  # of each class, of ImageNet's
N_WALKS = {"train": 2, "val": 3}
N_TRACKS = {"train": 4, "val": 3, "test": 2}


def write_everything(out: Path, video: MiniatureVideo, progress: Progress = silent) -> Path:
    """Write the video, the sets and a contact sheet into the new folder `out`, which appears when it is complete.

    The sets are of the video's size, from streets that no video shows and no set of another seed.

    Raises:
        FileExistsError: if `out` is there and not empty.
        ValueError: if the streets do not show enough for one of the sets, as pictures of a very odd shape may not.
    """
    out = out.expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already. Choose another folder with --out, or remove it.")
    unfinished = out.with_name(f".{out.name}-unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise type(error)(f"no folder can be made at {out} ({error.strerror}). Choose another with --out.") from None
    try:
        _write(unfinished, video, progress)
        unfinished.replace(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return out


def world_beside(video: MiniatureVideo) -> World:
    """The first street of the sets that go with a video, at its size; those of another video have other streets."""
    seed = FIRST_SEED + len(SUBSETS) * STREETS_PER_SUBSET * video.seed
    return World(seed=seed, width=video.width, height=video.height)


def _write(folder: Path, video: MiniatureVideo, progress: Progress) -> None:
    write_video(video, folder / VIDEO, progress)
    world = world_beside(video)
    sets = _sets(world)
    for done, (name, write) in enumerate(sets.items()):
        progress(done, len(sets), "sets", name)
        write(folder / name)
    write_sheet(folder / SHEET, world)
    progress(len(sets), len(sets), "sets")


def _sets(world: World) -> dict[str, Callable[[Path], None]]:
    """What writes each set, by the folder that the field knows it by."""

    def pictures() -> dict[str, Iterable[Still]]:
        return {subset: map(still, moments(world, subset, n)) for subset, n in N_STILLS.items()}

    return {
        ade20k.ROOT: lambda folder: ade20k.write(folder, pictures()),
        coco.ROOT: lambda folder: coco.write(folder, pictures()),
        voc.ROOT: lambda folder: voc.write(folder, pictures()),
        nyu.ROOT: lambda folder: nyu.write(folder, {s: nyu.shots(world, s, n) for s, n in N_STILLS.items()}),
        davis.ROOT: lambda folder: davis.write(folder, {s: davis.walks(world, s, n) for s, n in N_WALKS.items()}),
        got10k.ROOT: lambda folder: got10k.write(
            folder, {s: got10k.walked(got10k.tracks(world, s, n)) for s, n in N_TRACKS.items()}
        ),
        imagenet.ROOT: lambda folder: imagenet.write(folder, world, N_PICTURES),
    }
