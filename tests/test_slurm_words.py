"""What Slurm is told and how its words are read; needs no Slurm. tests/test_slurm.py asks a real one."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dora.artifacts import Dask, Machine, Slurm
from dora.launch import ASKED_TO_STOP, REQUEUE_EXIT_CODE
from dora.torchrun import on_all_devices
from flows import cluster, node, queue, sbatch, slurm
from flows.launch import launcher, one_process
from flows.order import place
from flows.queue import Seen

EIGHT = Slurm(partition="gpu", gres="gpu:h100:8", cpus_per_node=96, memory="900G", nodes=4, time="1-00:00:00")


def script(folder: Path, spread: sbatch.Spread = "nodes", **values: object) -> str:
    asked = Slurm.model_validate(values)
    command = ["/bin/python", "-m", "it", "a word", "it's"]
    return sbatch.script(asked, folder, command, spread=spread, cwd=folder, patience_s=300)


def srun_of(text: str) -> list[str]:
    return next(shlex.split(line) for line in text.splitlines() if line.startswith("srun "))


@pytest.mark.parametrize(
    ("spread", "nodes", "gres", "cpus", "memory"),
    [
        ("nodes", "--nodes=4", "--gres=gpu:h100:8", "--cpus-per-task=96", True),
        ("node", "--nodes=1", "--gres=gpu:h100:8", "--cpus-per-task=96", True),
        ("process", "--nodes=1", "--gres=gpu:h100:1", "--cpus-per-task=12", False),
    ],
)
def test_a_job_of_one_process_asks_for_one_gpu_and_its_share_of_the_cores(
    spread: sbatch.Spread, nodes: str, gres: str, cpus: str, memory: bool, tmp_path: Path
):
    asked = sbatch.options(EIGHT, tmp_path, spread)
    assert {nodes, gres, cpus, "--ntasks-per-node=1", "--partition=gpu", "--time=1-00:00:00"} <= {*asked}
    assert ("--mem=900G" in asked) is memory
    assert not [option for option in asked if "account" in option or "qos" in option]


@pytest.mark.parametrize(("gres", "n"), [(None, 1), ("gpu", 1), ("gpu:8", 8), ("gpu:h100:4", 4), ("gpu:h100", 1)])
def test_gpus_are_counted_as_slurm_writes_them(gres: str | None, n: int):
    assert sbatch.gpus(gres) == n


def test_a_jobs_name_is_one_for_each_folder_of_each_root(tmp_path: Path):
    names = {sbatch.job_name(tmp_path / root / "checkpoint" / "77e1a0b2c3d4e5f6") for root in ("a", "b")}
    assert len(names) == 2 and all(name.startswith("dora-checkpoint-77e1a0b2-") for name in names)


def test_a_percent_sign_in_a_folder_is_no_pattern_of_slurms(tmp_path: Path):
    assert f"--output={tmp_path}/100%%/.output" in sbatch.options(Slurm(), tmp_path / "100%", "node")


def test_every_word_reaches_the_command_as_it_is(tmp_path: Path):
    folder = tmp_path / "it's $HOME; a `folder`"
    text = script(
        folder, nodes=2, within=["apptainer", "exec", "my image.sif"], environment={"NAME": "a 'b' $c"},
        setup=["module load cuda/13"], python="/opt/python", srun_options=["--mpi=none"],
    )  # fmt: skip
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    words = srun_of(text)
    assert words[:4] == ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"] and "--mpi=none" in words
    begin = words.index("apptainer")
    assert words[begin : begin + 7] == ["apptainer", "exec", "my image.sif", "/opt/python", "-m", "flows.node", "nodes"]
    assert words[begin + 7 :] == [str(folder / ".slurm.machine.json"), "/opt/python", "-m", "it", "a word", "it's"]
    assert "export NAME='a '\"'\"'b'\"'\"' $c'\n" in text and "\nmodule load cuda/13\n" in text


def test_a_worker_of_dask_is_a_job_as_slurm_is_told_of_others(tmp_path: Path):
    jobs = pytest.importorskip("dask_jobqueue.slurm")
    tell = [sys.executable, "-c", "import os, sys; print(os.environ['NAME'], *sys.argv[1:3], sep='|')"]
    asked = Slurm.model_validate(
        {"environment": {"NAME": "a 'b' $c"}, "within": tell, "options": ["--constraint=a&b"], "python": "/my python"}
    )
    machine = Machine(root=tmp_path, slurm=asked, dask=Dask(cluster="slurm"))
    values = cluster.of_slurm(machine.dask, machine, tmp_path, "keys")
    of_cluster = {"n_workers", "interface", "security", "shared_temp_directory", "scheduler_options"}
    job = jobs.SLURMJob(scheduler="tls://x:1", name="one", **{k: v for k, v in values.items() if k not in of_cluster})
    assert "#SBATCH '--constraint=a&b'\n" in job.job_script()
    said = subprocess.run(["sh"], input=job.job_script(), capture_output=True, text=True, check=True).stdout
    assert said == "a 'b' $c|/my python|-m\n"


@pytest.mark.parametrize(
    ("code", "error", "stopped", "requeue", "asks"),
    [
        (0, None, False, True, False),
        (1, None, False, True, False),
        (2, "no such video", False, True, False),
        (75, None, False, True, True),
        (1, f"the job {ASKED_TO_STOP}", False, True, True),
        (1, f"the job {ASKED_TO_STOP}", True, True, False),
        (75, None, False, False, False),
    ],
)
def test_only_a_job_that_saved_and_was_not_cancelled_asks_for_another_turn(
    code: int, error: str | None, stopped: bool, requeue: bool, asks: bool, tmp_path: Path
):
    """The script itself, with programs of Slurm's names that do as Slurm's would: one ends so, one notes its call."""
    programs = tmp_path / "programs"
    programs.mkdir()
    said = f"printf %s {shlex.quote(error)} > {tmp_path}/.error\n" if error else ""
    if code == 0:
        said += f"touch {tmp_path}/.slurm.ended\n"
    bodies = {"srun": f"{said}exit {code}", "scontrol": f"echo $* > {tmp_path}/asked; exit 1", "sleep": "exit 0"}
    for name, body in bodies.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    if stopped:
        (tmp_path / ".slurm.stop").touch()
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    done = subprocess.run(
        ["sh"], input=script(tmp_path, requeue=requeue), text=True, env=os.environ | path, check=False
    )
    assert done.returncode == code
    assert (tmp_path / "asked").exists() is asks
    assert int((tmp_path / ".slurm.exit").read_text()) == code  # Slurm refused the requeue: then it is over


@pytest.mark.parametrize("end", ["exit 0", "kill -TERM $$", "kill -KILL $$"])
def test_a_requeue_that_ends_scontrol_before_it_has_answered_is_no_end_of_the_job(end: str, tmp_path: Path):
    for name, body in {"srun": f"exit {REQUEUE_EXIT_CODE}", "scontrol": end, "sleep": "exit 0"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    subprocess.run(["sh"], input=script(tmp_path), text=True, env=os.environ | path, check=True)
    assert not (tmp_path / ".slurm.exit").exists()


def test_an_srun_that_ends_well_although_its_command_did_not_is_no_success(tmp_path: Path):
    """As after a node's failure: Slurm says how such a job ended, or gives it another turn."""
    for name in ("srun", "sleep"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["sh"], input=script(tmp_path), text=True, env=os.environ | path, check=False).returncode == 1
    assert not (tmp_path / ".slurm.exit").exists()


@pytest.mark.parametrize(("text", "code"), [("0", 0), ("2", 2), ("137", -9), ("143", -15), ("255", 255)])
def test_an_exit_code_above_128_is_a_signal(text: str, code: int, tmp_path: Path):
    assert slurm._exit_code(tmp_path) is None
    (tmp_path / ".slurm.exit").write_text(f"{text}\n")
    assert slurm._exit_code(tmp_path) == code


def test_what_torchrun_keeps_to_itself_is_in_the_jobs_own_words(tmp_path: Path):
    (tmp_path / ".slurm.exit").write_text("1\n")
    (tmp_path / ".error").write_text(f"the job {ASKED_TO_STOP}")
    assert slurm._exit_code(tmp_path) == REQUEUE_EXIT_CODE


def test_a_place_in_the_queue_is_told_with_its_reason():
    assert str(Seen("PENDING", "Resources", "2026-11-27T09:00:00", "")) == (
        "is pending (Resources), expected to start 2026-11-27T09:00:00"
    )
    assert str(Seen("PENDING", "None", "N/A", "")) == "is pending"
    assert str(Seen("RUNNING", "None", "2026-11-27T09:00:00", "gpu[0-1]")) == "is running on gpu[0-1]"
    assert [state for state in ("RUNNING", "TIMEOUT", "CANCELLED", "COMPLETING") if Seen(state, "", "", "").alive] == [
        "RUNNING", "COMPLETING",
    ]  # fmt: skip


def test_a_host_without_slurm_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    says = r"no sbatch, squeue, scancel on this host.*login node.*DORA_LAUNCHER=local"
    with pytest.raises(FileNotFoundError, match=says):
        queue.named("dora")
    with pytest.raises(FileNotFoundError, match=says):  # and before anything starts
        place(machine=Machine(root=tmp_path, launcher="slurm"))


def test_torchruns_of_all_nodes_meet_at_the_first(tmp_path: Path):
    started: list[list[str]] = []

    def here(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        started.append(command)

    for n_nodes in ("1", "2"):
        described = {"SLURM_NODEID": "1", "SLURM_STEP_NUM_NODES": n_nodes, "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
        there = node.node(described | {"SLURM_JOB_ID": "30017"})
        machine = Machine(root=tmp_path, device="cpu", threads=1)
        on_all_devices(machine, here, there)(["python", "-m", "it"], tmp_path, lambda: None)
    assert started[0] == ["python", "-m", "it"]
    assert {"--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.1", "--master-port=20017", "--nproc-per-node=1"} <= {
        *started[1]
    }
    assert "--standalone" not in started[1]


def test_the_machine_says_where_the_long_jobs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert launcher(Machine(root=tmp_path), "process") is one_process
    monkeypatch.setenv("DORA_LAUNCHER", "slurm")
    monkeypatch.setenv("DORA_SLURM__GRES", "gpu:8")
    machine = Machine(root=tmp_path)
    assert machine.slurm == Slurm(gres="gpu:8") and launcher(machine, "process") is not one_process
