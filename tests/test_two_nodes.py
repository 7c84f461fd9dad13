"""Two nodes on one machine: network namespaces with a cable between them, and torchrun once in each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_pretrain import NO_DROP_PATH, ROOT, assert_equal_training, command, job
from tiny import write_shards

from dora.training.job import Job, read_log
from dora.training.peers import FOLDER
from dora.training.pretrain import train
from infra.netns.hosts import Host, two_hosts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Host, Host]]:
    """10.77.0.1 and 10.77.0.2, whose only way to each other is the cable."""
    try:
        with two_hosts() as hosts:
            yield hosts
    except OSError as error:
        pytest.skip(f"no two hosts to test with: {error}")


@contextmanager
def started(nodes: tuple[Host, Host], job: Job) -> Generator[list[subprocess.Popen[str]]]:
    """The line that is to be run on each node of a cluster, behind what enters the node."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = ["--rdzv-backend=static", "--master-addr=10.77.0.1"]
    processes = [
        subprocess.Popen(
            node.command(*torchrun, *meeting, f"--node-rank={rank}", *command(job)), cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": node.card},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank, node in enumerate(nodes)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_nodes_learn_what_one_process_does(nodes: tuple[Host, Host], tmp_path: Path, parallel: str):
    shards = write_shards(tmp_path / "walk")
    config = NO_DROP_PATH.model_copy(update={"clips_per_batch": 6})
    train(job(tmp_path / "one", shards, config))
    with started(nodes, job(tmp_path / "two", shards, config, micro_batch=2, parallel=parallel)) as processes:
        for process in processes:
            output, _ = process.communicate(timeout=180)
            assert process.returncode == 0, output
    assert_equal_training(tmp_path / "one", tmp_path / "two")


def test_a_node_that_goes_out_ends_the_training_of_the_other(nodes: tuple[Host, Host], tmp_path: Path):
    """Its process is killed together with its torchrun, and says goodbye to nobody."""
    run = job(
        tmp_path / "run", write_shards(tmp_path / "walk"), NO_DROP_PATH.model_copy(update={"epochs": 500}),
        log_every_steps=1, peer_timeout_s=10,
    )  # fmt: skip
    with started(nodes, run) as (first, second):
        while not read_log(run.folder) and first.poll() is None:
            time.sleep(0.1)
        sign = json.loads((run.folder / FOLDER / "rank-00001.json").read_text())
        second.kill()
        os.kill(sign["pid"], signal.SIGKILL)
        output, _ = first.communicate(timeout=60)
    assert first.returncode != 0
    assert (run.folder / ".error").read_text().startswith(f"training process 1 (pid {sign['pid']} on "), output
