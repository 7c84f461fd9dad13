"""Which failures are tried again: those that may pass by themselves, and no others."""

import errno
import os
import signal
from pathlib import Path

import pytest
import test_peers

from dora.data import store
from dora.launch import REQUEUE_EXIT_CODE, LaunchError, what_happened
from flows.retries import DELAYS_S, failed, may_pass
from flows.slurm import ENDS

PEER = "training process 3 (pid 4711 on gpu7) {} since 12:00:00, after step 40. The state after step 30 is saved"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("the Dask scheduler does not answer"),
        TimeoutError("nothing for 30 s"),
        OSError(errno.ESTALE, "Stale file handle"),
        LaunchError("python was ended by SIGKILL (out of memory?)", -signal.SIGKILL),
        LaunchError("python was ended by SIGTERM", -signal.SIGTERM),
        LaunchError("the job was asked to stop and saved its state", REQUEUE_EXIT_CODE),
        LaunchError(PEER.format("is gone (killed, or out of memory?)"), 1),
        LaunchError(PEER.format("gives no sign of life"), 2),
        LaunchError(PEER.format("hangs"), 2),
        LaunchError("the training processes lost each other after step 7, and all are alive: gloo.", 2),
        LaunchError(f"Slurm job 12 {ENDS['NODE_FAIL']}.\nthe end of its output", 1),
        LaunchError(f"Slurm job 12 {ENDS['TIMEOUT']}.\nthe end of its output", 1),
        LaunchError("Slurm job 12 is gone without an exit code; run again to go on.\n", 1),
        LaunchError("failed with exit code 1:\n traceback : Signal 9 (SIGKILL) received by PID 77\n", 1),
    ],
    ids=lambda error: str(error)[:60],
)
def test_what_may_pass_is_tried_again(error: Exception):
    assert may_pass(error) and failed("pretrain", error).state_details.retriable is True


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a clip needs 8 frames, but walk has 3"),
        FileNotFoundError("no video at walk.mp4"),
        PermissionError("the store wants a key"),
        OSError(errno.ENOSPC, "No space left on device"),
        LaunchError("the GPU's memory is too small for 16 clips at once. Set Machine.micro_batch", 2),
        LaunchError("the last epoch had no finite loss", 2),
        LaunchError(PEER.format("failed (ZeroDivisionError: nothing to divide by)"), 1),
        LaunchError("clip 12 of walk is no JPEG. Make the shards again.", 1),
        LaunchError("python was ended by SIGSEGV", -signal.SIGSEGV),
        LaunchError(f"Slurm job 12 {ENDS['OUT_OF_MEMORY']}.\n", 1),
        LaunchError(f"Slurm job 12 {ENDS['CANCELLED']}.\n", 1),
    ],
    ids=lambda error: str(error)[:60],
)
def test_what_would_fail_again_is_not(error: Exception):
    assert not may_pass(error) and failed("pretrain", error).state_details.retriable is False


def test_a_store_that_does_not_answer_may_pass_and_one_that_refuses_does_not(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a",
                        "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(ConnectionError) as error:
        store.stored_size("s3://tours", "a.tar")
    assert may_pass(error.value) and may_pass(LaunchError(str(error.value), 2))
    with pytest.raises(ValueError, match="Expected a URL") as wrong:
        store.stored_size("nothing://tours", "a.tar")
    assert not may_pass(wrong.value)


@pytest.mark.slow
def test_the_sentence_of_a_job_that_lost_a_process_says_that_it_may_pass(tmp_path: Path):
    said, _ = test_peers.run(tmp_path, lambda: os.kill(test_peers.sign(tmp_path, 1)["pid"], signal.SIGKILL))
    assert may_pass(LaunchError(said, 1)), said


def test_a_killed_job_that_left_no_sentence_may_pass(tmp_path: Path):
    (tmp_path / ".output").write_text("step 1\n")
    assert may_pass(LaunchError(what_happened(["python", "job"], tmp_path, -9), -9))


def test_the_delays_grow():
    assert list(DELAYS_S) == sorted(DELAYS_S) and DELAYS_S[0] >= 5
