"""Measure a checkpoint, without Prefect.

Examples:
    python -m eval list
    python -m eval davis --checkpoint checkpoint.safetensors --data /data/DAVIS
    python -m eval imagenet_knn --checkpoint checkpoint.safetensors --miniature crop=96 k=[10,20]
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dora import launch
from dora.artifacts import Machine
from dora.progress import Progress, silent
from eval import benchmark


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(
        prog="python -m eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="What was measured before is served from the cache; see also machine.toml and DORA_* variables.",
    )  # fmt: skip
    parser.add_argument("name", nargs="?", default="list", help=f"list, or one of {', '.join(benchmark.names())}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="single values of the benchmark's Config")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="what pretraining left: checkpoint.safetensors")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the data set's folder (else the machine's)")
    parser.add_argument("--miniature", action="store_true", help="on a rendered toy data set instead")
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
        return 2


def _run_job(path: Path) -> int:
    benchmark.run_job(path)
    return 0


def _list() -> int:
    for name in benchmark.names():
        module = benchmark.load(name)
        print(f"{name}\n    {(module.__doc__ or '').splitlines()[0]}")
        print(f"    protocol {module.PROTOCOL}, quoted by {module.HEADLINE}")
        print(f"    data set {module.DATASET!r}: {module.HOW_TO_GET}")
        print(f"    {json.dumps(module.Config().model_dump(mode='json'))}")
    return 0


def _measure(options: argparse.Namespace) -> int:
    name = options.name
    module = benchmark.load(name)
    if not options.checkpoint:
        raise ValueError(f"which checkpoint? Say python -m eval {name} --checkpoint FILE.")
    machine = Machine()
    if options.out:
        machine = machine.model_copy(update={"root": options.out.absolute()})
    if options.data:
        machine = machine.model_copy(update={"datasets": {**machine.datasets, module.DATASET: options.data}})
    checkpoint = benchmark.checkpoint_from_file(options.checkpoint)
    dataset = benchmark.build_dataset(name, benchmark.MINIATURE_WORLD, machine) if options.miniature else None
    config = benchmark.configure(name, dataset, options.overrides)
    score = benchmark.score(checkpoint, name, config, machine, dataset=dataset, progress=_progress())
    print(f"{name} ({score.protocol}), {score.n_samples} samples, {score.seconds:.0f} s, in {score.folder}")
    for metric, value in score.metrics.items():
        print(f"  {metric:14} {value:7.2f}{'  <- headline' if metric == score.headline else ''}")
    return 0


def _progress() -> Progress:
    return _show if sys.stderr.isatty() else silent


def _show(done: float, total: float, unit: str, note: str = "") -> None:
    print(
        f"\r{done:.0f} of {total:.0f} {unit} {note:30}", end="\n" if done >= total else "", file=sys.stderr, flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
