"""The order: acquire -> shard -> pretrain -> evaluate -> report, as the Prefect flow `dora`."""

import time
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from dora import recipes
from dora.artifacts import Checkpoint, Machine
from dora.config import Recipe
from dora.training.stage import check as check_training
from eval import suites
from eval.benchmark import checkpoint_from_file
from flows import shown, stages
from flows.data import prepare
from flows.ends import Future, facts, problems
from flows.launch import n_devices, stages_stop_with_the_run
from flows.order import Order, Stage, place
from flows.plan import plan

# Strings to Python, choices in Prefect's form and in what its server accepts.
RecipeName = Annotated[str, Field(json_schema_extra={"enum": [*recipes.choices()]})]
SuiteName = Annotated[str, Field(json_schema_extra={"enum": list(suites.names())})]


# One stage at a time: each uses all cores, or all GPUs, of the machine.
ONE_BY_ONE: Any = ThreadPoolTaskRunner(max_workers=1)


@flow(name="dora", task_runner=ONE_BY_ONE, persist_result=False)
def dora(
    recipe: RecipeName | Recipe = "demo", overrides: tuple[str, ...] = (), suite: SuiteName = "miniature",
    videos: tuple[str, ...] = (), checkpoint: Path | None = None, rerun: tuple[str, ...] = (), until: Stage = "report",
    machine: Machine | None = None, dry_run: bool = False,
) -> State[Any]:  # fmt: skip
    """Learn an image encoder from walking-tour videos with DoRA, measure it, report. Finished stages are reused.

    Args:
        recipe: everything that changes the encoder: a name, or a whole recipe
        overrides: single values to change, such as pretrain.epochs=10 or davis.top_k=7
        suite: which benchmarks and how: paper; short (real data, less training, under ids of its own); miniature
            (toys); learning (four times as many of them, k-NN's 16, depth's 8)
        videos: learn from these instead: files, http(s) addresses, cities of the walking tours, text files of such
        checkpoint: evaluate this instead of pretraining: a file, or checkpoint/77e1 as `dora cache list` names it
        rerun: finished stages to make again: acquire, shard, pretrain, evaluate, evaluate/davis, report
        until: the last stage to run
        machine: folders, devices, processes; what is left out comes from DORA_* variables and machine.toml
        dry_run: make nothing; say what is there, what would be made and why, and what that takes
    """
    with stages.logged_in_prefect(), stages_stop_with_the_run():
        try:
            order = place(
                recipe=recipe, overrides=overrides, suite=suite, videos=videos, checkpoint=checkpoint, rerun=rerun,
                until=until, machine=machine, dry_run=dry_run,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            return Failed(message=str(error))
        if dry_run:
            return shown.plan(plan(order))
        return _carry_out(order)


def _carry_out(order: Order) -> State[Any]:
    """Submit every stage, wait, report. A stage that fails stops only what needs it."""
    started = time.monotonic()
    recipe, machine, again = order.recipe, order.machine, order.again
    videos: list[Future] = []
    shards: list[Future] = []
    encoder: list[Future] = []
    scores: dict[str, Future] = {}
    checkpoint: Checkpoint | Future = checkpoint_from_file(order.checkpoint) if order.checkpoint else None
    if not checkpoint:
        try:
            if order.includes("pretrain"):
                check_training(recipe.pretrain, machine)
            videos, shards = prepare(order)
        except (ValueError, OSError) as error:  # nothing that can be trained, or no cluster to prepare it on
            return Failed(message=str(error))
        if order.includes("pretrain"):
            checkpoint = stages.pretrain.submit(shards, recipe.pretrain, machine, rerun=again("pretrain"))
            encoder = [checkpoint]
    if order.includes("evaluate"):
        for entry in order.entries:
            rerun = again("evaluate", entry.benchmark)
            scores[entry.benchmark] = stages.evaluate.submit(checkpoint, entry, machine, rerun=rerun)
    made = [*videos, *shards, *encoder, *scores.values()]
    trouble = problems(*made)
    if order.includes("report") and all(one.state.is_completed() for one in encoder):
        written: Future = stages.report.submit(
            recipe, videos, shards, checkpoint,
            [score for score in scores.values() if score.state.is_completed()], machine,
            failures={name: score.state.message for name, score in scores.items() if not score.state.is_completed()},
            run=facts(dora, time.monotonic() - started, otherwise="demo"), rerun=again("report"),
        )  # fmt: skip
        made.append(written)
        trouble += problems(written)
        if trouble and written.state.is_completed():
            trouble.append(f"The report about the rest: {written.result().path}")
    finished = [one.result() for one in made if one.state.is_completed()]
    shown.costs(finished, n_devices=n_devices(machine, at_most=recipe.pretrain.processes_at_most))
    return Failed(message="\n".join(trouble)) if trouble else Completed(message=f"done up to {order.until}")
