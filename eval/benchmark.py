"""The contract of a benchmark, and how one becomes a Score.

A benchmark is one file in eval/benchmarks that has what `Benchmark` lists; the folder is the registry. It runs in a
process of its own, so that one that crashes takes nothing else down.
"""

import hashlib
import importlib
import json
import math
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from pydantic import Field

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Machine
from dora.config import Frozen
from dora.data import miniature
from dora.data.miniature import World
from dora.launch import Launch, run_here
from dora.progress import Progress, silent
from dora.recipes import override
from dora.training.job import HowFar, read_progress, write_progress
from eval import benchmarks

JOB, METRICS, COST = ".job.json", "metrics.json", "cost.json"
# Which files of a benchmark's folder tell how it went rather than what came out: the same again has other times.
RECORDS = (COST, "log.jsonl", "tensorboard/*", "speed.json", "results/GOT-10k/*_time.txt", "results/GOT-10k/*.zip")
# The world of the miniature data sets, unless a suite names another.
MINIATURE_WORLD = World(seed=1000, width=320, height=180)


class Cost(Frozen):
    """What measuring took, training on labels included."""

    device: str = Field(description="name of the GPU, or of the processor")
    n_devices: int = Field(description="that worked at once; processes on a CPU")
    seconds: float = Field(description="wall clock, over all interruptions")
    memory_bytes: int = Field(description="peak of one process, on its device")
    device_seconds: float | None = Field(
        default=None, description="over all interruptions, should others have had more or fewer devices"
    )
    energy_kwh: float | None = Field(default=None, description="of all GPUs over all interruptions, where they tell it")

    @property
    def device_hours(self) -> float:
        """Devices times hours, as clusters bill."""
        return (self.n_devices * self.seconds if self.device_seconds is None else self.device_seconds) / 3600


class Result(NamedTuple):
    """What a benchmark measured."""

    metrics: dict[str, float]  # in percent where the field prints percent
    pictures: tuple[str, ...]  # file names in its output folder
    n_samples: int
    notes: tuple[str, ...] = ()  # sentences that belong beside the numbers, such as images that could not be read
    cost: Cost | None = None


@runtime_checkable
class Benchmark(Protocol):
    """What a file in eval/benchmarks defines. The heavy libraries are imported inside its functions.

    It may also define PARALLEL = True: its job runs in several processes under torchrun where the machine has several
    devices, each of which calls `evaluate`; shares, a function from a Config to the parts that a batch has, where these
    are not its samples, as no more processes are started; PRESETS, a dict from a name to a Config that differs from the
    paper's, such as "short", whose protocol id ends with that name; ON_REQUEST = True: no suite holds it, for it takes
    days or data sets that few have, and `python -m eval NAME` measures it; and DRAWN_BY, the name of a benchmark whose
    miniature data set is also this one's: `miniature` then finds its files in the folder and only returns the Config.
    """

    __doc__: str | None  # first line: what is measured, as `python -m eval list` prints it
    VERSION: int  # raised in the commit that changes a score
    PROTOCOL: str  # short id, printed beside every number
    DATASET: str  # key in Machine.datasets
    HOW_TO_GET: str  # one sentence: where the data set comes from and which folder is meant
    HEADLINE: str  # the metric that the field quotes
    COST: str  # what the paper's protocol takes, and whether that was measured
    Config: type[Frozen]  # the paper's protocol as defaults, each value's source in a comment

    def check(self, data: Path, config: Any) -> dict[str, Any]:
        """Facts that identify the data (counts, hashes of its lists), found in seconds.

        Raises:
            FileNotFoundError: made by `missing`, for a file or folder that is not there.
            ValueError: for data that contradicts itself.
        """
        ...

    def evaluate(self, checkpoint: Checkpoint, config: Any, machine: Machine, out: Path, progress: Progress) -> Result:
        """Measure on `machine.datasets[DATASET]`, writing files into `out`; goes on from what it finds there."""
        ...

    def miniature(self, world: World, folder: Path, *, times: int = 1) -> Frozen:
        """Write a toy data set of rendered frames in the real layout; returns the Config that suits it.

        It is small, so that a demo takes minutes. `times` as many samples, on which heads are trained that much
        longer, tell encoders apart that differ less.
        """
        ...


class Dataset(Artifact):
    """A miniature data set in a benchmark's real layout."""

    name: str
    world: World
    times: int = Field(default=1, description="as large as the smallest")
    config: dict[str, Any] = Field(description="the benchmark's Config for this toy set")


class Score(Artifact):
    """What one benchmark says about one checkpoint."""

    benchmark: str
    protocol: str
    metrics: dict[str, float]
    headline: str = Field(description="key in metrics")
    pictures: tuple[str, ...] = Field(description="file names in the folder")
    n_samples: int
    seconds: float
    notes: tuple[str, ...] = Field(default=(), description="sentences that belong beside the numbers")
    cost: Cost | None = None


class Job(Frozen):
    """What the process of one benchmark is told."""

    benchmark: str
    checkpoint: Checkpoint
    config: dict[str, Any]
    machine: Machine
    folder: Path


def names() -> list[str]:
    """Every benchmark there is: the files of eval/benchmarks."""
    return sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))


def load(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ValueError: for an unknown name, or a file that lacks a part of the contract.
    """
    if name not in names():
        raise ValueError(f"unknown benchmark {name!r}. Known: {', '.join(names())}.")
    module = importlib.import_module(f"eval.benchmarks.{name}")
    lacking = [
        part for part in (*Benchmark.__annotations__, "check", "evaluate", "miniature") if not hasattr(module, part)
    ]
    if lacking or not module.__doc__:
        raise ValueError(f"{module.__file__} lacks {', '.join(lacking) or 'a docstring'}; see eval/benchmark.py.")
    return cast(Benchmark, module)


def missing(what: str, data: Path, benchmark: str) -> FileNotFoundError:
    """The error for data that is not there: what, where, how to get it and where to name it."""
    module = load(benchmark)
    return FileNotFoundError(
        f"{benchmark}: no {what} in {data}. {module.HOW_TO_GET} "
        f"Then set DORA_DATASETS__{module.DATASET.upper()}=<folder>, or {module.DATASET} in machine.toml's [datasets]."
    )


def is_parallel(name: str) -> bool:
    """Whether the benchmark's job may run in several processes under torchrun."""
    return getattr(load(name), "PARALLEL", False)


def processes_at_most(name: str, config: Frozen) -> int | None:
    """Among how many processes the job can be shared: one a sample of a training batch; None: any number."""
    if not is_parallel(name):
        return 1
    shares = getattr(load(name), "shares", None)
    return shares(config) if shares else getattr(config, "batch_size", None)


def is_on_request(name: str) -> bool:
    """Whether the benchmark is measured only when it is asked for by its name."""
    return getattr(load(name), "ON_REQUEST", False)


def drawn_by(name: str) -> str:
    """The benchmark whose `miniature` draws this one's data set: another's, or its own."""
    return getattr(load(name), "DRAWN_BY", name)


def from_seed(name: str, seed: int) -> tuple[str, ...]:
    """The override that has what trains on labels begin from this seed; none for a benchmark that draws nothing.

    The first seed is the protocol's own, so that its score is the one that other runs have and keep.
    """
    return (f"seed={seed}",) if seed and has_seed(name) else ()


def has_seed(name: str) -> bool:
    """Whether the benchmark draws anything, such as the weights of a head."""
    return "seed" in load(name).Config.model_fields


def presets(name: str) -> dict[str, Frozen]:
    """Configs of the benchmark that have a name of their own besides the paper's."""
    return getattr(load(name), "PRESETS", {})


def configure(
    name: str, dataset: Dataset | None = None, overrides: Sequence[str] = (), *, preset: str | None = None
) -> Frozen:
    """The Config of a benchmark, of one of its presets or of its miniature, with single values replaced ("top_k=7").

    Raises:
        ValueError: for an override that has no such field or a wrong value, or a preset that it has not.
    """
    if preset is not None and preset not in presets(name):
        raise ValueError(f"{name} has no preset {preset!r}. Known: {', '.join(presets(name)) or 'none'}.")
    standard = presets(name)[preset] if preset else load(name).Config.model_validate(dataset.config if dataset else {})
    return override(standard, overrides)


def check(name: str, config: Frozen, machine: Machine, *, dataset: Dataset | None = None) -> dict[str, Any]:
    """Facts that identify the data, or the benchmark's own error for data that is missing or broken."""
    module = load(name)
    folders = _with_data(machine, module, dataset).datasets
    if module.DATASET not in folders:
        raise missing(f"folder named for data set {module.DATASET!r}", Path("machine.toml or DORA_DATASETS"), name)
    return module.check(folders[module.DATASET], config)


def build_dataset(name: str, world: World, machine: Machine, *, times: int = 1, rerun: bool = False) -> Dataset:
    """The miniature data set of a benchmark, `times` as large as the smallest; rendered or reused."""
    module = load(name)
    if (drawer := drawn_by(name)) != name:
        drawn = build_dataset(drawer, world, machine, times=times, rerun=rerun)
        config = module.miniature(world, drawn.folder, times=times).model_dump(mode="json")
        return drawn.model_copy(update={"name": name, "config": config})

    def make(folder: Path) -> dict[str, Any]:
        return {"config": module.miniature(world, folder, times=times).model_dump(mode="json")}

    asked = world.model_dump(mode="json") | {"renderer": miniature.VERSION} | ({"times": times} if times > 1 else {})
    built = cache.build(machine, f"dataset-{name}", module.VERSION, asked, {}, make, rerun=rerun)
    return Dataset(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        name=name, world=world, times=times, config=built.manifest.facts["config"],
    )  # fmt: skip


def score(
    checkpoint: Checkpoint, name: str, config: Frozen, machine: Machine, *, dataset: Dataset | None = None,
    rerun: bool = False, progress: Progress = silent, launch: Launch = run_here,
) -> Score:  # fmt: skip
    """Evaluate a checkpoint in a process of its own, or reuse what was measured before.

    `dataset` is a miniature; without one the benchmark reads `machine.datasets`.

    Raises:
        FileNotFoundError, ValueError: for data that is missing or broken, before anything starts.
        LaunchError: if the process fails; it carries the end of what the process said.
    """
    module = load(name)
    facts = check(name, config, machine, dataset=dataset)
    asked = {"config": config.model_dump(mode="json"), "data": facts}
    inputs: dict[str, Artifact] = {"checkpoint": checkpoint}
    if dataset:
        inputs["dataset"] = dataset

    def make(folder: Path) -> dict[str, Any]:
        job = Job(
            benchmark=name, checkpoint=checkpoint, config=asked["config"],
            machine=_with_data(machine, module, dataset), folder=folder,
        )  # fmt: skip
        (folder / JOB).write_text(job.model_dump_json(indent=1))

        def poll() -> None:
            how_far = read_progress(folder)
            if how_far:
                progress(how_far.done, how_far.total, how_far.unit, how_far.note)

        launch([sys.executable, "-m", "eval", "--job", str(folder / JOB)], folder, poll)
        cost = folder / COST
        return json.loads((folder / METRICS).read_text()) | {"cost": json.loads(cost.read_text())}

    built = cache.build(machine, f"score-{name}", module.VERSION, asked, inputs, make, rerun=rerun, records=RECORDS)
    return Score(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        benchmark=name, protocol=protocol(name, config, dataset), headline=module.HEADLINE,
        seconds=built.manifest.seconds, **built.manifest.facts,
    )  # fmt: skip


def protocol(name: str, config: Frozen, dataset: Dataset | None) -> str:
    """The id printed beside a number, so that numbers of different protocols never share a column.

    The benchmark's PROTOCOL for its default Config on the real data; "-short" or the like for a preset, "-miniature"
    on toy data, "-miniature-x4" on four times as much; and six digits of the values that differ from that, if any do.
    """
    module = load(name)
    if not dataset:
        for preset, standard in presets(name).items():
            if config == standard:
                return f"{module.PROTOCOL}-{preset}"
    standard = module.Config.model_validate(dataset.config if dataset else {}).model_dump(mode="json")
    differing = {key: value for key, value in config.model_dump(mode="json").items() if value != standard[key]}
    if dataset and dataset.world != MINIATURE_WORLD:
        differing["world"] = dataset.world.model_dump(mode="json")
    digits = hashlib.sha256(json.dumps(differing, sort_keys=True).encode()).hexdigest()[:6]
    toy = ("-miniature" + (f"-x{dataset.times}" if dataset.times > 1 else "")) if dataset else ""
    return module.PROTOCOL + toy + (f"-{digits}" if differing else "")


def checkpoint_from_file(path: Path) -> Checkpoint:
    """A checkpoint file that is no artifact of ours, known by its content, and a config.json's beside it.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint file {path}. Pretraining leaves one as checkpoint/*/checkpoint.safetensors."
        )
    from dora.weights.read import config_beside

    path = path.absolute()
    digest = fingerprint = cache.sha256(path)
    if config := config_beside(path):  # which may say how many heads there are: another network
        fingerprint = hashlib.sha256((digest + json.dumps(config, sort_keys=True)).encode()).hexdigest()
    return Checkpoint(
        folder=path.parent, fingerprint=fingerprint, digest=digest, path=path, n_steps=0, n_clips=0, loss=None
    )


def run_job(path: Path) -> None:
    """Evaluate as a job file says and leave the result beside it: the work of a benchmark's own process.

    Raises:
        ValueError: if a metric is not a finite number.
    """
    job = Job.model_validate_json(path.read_bytes())
    module = load(job.benchmark)
    if job.machine.threads:
        import torch

        torch.set_num_threads(job.machine.threads)

    rank = int(os.environ.get("RANK", 0))

    def progress(done: float, total: float, unit: str, note: str = "") -> None:
        if rank == 0:
            write_progress(job.folder, HowFar(done=done, total=total, unit=unit, note=note))

    config = module.Config.model_validate(job.config)
    result = module.evaluate(job.checkpoint, config, job.machine, job.folder, progress)
    if rank:
        return
    odd = [name for name, value in result.metrics.items() if not math.isfinite(value)]
    if odd:
        raise ValueError(f"{job.benchmark}: {', '.join(odd)} is not a finite number. Has the checkpoint NaN weights?")
    (job.folder / COST).write_text(json.dumps(result.cost and result.cost.model_dump(mode="json")))
    (job.folder / METRICS).write_text(json.dumps(result._replace(cost=None)._asdict(), indent=1))


def _with_data(machine: Machine, module: Benchmark, dataset: Dataset | None) -> Machine:
    if not dataset:
        return machine
    return machine.model_copy(update={"datasets": {**machine.datasets, module.DATASET: dataset.folder}})
