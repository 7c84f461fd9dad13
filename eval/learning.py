"""Did an encoder learn anything? Its scores on the miniatures, beside those of networks that have learnt nothing.

    python -m eval.learning --checkpoint checkpoint.safetensors
    python -m eval.learning --checkpoint FILE --benchmarks ade20k,coco --seeds 5 ade20k.iterations=200

Each benchmark is measured by its miniature protocol, with the checkpoint and with networks of the same architecture
whose weights are as initialised, one for each seed. What trains on labels has as many runs with the checkpoint, each
with the seed of the run beside it; what does not has one, for a second would be the same. Scores are kept in the cache
like all others, so a table that was interrupted, or gets more seeds, goes on from what is there.
"""

import argparse
import logging
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from dora.artifacts import Checkpoint, Machine
from dora.cli import checkpoint_path
from dora.config import BackboneConfig, Frozen
from dora.data.disk import whole_file
from dora.data.miniature import World
from dora.launch import LaunchError
from dora.torchrun import on_all_devices
from eval import benchmark, suites
from eval.benchmark import MINIATURE_WORLD, Score
from eval.report.tables import Cell, Table, label, markdown
from eval.untrained import untrained


class Comparison(Frozen):
    """One metric of one benchmark, with the checkpoint and without any training, a value a seed."""

    benchmark: str
    protocol: str = Field(description="of the first seed; another seed of what trains on labels has digits of its own")
    metric: str
    headline: bool
    n_samples: int
    trained: tuple[float, ...] = Field(description="one value where nothing is drawn")
    untrained: tuple[float, ...]

    @property
    def gain(self) -> float:
        """Difference of the means."""
        return statistics.fmean(self.trained) - statistics.fmean(self.untrained)

    @property
    def is_clear(self) -> bool:
        """Whether each run with the checkpoint is above each without.

        There is one encoder, whoever trains on it: of 3 runs beside 3 untrained networks luck does so once in 20 times
        where only what is drawn in a run matters, once in 4 times where only the encoder does.
        """
        return min(self.trained) > max(self.untrained)


class Learning(Frozen):
    """What the table is made of."""

    schema_version: int = 1
    checkpoint: Path
    sha256: str
    seeds: tuple[int, ...]
    world: World
    times: int = Field(default=1, description="how large the miniatures are")
    comparisons: tuple[Comparison, ...] = Field(description="headlines first, by benchmark")


def compare(
    checkpoint: Checkpoint, names: Sequence[str], machine: Machine, *, n_seeds: int, overrides: Sequence[str] = (),
    world: World = MINIATURE_WORLD, times: int = 1,
) -> Learning:  # fmt: skip
    """Measure the checkpoint and untrained networks by the miniature protocols of the benchmarks `names`.

    `overrides` change single values, such as "ade20k.iterations=200", on both sides; the miniatures are `times` as
    large as the smallest.

    Raises:
        ValueError: for an unknown benchmark or override, or no seed.
        FileNotFoundError, LaunchError: as `benchmark.score`.
    """
    if n_seeds < 1:
        raise ValueError(f"expected at least one seed, got {n_seeds}.")
    if times < 1:
        raise ValueError(f"expected miniatures at least as large as they are, got times={times}.")
    by_benchmark: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        name, _, change = override.partition(".")
        if name not in by_benchmark:
            raise ValueError(f"{override}: expected it to begin with one of {', '.join(by_benchmark)}.")
        by_benchmark[name].append(change)
    datasets = {name: benchmark.build_dataset(name, world, machine, times=times) for name in by_benchmark}
    for name, changes in by_benchmark.items():  # all of them, before the first takes its time
        benchmark.check(name, benchmark.configure(name, datasets[name], changes), machine, dataset=datasets[name])
    seeds = tuple(range(n_seeds))
    fresh = untrained(architecture(checkpoint.path), machine, seeds=seeds)
    found: list[Comparison] = []
    for name, changes in by_benchmark.items():
        with_seed = benchmark.has_seed(name)
        dataset = datasets[name]

        def score(encoder: Checkpoint, seed: int) -> Score:
            values = (*changes, *benchmark.from_seed(name, seed))  # noqa: B023
            config = benchmark.configure(name, dataset, values)  # noqa: B023
            launched = on_all_devices(machine, at_most=benchmark.processes_at_most(name, config))  # noqa: B023
            return benchmark.score(encoder, name, config, machine, dataset=dataset, launch=launched)  # noqa: B023

        without = [score(one, seed) for one, seed in zip(fresh, seeds, strict=True)]
        found += _compared([score(checkpoint, seed) for seed in (seeds if with_seed else (0,))], without)
    return Learning(
        checkpoint=checkpoint.path, sha256=checkpoint.digest, seeds=seeds, world=world, times=times,
        comparisons=tuple(sorted(found, key=lambda one: not one.headline)),
    )  # fmt: skip


def table(learning: Learning) -> Table:
    """The headlines, mean and standard deviation over seeds."""
    return Table(
        f"Scores on the miniatures of {learning.checkpoint.name} and of untrained networks of its architecture: mean "
        "± standard deviation (runs). Bold: every run with the checkpoint is above every one without training, which "
        f"luck does up to once in {len(learning.seeds) + 1} times, for the runs share one encoder.",
        ("Benchmark", "Metric", "Untrained", "This encoder", "Difference"),
        tuple(
            (
                Cell(one.benchmark, note=f"{one.protocol}, {one.n_samples:,} samples"),
                Cell(label(one.metric)),
                Cell(_spread(one.untrained)),
                Cell(_spread(one.trained)),
                Cell(f"{one.gain:+.1f}", strong=one.is_clear),
            )
            for one in learning.comparisons
            if one.headline
        ),
        numeric=(2, 3, 4),
    )


def architecture(path: Path) -> BackboneConfig:
    """As load_encoder finds it, which also tells whether the file is whole.

    Raises:
        FileNotFoundError, ValueError: if the file is no checkpoint, as dora.weights.load.load_encoder says it.
    """
    from dora.weights.load import load_encoder
    from dora.weights.names import rename
    from dora.weights.read import read
    from dora.weights.shapes import architecture_of

    load_encoder(path)
    source = read(path, "teacher")
    return architecture_of(source, rename(source.tensors))


def _compared(trained: Sequence[Score], untrained: Sequence[Score]) -> list[Comparison]:
    """Every metric that all of them have."""
    one = trained[0]
    shared = [metric for metric in one.metrics if all(metric in score.metrics for score in (*trained, *untrained))]
    return [
        Comparison(
            benchmark=one.benchmark, protocol=one.protocol, metric=metric, headline=metric == one.headline,
            n_samples=one.n_samples, trained=tuple(score.metrics[metric] for score in trained),
            untrained=tuple(score.metrics[metric] for score in untrained),
        )
        for metric in shared
    ]  # fmt: skip


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation} ({len(values)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.learning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = benchmark.names()
    held = suites.held()
    parser.add_argument("overrides", nargs="*", metavar="benchmark.key=value", help="single values of a Config")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="the encoder, anybody's or checkpoint/77e1")
    parser.add_argument("--benchmarks", default=",".join(held), metavar="NAMES", help=f"some of {','.join(known)}")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="untrained networks, and runs (3)")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="miniatures so many times as large (1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where scores are kept (else the machine's root)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every metric (DIR/learning.json)")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        from dora.weights.read import weights_file

        chosen: dict[str, Any] = {"root": options.out.absolute()} if options.out else {}
        machine = Machine(**chosen)
        path: Path = options.json or machine.root / "learning.json"
        path.parent.mkdir(parents=True, exist_ok=True)  # now, not after the hours that the table takes
        learning = compare(
            benchmark.checkpoint_from_file(weights_file(checkpoint_path(options.checkpoint))),
            options.benchmarks.split(","), machine,
            n_seeds=options.seeds, overrides=options.overrides, times=options.times,
        )  # fmt: skip
        with whole_file(path) as file:
            file.write(f"{learning.model_dump_json(indent=1)}\n".encode())
    except (ValueError, OSError, LaunchError) as error:
        print(f"eval.learning: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("eval.learning: stopped; run again to go on", file=sys.stderr)
        return 130
    print(f"{markdown(table(learning))}\n\nEvery metric: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
