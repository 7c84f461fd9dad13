"""What docs/crashes.md promises and no other test drives; and that every test which the page names is there."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from test_local import read_until, serving, start, wait_until_gone
from test_pretrain import ROOT
from tiny import PRETRAIN

from dora.artifacts import Machine
from dora.cache import read_manifest
from dora.config import MiniatureVideo, Recipe, ShardsConfig
from dora.data.shards import shard
from dora.data.video import acquire
from dora.torchrun import on_all_devices
from dora.training.job import read_log
from dora.training.stage import pretrain
from dora.training.states import saved_states
from eval.study.data import StudyData

PAGE = ROOT / "docs" / "crashes.md"
RECIPE = Recipe(
    videos=(MiniatureVideo(duration_s=4, fps=6, width=160, height=90),),
    shards=ShardsConfig(fps=6, short_side=64),
    pretrain=PRETRAIN.model_copy(update={"epochs": 60}),
)
STUDY = """
import sys
from dora import recipes
from dora.artifacts import Machine
from dora.config import Recipe
from dora.data.miniature import World
from eval import suites
from eval.suites import Entry, Suite
from flows.study import study
recipe = Recipe.model_validate_json(sys.argv[1])
recipes.RECIPES["tiny"] = lambda: recipe
entry = Entry(benchmark="imagenet_knn", world=World(seed=1000, width=160, height=90))
suites.SUITES["tiny"] = lambda: Suite(name="tiny", entries=(entry,))
state = study(variants=("tiny",), n_seeds=2, suite="tiny", machine=Machine.model_validate_json(sys.argv[2]),
              return_state=True)
print(state.name, state.message, flush=True)
"""
SHORT = RECIPE.model_copy(update={"pretrain": RECIPE.pretrain.model_copy(update={"epochs": 40})})
SLOW_VIDEO = Recipe(videos=(MiniatureVideo(duration_s=120, fps=6, width=160, height=90),))
FLOW = """
import sys
from dora.artifacts import Machine
from dora.config import Recipe
from flows.pipeline import dora
state = dora(recipe=Recipe.model_validate_json(sys.argv[1]), machine=Machine.model_validate_json(sys.argv[2]),
             until="acquire", return_state=True)
print(state.name, state.message, flush=True)
"""


def test_every_test_that_the_page_names_is_there():
    named = set(re.findall(r"`(test_\w+)\.py`((?: `test_\w+`,?)*)", PAGE.read_text()))
    assert named
    for file, tests in named:
        text = (ROOT / "tests" / f"{file}.py").read_text()
        for test in re.findall(r"`(test_\w+)`", tests):
            assert f"\ndef {test}(" in text, f"{file}.py has no {test}"


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the checkpoint that nobody disturbs, from two processes."""
    machine = Machine(root=tmp_path_factory.mktemp("whole"), device="cpu", threads=1, n_processes=2)
    video = acquire(RECIPE.videos[0], machine)
    shards = [shard(video, RECIPE.shards, machine)]
    return pretrain(shards, RECIPE.pretrain, machine, launch=on_all_devices(machine)).digest


def steps(root: Path) -> list[int]:
    """How far each training in this root is."""
    logs = [read_log(path.parent) for path in root.glob("checkpoint/*/log.jsonl")]
    return [log[-1]["step"] for log in logs if log] or [0]


def whose(root: Path, *words: str) -> list[int]:
    """Processes of this root that have these words in their command."""
    return [pid for pid, command in serving(root).items() if all(word in command for word in words)]


def cancel(root: Path, run: "subprocess.Popen[str]") -> None:
    """As the button in Prefect's pages does: Ctrl-C sets the run's state to Cancelling."""
    run.send_signal(signal.SIGINT)


def kill_server(root: Path, run: "subprocess.Popen[str]") -> None:
    for pid in whose(root, "uvicorn"):
        os.kill(pid, signal.SIGKILL)


def kill_node(root: Path, run: "subprocess.Popen[str]") -> None:
    """All at once, as if the plug was pulled."""
    for pid in serving(root):
        os.kill(pid, signal.SIGKILL)


def kill_torchrun(root: Path, run: "subprocess.Popen[str]") -> None:
    for pid in whose(root, "torch.distributed.run"):
        os.kill(pid, signal.SIGKILL)


def fall_asleep(root: Path, run: "subprocess.Popen[str]") -> None:
    """As a laptop whose lid is closed: everything stands still, and goes on."""
    asleep = list(serving(root))
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in asleep:
            os.kill(pid, number)
        time.sleep(5 * (number == signal.SIGSTOP))


@pytest.mark.slow
def test_whatever_ends_a_training_the_next_run_goes_on_and_no_process_stays(digest: str, tmp_path: Path):
    """One training, disturbed by everything after each other, until it is done."""
    root = tmp_path / "root"
    arguments = ["run", "pretrain", "--param", f"recipe={RECIPE.model_dump_json()}", "--param", "until=pretrain"]
    environment = {"DORA_DEVICE": "cpu", "DORA_THREADS": "1", "DORA_N_PROCESSES": "2", "DORA_LOG_EVERY_STEPS": "1",
                   "DORA_SAVE_EVERY_S": "0.5"}  # fmt: skip
    harms: list[tuple[Callable[[Path, subprocess.Popen[str]], None], int]] = [
        (cancel, 130), (kill_server, 2), (kill_node, -signal.SIGKILL), (kill_torchrun, 0),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        before = 0
        for harm, code in harms:
            run = start(root, arguments)
            read_until(run, "going on after step" if before else "step ")
            while max(steps(root)) <= before + 3:
                assert run.poll() is None, run.communicate()
                time.sleep(0.02)
            if harm is kill_torchrun:  # the last one: the stage is tried again by itself
                fall_asleep(root, run)
            harm(root, run)
            said, _ = run.communicate(timeout=180)
            assert run.returncode == code, said
            wait_until_gone(root)
            before = max(steps(root))
            states = [saved_states(folder) for folder in root.glob("checkpoint/*")]
            assert any(states) or code == 0
    (manifest,) = root.glob("checkpoint/*/manifest.json")
    assert read_manifest(manifest.parent).digest == digest


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def makes(run: "subprocess.Popen[str]") -> bool:
    """Whether this run makes the video. If so it stands still, or it might be done before the others have started."""
    assert run.stdout
    said: list[str] = []
    for line in run.stdout:
        said.append(line)
        if "making video" in line:
            run.send_signal(signal.SIGSTOP)
            return True
        if "waiting for process" in line:
            return False
    raise AssertionError("it ended without making the video or waiting for it: " + "".join(said))


@pytest.mark.slow
def test_of_two_runs_that_want_the_same_one_makes_it_and_the_other_waits_or_takes_over(server: None, tmp_path: Path):
    machine = Machine(root=tmp_path / "root", threads=1)
    alone = acquire(SLOW_VIDEO.videos[0], Machine(root=tmp_path / "alone"))

    command = [sys.executable, "-c", FLOW, SLOW_VIDEO.model_dump_json(), machine.model_dump_json()]
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        runs = [stack.enter_context(running(command, environment)) for _ in range(3)]
        making = list(pool.map(makes, runs))
        (maker,) = (run for run, makes_it in zip(runs, making, strict=True) if makes_it)
        waiting, stopped = (run for run in runs if run is not maker)
        stopped.send_signal(signal.SIGTERM)  # who waits can be cancelled too
        stopped.communicate(timeout=60)
        assert maker.poll() is None and waiting.poll() is None
        maker.kill()
        rest, _ = waiting.communicate(timeout=120)
        assert "taking over" in rest and "Completed done up to acquire" in rest
    (manifest,) = machine.root.glob("video/*/manifest.json")
    assert read_manifest(manifest.parent).digest == alone.digest


@pytest.mark.slow
def test_a_study_that_is_killed_with_two_cells_under_way_goes_on_with_both(server: None, tmp_path: Path):
    whole = Machine(root=tmp_path / "whole", device="cpu", threads=1)
    shards = [shard(acquire(SHORT.videos[0], whole), SHORT.shards, whole)]
    digests = [pretrain(shards, SHORT.pretrain.model_copy(update={"seed": seed}), whole).digest for seed in (0, 1)]

    root = tmp_path / "root"
    machine = Machine(root=root, device="cpu", threads=1, cells_at_once=2, log_every_steps=1, save_every_s=0.5)
    command = [sys.executable, "-c", STUDY, SHORT.model_dump_json(), machine.model_dump_json()]
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value()), "DORA_ROOT": str(root)}
    before = 0
    for harm in (subprocess.Popen.terminate, partial(kill_node, root)):
        with running(command, environment) as run:
            while len(steps(root)) < 2 or min(steps(root)) <= before + 3:
                assert run.poll() is None, run.communicate()
                time.sleep(0.02)
            harm(run)
            said, _ = run.communicate(timeout=60)
            assert run.returncode != 0, said
            wait_until_gone(root)
        before = min(steps(root))
        assert not list(root.glob("checkpoint/*/manifest.json"))
    with running(command, environment) as run:
        said, _ = run.communicate(timeout=300)
    assert "Completed 2 encoders measured" in said and said.count("going on after step") == 2, said
    found = StudyData.model_validate_json((root / "study" / "latest" / "study.json").read_bytes())
    assert [cell.digest for cell in found.cells] == digests
