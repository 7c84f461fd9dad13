"""The flow, run for real in this process against a server of its own."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_eval
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, LogFilter
from prefect.testing.utilities import prefect_test_harness
from pydantic import ValidationError
from tiny import PRETRAIN
from typecheck import unchecked

from dora import recipes
from dora.artifacts import Machine, Network
from dora.config import MiniatureVideo, Recipe, ShardsConfig
from eval import benchmark, suites
from eval.suites import Entry, Suite
from flows import stages
from flows.order import place
from flows.pipeline import dora
from flows.plan import Step, plan

TINY = Recipe(
    videos=(MiniatureVideo(duration_s=4, fps=6, width=160, height=90),),
    shards=ShardsConfig(fps=6, short_side=64),
    pretrain=PRETRAIN.model_copy(update={"epochs": 1}),
)
# The flow treats all benchmarks alike, and each is run by tests of its own; one of these trains on labels.
SOME = ("ade20k_linear", "davis", "imagenet_knn")
BENCHMARKS = {f"evaluate {name}" for name in SOME}
QUICKLY = ("ade20k_linear.iterations=2",)
ALL = {"acquire miniature", "shard miniature", "pretrain vit_tiny_patch16_224", *BENCHMARKS, "report"}


class Run(NamedTuple):
    """What a flow run left in Prefect."""

    state: str
    message: str
    stages: dict[str, str]
    log: str
    went: dict[str, list[str]]  # the states of each stage
    shown: dict[str, Any]  # artifacts
    value: Any


def made(run: Run) -> set[str]:
    """Stages that were not reused."""
    return {name for name, state in run.stages.items() if state != "Cached"}


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module", autouse=True)
def suite() -> Iterator[None]:
    entries = tuple(Entry(benchmark=name, world=benchmark.MINIATURE_WORLD) for name in SOME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suites.SUITES, "some", lambda: Suite(name="some", entries=entries))
        yield


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(root=tmp_path_factory.mktemp("root"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def first(server: None, machine: Machine) -> Run:
    return run_flow(recipe=TINY, machine=machine)


def run_flow(*, suite: str = "some", overrides: tuple[str, ...] = (), **parameters: Any) -> Run:
    changes = (*QUICKLY, *overrides) if suite == "some" else overrides
    with unchecked():  # it draws data sets
        state: Any = dora(**parameters, suite=suite, overrides=changes, return_state=True)
    of_run = {"id": {"any_": [state.state_details.flow_run_id]}}
    with get_client(sync_client=True) as client:
        for _ in range(100):  # task states and log lines arrive in the background
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate(of_run))
            logged = client.read_logs(LogFilter.model_validate({"flow_run_id": of_run["id"]}))
            log = "\n".join(line.message for line in logged)
            if all(task.state and (task.state.is_final() or task.state.name == "NotReady") for task in tasks) and (
                "Finished in state" in log
            ):
                break
            time.sleep(0.1)
        went = {task.name: [one.name for one in client.read_task_run_states(task.id)] for task in tasks}
        artifacts = client.read_artifacts(
            flow_run_filter=FlowRunFilter.model_validate(of_run), artifact_filter=ArtifactFilter()
        )
        shown = {one.key or one.description.split("  ")[0]: one for one in artifacts}
    stages = {task.name: str(task.state_name) for task in tasks}
    return Run(state.name, state.message or "", stages, log, went, shown, getattr(state.data, "result", None))


@pytest.mark.slow
def test_every_stage_runs_and_leaves_a_report(first: Run, machine: Machine):
    assert first.state == "Completed", first.message
    assert made(first) == ALL
    assert (machine.root / "report" / "latest" / "index.html").is_file()
    stages = ("video", "shards", "checkpoint", "score-*", "report")
    manifests = (made for stage in stages for made in machine.root.glob(f"{stage}/*/manifest.json"))
    runs = {json.loads(made.read_text()).get("run") for made in manifests}
    assert len(runs) == 1 and None not in runs  # by which a rerun that goes on knows what it has made already
    assert "made checkpoint" in first.log and "step " in first.log  # also what the training process said


@pytest.mark.slow
def test_a_second_run_reuses_every_stage(first: Run, machine: Machine):
    again = run_flow(recipe=TINY, machine=machine)
    assert again.state == "Completed" and again.stages == dict.fromkeys(ALL, "Cached")


@pytest.mark.slow
def test_curves_scores_costs_and_ways_to_more_are_shown(first: Run, machine: Machine):
    name = "pretrain-vit-tiny-patch16-224"
    of_benchmarks = {f"score-{one.replace('_', '-')}" for one in SOME}
    assert {f"{name}-curves", f"{name}-sheet", f"{name}-tensorboard", *of_benchmarks, "scores", "cost", "report"} <= (
        first.shown.keys()
    )
    assert first.shown[f"{name}-curves"].data.startswith("data:image/svg+xml;base64,")
    assert first.shown[f"{name}-sheet"].data.startswith("data:image/jpeg;base64,")
    (checkpoint,) = machine.root.glob("checkpoint/*/checkpoint.safetensors")
    assert f"tensorboard --logdir {checkpoint.parent}/tensorboard" in first.shown[f"{name}-tensorboard"].data
    davis = json.loads(first.shown["score-davis"].data)
    assert davis[0]["metric"] == benchmark.load("davis").HEADLINE and davis[0]["protocol"].startswith("davis")
    costs = json.loads(first.shown["cost"].data)
    assert {row["in this run"] for row in costs} == {"made"} and len(costs) == len(ALL)
    assert next(row for row in costs if row["stage"].startswith("checkpoint"))["device-hours"] > 0
    assert all(len(str(one.data)) < 500_000 for one in first.shown.values())


@pytest.mark.slow
def test_a_dry_run_makes_nothing_and_says_what_would_be_made_and_why(first: Run, machine: Machine, tmp_path: Path):
    fresh = machine.model_copy(update={"root": tmp_path / "root"})
    run = run_flow(recipe=TINY, machine=fresh, dry_run=True)
    assert run.state == "Completed" and run.stages == {} and not fresh.root.exists()
    assert {step["action"] for step in run.value["steps"]} == {"make"}
    assert f"{len(ALL)} to make" in run.message and "shard miniature: made" in run.log
    assert json.loads(run.shown["plan-steps"].data) == run.value["steps"]
    assert "| acquire miniature | made | not known | not known | there is no video yet |" in run.shown["plan"].data

    assert {step.action for step in planned(machine).values()} == {"reuse"}
    assert planned(machine)["pretrain vit_tiny_patch16_224"].folder == next(machine.root.glob("checkpoint/*"))


def planned(machine: Machine, **parameters: Any) -> dict[str, Step]:
    changes = (*QUICKLY, *parameters.pop("overrides", ()))
    with unchecked():
        order = place(recipe=TINY, suite="some", machine=machine, overrides=changes, dry_run=True, **parameters)
        return {step.name: step for step in plan(order).steps}


@pytest.mark.slow
def test_a_plan_names_the_value_that_changed_and_goes_by_earlier_times(first: Run, machine: Machine):
    changed = planned(machine, overrides=("pretrain.seed=1", "pretrain.epochs=3"))
    pretrain = changed["pretrain vit_tiny_patch16_224"]
    assert pretrain.action == "make" and "config epochs: 1 -> 3; config seed: 0 -> 1" in pretrain.why
    assert pretrain.source.startswith("3 times checkpoint/") and pretrain.seconds and pretrain.size_bytes
    assert changed["shard miniature"].action == "reuse" and changed["shard miniature"].seconds == 0
    davis = changed["evaluate davis"]
    assert davis.action == "make" and davis.why == "after pretrain vit_tiny_patch16_224, whose outcome it is made from"
    assert davis.folder is None and davis.source.startswith("as score-davis/")
    assert changed["report"].action == "make"


@pytest.mark.slow
def test_a_plan_tells_what_a_rerun_may_change(first: Run, machine: Machine):
    again = planned(machine, rerun=("evaluate/davis",))
    assert again["evaluate davis"].action == "make" and "asked to be made again" in again["evaluate davis"].why
    assert again["evaluate imagenet_knn"].action == "reuse"
    assert again["report"].action == "depends" and "if evaluate davis comes out the same" in again["report"].why


@pytest.mark.slow
def test_a_plan_finds_damage_and_what_is_missing_and_changes_nothing(first: Run, machine: Machine, tmp_path: Path):
    latest = (machine.root / "report" / "latest").readlink()
    weights = next(machine.root.glob("checkpoint/*/checkpoint.safetensors"))
    weights.rename(tmp_path / "aside")
    try:
        steps = planned(machine)
        assert steps["pretrain vit_tiny_patch16_224"].why.endswith("its file checkpoint.safetensors is gone")
        assert steps["evaluate davis"].why.startswith("after pretrain")
    finally:
        (tmp_path / "aside").rename(weights)
    order = place(recipe=TINY, suite="paper", machine=machine, dry_run=True)
    steps = {step.name: step for step in plan(order).steps}
    assert steps["evaluate davis"].action == "fail" and "DORA_DATASETS__DAVIS" in steps["evaluate davis"].why
    assert (machine.root / "report" / "latest").readlink() == latest
    assert {step.action for step in planned(machine).values()} == {"reuse"}


@pytest.mark.slow
def test_a_stage_whose_process_is_killed_is_tried_again_and_ends_in_the_same_bytes(
    first: Run, machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stages.pretrain, "retry_delay_seconds", [0.1, 0.1, 0.1])
    often = machine.model_copy(update={"save_every_s": 0.05, "log_every_steps": 1})
    wanted = {"recipe": TINY, "machine": often, "overrides": ("pretrain.epochs=60",), "until": "pretrain"}
    killed: list[int] = []
    over = threading.Event()

    def kill_twice() -> None:
        while len(killed) < 2 and not over.wait(0.02):
            for pid in training_processes(machine.root):
                states = {*machine.root.glob("checkpoint/*/.states/step-*")}
                if pid not in killed and len(states) > len(killed):
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_twice)
    killer.start()
    run = run_flow(**wanted)
    over.set()
    killer.join()
    assert len(killed) == 2 and run.state == "Completed", run.message
    went = run.went["pretrain vit_tiny_patch16_224"]
    assert went.count("AwaitingRetry") == 2 and went[-1] == "Completed"
    assert "ended by SIGKILL" in run.log and "That may pass: it is tried again by itself, up to 3 times." in run.log
    assert "going on after step" in run.log
    bytes_of = next(machine.root.glob("checkpoint/*/log.jsonl")).parent.parent
    broken = {path.parent.name: path.read_bytes() for path in bytes_of.glob("*/checkpoint.safetensors")}
    assert run_flow(**wanted, rerun=("pretrain",)).state == "Completed"
    whole = {path.parent.name: path.read_bytes() for path in bytes_of.glob("*/checkpoint.safetensors")}
    assert whole == broken and len(whole) >= 2


def training_processes(root: Path) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"dora.training.pretrain" in words and any(word.startswith(bytes(root)) for word in words):
                yield int(folder.name)


@pytest.mark.slow
def test_a_wrong_value_is_not_tried_again(first: Run, machine: Machine):
    run = run_flow(recipe=TINY, machine=machine, overrides=("davis.split=other",))
    assert run.went["evaluate davis"].count("Running") == 1 and "AwaitingRetry" not in run.went["evaluate davis"]


@pytest.mark.slow
def test_evaluation_again_touches_nothing_before_it(first: Run, machine: Machine):
    run = run_flow(recipe=TINY, machine=machine, rerun=("evaluate",))
    assert made(run) - {"report"} == BENCHMARKS


@pytest.mark.slow
def test_another_pretraining_value_keeps_videos_and_shards(first: Run, machine: Machine):
    run = run_flow(recipe=TINY, machine=machine, overrides=("pretrain.seed=1",))
    assert made(run) == ALL - {"acquire miniature", "shard miniature"}


@pytest.mark.slow
def test_another_benchmark_value_reruns_that_benchmark_and_the_report(first: Run, machine: Machine):
    assert made(run_flow(recipe=TINY, machine=machine, overrides=("imagenet_knn.k=[3]",))) == {
        "evaluate imagenet_knn", "report",
    }  # fmt: skip


@pytest.mark.slow
def test_a_benchmark_that_fails_takes_nothing_else_down(first: Run, machine: Machine):
    run = run_flow(recipe=TINY, machine=machine, overrides=("davis.split=nope",))
    assert run.state == "Failed" and run.message.startswith("evaluate davis: ") and "nope" in run.message
    assert run.stages["evaluate davis"] == "Failed"
    assert run.stages["evaluate imagenet_knn"] == "Cached" and run.stages["report"] == "Completed"
    assert "davis" in (machine.root / "report" / "latest" / "report.md").read_text()
    assert "The report about the rest: " in run.message
    assert "Traceback" not in run.log and "NoneType: None" not in run.log


@pytest.mark.slow
def test_a_checkpoint_file_is_evaluated_without_a_video(first: Run, machine: Machine):
    file = next(machine.root.glob("checkpoint/*/checkpoint.safetensors"))
    run = run_flow(recipe="venice", machine=machine, checkpoint=file)
    assert run.state == "Completed", run.message
    assert set(run.stages) == {*BENCHMARKS, "report"}


@pytest.mark.slow
def test_a_preset_is_measured_with_values_on_top_and_reported_under_an_id_of_its_own(
    server: None, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "ade20k_linear"
    monkeypatch.setitem(
        suites.SUITES, "short", lambda: Suite(name="short", entries=(Entry(benchmark=name, preset="short"),))
    )
    with unchecked():
        data = benchmark.build_dataset(name, tiny_eval.WORLD, machine).folder
    encoder = tiny_eval.write_checkpoint(tmp_path / "checkpoint.safetensors").path
    changes = ["whole=false", "iterations=1", "batch_size=1", "precision=fp32", "lrs=[0.001]"]
    run = run_flow(
        checkpoint=encoder, suite="short", machine=machine.model_copy(update={"datasets": {"ade20k": data}}),
        overrides=tuple(f"{name}.{change}" for change in changes),
    )  # fmt: skip
    assert run.state == "Completed", run.message
    assert run.stages == {f"evaluate {name}": "Completed", "report": "Completed"}
    protocol = benchmark.protocol(name, benchmark.configure(name, overrides=changes, preset="short"), None)
    report = (machine.root / "report" / "latest" / "report.md").read_text()
    assert f"({protocol}, 24 samples)" in report
    assert protocol not in (benchmark.load(name).PROTOCOL, f"{benchmark.load(name).PROTOCOL}-short")


@pytest.mark.slow
def test_a_video_too_short_for_a_clip_is_one_sentence(server: None, machine: Machine):
    short = ("videos.0.duration_s=1", "pretrain.clip.gap_s=5")
    run = run_flow(recipe=TINY, machine=machine, overrides=short)
    assert run.state == "Failed" and "miniature" in run.message
    assert "Traceback" not in run.log
    assert run.stages["pretrain vit_tiny_patch16_224"] == "Failed" and "report" not in run.stages


@pytest.mark.slow
def test_a_wrong_name_fails_the_run_before_any_stage(server: None, machine: Machine):
    run = run_flow(recipe="dmo", machine=machine)
    assert (run.state, run.message, run.stages) == (
        "Failed", f"unknown recipe 'dmo'. Known: {', '.join(recipes.names())}.", {},
    )  # fmt: skip


@pytest.mark.slow
def test_until_ends_the_run_early(first: Run, machine: Machine):
    run = run_flow(recipe=TINY, machine=machine, until="shard")
    assert run.stages == {"acquire miniature": "Cached", "shard miniature": "Cached"}


def test_the_full_benchmark_names_everything_that_is_missing_at_once(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as error:
        place(recipe="walking_tours", suite="paper", machine=Machine(root=tmp_path))
    for needed in (f"DORA_DATASETS__{benchmark.load(name).DATASET.upper()}" for name in suites.held()):
        assert needed in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_download_is_refused_beforehand_for_what_it_lacks_and_said_once(tmp_path: Path):
    machine = Machine(root=tmp_path, network=Network(cookies=tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError) as error:
        place(recipe="walking_tours", machine=machine)
    assert str(error.value).count(f"no cookies file {tmp_path / 'none.txt'}") == 1
    place(recipe="walking_tours", machine=Machine(root=tmp_path))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"recipe": "dmo"}, "unknown recipe 'dmo'. Known: demo"),
        ({"suite": "papers"}, "unknown suite 'papers'. Known: paper, short, miniature"),
        ({"overrides": ["pretrain.epoch=3"]}, "Did you mean epochs?"),
        ({"overrides": ["pretrain.epochs=-3"]}, "pretrain.epochs: Input should be greater than or equal to 1"),
        ({"overrides": ["davis.topk=3"]}, "davis.topk: there is no 'topk' here. Did you mean top_k?"),
        ({"overrides": ["davis17.top_k=3"]}, "Known: videos, shards, pretrain, ade20k"),
        ({"rerun": ["evaluate/davis17"]}, "cannot rerun evaluate/davis17. Known: acquire, shard"),
        ({"checkpoint": "none.safetensors"}, "no checkpoint file none.safetensors"),
        ({"checkpoint": __file__, "until": "pretrain"}, "is given to be evaluated"),
        ({"videos": ["none.mp4"]}, "none.mp4"),
        ({"videos": ["none.txt"]}, "no list of videos none.txt"),
        ({"videos": ["venice", "Venice"]}, "venice is named twice"),
        ({"recipe": {"videos": [{"kind": "miniature"}] * 2}}, "two videos are called miniature"),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_is_known(parameters: dict[str, Any], says: str, tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        place(machine=Machine(root=tmp_path), **parameters)
    assert says in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("parameters", [{"until": "evaluation"}, {"rerun": "evaluate"}, {"benchmarks": []}])
def test_a_parameter_of_the_wrong_kind_is_refused(parameters: dict[str, Any]):
    with pytest.raises(ValidationError):
        place(**parameters)


def test_the_flow_takes_what_an_order_takes():
    of_flow, of_order = signature(dora.fn).parameters, signature(place).parameters
    assert {name: one.default for name, one in of_flow.items()} == {name: one.default for name, one in of_order.items()}


def test_paths_reach_a_recipe_or_a_benchmark(tmp_path: Path):
    order = place(overrides=["pretrain.epochs=3", "davis.top_k=7"], machine=Machine(root=tmp_path))
    assert order.recipe.pretrain.epochs == 3
    assert {entry.benchmark: entry.overrides for entry in order.entries}["davis"] == ("top_k=7",)


def test_rerun_means_a_stage_or_one_part_of_it(tmp_path: Path):
    order = place(rerun=["evaluate/davis", "report"], machine=Machine(root=tmp_path))
    assert order.again("evaluate", "davis") and order.again("report")
    assert not order.again("evaluate", "imagenet_knn") and not order.again("pretrain")
