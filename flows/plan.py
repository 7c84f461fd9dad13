"""What a run would do, found out without doing any of it: the flow's `dry_run`.

python -m flows.plan recipe=demo 'rerun=["evaluate"]'    # prints it as JSON; parameters as the flow's, without Prefect
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from dora.artifacts import Artifact, Checkpoint, Shards, Video
from dora.cache import Look, Looked, human_size, looking, span
from dora.config import Frozen
from dora.data import shards as sharding
from dora.data import video as videos
from dora.inventory import nearest
from dora.lease import Lease
from dora.planning.measured import Earlier, Estimate, again
from dora.training import stage as training
from eval import benchmark
from eval import report as reporting
from eval.benchmark import Score
from eval.report import RunFacts
from eval.suites import Entry
from flows.order import Order, Stage, place

A = TypeVar("A", bound=Artifact)
MOST_DIFFERENCES = 4
Part = Stage | Literal["cover", "study"]  # the last two are a study's own
Action = Literal["reuse", "make", "depends", "fail"]
WORDS: dict[Action, str] = {"reuse": "reused", "make": "made", "depends": "perhaps made", "fail": "will fail"}
ARTIFACTS: dict[Part, str] = {
    "acquire": "video", "shard": "shards", "pretrain": "checkpoint", "cover": "covering", "evaluate": "score-",
    "report": "report", "study": "study",
}  # fmt: skip
NOBODY = RunFacts(name="plan", seconds=0, commands=())
COUNTED: dict[Action, str] = {"reuse": "to reuse", "make": "to make", "depends": "perhaps to make", "fail": "will fail"}


class Step(Frozen):
    """What would become of one stage, or of one benchmark."""

    stage: Part
    name: str
    cell: str = Field(default="", description="of a study: the encoder whose step it is; empty: what cells share")
    action: Action = Field(description="depends: made again only if its input comes out different")
    why: str
    folder: Path | None = Field(description="null: not known before what it is made from")
    seconds: float | None = Field(description="0 if reused; null: not known")
    size_bytes: float | None = Field(description="on disk; null: not known")
    source: str = Field(description="of the seconds")


class Plan(Frozen):
    """A run before it starts."""

    steps: tuple[Step, ...]

    @property
    def summary(self) -> str:
        """One sentence: how much is there, how long the rest takes as far as that is known."""
        return f"{self.outcome}: {self.work}; {human_size(self.new_bytes)} of new files"

    @property
    def outcome(self) -> str:
        """Of how many steps what becomes."""
        counts = {action: sum(step.action == action for step in self.steps) for action in WORDS}
        return ", ".join(f"{counts[action]} {words}" for action, words in COUNTED.items() if counts[action])

    @property
    def work(self) -> str:
        """How long it takes, as far as that is known."""
        known, perhaps, unknown = self.seconds("make"), self.seconds("depends"), self.n_unknown
        if unknown and not known + perhaps:
            return "of unknown length"
        times = [f"{span(known)} of work"]
        if perhaps:
            times.append(f"perhaps {span(perhaps)} more")
        if unknown:
            times.append(f"not counting {unknown} of unknown length")
        return ", ".join(times)

    @property
    def new_bytes(self) -> float:
        """What is written, as far as that is known."""
        return sum(step.size_bytes or 0 for step in self.steps if step.action == "make")

    @property
    def n_unknown(self) -> int:
        """Steps to be made of which nobody knows how long they take."""
        return sum(step.action in ("make", "depends") and step.seconds is None for step in self.steps)

    def seconds(self, action: Action) -> float:
        """Of all steps of a kind, as far as known."""
        return sum(step.seconds or 0 for step in self.steps if step.action == action)

    def rows(self) -> list[dict[str, str]]:
        """The steps as a table of texts."""
        return [
            {
                "stage": step.name, "will be": WORDS[step.action], "time": _time(step),
                "on disk": human_size(step.size_bytes) if step.size_bytes is not None else "not known",
                "why": step.why, "time from": step.source, "folder": str(step.folder or ""),
            }
            for step in self.steps
        ]  # fmt: skip

    def lines(self) -> Iterator[str]:
        """The same for a log: a line each, then the sums."""
        for step in self.steps:
            took = "" if step.action in ("reuse", "fail") else f", {_time(step)} ({step.source})"
            yield f"{step.name}: {WORDS[step.action]}{took}: {step.why}"
        yield self.summary


class Planner:
    """Goes through the stages as flows/pipeline.py does, and only looks; of a study's cell, by its name."""

    def __init__(self, order: Order, *, cell: str = "") -> None:
        self.order, self.earlier, self.cell = order, Earlier(order.recipe, order.machine), cell
        self.steps: list[Step] = []

    def plan(self) -> Plan:
        """All steps in their order."""
        order = self.order
        checkpoint = benchmark.checkpoint_from_file(order.checkpoint) if order.checkpoint else None
        made: list[Video | None] = []
        shards: list[Shards | None] = []
        if not checkpoint:
            made, shards = self.footage()
            if order.includes("pretrain"):
                checkpoint = self.pretrain(shards)
        scores: list[Score | None] = []
        if order.includes("evaluate"):
            scores = [self.evaluate(entry, checkpoint) for entry in order.entries]
        if order.includes("report"):
            self._report(made, shards, checkpoint, scores)
        return Plan(steps=tuple(self.steps))

    def footage(self) -> tuple[list[Video | None], list[Shards | None]]:
        """The recipe's videos, and the shards of each if the order goes as far."""
        configs = self.order.recipe.videos
        made = [self._acquire(index) for index in range(len(configs))]
        if not self.order.includes("shard"):
            return made, []
        return made, [self._shard(config.name, one) for config, one in zip(configs, made, strict=True)]

    def pretrain(self, shards: Sequence[Shards | None]) -> Checkpoint | None:
        """What is learnt from the shards."""
        config, machine, rerun = self.order.recipe.pretrain, self.order.machine, self.order.again("pretrain")
        there = [one for one in shards if one]
        return self.look(
            "pretrain", self.cell or config.backbone.architecture,
            lambda: training.pretrain(there, config, machine, rerun=rerun) if len(there) == len(shards) else None,
            after=self.of("shard"), estimate=lambda: self.earlier.checkpoint(config),
        )  # fmt: skip

    def evaluate(self, entry: Entry, checkpoint: Checkpoint | None) -> Score | None:
        """What a benchmark says of the encoder."""
        name, machine, rerun = entry.benchmark, self.order.machine, self.order.again("evaluate", entry.benchmark)
        values: dict[str, Any] = {}

        def measure() -> Score | None:
            dataset = entry.dataset(machine)
            config = benchmark.configure(name, dataset, entry.overrides, preset=entry.preset)
            values.update(config.model_dump(mode="json"))
            if checkpoint is None:
                benchmark.check(name, config, machine, dataset=dataset)
                return None
            return benchmark.score(checkpoint, name, config, machine, dataset=dataset, rerun=rerun)

        def estimate() -> Estimate:
            if entry.world and not values:
                return self.earlier.last(f"score-{name}")
            cost = "not measured here" if entry.world else benchmark.load(name).COST
            return self.earlier.score(f"score-{name}", values, cost)

        told = f"{name}: {self.cell}" if self.cell else name
        return self.look("evaluate", told, measure, after=self.of("pretrain"), estimate=estimate)

    def of(self, stage: Part) -> list[Step]:
        """The stage's steps so far."""
        return [step for step in self.steps if step.stage == stage]

    def _acquire(self, index: int) -> Video | None:
        config, machine, rerun = self.order.recipe.videos[index], self.order.machine, self.order.again("acquire")
        return self.look(
            "acquire", config.name, lambda: videos.acquire(config, machine, index=index, rerun=rerun),
            estimate=lambda: self.earlier.video(config),
        )  # fmt: skip

    def _shard(self, name: str, video: Video | None) -> Shards | None:
        config, machine, rerun = self.order.recipe.shards, self.order.machine, self.order.again("shard")
        return self.look(
            "shard", name, lambda: sharding.shard(video, config, machine, rerun=rerun) if video else None,
            after=[step for step in self.of("acquire") if step.name == f"acquire {name}"],
            estimate=lambda: self.earlier.shards(name),
        )  # fmt: skip

    def _report(
        self, made: Sequence[Video | None], shards: Sequence[Shards | None], checkpoint: Checkpoint | None,
        scores: Sequence[Score | None],
    ) -> None:  # fmt: skip
        order, there = self.order, [score for score in scores if score]

        def write() -> Artifact | None:
            if checkpoint is None or len(there) < len(scores):
                return None
            return reporting.report(
                order.recipe, [one for one in made if one], [one for one in shards if one], checkpoint, there,
                order.machine, failures={}, run=NOBODY, rerun=order.again("report"),
            )  # fmt: skip

        # What is before a benchmark that cannot be measured does not keep the report from being written.
        before = [step for step in self.steps if step.stage != "evaluate" or step.action != "fail"]
        self.look("report", "", write, after=before, estimate=lambda: self.earlier.last("report"), is_last=True)

    def look(
        self, stage: Part, part: str, call: Callable[[], A | None], *, after: Sequence[Step] = (),
        estimate: Callable[[], Estimate], is_last: bool = False,
    ) -> A | None:  # fmt: skip
        """Note what a stage would do; its artifact, if that is known."""
        artifact, problem = None, ""
        with looking(returns=not is_last) as looks:
            try:
                artifact = call()
            except Looked:
                pass
            except (ValueError, OSError) as error:
                problem = str(error)
        name = f"{stage} {part}".strip()
        if failing := next((step for step in after if step.action == "fail"), None):
            problem = problem or f"it needs {failing.name}, which will fail"
        if problem:
            self._note(stage, name, "fail", problem, Estimate(), looks)
            return None
        action, why = self._verdict(stage, looks, after)
        found = Estimate(0, None, "") if action == "reuse" else _as_before(stage, looks) or estimate()
        self._note(stage, name, action, why, found, looks)
        return artifact

    def _note(self, stage: Part, name: str, action: Action, why: str, found: Estimate, looks: Sequence[Look]) -> None:
        own = next((look for look in looks if _is_of(stage, look)), None)
        size = again(own.manifest).size_bytes if own and own.manifest else found.size_bytes
        step = Step(
            stage=stage, name=name, cell=self.cell, action=action, why=why, folder=own.folder if own else None,
            seconds=found.seconds, size_bytes=size, source=found.source,
        )  # fmt: skip
        self.steps.append(step)

    def _verdict(self, stage: Part, looks: Sequence[Look], before: Sequence[Step]) -> tuple[Action, str]:
        to_make = [look for look in looks if not look.is_reused]
        reasons = [self._why(look) for look in to_make]
        is_known = bool(looks) and (bool(to_make) or _is_of(stage, looks[-1]))
        if not is_known or (to_make and not _is_of(stage, looks[-1])):
            missing = [step.name for step in before if step.action in ("make", "depends")]
            if missing:
                reasons.append(f"after {_listed(missing)}, whose outcome it is made from")
        if reasons or not is_known:
            return "make", "; ".join(reasons) or "what it is made from is not there yet"
        unsure = [step.name for step in before if step.action in ("make", "depends")]
        if unsure:
            return "depends", f"it is finished, and kept if {_listed(unsure)} comes out the same"
        return "reuse", f"finished {looks[-1].manifest.created[:16]}" if looks[-1].manifest else ""

    def _why(self, look: Look) -> str:
        machine, request = self.order.machine, look.request
        if look.why_again:
            return f"{request.stage} {request.fingerprint[:8]}: {look.why_again}"
        if owner := Lease(look.folder, timeout_s=machine.lease_timeout_s).owner():
            return f"{owner} is making {request.stage} {request.fingerprint[:8]} now, and will be waited for"
        if look.folder.exists():
            return f"{request.stage} {request.fingerprint[:8]} was begun and is gone on with"
        near = nearest(machine.root, request)
        if near is None:
            return f"there is no {request.stage} yet"
        entry, differences = near
        more = f" and {len(differences) - MOST_DIFFERENCES} more" if len(differences) > MOST_DIFFERENCES else ""
        return f"unlike {entry.name}, the nearest that is there: {'; '.join(differences[:MOST_DIFFERENCES])}{more}"


def plan(order: Order) -> Plan:
    """What would become of each stage of a run; nothing is made, and nothing but a user's own video is read whole."""
    return Planner(order).plan()


def main(arguments: Sequence[str]) -> int:
    """Print the plan of the flow's parameters, each NAME=VALUE with a value in JSON or a bare word."""
    try:
        print(plan(place(**dict(map(_parameter, arguments)), dry_run=True)).model_dump_json(indent=1))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _as_before(stage: Part, looks: Sequence[Look]) -> Estimate | None:
    """What is made again takes as long as before."""
    return next((again(look.manifest) for look in looks if look.manifest and _is_of(stage, look)), None)


def _is_of(stage: Part, look: Look) -> bool:
    """Whether this is the stage's own artifact, and not the verification of a video or a rendered data set."""
    return look.request.stage.startswith(ARTIFACTS[stage])


def _time(step: Step) -> str:
    return "not known" if step.seconds is None else span(step.seconds) if step.seconds else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"expected NAME=VALUE, got {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
