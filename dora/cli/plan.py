"""`dora plan`: what a recipe will take, before anything of it starts."""

import argparse
from typing import TYPE_CHECKING

from dora import recipes
from dora.artifacts import Machine
from dora.cache import human_size
from dora.cli import Commands, positive
from dora.config import Recipe
from dora.progress import progress_bar

if TYPE_CHECKING:
    from dora.planning.amounts import Amounts, VideoAmounts

DESCRIPTION = """Counts frames, tars, clips, steps and bytes of a recipe, then measures for half a minute how fast this
machine shards, reads and trains, and says how long everything will take. Nothing is kept. Videos that are not here
yet count with their published or the data set's mean length, and a film like them is made for the measuring."""


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser(
        "plan", help="frames, steps, GB and hours of a recipe, before anything starts", description=DESCRIPTION,
        epilog="Examples: dora plan venice;  dora plan walking_tours pretrain.epochs=50 --no-probe",
    )  # fmt: skip
    parser.add_argument("recipe", help=f"one of {', '.join(recipes.names())}; /ABLATION may follow")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="single values to replace")
    parser.add_argument("--video", action="append", default=[], metavar="V", help="instead of the recipe's; repeatable")
    parser.add_argument("--no-probe", action="store_true", help="count only; measure nothing")
    parser.add_argument("--seconds", type=positive, default=30, metavar="S", help="for the probe (30)")
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from dora.planning.amounts import amounts
    from dora.planning.probe import probe
    from dora.planning.table import amounts_table, gpu_table, speeds_table
    from dora.training.flops import flops_per_clip

    recipe = recipes.load(options.recipe)
    if options.video:
        recipe = recipes.for_videos(recipe, options.video)
    recipe, machine = recipes.override(recipe, options.overrides), Machine()
    found = amounts(recipe, machine)
    print("\n".join(amounts_table(recipe, found)), flush=True)
    if not options.no_probe:
        print(f"\nmeasuring this machine, about {options.seconds:g} s", flush=True)
        with progress_bar() as progress:
            speeds = probe(recipe, machine, _typical(found), seconds=options.seconds, progress=progress)
        if speeds.bytes_per_pixel:
            found = amounts(recipe, machine, bytes_per_pixel=speeds.bytes_per_pixel)
            print(f"frames     about {human_size(found.size_bytes)}, going by {speeds.film}")
        print("\n".join(speeds_table(found, speeds, n_devices=_n_devices(machine, recipe) if speeds.on_gpu else 1)))
    print("\n" + "\n".join(gpu_table(found, flops_per_clip(recipe.pretrain))))
    return 0


def _typical(found: "Amounts") -> "VideoAmounts":
    """The video to measure: one whose file is here, if there is any; the longest of those."""
    return max(found.videos, key=lambda video: (video.known.path is not None, video.known.duration_s))


def _n_devices(machine: Machine, recipe: Recipe) -> int:
    import torch

    return min(machine.n_processes or torch.cuda.device_count(), recipe.pretrain.processes_at_most)
