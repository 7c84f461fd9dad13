"""The pretraining stage: Shards -> Checkpoint, in a process of its own."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Machine, Shards
from dora.config import PretrainConfig
from dora.launch import Launch, run_here
from dora.progress import Progress, silent
from dora.torchrun import n_processes
from dora.training.job import CHECKPOINT, J_PER_KWH, LOG, WARNINGS, Job, read_log, read_progress

VERSION = 3
# With times, or made when the machine says so: the same training on another day has others.
RECORDS = (LOG, WARNINGS, "tensorboard/*", "sheets/*", "nonfinite/*")


def pretrain(
    shards: Sequence[Shards], config: PretrainConfig, machine: Machine, *,
    rerun: bool = False, progress: Progress = silent, launch: Launch = run_here,
) -> Checkpoint:  # fmt: skip
    """Pretrain on the shards of one or several videos; a run that was stopped or killed goes on where it was.

    Raises:
        LaunchError: if the training process fails; its message is the process's own where it has one.
    """

    def make(folder: Path) -> dict[str, Any]:
        job = Job(config=config, shards=tuple(s.folder for s in shards), machine=machine, folder=folder)
        (folder / ".job.json").write_text(job.model_dump_json(indent=1))

        def poll() -> None:
            how_far = read_progress(folder)
            if how_far:
                progress(how_far.done, how_far.total, how_far.unit, how_far.note)

        launch([sys.executable, "-m", "dora.training.pretrain", str(folder / ".job.json")], folder, poll)
        return _facts(folder, config)

    inputs: dict[str, Artifact] = {f"shards-{number}": artifact for number, artifact in enumerate(shards)}
    known = _by_content(config)
    built = cache.build(machine, "checkpoint", VERSION, known, inputs, make, rerun=rerun, records=RECORDS)
    facts = built.manifest.facts
    return Checkpoint(
        folder=built.folder,
        fingerprint=built.manifest.fingerprint,
        digest=built.manifest.digest,
        reused=built.reused,
        path=built.folder / CHECKPOINT,
        n_steps=facts["n_steps"],
        n_clips=facts["n_clips"],
        loss=facts["loss"],
    )


def check(config: PretrainConfig, machine: Machine) -> None:
    """Refuse at once what a training would refuse at its first step, after its videos were made and sharded.

    A step is gone through without numbers, as `dora plan` counts what it takes, and weights to begin with are loaded;
    not of what was trained here before.

    Raises:
        ValueError: for an unknown architecture, more objects than heads, views that are no whole patches, a batch that
            cannot be shared out, or weights to begin with that do not fit.
        FileNotFoundError: if these are not there.
    """
    known = cache.plain(_by_content(config))
    before = [cache.read_manifest(folder) for folder in (machine.root / "checkpoint").glob("*")]
    if any(made and made.config == known for made in before):
        return
    import torch

    from dora.training.begin import first_student
    from dora.training.distributed import Ranks
    from dora.training.flops import flops_per_clip
    from dora.training.run import micro_batches

    n_at_least = _least_processes(machine, config.processes_at_most)
    if not machine.n_processes or machine.hosts.n > 1:
        # Whether fsdp can share out a batch depends on their very number.
        machine = machine.model_copy(update={"parallel": "ddp"})
    micro_batches(config, machine, Ranks(0, n_at_least, torch.device("cpu")))
    flops_per_clip(config)
    if config.start:
        with torch.random.fork_rng(devices=[]):
            first_student(config)


def _least_processes(machine: Machine, at_most: int) -> int:
    """How many processes a training has at least: what other hosts, and nodes of Slurm, make of theirs is not known."""
    if machine.launcher == "slurm":
        return machine.slurm.nodes * min(machine.n_processes or 1, max(1, at_most // machine.slurm.nodes))
    if machine.hosts.n > 1:
        return n_processes(machine) + machine.hosts.n - 1
    here = machine.n_processes or max(1, n_processes(machine) // machine.cells_at_once)  # they share the GPUs
    return min(here, at_most)


def _by_content(config: PretrainConfig) -> PretrainConfig:
    """The config with the weights that it begins with known by what they are, not by where they lie."""
    if config.start is None:
        return config
    from dora.weights.read import weights_file

    digest = Path(f"sha256-{cache.sha256(weights_file(config.start.path))}")
    return config.model_copy(update={"start": config.start.model_copy(update={"path": digest})})


def _facts(folder: Path, config: PretrainConfig) -> dict[str, Any]:
    """What the log says about the whole training; `seconds` are of all its runs, also of steps that were lost."""
    lines = read_log(folder)
    last = lines[-1]
    n_clips = last["step"] * config.clips_per_batch
    steps = pairwise([0, *(line["step"] for line in lines)])
    training_s = sum(
        (step - before) * config.clips_per_batch / line["clips_per_s"]
        for (before, step), line in zip(steps, lines, strict=True)
    )
    return {
        "n_steps": last["step"],
        "n_clips": n_clips,
        "loss": last["epoch_loss"],
        "teacher_entropy": last["teacher_entropy"],
        "seconds": last["seconds"],
        "clips_per_s": n_clips / training_s,
        "data_wait_share": sum(line["data_wait_share"] for line in lines) / len(lines),
        "memory_bytes": max(line["memory_bytes"] for line in lines),
    } | ({"energy_kwh": last["energy_j"] / J_PER_KWH} if "energy_j" in last else {})
