"""What a study would do, found out without doing any of it: the study's `dry_run`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dora.artifacts import Artifact, Checkpoint, Shards
from dora.cache import human_size
from eval.covering import Covering, covering, is_known
from eval.study import Cell, Made, unlearnt
from eval.study import study as write_study
from flows.plan import NOBODY, Plan, Planner, Step
from flows.study_order import StudyOrder


class StudyPlan(Plan):
    """A study before it starts; told encoder by encoder, as it has hundreds of steps."""

    def rows(self) -> list[dict[str, str]]:
        """What encoders share, step by step, the encoders, and their table, as a table of texts."""
        return [
            {
                "what": name, "steps": part.outcome, "time": part.work, "on disk": human_size(part.new_bytes),
                "why": "; ".join(_reasons(part)),
            }
            for name, part in self._parts().items()
        ]  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The same for a log: a line each, then the sums."""
        for name, part in self._parts().items():
            is_work = any(step.action in ("make", "depends") for step in part.steps)
            yield ": ".join([name, part.outcome, *([part.work] if is_work else []), *_reasons(part)])
        yield self.summary

    def _parts(self) -> dict[str, Plan]:
        parts: dict[str, list[Step]] = {}
        for step in self.steps:
            parts.setdefault(step.cell or step.name, []).append(step)
        return {name: Plan(steps=tuple(steps)) for name, steps in parts.items()}


def plan_study(order: StudyOrder) -> StudyPlan:
    """What would become of each stage of each cell; nothing is made."""
    footage: dict[str, tuple[Planner, list[Shards | None]]] = {}
    of_cells: list[Step] = []
    made: list[Made | None] = []
    with TemporaryDirectory() as scratch:
        aside = order.machine.model_copy(update={"root": Path(scratch)})  # for networks that nobody trains
        for cell in order.cells:
            planner = Planner(order.of_cell(cell), cell=cell.name)
            shards: list[Shards | None] = []
            if cell.trained:
                if cell.footage not in footage:
                    of_footage = Planner(order.footage(cell))
                    footage[cell.footage] = of_footage, of_footage.footage()[1]
                before, shards = footage[cell.footage]
                planner.steps += before.of("shard")
            n_before = len(planner.steps)
            made.append(_planned(planner, cell, shards, None if cell.trained else unlearnt(cell, aside)))
            of_cells += planner.steps[n_before:]
    shared = [step for planner, _ in footage.values() for step in planner.steps]
    last = Planner(order.footage(order.cells[0]))
    last.steps += [*shared, *of_cells]
    _tabulate(last, order, made)
    return StudyPlan(steps=tuple(last.steps))


def _planned(planner: Planner, cell: Cell, shards: Sequence[Shards | None], fresh: Checkpoint | None) -> Made | None:
    """Look at all stages of a cell; itself, if all of it is there."""
    checkpoint = planner.pretrain(shards) if cell.trained else fresh
    is_covered = cell.trained and is_known(cell.recipe)
    covered = _cover(planner, cell, checkpoint, shards) if is_covered else None
    scores = [planner.evaluate(entry, checkpoint) for entry in planner.order.entries]
    found = [score for score in scores if score]
    if checkpoint is None or len(found) < len(scores) or (is_covered and covered is None):
        return None
    return Made(cell, checkpoint, found, covered)


def _cover(
    planner: Planner, cell: Cell, checkpoint: Checkpoint | None, shards: Sequence[Shards | None]
) -> Covering | None:
    there = [one for one in shards if one]
    rerun = planner.order.again("evaluate")

    def measure() -> Covering | None:
        if checkpoint is None or len(there) < len(shards):
            return None
        return covering(checkpoint, there, cell.recipe, planner.order.machine, rerun=rerun)

    return planner.look(
        "cover", cell.name, measure, after=planner.of("pretrain"), estimate=lambda: planner.earlier.last("covering")
    )


def _tabulate(planner: Planner, order: StudyOrder, made: Sequence[Made | None]) -> None:
    there = [one for one in made if one]

    def write() -> Artifact | None:
        if len(there) < len(made):
            return None
        return write_study(
            order.title, there, order.machine, reference=order.reference, failures={}, run=NOBODY,
            rerun=order.again("study"),
        )  # fmt: skip

    # What fails does not keep the table of the rest from being written, if there is a rest.
    is_any = not all(cell.trained for cell in order.cells) or any(
        step.action != "fail" for step in planner.of("pretrain")
    )
    before = [step for step in planner.steps if step.action != "fail" or not is_any]
    planner.look("study", "", write, after=before, estimate=lambda: planner.earlier.last("study"), is_last=True)


def _reasons(part: Plan) -> Iterator[str]:
    """Why there is something to do: what is to be made of it first, and whatever will fail."""
    for number, step in enumerate(step for step in part.steps if step.action != "reuse"):
        if number == 0 or step.action == "fail":
            yield step.why
