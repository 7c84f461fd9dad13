import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dora import launch
from dora.artifacts import Machine
from dora.launch import LaunchError, run_here, run_job
from dora.torchrun import Node, on_all_devices, visible_gpus

NODE = Node(number=0, n_nodes=2, address="127.0.0.1", port=29500)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def nothing() -> None:
    pass


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path) -> str:
    for _ in range(1000):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def test_what_a_job_says_is_logged_as_it_said_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    code = f"""
import logging, sys
logging.basicConfig(format={launch.LOG_FORMAT!r}, level="INFO")
logging.getLogger("dora.pretrain").info("step 1/2  loss 3.0")
logging.getLogger("dora.pretrain").warning("slow disk")
print("a bare line", file=sys.stderr)
"""
    with caplog.at_level(logging.INFO, "dora"):
        run_here(python(code), tmp_path, nothing)
    assert caplog.record_tuples == [
        ("dora.pretrain", logging.INFO, "step 1/2  loss 3.0"),
        ("dora.pretrain", logging.WARNING, "slow disk"),
        ("dora.launch", logging.INFO, "a bare line"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is told")
def test_a_job_keeps_the_memory_that_it_frees(tmp_path: Path):
    code = f"""
import pathlib, resource
from dora.launch import run_job

def n_new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 2**24 for _ in range(8)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    print(n_new_pages(), n_new_pages())
    return 0

raise SystemExit(run_job(pathlib.Path({str(tmp_path)!r}), work))
"""
    run_here(python(code), tmp_path, nothing)
    _, again = map(int, (tmp_path / ".output").read_text().split())
    assert again < 100  # the blocks have 32,768 pages of 4 kB


def test_poll_is_called_while_the_job_runs_and_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "POLL_S", 0.01)
    done, calls = tmp_path / "done", list[bool]()
    code = f"import time; time.sleep(0.2); open({str(done)!r}, 'w')"
    run_here(python(code), tmp_path, lambda: calls.append(done.exists()))
    assert calls[0] is False and calls[-1] is True


def test_a_users_error_arrives_as_one_sentence(tmp_path: Path):
    code = f"""
import sys
from pathlib import Path
from dora.launch import run_job
def work():
    raise ValueError("a clip needs 8 frames, but walk has 3")
sys.exit(run_job(Path({str(tmp_path)!r}), work))
"""
    with pytest.raises(LaunchError) as error:
        run_here(python(code), tmp_path, nothing)
    assert str(error.value) == "a clip needs 8 frames, but walk has 3"
    assert error.value.exit_code == 2
    assert "Traceback" in (tmp_path / ".traceback").read_text()


def test_an_error_of_ours_arrives_with_the_end_of_its_traceback(tmp_path: Path):
    with pytest.raises(LaunchError, match=r"(?s)failed with exit code 1.*ZeroDivisionError"):
        run_here(python("1 / 0"), tmp_path, nothing)


def test_a_sentence_of_an_earlier_job_is_not_repeated(tmp_path: Path):
    (tmp_path / ".error").write_text("an old sentence")
    with pytest.raises(LaunchError, match="exit code 3"):
        run_here(python("raise SystemExit(3)"), tmp_path, nothing)


def test_a_killed_job_says_by_what(tmp_path: Path):
    with pytest.raises(LaunchError, match=r"ended by SIGKILL \(out of memory") as error:
        run_here(python("import os; os.kill(os.getpid(), 9)"), tmp_path, nothing)
    assert error.value.exit_code == -9


def test_a_job_that_saved_and_stopped_invites_to_run_again(tmp_path: Path):
    with pytest.raises(LaunchError, match="saved its state; run again to go on") as error:
        run_here(python(f"raise SystemExit({launch.REQUEUE_EXIT_CODE})"), tmp_path, nothing)
    assert error.value.exit_code == launch.REQUEUE_EXIT_CODE


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_job_is_stopped_when_its_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool):
    monkeypatch.setattr(launch, "POLL_S", 0.01)
    monkeypatch.setattr(launch, "GRACE_S", 0.2)
    pid = tmp_path / "pid"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    code = f"import os, signal, time; {ignore}\nopen({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def cancel() -> None:
        if pid.exists() and pid.read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(python(code), tmp_path, cancel)
    assert not is_alive(int(pid.read_text()))


def test_a_job_does_not_outlive_a_killed_caller(tmp_path: Path):
    pid = tmp_path / "pid"
    job = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    caller = subprocess.Popen(
        python(
            "import sys; from pathlib import Path; from dora.launch import run_here\n"
            f"run_here([sys.executable, '-c', {job!r}], Path({str(tmp_path)!r}), lambda: None)"
        ),
        cwd=Path(__file__).parents[1],
    )
    job_pid = int(wait_for(pid))
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    for _ in range(200):
        if not is_alive(job_pid):
            return
        time.sleep(0.01)
    raise AssertionError("the job is still there")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which cores a process may use")
def test_processes_share_the_cores_that_they_may_use(tmp_path: Path):
    started: list[list[str]] = []
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        launched = on_all_devices(
            Machine(root=tmp_path, n_processes=1), lambda command, *_: started.append(command), NODE
        )
        launched(python("pass"), tmp_path, nothing)
    finally:
        os.sched_setaffinity(0, allowed)
    assert started[0][:2] == ["env", "OMP_NUM_THREADS=1"]


def test_a_gpu_in_parts_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listing = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0)
  MIG 3g.20gb     Device  0: (UUID: MIG-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-3)
"""
    (tmp_path / "listing").write_text(listing)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat {tmp_path / 'listing'}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]


def test_a_full_disk_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def work() -> int:
        raise OSError(28, "No space left on device", "/data/artifacts/x")

    assert run_job(tmp_path, work) == 2
    sentence = "no space left on the disk of /data/artifacts/x: free some and run again to go on"
    assert (tmp_path / ".error").read_text() == sentence
    assert capsys.readouterr().err == f"error: {sentence}\n"
