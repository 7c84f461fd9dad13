"""Every file in eval/benchmarks keeps the contract, a new one is one file, and a failing one fails alone."""

import hashlib
import math
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from inspect import signature
from pathlib import Path

import pytest
import tiny_eval
from pydantic import ValidationError
from typecheck import unchecked

import eval.benchmarks
from dora.artifacts import Checkpoint, Machine
from dora.config import Frozen
from dora.launch import LaunchError, run_here
from dora.progress import silent
from eval import benchmark, suites
from eval.__main__ import main
from eval.benchmark import RECORDS, Dataset
from eval.suites import Entry, Suite
from flows.order import place

NAMES = benchmark.names()
# The transfer sets differ in how they are read alone: one of them is enough where a process is started.
OF_ALL_KINDS = [name for name in NAMES if not name.startswith("transfer_") or name == "transfer_flowers"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_eval.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


class Built(dict[str, Dataset]):
    """Miniatures by their benchmark, each drawn when it is asked for."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def __missing__(self, name: str) -> Dataset:
        with unchecked():
            self[name] = benchmark.build_dataset(name, tiny_eval.WORLD, self._machine)
        return self[name]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return Built(Machine(root=tmp_path_factory.mktemp("datasets")))


def content(folder: Path) -> dict[str, str]:
    """Hash of every file that a stage would keep."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    hidden = {name for name in files if any(part.startswith(".") for part in Path(name).parts)}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if name not in hidden and not any(fnmatch(name, pattern) for pattern in RECORDS)
    }


def quickly(name: str, dataset: Dataset) -> Frozen:
    """The miniature's Config, with two iterations or epochs where there is training."""
    fields = benchmark.load(name).Config.model_fields
    return benchmark.configure(name, dataset, [f"{field}=2" for field in ("iterations", "epochs") if field in fields])


def test_the_folder_is_the_registry():
    folder = Path(benchmark.__file__).parent / "benchmarks"
    assert NAMES == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=rf"unknown benchmark 'davis17'\. Known: {', '.join(NAMES)}"):
        benchmark.load("davis17")
    with pytest.raises(ValueError, match=r"unknown suite 'papers'\. Known: paper, short, miniature, learning"):
        suites.load("papers")


def test_suites_hold_every_benchmark_that_is_not_on_request():
    held = [name for name in NAMES if not benchmark.is_on_request(name)]
    assert {"ade20k", "davis", "imagenet_knn"} <= set(held) and "imagenet_finetune" not in held
    for name in suites.names():
        assert [entry.benchmark for entry in suites.load(name).entries] == held


def test_an_entry_is_of_a_preset_or_of_a_miniature():
    with pytest.raises(ValidationError, match=r"davis: a preset is of the real data set.*Leave out world or preset"):
        Entry(benchmark="davis", world=tiny_eval.WORLD, preset="short")


def test_protocols_differ():
    assert len({benchmark.load(name).PROTOCOL for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_is_frozen_and_knows_its_fields(name: str):
    config = benchmark.load(name).Config()
    field = next(iter(type(config).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, None)
    with pytest.raises(ValueError, match=rf"there is no 'no_such' here.*{field}"):
        benchmark.configure(name, overrides=["no_such=1"])
    for number, one in type(config).model_fields.items():
        if one.annotation is float:
            with pytest.raises(ValueError, match=f"{number}: Input should be"):  # finite, or less than a limit
                benchmark.configure(name, overrides=[f"{number}=inf"])


@pytest.mark.parametrize("name", NAMES)
def test_check_finds_the_miniature_complete(name: str, datasets: dict[str, Dataset]):
    config = benchmark.configure(name, datasets[name])
    facts = benchmark.check(name, config, Machine(), dataset=datasets[name])
    assert facts == benchmark.load(name).check(datasets[name].folder, config)
    assert all(value for value in facts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if benchmark.drawn_by(name) == name])
def test_miniature_is_the_same_twice(name: str, datasets: dict[str, Dataset], tmp_path: Path):
    with unchecked():
        config = benchmark.load(name).miniature(tiny_eval.WORLD, tmp_path)
    assert config == benchmark.configure(name, datasets[name])
    first = content(datasets[name].folder)
    del first["manifest.json"]
    assert content(tmp_path) == first


@pytest.mark.parametrize("name", NAMES)
def test_every_miniature_can_be_larger(name: str):
    assert signature(benchmark.load(name).miniature).parameters["times"].default == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["davis", "depth", "got10k_propagation", "imagenet_linear", "voc_attention"])
def test_a_larger_miniature_has_so_many_times_the_pictures(name: str, datasets: dict[str, Dataset], tmp_path: Path):
    machine = Machine(root=tmp_path)
    with unchecked():
        larger = benchmark.build_dataset(name, tiny_eval.WORLD, machine, times=2)
    assert benchmark.build_dataset(name, tiny_eval.WORLD, machine, times=2).reused
    benchmark.check(name, benchmark.configure(name, larger), machine, dataset=larger)
    n_small, n_large = (len(list(one.folder.rglob("*.[jJ]*[gG]"))) for one in (datasets[name], larger))
    assert n_large == 2 * n_small


def test_a_larger_miniature_has_a_protocol_id_of_its_own(datasets: dict[str, Dataset]):
    usual = datasets["davis"].model_copy(update={"world": benchmark.MINIATURE_WORLD})
    larger = usual.model_copy(update={"times": 4})
    ids = [benchmark.protocol("davis", benchmark.configure("davis", one), one) for one in (usual, larger)]
    assert ids[1] == ids[0] + "-x4"
    times = {entry.benchmark: entry.times for entry in suites.learning().entries}
    assert (times.pop("imagenet_knn"), times.pop("depth"), set(times.values())) == (16, 8, {4})
    with pytest.raises(ValueError, match="only a miniature can be larger, got times=2 and no world"):
        Entry(benchmark="davis", times=2)


def test_benchmarks_of_one_data_set_may_share_its_miniature(datasets: dict[str, Dataset]):
    linear, knn = datasets["imagenet_linear"], datasets["imagenet_knn"]
    assert linear.name == "imagenet_linear" and linear.config != knn.config
    assert (linear.folder, linear.digest) == (knn.folder, knn.digest)


@pytest.mark.parametrize("name", NAMES)
def test_evaluate_gives_finite_metrics_and_pictures_and_the_same_twice(
    name: str, datasets: dict[str, Dataset], checkpoint: Checkpoint, tmp_path: Path
):
    module, config = benchmark.load(name), quickly(name, datasets[name])
    told: list[tuple[float, float]] = []
    results = []
    for out, n_workers in ((tmp_path / "once", 0), (tmp_path / "again", 2)):
        out.mkdir()
        root = tmp_path / f"root-{n_workers}"  # none shares the other's features
        machine = Machine(root=root, datasets={module.DATASET: datasets[name].folder}, n_workers=n_workers)
        progress = lambda done, total, unit, note="": told.append((done, total))  # noqa: E731
        results.append(module.evaluate(checkpoint, config, machine, out, progress))
    assert results[0]._replace(cost=None) == results[1]._replace(cost=None)
    assert content(tmp_path / "once") == content(tmp_path / "again")
    assert module.HEADLINE in results[0].metrics
    assert all(math.isfinite(value) for value in results[0].metrics.values())
    assert results[0].n_samples > 0
    assert all((tmp_path / "once" / picture).stat().st_size for picture in results[0].pictures)
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_is_named_with_how_to_get_it_before_anything_starts(
    name: str, checkpoint: Checkpoint, tmp_path: Path
):
    module = benchmark.load(name)
    where = f"DORA_DATASETS__{module.DATASET.upper()}"
    for datasets, what in (({}, "no folder named for data set"), ({module.DATASET: tmp_path}, str(tmp_path))):
        machine = Machine(root=tmp_path / "root", datasets=datasets)
        with pytest.raises(FileNotFoundError, match=where) as caught:
            benchmark.score(checkpoint, name, module.Config(), machine)
        assert what in str(caught.value) and module.HOW_TO_GET in str(caught.value)
    assert not (tmp_path / "root").exists()


DROPPED_IN = '''
"""Counting: how many lines the list has."""

import os
from dora.config import Frozen
from eval.benchmark import Result, missing

VERSION, PROTOCOL, DATASET, HEADLINE = 1, "counting-v1", "lines", "n_lines"
HOW_TO_GET, COST = "Write it yourself.", "nothing"


class Config(Frozen):
    factor: float = 1
    shift: float = 0


PRESETS = {"short": Config(shift=10)}


def check(data, config):
    if not (data / "list.txt").exists():
        raise missing("list.txt", data, "counting")
    return {"n": len((data / "list.txt").read_text().split())}


def evaluate(checkpoint, config, machine, out, progress):
    progress(1, 1, "lines")
    if config.factor == 0:
        raise ValueError("counting with factor 0 says nothing. Take another.")
    if config.factor < 0:
        os.abort()
    (out / "picture.png").write_bytes(b"not really")
    n = len((machine.datasets[DATASET] / "list.txt").read_text().split())
    return Result({HEADLINE: n * config.factor + config.shift}, ("picture.png",), n)


def miniature(world, folder, *, times=1):
    (folder / "list.txt").write_text("a\\nb\\nc\\n")
    return Config()
'''


@pytest.fixture
def folder_with_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "more_benchmarks"
    folder.mkdir()
    (folder / "counting.py").write_text(DROPPED_IN)
    monkeypatch.setattr(eval.benchmarks, "__path__", [*eval.benchmarks.__path__, str(folder)])
    yield folder
    sys.modules.pop("eval.benchmarks.counting", None)


def test_a_benchmark_dropped_in_as_one_file_is_found_and_scored(
    folder_with_one_more: Path, tmp_path: Path, checkpoint: Checkpoint
):
    # As the stage does it, but the process has to know the temporary folder too.
    code = f"import sys, eval.benchmarks as b; b.__path__.append({str(folder_with_one_more)!r}); "
    code += "from eval.__main__ import main; sys.exit(main(sys.argv[1:]))"

    def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        assert command[:3] == [sys.executable, "-m", "eval"]
        run_here([sys.executable, "-c", code, *command[3:]], folder, poll)

    assert "counting" in benchmark.names()
    machine = Machine(root=tmp_path / "root")
    dataset = benchmark.build_dataset("counting", tiny_eval.WORLD, machine)
    told: list[float] = []

    def score(*overrides: str, rerun: bool = False) -> benchmark.Score:
        config = benchmark.configure("counting", dataset, overrides)
        return benchmark.score(
            checkpoint, "counting", config, machine, dataset=dataset, rerun=rerun, launch=launch,
            progress=lambda done, total, unit, note="": told.append(done),
        )  # fmt: skip

    first = score()
    assert (first.metrics, first.headline, first.n_samples, first.reused) == ({"n_lines": 3}, "n_lines", 3, False)
    assert told[-1] == 1
    assert sorted(content(first.folder)) == ["manifest.json", "metrics.json", "picture.png"]
    assert score().reused
    assert not score(rerun=True).reused
    tripled = score("factor=3")
    assert (tripled.metrics, tripled.reused) == ({"n_lines": 9}, False)
    assert len({first.protocol, tripled.protocol}) == 2
    with pytest.raises(LaunchError, match=r"^counting with factor 0 says nothing. Take another.$"):
        score("factor=0")
    with pytest.raises(LaunchError, match="SIGABRT"):
        score("factor=-1")
    with pytest.raises(LaunchError, match="n_lines is not a finite number"):
        score("factor=1e308")
    assert score().metrics == {"n_lines": 3}  # the failures took nothing with them


def test_the_short_suite_takes_the_preset_of_those_that_have_one(folder_with_one_more: Path):
    presets = {entry.benchmark: entry.preset for entry in suites.short().entries}
    assert presets["counting"] == "short" and presets["davis"] is None
    assert all(entry.preset is None for entry in (*suites.paper().entries, *suites.miniature().entries))


def test_a_run_of_the_short_suite_changes_values_on_top_of_the_preset(
    folder_with_one_more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    of_counting = [entry for entry in suites.short().entries if entry.benchmark == "counting"]
    monkeypatch.setitem(suites.SUITES, "short", lambda: Suite(name="short", entries=tuple(of_counting)))
    (tmp_path / "list.txt").write_text("a")
    machine = Machine(root=tmp_path, datasets={"lines": tmp_path})
    (entry,) = place(suite="short", overrides=("counting.factor=3",), machine=machine).entries
    config = benchmark.configure(entry.benchmark, overrides=entry.overrides, preset=entry.preset)
    assert config.model_dump() == {"factor": 3, "shift": 10}
    ids = {
        benchmark.protocol("counting", one, None)
        for one in (config, *benchmark.presets("counting").values(), benchmark.configure("counting"))
    }
    assert len(ids) == 3 and {"counting-v1", "counting-v1-short"} < ids
    with pytest.raises(ValueError, match=r"counting\.factr: there is no 'factr' here. Did you mean factor?"):
        place(suite="short", overrides=("counting.factr=3",), machine=machine)


def test_a_file_that_lacks_a_part_of_the_contract_says_which(folder_with_one_more: Path):
    path = folder_with_one_more / "counting.py"
    path.write_text(DROPPED_IN.replace("HOW_TO_GET", "HOW").replace("def check", "def look"))
    with pytest.raises(ValueError, match=r"counting.py lacks HOW_TO_GET, check; see eval/benchmark.py"):
        benchmark.load("counting")


def test_a_protocol_id_tells_other_values_worlds_and_data_apart(datasets: dict[str, Dataset]):
    name, dataset = "davis", datasets["davis"]
    module = benchmark.load(name)
    standard = module.Config()
    usual = dataset.model_copy(update={"world": benchmark.MINIATURE_WORLD})
    ids = [
        benchmark.protocol(name, standard, None),
        benchmark.protocol(name, benchmark.configure(name, overrides=["top_k=7"]), None),
        benchmark.protocol(name, benchmark.configure(name, overrides=["top_k=8"]), None),
        benchmark.protocol(name, benchmark.configure(name, usual), usual),
        benchmark.protocol(name, benchmark.configure(name, usual, ["top_k=7"]), usual),
        benchmark.protocol(name, benchmark.configure(name, dataset), dataset),
    ]
    assert ids[0] == module.PROTOCOL
    assert ids[3] == f"{module.PROTOCOL}-miniature"
    assert len(set(ids)) == len(ids)
    assert all(one.startswith(module.PROTOCOL) for one in ids)


def test_a_checkpoint_file_is_known_by_its_content(checkpoint: Checkpoint, tmp_path: Path):
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(checkpoint.path.read_bytes())
    assert benchmark.checkpoint_from_file(copy).fingerprint == checkpoint.fingerprint
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*absent"):
        benchmark.checkpoint_from_file(tmp_path / "absent")


def test_the_command_line_lists_every_benchmark(capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for name in NAMES:
        module = benchmark.load(name)
        assert name in listed and all(text in listed for text in (module.PROTOCOL, module.HOW_TO_GET, module.COST))
        assert (f"measured by python -m eval {name}\n" in listed) == benchmark.is_on_request(name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["davis17"], "unknown benchmark 'davis17'. Known: "),
        (["davis"], "which checkpoint? Say python -m eval davis --checkpoint FILE"),
        (["davis", "--checkpoint", "absent"], "'absent' names 0 artifacts"),
        (["davis", "--checkpoint", "absent.safetensors"], "no file of weights at absent.safetensors"),
        (["davis", "--checkpoint", __file__, "topk=3"], "there is no 'topk' here. Did you mean top_k?"),
        (["davis", "--checkpoint", __file__, "--data", "nowhere"], "davis: no JPEGImages/480p in nowhere"),
    ],
)
def test_the_command_line_says_what_is_wrong_and_exits_with_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_ALL_KINDS)
def test_score_runs_in_a_process_of_its_own(
    name: str, datasets: dict[str, Dataset], checkpoint: Checkpoint, tmp_path: Path
):
    machine, config = Machine(root=tmp_path, threads=1), quickly(name, datasets[name])
    score = benchmark.score(checkpoint, name, config, machine, dataset=datasets[name], progress=silent)
    assert score.headline in score.metrics and not score.reused
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(checkpoint.path.read_bytes()[:1000])
    with pytest.raises(LaunchError, match=r"broken.safetensors is damaged"):
        benchmark.score(benchmark.checkpoint_from_file(broken), name, config, machine, dataset=datasets[name])
