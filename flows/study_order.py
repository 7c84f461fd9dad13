"""What a study was asked for, checked before anything starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import validate_call

from dora.artifacts import Machine
from eval import benchmark, suites
from eval.study import Cell, cells
from eval.study.cells import UNTRAINED
from eval.suites import Entry
from flows.order import Order, place

PARTS = ("acquire", "shard", "pretrain", "evaluate", "study")


class StudyOrder(NamedTuple):
    """A study's parameters, read and checked."""

    title: str
    cells: tuple[Cell, ...]
    entries: tuple[Entry, ...]
    reference: str
    rerun: frozenset[str]
    machine: Machine
    dry_run: bool = False

    @property
    def page(self) -> Path | None:
        """Where the study leaves its table."""
        return None if self.dry_run else self.machine.root / "study" / "latest" / "index.html"

    def again(self, part: str, cell: Cell | None = None, name: str = "") -> bool:
        """Whether a part is to be made again: of all cells, or because its variant or cell is."""
        of_cell = {cell.variant, cell.name} if cell else set[str]()
        return bool(self.rerun & {part, f"{part}/{name}", *of_cell})

    def footage(self, cell: Cell) -> Order:
        """The part of the order that prepares a cell's videos and shards."""
        rerun = self.rerun & {"acquire", "shard"}
        return Order(cell.recipe, (), None, rerun, "shard", self.machine)

    def of_cell(self, cell: Cell) -> Order:
        """The part of the order that trains and measures a cell."""
        of_benchmarks = [one.benchmark for one in self.entries if self.again("evaluate", cell, one.benchmark)]
        rerun = {part for part in ("pretrain", "evaluate") if self.again(part, cell)}
        rerun |= {f"evaluate/{name}" for name in of_benchmarks}
        entries = tuple(self.entry(one, cell) for one in self.entries)
        return Order(cell.recipe, entries, None, frozenset(rerun), "evaluate", self.machine, self.dry_run)

    def entry(self, entry: Entry, cell: Cell) -> Entry:
        """A benchmark as it measures a cell: what trains on labels begins from the cell's seed."""
        overrides = (*entry.overrides, *benchmark.from_seed(entry.benchmark, cell.seed))
        return entry.model_copy(update={"overrides": overrides})


@validate_call
def place_study(
    *, variants: tuple[str, ...] = ("demo",), grid: Mapping[str, Sequence[Any]] | None = None, n_seeds: int = 1,
    overrides: tuple[str, ...] = (), suite: str = "miniature", benchmarks: tuple[str, ...] = (),
    reference: str | None = None, rerun: tuple[str, ...] = (), title: str = "DoRA: a study",
    machine: Machine | None = None, dry_run: bool = False,
) -> StudyOrder:  # fmt: skip
    """Read the parameters of a study (flows/study.py says what each means).

    Raises:
        ValueError: for an unknown name or a wrong value, with the names that are known.
        FileNotFoundError: listing every video, data set and program that is missing or broken, and how to get each; not
            for a dry run, whose plan says so.
    """
    known = [entry.benchmark for entry in suites.load(suite).entries]
    if unknown := [name for name in benchmarks if name not in known]:
        raise ValueError(f"{', '.join(unknown)}: not in the suite {suite}. Known: {', '.join(known)}.")
    of_benchmarks = tuple(one for one in overrides if one.partition(".")[0] in known)
    of_recipe = tuple(one for one in overrides if one not in of_benchmarks)
    made = cells(variants, grid or {}, n_seeds=n_seeds, overrides=of_recipe)
    chosen = machine or Machine()
    first_of = {cell.variant: cell for cell in reversed(made)}
    names = list(dict.fromkeys(cell.variant for cell in made))
    entries: tuple[Entry, ...] = ()
    for name in names:  # each may be of other videos, with other shards
        order = place(
            recipe=first_of[name].recipe, overrides=of_benchmarks, suite=suite, machine=chosen, dry_run=dry_run,
        )  # fmt: skip
        entries = tuple(one for one in order.entries if not benchmarks or one.benchmark in benchmarks)
    found = StudyOrder(title, made, entries, reference or _reference(names), frozenset(rerun), chosen, dry_run)
    _check(found, names)
    return found


def _reference(names: Sequence[str]) -> str:
    return UNTRAINED if UNTRAINED in names else names[0]


def _check(order: StudyOrder, names: Sequence[str]) -> None:
    machine = order.machine
    if machine.cells_at_once > 1 and machine.launcher == "local" and machine.hosts.n > 1:
        raise ValueError(
            f"{machine.cells_at_once} cells at once share one host, but {machine.hosts.n} hosts are to pretrain "
            "together. Set Machine.cells_at_once or Machine.hosts.n to 1."
        )
    if order.reference not in names:
        raise ValueError(f"cannot compare with {order.reference!r}. Known: {', '.join(names)}.")
    of_benchmarks = [f"evaluate/{entry.benchmark}" for entry in order.entries]
    known = [*PARTS, *of_benchmarks, *names, *(cell.name for cell in order.cells)]
    if unknown := sorted(order.rerun - set(known)):
        raise ValueError(f"cannot rerun {'; '.join(unknown)}. Known: {'; '.join(known)}.")
