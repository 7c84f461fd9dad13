"""Many encoders, measured alike: a study's cells as one mapped run of the Prefect flow `dora`, and their table.

Deployments `ablation` and `learning`. Cells share every artifact that they have in common: videos, shards, data sets,
and whatever an earlier run has finished.
"""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from dora import recipes
from dora.artifacts import Checkpoint, Machine, Shards
from dora.progress import Progress
from dora.training.stage import check as check_training
from eval.covering import Covering, covering, is_known
from eval.report import RunFacts
from eval.study import Cell, Made, Study, unlearnt
from eval.study import study as write_study
from eval.study.cells import UNLEARNT
from eval.study.data import SCORES
from flows import retries, shown, stages
from flows.data import prepare
from flows.ends import Future, facts, problems
from flows.launch import stages_stop_with_the_run
from flows.pipeline import SuiteName
from flows.shown import Board
from flows.side_by_side import side_by_side
from flows.study_order import StudyOrder, place_study
from flows.study_plan import plan_study

log = logging.getLogger("flows.study")

Variant = Annotated[str, Field(json_schema_extra={"enum": [*UNLEARNT, *recipes.choices()]})]


class Encoder(NamedTuple):
    """A cell under way."""

    cell: Cell
    checkpoint: Future  # or a Checkpoint that needs no training
    scores: dict[str, Future]
    covering: Future | None


# How many stages there are at once, side_by_side says.
AS_MANY_AS_ASKED: Any = ThreadPoolTaskRunner()


@flow(name="dora", task_runner=AS_MANY_AS_ASKED, persist_result=False)
def study(
    variants: tuple[Variant, ...] = ("demo",), grid: dict[str, list[Any]] | None = None, n_seeds: int = 1,
    overrides: tuple[str, ...] = (), suite: SuiteName = "miniature", benchmarks: tuple[str, ...] = (),
    reference: str | None = None, rerun: tuple[str, ...] = (), title: str = "DoRA: a study",
    machine: Machine | None = None, dry_run: bool = False,
) -> State[Any]:  # fmt: skip
    """Learn an encoder for every variant, value of the grid and seed, measure them alike, put them in one table.

    Args:
        variants: recipes and ablations by name; "untrained": networks that have learnt nothing; "raw-pixels": patches
        grid: path in the recipe -> values, such as {"pretrain.tracking.n_objects": [1, 3]}; every combination is run
        n_seeds: trainings of each, from the seeds 0, 1, …
        overrides: single values that hold in every cell, such as pretrain.epochs=10 or davis.top_k=7
        suite: which benchmarks and how: paper, short, miniature, learning
        benchmarks: only these of the suite; none named: all
        reference: the variant that the others are compared with; by default "untrained" if it is there, or the first
        rerun: what to make again although it is finished: a cell ("demo/k=1 seed 0"), all seeds of a variant
            ("demo/k=1"), acquire, shard, pretrain, evaluate, evaluate/davis, study
        title: of the page
        machine: folders, devices, processes; what is left out comes from DORA_* variables and machine.toml
        dry_run: make nothing; say of each encoder what is there, what would be made and why, and what that takes
    """
    with stages.logged_in_prefect(), stages_stop_with_the_run():
        try:
            order = place_study(
                variants=variants, grid=grid, n_seeds=n_seeds, overrides=overrides, suite=suite, benchmarks=benchmarks,
                reference=reference, rerun=rerun, title=title, machine=machine, dry_run=dry_run,
            )  # fmt: skip
            return shown.plan(plan_study(order)) if dry_run else _carry_out(order)
        except (ValueError, OSError) as error:
            return Failed(message=str(error))


def _carry_out(order: StudyOrder) -> State[Any]:
    """Carry every cell's stages out, tabulate. What fails stops only what needs it."""
    started = time.monotonic()
    footage: dict[str, list[Future]] = {}
    trouble: list[str] = []
    _check(order)
    for cell in order.cells:
        if cell.trained and cell.footage not in footage:
            videos, footage[cell.footage] = prepare(order.footage(cell))
            trouble += problems(*videos, *footage[cell.footage])
    # All of them now: they draw from this process's generator, and so does what later works beside one another in it.
    fresh = [None if cell.trained else unlearnt(cell, order.machine) for cell in order.cells]
    works = [partial(_measured, order, cell, one, footage) for cell, one in zip(order.cells, fresh, strict=True)]
    encoders = side_by_side(works, order.machine)
    for one in encoders:
        of_cell = [*_trained(one), *one.scores.values(), *([one.covering] if one.covering else [])]
        trouble += [f"{one.cell.name}: {problem}" for problem in problems(*of_cell)]
    made = [_finished(one) for one in encoders if _has_ended_well(one.checkpoint)]
    if not made:
        return Failed(message="\n".join(trouble))
    written: Future = tabulate.submit(
        order.title, made, order.machine, reference=order.reference, failures=_failures(encoders),
        run=facts(study, time.monotonic() - started, otherwise="ablation"), rerun=order.again("study"),
    )  # fmt: skip
    trouble += problems(written)
    if trouble and written.state.is_completed():
        trouble.append(f"The study of the rest: {written.result().path}")
    return Failed(message="\n".join(trouble)) if trouble else Completed(message=f"{len(made)} encoders measured")


def _check(order: StudyOrder) -> None:
    """Refuse variants that cannot be trained, by name, before any footage is made."""
    wrong: list[str] = []
    for cell in order.cells:
        if cell.trained and cell.seed == 0:
            try:
                check_training(cell.recipe.pretrain, order.machine)
            except (ValueError, OSError) as error:
                wrong.append(f"{cell.variant}: {error}")
    if wrong:
        raise ValueError("\n".join(wrong))


def _measured(
    order: StudyOrder, cell: Cell, fresh: Checkpoint | None, footage: Mapping[str, Sequence[Future]], machine: Machine
) -> Generator[Future, None, Encoder]:
    """The training of a cell, if it has one, and after it what measures it: one thing at a time."""
    log.info("encoder %d of %d: %s", 1 + order.cells.index(cell), len(order.cells), cell.name)
    checkpoint: Future = fresh  # or the encoder itself
    covered: Future | None = None
    if cell.trained:
        training: Any = stages.pretrain.with_options(task_run_name=f"pretrain {cell.name}")
        again = order.again("pretrain", cell)
        shards = footage[cell.footage]
        checkpoint = training.submit(shards, cell.recipe.pretrain, machine, rerun=again)
        yield checkpoint
        if is_known(cell.recipe):
            covered = cover.submit(checkpoint, shards, cell, machine, rerun=order.again("evaluate", cell))
            yield covered
    scores: dict[str, Future] = {}
    for entry in order.entries:
        measuring: Any = stages.evaluate.with_options(task_run_name=f"evaluate {entry.benchmark}: {cell.name}")
        again = order.again("evaluate", cell, entry.benchmark)
        scores[entry.benchmark] = measuring.submit(checkpoint, order.entry(entry, cell), machine, rerun=again)
        yield scores[entry.benchmark]
    return Encoder(cell, checkpoint, scores, covered)


@task(task_run_name="cover {cell.name}", cache_policy=NO_CACHE, persist_result=False, **retries.OPTIONS)
def cover(
    checkpoint: Checkpoint, shards: Sequence[Shards], cell: Cell, machine: Machine, *, rerun: bool
) -> State[Covering]:
    """How well the masks of an encoder cover what is there, over its training."""

    def measure(told: Progress) -> Covering:
        return covering(checkpoint, shards, cell.recipe, machine, rerun=rerun, progress=told)

    return stages.finish(f"cover {cell.name}", measure)


@task(task_run_name="study", cache_policy=NO_CACHE, persist_result=False, **retries.OPTIONS)
def tabulate(
    title: str, made: Sequence[Made], machine: Machine, *, reference: str, failures: Mapping[str, str], run: RunFacts,
    rerun: bool,
) -> State[Study]:  # fmt: skip
    """The page about all of them, and its essence as Prefect artifacts."""

    def write(told: Progress) -> Study:
        found = write_study(
            title, made, machine, reference=reference, failures=failures, run=run, rerun=rerun, progress=told
        )
        _show(found)
        return found

    return stages.finish("study", write)


def _show(found: Study) -> None:
    board = Board()
    board.show("link", "study", f"[{found.path}]({found.path.as_uri()})", "open it in a browser")
    board.show("markdown", "study-scores", found.markdown_path.read_text(encoding="utf-8"))
    plot = (found.folder / SCORES).read_bytes()
    board.show("image", "study-plot", shown.data_url(plot, "svg+xml"), "every seed's score")


def _trained(one: Encoder) -> list[Future]:
    return [one.checkpoint] if one.cell.trained else []


def _has_ended_well(checkpoint: Future | Checkpoint) -> bool:
    return isinstance(checkpoint, Checkpoint) or checkpoint.state.is_completed()


def _finished(one: Encoder) -> Made:
    checkpoint = one.checkpoint if isinstance(one.checkpoint, Checkpoint) else one.checkpoint.result()
    scores = [score.result() for score in one.scores.values() if score.state.is_completed()]
    covered = one.covering.result() if one.covering and one.covering.state.is_completed() else None
    return Made(one.cell, checkpoint, scores, covered)


def _failures(encoders: Sequence[Encoder]) -> dict[str, str]:
    """Of cells without an encoder, and of scores that failed themselves."""
    found: dict[str, str] = {}
    for one in encoders:
        if not _has_ended_well(one.checkpoint):
            found[one.cell.name] = str(one.checkpoint.state.message)
            continue
        parts = one.scores | ({"covering": one.covering} if one.covering else {})
        failed = {name: part.state for name, part in parts.items() if not part.state.is_completed()}
        found |= {f"{one.cell.name}, {name}": str(state.message) for name, state in failed.items()}
    return found
