"""`make bench`: performance claims as ratios against a plain baseline in the same file, run, process and threads.

python tests/bench.py [ONLY=name,…] finds BENCHES in every tests/bench_*.py, prints a table and writes
artifacts/bench.json. A figure is the median of at least five rounds that alternate between the two sides, so a
machine that slows down half-way slows both.
"""

import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROUNDS = 5
OUT = Path(__file__).parents[1] / "artifacts" / "bench.json"


class Measurement(NamedTuple):
    """One figure: the median of `rounds`, in `unit` ("s", "x")."""

    value: float
    unit: str
    rounds: list[float]


def seconds(run: Callable[[], object], *, rounds: int = ROUNDS) -> Measurement:
    """How long `run` takes."""
    times = [_time(run) for _ in range(rounds)]
    return Measurement(statistics.median(times), "s", times)


def alternate(plain: Callable[[], object], ours: Callable[[], object], *, rounds: int = ROUNDS) -> Measurement:
    """How many times faster `ours` is than `plain`: median over alternating pairs, after one warm-up of each."""
    plain(), ours()
    ratios = [_time(plain) / _time(ours) for _ in range(rounds)]
    return Measurement(statistics.median(ratios), "x", ratios)


def main(arguments: list[str]) -> None:
    """Run the benches named by ONLY=a,b (all by default)."""
    only = next((argument.removeprefix("ONLY=").split(",") for argument in arguments if argument != "ONLY="), None)
    benches = {
        name: bench
        for path in sorted(Path(__file__).parent.glob("bench_*.py"))
        for name, bench in importlib.import_module(path.stem).BENCHES.items()
    }
    if unknown := set(only or ()) - set(benches):
        sys.exit(f"unknown bench {', '.join(sorted(unknown))}. Known: {', '.join(benches)}.")
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    machine = f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{'bench':28} {'median':>9}    {'min':>8} {'max':>8}   on {machine}")
    for name in only or benches:
        measured = benches[name]()
        low, high = min(measured.rounds), max(measured.rounds)
        print(f"{name:28} {measured.value:9.3f} {measured.unit:2} {low:8.3f} {high:8.3f}", flush=True)
        results[name] = {**measured._asdict(), "machine": machine}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1))


def _time(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
