"""Jobs in a real Slurm: two nodes on this host, each with a GPU that is none (infra/slurm/cluster.py)."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from test_pretrain import NO_DROP_PATH, ROOT, assert_equal_training, command, job
from tiny import write_shards

from dora.artifacts import Dask, Machine, Slurm
from dora.launch import LaunchError, die_with_parent
from dora.training.job import read_log
from dora.training.pretrain import train
from flows import queue
from flows.sbatch import job_name
from flows.slurm import in_slurm
from infra.slurm.cluster import missing, two_nodes

pytestmark = pytest.mark.slow

IDLE = ("--wrap=sleep 60", "--output=/dev/null")
# A job that is told to stop now and then: it writes down its turns and saves when asked to.
STEPS = """
import pathlib, signal, sys, time
from dora.launch import Interrupted, run_job
folder, last = pathlib.Path(sys.argv[1]), sys.argv[2]
asked = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda got, frame: asked.append(got))
def work():
    with (folder / "turns").open("a") as turns:
        turns.write("turn\\n")
    while not (folder / last).exists():
        time.sleep(0.05)
        if asked:
            (folder / "saved").write_text(str(int(asked[0])))
            raise Interrupted
    return 0
sys.exit(run_job(folder, work))
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if reason := missing():
        pytest.skip(f"no Slurm to test with: {reason}")
    with pytest.MonkeyPatch.context() as patch, two_nodes(tmp_path_factory.mktemp("slurm")) as conf:
        patch.setenv("SLURM_CONF", str(conf))
        patch.setattr("flows.slurm.POLL_S", 0.1)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint" / "77e1"
    made.mkdir(parents=True)
    return made


def machine(root: Path, **slurm: object) -> Machine:
    asked = Slurm.model_validate({"gres": "gpu:1", "ask_every_s": 0.5, "stop_s": 10} | slurm)
    return Machine(root=root, device="cpu", threads=1, launcher="slurm", slurm=asked)


def run(folder: Path, *, cancel_if: Callable[[], bool] = lambda: False, last: str = "end", **slurm: object) -> None:
    """Run STEPS in this folder, until the file `last` is there or the run is cancelled."""

    def poll() -> None:
        if cancel_if():
            raise KeyboardInterrupt

    in_slurm(machine(folder, **slurm), "process")([sys.executable, "-c", STEPS, str(folder), last], folder, poll)


def wait_for(path: Path) -> None:
    give_up = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < give_up, path
        time.sleep(0.05)


def slurm(*words: object) -> str:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True).stdout.strip()


def jobs() -> list[int]:
    return [int(number) for number in slurm("squeue", "--noheader", "--format=%i").split()]


def no_job_is_left() -> bool:
    give_up = time.monotonic() + 20
    while jobs() and time.monotonic() < give_up:
        time.sleep(0.1)
    return not jobs()


def start_soon() -> None:
    """A job that was requeued rests for two minutes by default; in a test for three seconds.

    For of one that comes back within a second its node still knows that it has been ended, and refuses it.
    """
    for line in slurm("squeue", "--noheader", "--states=PENDING", "--format=%i %S").splitlines():
        number, start = line.split()
        if start != "N/A" and datetime.fromisoformat(start) > datetime.now() + timedelta(seconds=10):
            subprocess.run(["scontrol", "update", f"jobid={number}", "StartTime=now+3"], check=False)


def test_a_job_runs_and_its_place_in_the_queue_is_told(folder: Path, caplog: pytest.LogCaptureFixture):
    fillers = [int(slurm("sbatch", "--parsable", "--gres=gpu:1", *IDLE)) for _ in range(2)]
    (folder / "end").touch()

    class MakeRoom(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is pending (Resources)" in record.getMessage():
                slurm("scancel", *fillers)

    logger = logging.getLogger("flows.slurm")
    room = MakeRoom()
    logger.addHandler(room)
    try:
        with caplog.at_level(logging.INFO):
            run(folder)
    finally:
        logger.removeHandler(room)
    assert "is pending (Resources), expected to start 20" in caplog.text
    assert not (folder / ".slurm.json").exists() and (folder / "turns").read_text() == "turn\n"


def test_what_the_cluster_cannot_give_is_refused_in_slurms_words(folder: Path):
    with pytest.raises(ValueError, match=r"Slurm did not take the job: .*--gres=gpu:2.*DORA_SLURM__GRES"):
        in_slurm(machine(folder, gres="gpu:2"), "node")(["python"], folder, lambda: None)
    assert not (folder / ".slurm.json").exists()


def test_a_failing_job_tells_its_own_error(folder: Path):
    code = f"""
import pathlib
from dora.launch import run_job
def work():
    raise ValueError("a clip needs 8 frames, but walk has 3")
raise SystemExit(run_job(pathlib.Path({str(folder)!r}), work))
"""
    with pytest.raises(LaunchError, match=r"^a clip needs 8 frames, but walk has 3$") as error:
        in_slurm(machine(folder), "process")([sys.executable, "-c", code], folder, lambda: None)
    assert error.value.exit_code == 2


def test_a_cancelled_run_lets_its_job_save_and_takes_it_out_of_the_queue(
    folder: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        # The job may write before Slurm is asked again and the run tells that it runs.
        run(folder, cancel_if=lambda: (folder / "turns").exists() and "is running on gpu" in caplog.text)
    assert (folder / "saved").read_text() == str(int(signal.SIGUSR1))
    assert no_job_is_left()
    (folder / "end").touch()
    run(folder)  # and the next run begins a job of its own
    assert (folder / "turns").read_text() == "turn\n" * 2


def test_a_job_that_was_cancelled_in_slurm_says_so(folder: Path):
    def poll() -> None:
        if (folder / "begun").exists():
            subprocess.run(["scancel", *map(str, jobs())], capture_output=True, check=False)

    code = f"import time; open({str(folder / 'begun')!r}, 'w'); time.sleep(60)"
    with pytest.raises(LaunchError, match=r"was cancelled in Slurm; run again to go on"):
        in_slurm(machine(folder), "process")([sys.executable, "-c", code], folder, poll)


def test_a_killed_flow_finds_its_job_again(folder: Path, caplog: pytest.LogCaptureFixture):
    code = f"""
from pathlib import Path
from dora.artifacts import Machine
from flows.slurm import in_slurm
machine = Machine.model_validate_json({machine(folder).model_dump_json()!r})
in_slurm(machine, "process")({[sys.executable, "-c", STEPS, str(folder), "end"]!r}, Path({str(folder)!r}), lambda: None)
"""
    for finished_alone in (False, True):
        flow = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        wait_for(folder / "turns")
        flow.send_signal(signal.SIGKILL)
        flow.wait()
        assert len(jobs()) == 1  # goes on
        (folder / "end").touch()
        if finished_alone:
            assert no_job_is_left()
        with caplog.at_level(logging.INFO):
            run(folder)
        assert (folder / "turns").read_text() == "turn\n"  # once, by nobody else
        assert ("has finished meanwhile" if finished_alone else "found Slurm job") in caplog.text
        for name in ("turns", "end"):
            (folder / name).unlink()
        caplog.clear()


DASK = """
import os, sys, time
from dora.artifacts import Machine
from flows.cluster import workers
def job(number):
    time.sleep(1)
    return os.environ["SLURM_JOB_ID"]
if __name__ == "__main__":
    with workers(Machine.model_validate_json(sys.argv[1])) as place:
        found = place.runner.client.gather(place.runner.client.map(job, range(4)))
        print(*found, *place.runner.client.scheduler_info()["workers"], flush=True)
        time.sleep(60 * (sys.argv[2] == "stay"))
"""


def test_workers_of_dask_are_jobs_that_end_with_the_run_however_it_ends(folder: Path, tmp_path: Path):
    script = tmp_path / "run.py"
    script.write_text(DASK)
    dask = Dask(cluster="slurm", n_workers=2, cpus=1, memory="500M")
    there = machine(tmp_path, environment={"OMP_NUM_THREADS": "1"}).model_copy(update={"dask": dask})
    for stays in ("go", "stay"):
        command = [sys.executable, str(script), there.model_dump_json(), stays]
        flow = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
                                text=True)  # fmt: skip
        assert flow.stdout
        *numbers, first, second = flow.stdout.readline().split()
        assert len(set(numbers)) == 2 and first.startswith("tls://") and second.startswith("tls://")
        if stays == "stay":
            flow.kill()
        flow.communicate(timeout=60)
        assert flow.returncode == (-signal.SIGKILL if stays == "stay" else 0)
        assert no_job_is_left()


def test_a_job_that_nobody_wrote_down_is_ended_first(folder: Path):
    with pytest.raises(KeyboardInterrupt):
        run(folder, cancel_if=(folder / "turns").exists)
    stray = int(slurm("sbatch", "--parsable", f"--job-name={job_name(folder)}", *IDLE))
    (folder / "end").touch()
    run(folder)
    seen = queue.look(stray)
    assert seen and seen.state == "CANCELLED"


def test_a_job_warned_before_its_time_limit_saves_and_takes_another_turn(folder: Path):
    shortened = False

    def poll() -> None:
        nonlocal shortened
        if not shortened and (folder / "turns").exists():
            slurm("scontrol", "update", f"jobid={jobs()[0]}", "TimeLimit=1")
            shortened = True
        elif (folder / "saved").exists():
            (folder / "end").touch()
            start_soon()

    # Slurm looks at its clock twice a minute, and warns early rather than late: at once, that is, when shortened.
    in_slurm(machine(folder, time="5", warn_s=55), "process")(
        [sys.executable, "-c", STEPS, str(folder), "end"], folder, poll
    )
    assert (folder / "saved").read_text() == str(int(signal.SIGUSR1))
    assert (folder / "turns").read_text() == "turn\n" * 2


def test_a_job_whose_node_breaks_down_goes_on_elsewhere(folder: Path):
    broken = ""

    def poll() -> None:
        nonlocal broken
        if not broken and (folder / "turns").exists():
            broken = slurm("squeue", "--noheader", "--states=RUNNING", "--format=%N")
            for state in ("DRAIN", "DOWN"):  # not to be used again when its daemon, which is well, reports it
                slurm("scontrol", "update", f"NodeName={broken}", f"State={state}", "Reason=broken")
        elif broken:
            start_soon()
            if (folder / "turns").read_text().count("turn") == 2:
                (folder / "end").touch()

    try:
        in_slurm(machine(folder), "process")([sys.executable, "-c", STEPS, str(folder), "end"], folder, poll)
    finally:
        if broken:
            slurm("scontrol", "update", f"NodeName={broken}", "State=RESUME")
    assert (folder / "turns").read_text() == "turn\n" * 2


def test_a_training_on_two_nodes_that_is_pre_empted_ends_as_one_that_is_not(tmp_path: Path):
    shards = write_shards(tmp_path / "walk")
    config = NO_DROP_PATH.model_copy(update={"clips_per_batch": 6, "epochs": 12})
    values = {"micro_batch": 2, "log_every_steps": 1, "watch_every_steps": 0}
    train(job(tmp_path / "one", shards, config, **values))
    there = machine(tmp_path, nodes=2).model_copy(update=values)
    two = job(tmp_path / "two", shards, config).model_copy(update={"machine": there})
    requeued = list[int]()

    def poll() -> None:
        if read_log(two.folder) and not requeued:
            requeued.extend(jobs())
            slurm("scontrol", "requeue", *requeued)  # as Slurm does for somebody of a higher priority
        elif requeued:
            start_soon()

    in_slurm(there, "nodes")([sys.executable, *command(two)], two.folder, poll)
    assert requeued and slurm("scontrol", "show", "job", requeued[0]).count("Restarts=1")
    assert "going on after step" in (two.folder / ".output").read_text()
    assert_equal_training(tmp_path / "one", tmp_path / "two")


def test_a_controller_that_is_killed_and_comes_back_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture):
    """The last test: its cluster has the second controller until the end."""
    conf = Path(os.environ["SLURM_CONF"])
    second: list[subprocess.Popen[bytes]] = []
    killed = False

    def has_written_down_that_it_runs() -> bool:  # within five seconds; else it would start the job again
        return time.time() - (folder / "turns").stat().st_mtime > 10

    def poll() -> None:
        nonlocal killed
        if not killed and (folder / "turns").exists() and has_written_down_that_it_runs():
            os.kill(int((conf.parent / "slurmctld.pid").read_text()), signal.SIGKILL)
            killed = True
        elif killed and not second and "Slurm does not answer, job" in caplog.text:
            with (conf.parent / "second.out").open("wb") as output:
                command = ["slurmctld", "-D", "-f", str(conf)]
                second.append(subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=die_with_parent))
        elif second and "is running on" in caplog.text.rpartition("does not answer")[2]:  # it answers again
            (folder / "end").touch()

    try:
        with caplog.at_level(logging.INFO):
            in_slurm(machine(folder), "process")([sys.executable, "-c", STEPS, str(folder), "end"], folder, poll)
        assert second and (folder / "turns").read_text() == "turn\n"
    finally:
        for process in second:
            process.terminate()
            process.wait()
