"""A real Slurm of two nodes on this one host, each with a GPU that is none: to try and to test jobs.

    python -m infra.slurm.cluster FOLDER      # until Ctrl-C; prints the line that points sbatch and squeue at it

Debian's packages are enough: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge. Everything
is in the folder, also the key and the sockets: no service of the system is used or touched.
"""

import argparse
import getpass
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dora.launch import die_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
PACKAGES = "slurmctld slurmd slurm-client munge"
N_NODES = 2
START_LIMIT_S = 30
STOP_LIMIT_S = 5

# Accounting and cgroups are off, as they need a database and a system's init. GPUs are only counted, not shut off.
SLURM_CONF = """\
ClusterName=dora
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
KillWait=15
NodeName=gpu[0-{last}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port}-{last_port}] CPUs=2 RealMemory=4000 \
Gres=gpu:fake:1
PartitionName=gpu Nodes=gpu[0-{last}] Default=YES State=UP MaxTime=INFINITE
"""
# Any device file will do; nobody opens it.
GRES_CONF = """\
NodeName=gpu0 Name=gpu Type=fake File=/dev/null
NodeName=gpu1 Name=gpu Type=fake File=/dev/zero
"""


def missing() -> str | None:
    """What keeps this host from being such a cluster, in words, or None."""
    lacking = [name for name in PROGRAMS if not _program(name)]
    if lacking:
        return f"no {', '.join(lacking)} here: apt-get install --no-install-recommends {PACKAGES}"
    if os.geteuid() != 0:
        return "needs root, as slurmd does"
    return None


@contextmanager
def two_nodes(folder: Path) -> Generator[Path]:
    """A cluster that lives as long as the context; the file that SLURM_CONF has to name.

    Raises:
        FileNotFoundError: if Slurm is not installed.
        ConnectionError: if it does not come up, with the end of what it said.
    """
    if reason := missing():
        raise FileNotFoundError(reason)
    folder = folder.absolute()
    conf = _configure(folder)
    munge = ["--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munge += [f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
    with ExitStack() as stack:
        stack.enter_context(_service("munged", munge, folder))
        _wait((folder / "munge.socket").exists, folder, "munged")
        stack.enter_context(_service("slurmctld", ["-D", "-f", str(conf)], folder))
        for number in range(N_NODES):
            options = ["-D", "-N", f"gpu{number}", "-f", str(conf)]
            stack.enter_context(_service("slurmd", options, folder, called=f"gpu{number}"))
        _wait(lambda: _states(conf) == ["idle"] * N_NODES, folder, "slurmctld")
        try:
            yield conf
        finally:  # the daemons would leave the jobs running
            for job in _ask(conf, "squeue", "--noheader", "--format=%i"):
                _ask(conf, "scancel", job)
                _ask(conf, "scancel", "--signal=KILL", "--full", job)
            _wait(lambda: not _ask(conf, "squeue", "--noheader"), folder, "slurmctld")


def _configure(folder: Path) -> Path:
    (folder / "state").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for number in range(N_NODES):
        (folder / f"gpu{number}").mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(64))
    controller, first, *_, last = _free_ports(N_NODES + 1)
    conf = folder / "slurm.conf"
    conf.write_text(
        SLURM_CONF.format(
            host=platform.node().partition(".")[0], user=getpass.getuser(), folder=folder, port=controller,
            last=N_NODES - 1, first_port=first, last_port=last,
        )
    )  # fmt: skip
    (folder / "gres.conf").write_text(GRES_CONF)
    return conf


def _free_ports(n: int) -> list[int]:
    """Neighbouring ports on loopback that nobody listens at just now."""
    for first in range(46_800, 48_000, n):
        try:
            for port in range(first, first + n):
                with socket.socket() as one:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(first, first + n))
    raise ConnectionError("no free ports from 46800 to 48000 on 127.0.0.1.")


@contextmanager
def _service(program: str, options: Sequence[str], folder: Path, called: str = "") -> Generator[None]:
    """A daemon in the foreground, which does not outlive this process."""
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    with (folder / f"{called or program}.out").open("wb") as output:
        process = subprocess.Popen(
            [str(_program(program)), *options], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(ready: Callable[[], bool], folder: Path, name: str) -> None:
    give_up = time.monotonic() + START_LIMIT_S
    while not ready():
        if time.monotonic() > give_up:
            said = (folder / f"{name}.out").read_text(errors="replace")[-2000:]
            raise ConnectionError(f"the cluster in {folder} is not ready after {START_LIMIT_S} s; {name} said:\n{said}")
        time.sleep(0.1)


def _states(conf: Path) -> list[str]:
    return _ask(conf, "sinfo", "--noheader", "--Node", "--format=%T")


def _ask(conf: Path, *command: str) -> list[str]:
    done = subprocess.run(
        command, env=os.environ | {"SLURM_CONF": str(conf)}, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def main(arguments: Sequence[str] | None = None) -> int:
    """A cluster until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.slurm.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for all that is the cluster's; made if need be")
    folder = parser.parse_args(arguments).folder
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with two_nodes(folder) as conf:
            print(f"export SLURM_CONF={conf}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
