"""What the processes of one job print: `test_ranks.py FOLDER WHAT` under torchrun is the job."""

import logging
import os
import sys
from pathlib import Path

import pytest
import torch

from dora.artifacts import Machine
from dora.launch import LaunchError, run_job
from dora.torchrun import RANKS, on_all_devices
from dora.training.distributed import process_group

N_LINES = 50


def work(what: str) -> int:
    """Every process says much, and the last one fails if it is told to."""
    log = logging.getLogger("dora.test")
    with process_group("cpu", 60) as ranks:
        for number in range(N_LINES):
            log.warning("line %d of process %d", number, ranks.rank)  # those below are the first one's alone
        print("a bare line of process", ranks.rank, file=sys.stderr, flush=True)
        ranks.sum_(torch.zeros(1))
        if what == "fail" and ranks.rank == 1:
            raise ZeroDivisionError("nothing to divide by")
    return 0


def run(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    launch = on_all_devices(Machine(root=folder, device="cpu", n_processes=2, threads=1))
    launch([sys.executable, str(Path(__file__)), str(folder), what], folder, lambda: None)


@pytest.mark.slow
def test_the_first_process_is_heard_in_full_and_the_others_only_when_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "dora"):
        run(tmp_path, "end well", monkeypatch)
    said = [record.getMessage() for record in caplog.records]
    assert [f"line {number} of process 0" for number in range(N_LINES)] == [one for one in said if one[:4] == "line"]
    assert "a bare line of process 0" in said and "of process 1" not in caplog.text

    caplog.clear()
    with caplog.at_level(logging.INFO, "dora"), pytest.raises(LaunchError):
        run(tmp_path, "fail", monkeypatch)
    (told,) = [record for record in caplog.records if record.name == "dora.torchrun"]
    assert told.levelno == logging.WARNING and told.getMessage().startswith("process 1 of node 0 said at last:\n")
    for line in (
        f"line {N_LINES - 1} of process 1",
        "a bare line of process 1",
        "ZeroDivisionError: nothing to divide",
    ):
        assert line in told.getMessage()
    assert f"line {N_LINES - 1} of process 0" in caplog.text
    assert [*(tmp_path / RANKS).glob("node-0/*/*/1/stderr.log")]  # of this turn alone: those of the first are gone


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(run_job(Path(sys.argv[1]), lambda: work(sys.argv[2])))
