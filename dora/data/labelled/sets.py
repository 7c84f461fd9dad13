"""All of it to look at: a video of the miniature walk, and every labelled set in its real layout."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from dora.config import MiniatureVideo
from dora.data.labelled import ade20k, coco, davis, got10k, imagenet, nyu, voc
from dora.data.labelled.moments import FIRST_SEED, Still, moments, stills
from dora.data.labelled.sheet import write_sheet
from dora.data.miniature import World, write_video
from dora.progress import Progress, silent

VIDEO, SHEET = "walk.mp4", "sheet.jpg"
N_STILLS = {"train": 24, "val": 12}
N_PICTURES = {"train": 20, "val": 10}  # of each class, of ImageNet's
N_WALKS = {"train": 2, "val": 3}
N_TRACKS = {"train": 6, "val": 4, "test": 2}


def write_everything(out: Path, video: MiniatureVideo, progress: Progress = silent) -> Path:
    """Write the video, the sets and a contact sheet into the new folder `out`.

    The sets are of the video's size, from streets that no video shows. The folder appears when it is complete.

    Raises:
        FileExistsError: if `out` is there and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already. Choose another folder with --out, or remove it.")
    unfinished = out.with_name(f".{out.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_video(video, unfinished / VIDEO, progress)
    world = World(seed=FIRST_SEED + video.seed, width=video.width, height=video.height)
    sets = _sets(world)
    for done, (name, write) in enumerate(sets.items()):
        progress(done, len(sets), "sets", name)
        write(unfinished / name)
    write_sheet(unfinished / SHEET, world)
    progress(len(sets), len(sets), "sets")
    unfinished.replace(out)
    return out


def _sets(world: World) -> dict[str, Callable[[Path], None]]:
    """What writes each set, by the folder that the field knows it by."""

    def pictures() -> dict[str, Iterable[Still]]:
        return {subset: stills(moments(world, subset, n)) for subset, n in N_STILLS.items()}

    return {
        ade20k.ROOT: lambda folder: ade20k.write(folder, pictures()),
        coco.ROOT: lambda folder: coco.write(folder, pictures()),
        voc.ROOT: lambda folder: voc.write(folder, pictures()),
        nyu.ROOT: lambda folder: nyu.write(folder, pictures()),
        davis.ROOT: lambda folder: davis.write(folder, {s: davis.walks(world, s, n) for s, n in N_WALKS.items()}),
        got10k.ROOT: lambda folder: got10k.write(folder, {s: got10k.tracks(world, s, n) for s, n in N_TRACKS.items()}),
        imagenet.ROOT: lambda folder: imagenet.write(folder, world, N_PICTURES),
    }
