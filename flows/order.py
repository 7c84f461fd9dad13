"""What a run was asked for, checked before anything starts: one message names everything that is wrong or missing."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import validate_call

from dora import inventory, recipes
from dora.artifacts import Machine
from dora.config import Recipe
from dora.data.shards import check as check_sharding
from dora.data.video import check as check_video
from dora.training.job import CHECKPOINT
from eval import benchmark, suites
from eval.suites import Entry, Suite
from flows.queue import find_programs

Stage = Literal["acquire", "shard", "pretrain", "evaluate", "report"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Order(NamedTuple):
    """A run's parameters, read and checked."""

    recipe: Recipe
    entries: tuple[Entry, ...]
    checkpoint: Path | None
    rerun: frozenset[str]
    until: Stage
    machine: Machine
    dry_run: bool = False

    @property
    def page(self) -> Path | None:
        """Where the run leaves its report, if it goes as far."""
        made = self.includes("report") and not self.dry_run
        return self.machine.root / "report" / "latest" / "index.html" if made else None

    def includes(self, stage: Stage) -> bool:
        """Whether the run goes as far as this stage."""
        return STAGES.index(stage) <= STAGES.index(self.until)

    def again(self, stage: Stage, part: str = "") -> bool:
        """Whether this stage, or this part of it, is to be made again although it is finished."""
        return stage in self.rerun or f"{stage}/{part}" in self.rerun


@validate_call
def place(
    *, recipe: str | Recipe = "demo", overrides: tuple[str, ...] = (), suite: str = "miniature",
    videos: tuple[str, ...] = (), checkpoint: Path | None = None, rerun: tuple[str, ...] = (), until: Stage = "report",
    machine: Machine | None = None, dry_run: bool = False,
) -> Order:  # fmt: skip
    """Read the parameters of the flow (flows/pipeline.py says what each means).

    Raises:
        ValueError: for an unknown name or a wrong value, with the names that are known.
        FileNotFoundError: listing every video, data set and library that is missing or broken, and how to get each; not
            for a dry run, whose plan says so.
    """
    chosen = recipes.load(recipe) if isinstance(recipe, str) else recipe
    if videos:
        chosen = recipes.for_videos(chosen, videos)
    chosen, entries = _override(chosen, suites.load(suite), overrides)
    on = machine or Machine()
    given = checkpoint and find_checkpoint(checkpoint, on)
    order = Order(chosen, entries, given, frozenset(rerun), until, on, dry_run)
    _check_rerun(order)
    if checkpoint and not order.includes("evaluate"):
        raise ValueError(f"a checkpoint is given to be evaluated, but the run ends with {until!r}.")
    if not dry_run and (missing := list(dict.fromkeys(_missing(order)))):
        raise FileNotFoundError("\n".join(missing))
    return order


def find_checkpoint(named: Path, machine: Machine) -> Path:
    """The file that a user names: itself, a folder that holds a checkpoint, or checkpoint/77e1 as the cache lists it.

    Raises:
        ValueError: if no artifact, or several, are named so.
    """
    if named.is_dir():
        return named / CHECKPOINT
    is_artifact = named.parts[0] == "checkpoint" and len(named.parts) == 2 and not named.suffix
    return named if named.exists() or not is_artifact else inventory.find(machine.root, str(named)).folder / CHECKPOINT


def _override(recipe: Recipe, suite: Suite, assignments: Sequence[str]) -> tuple[Recipe, tuple[Entry, ...]]:
    """Paths begin with a part of the recipe (pretrain.epochs=10) or with a benchmark (davis.top_k=7)."""
    of_benchmark: dict[str, list[str]] = {entry.benchmark: [] for entry in suite.entries}
    of_recipe: list[str] = []
    for assignment in assignments:
        first, _, rest = assignment.partition(".")
        if first in of_benchmark:
            of_benchmark[first].append(rest)
        elif first.partition("=")[0] in Recipe.model_fields:
            of_recipe.append(assignment)
        else:
            known = ", ".join((*Recipe.model_fields, *of_benchmark))
            raise ValueError(f"{assignment}: there is no {first!r} to change in this run. Known: {known}.")
    entries: list[Entry] = []
    for entry in suite.entries:
        changes = (*entry.overrides, *of_benchmark[entry.benchmark])
        try:
            benchmark.configure(entry.benchmark, overrides=changes, preset=entry.preset)
        except ValueError as error:
            raise ValueError(f"{entry.benchmark}.{error}") from None
        entries.append(entry.model_copy(update={"overrides": changes}))
    return recipes.override(recipe, of_recipe), tuple(entries)


def _check_rerun(order: Order) -> None:
    known = [*STAGES, *(f"evaluate/{entry.benchmark}" for entry in order.entries)]
    unknown = sorted(order.rerun - set(known))
    if unknown:
        raise ValueError(f"cannot rerun {', '.join(unknown)}. Known: {', '.join(known)}.")


def _missing(order: Order) -> Iterator[str]:
    """A sentence for everything that the run needs and that is not there, or not as it ought."""
    yield from _missing_for_dask(order.machine)
    if order.machine.launcher == "slurm":
        try:
            find_programs()
        except OSError as error:
            yield str(error)
    if order.checkpoint is None:
        for video in order.recipe.videos:
            try:
                check_video(video, order.machine)
            except (ValueError, OSError) as error:
                yield str(error)
    if order.checkpoint is None and order.includes("shard"):
        try:
            check_sharding(order.recipe.shards, order.machine)
        except (ValueError, OSError) as error:
            yield str(error)
    if order.checkpoint and not order.checkpoint.is_file():
        yield f"no checkpoint file {order.checkpoint}."
    if order.includes("evaluate"):
        for entry in order.entries:
            if entry.world is None:
                config = benchmark.configure(entry.benchmark, overrides=entry.overrides, preset=entry.preset)
                try:
                    benchmark.check(entry.benchmark, config, order.machine)
                except (ValueError, OSError) as error:
                    yield str(error)


def _missing_for_dask(machine: Machine) -> Iterator[str]:
    """What a Dask cluster needs beside Prefect. Found without importing it: Prefect alone takes seconds."""
    needed = ("prefect_dask", "dask_jobqueue")[: 2 if machine.dask and machine.dask.cluster == "slurm" else 1]
    for name in needed if machine.dask else ():
        if importlib.util.find_spec(name) is None:
            yield (
                f"Machine.dask needs {name.replace('_', '-')}, which is not installed here. "
                "Install the extra (pip install 'dora[dask]'), or leave dask out."
            )
