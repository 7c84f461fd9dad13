"""Measure a checkpoint, without Prefect.

Examples:
    python -m eval list
    python -m eval davis --checkpoint checkpoint.safetensors --data /data/DAVIS
    python -m eval davis --checkpoint checkpoint/77e1            as `dora cache list` names it, a few digits do
    python -m eval imagenet_knn --checkpoint checkpoint.safetensors --miniature crop=96 k=[10,20]
    python -m eval ade20k --checkpoint checkpoint.safetensors --preset short

A preset is a protocol of its own, with less training than the paper's: its numbers are printed under another id. What
trains on labels uses all GPUs of this host (DORA_N_PROCESSES: so many processes); stopped or killed, it goes on from
its last state when the same command is run again.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dora import launch
from dora.artifacts import Machine
from dora.cli import checkpoint_path
from dora.config import Frozen
from dora.progress import Progress, silent
from dora.torchrun import on_all_devices
from eval import benchmark, paper


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(
        prog="python -m eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What was measured before is served from the cache; see also machine.toml and DORA_* variables.",
    )  # fmt: skip
    parser.add_argument("name", nargs="?", default="list", help=f"list, or one of {', '.join(benchmark.names())}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single values of the benchmark's Config")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights, their folder, or name in `dora cache list`")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data set's folder (else the machine's)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--preset", metavar="NAME", help="the benchmark's protocol of this name, such as short")
    kind.add_argument("--miniature", action="store_true", help="on a rendered toy data set instead")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where scores are kept (else the machine's root)")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    if options.job:
        return launch.run_job(options.job.parent, lambda: _run_job(options.job))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _list() if options.name == "list" else _measure(options)
    except (ValueError, OSError, launch.LaunchError) as error:
        print(f"eval: {error}", file=sys.stderr)
        stopped = isinstance(error, launch.LaunchError) and error.exit_code == launch.REQUEUE_EXIT_CODE
        return launch.REQUEUE_EXIT_CODE if stopped else 2
    except KeyboardInterrupt:
        print("eval: stopped; run again to go on", file=sys.stderr)
        return 130


def _run_job(path: Path) -> int:
    benchmark.run_job(path)
    return 0


def _list() -> int:
    """Every benchmark: what it measures, its protocol and data, what it costs, and the published numbers beside it."""
    for name in benchmark.names():
        module = benchmark.load(name)
        print(f"{name}\n    {(module.__doc__ or '').splitlines()[0]}")
        print(f"    protocol {module.PROTOCOL}, quoted by {module.HEADLINE}")
        if benchmark.is_on_request(name):
            print(f"    on request: in no suite, measured by python -m eval {name}")
        print(f"    data set {module.DATASET!r}: {module.HOW_TO_GET}")
        print(f"    cost: {module.COST}")
        for number in paper.numbers(name, module.HEADLINE):
            whose = f"{number.method}, {number.pretraining}" + ("" if number.verified else "; one reading, unverified")
            print(f"    published {number.metric} {number.value:.1f} ({whose})")
        standard = module.Config()
        print(f"    {json.dumps(standard.model_dump(mode='json'))}")
        for preset, config in benchmark.presets(name).items():
            print(f"    --preset {preset}: protocol {benchmark.protocol(name, config, None)}, with")
            print(f"    {json.dumps(_differing(config, standard))}")
    return 0


def _differing(config: Frozen, standard: Frozen) -> dict[str, Any]:
    usual = standard.model_dump(mode="json")
    return {key: value for key, value in config.model_dump(mode="json").items() if value != usual[key]}


def _measure(options: argparse.Namespace) -> int:
    from dora.weights.read import weights_file

    name = options.name
    module = benchmark.load(name)
    if not options.checkpoint:
        raise ValueError(f"which checkpoint? Say python -m eval {name} --checkpoint FILE.")
    machine = Machine()
    if options.out:
        machine = machine.model_copy(update={"root": options.out.absolute()})
    if options.data:
        machine = machine.model_copy(update={"datasets": {**machine.datasets, module.DATASET: options.data}})
    checkpoint = benchmark.checkpoint_from_file(weights_file(checkpoint_path(options.checkpoint)))
    dataset = benchmark.build_dataset(name, benchmark.MINIATURE_WORLD, machine) if options.miniature else None
    config = benchmark.configure(name, dataset, options.overrides, preset=options.preset)
    launched = on_all_devices(machine, at_most=benchmark.processes_at_most(name, config))
    score = benchmark.score(checkpoint, name, config, machine, dataset=dataset, progress=_progress(), launch=launched)
    print(f"{name} ({score.protocol}), {score.n_samples} samples, {score.seconds:.0f} s, in {score.folder}")
    for metric, value in score.metrics.items():
        print(f"  {metric:14} {value:7.2f}{'  <- headline' if metric == score.headline else ''}")
    for note in score.notes:
        print(f"  note: {note}")
    if score.cost:
        cost = score.cost
        energy = "" if cost.energy_kwh is None else f"{cost.energy_kwh:.3g} kWh, "
        print(
            f"  cost: {cost.n_devices} x {cost.device}, {cost.device_hours:.2f} device hours, {energy}"
            f"{cost.memory_bytes / 1e9:.1f} GB"
        )
    return 0


def _progress() -> Progress:
    return _show if sys.stderr.isatty() else silent


def _show(done: float, total: float, unit: str, note: str = "") -> None:
    print(
        f"\r{done:.0f} of {total:.0f} {unit} {note:30}", end="\n" if done >= total else "", file=sys.stderr, flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
