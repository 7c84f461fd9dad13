"""Hosts that pretrain together without a scheduler: one leads, the others join it (`dora pretrain join`).

The folder of the training, which all of them see, is the only link: the leader leaves a note there of where they meet,
and each of the others takes a seat, which is a lease. A host that joins needs neither a number nor an address.
"""

import fcntl
import logging
import os
import platform
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from dora.artifacts import Machine
from dora.config import Frozen
from dora.data.disk import whole_file
from dora.launch import POLL_S, Launch, LaunchError, run_here
from dora.lease import Lease, process_space
from dora.torchrun import Node, on_all_devices

log = logging.getLogger("dora.hosts")

MEETING, SEATS = ".meeting.json", ".seats"
_LEAVE_S = 30.0  # a training that ends everywhere does so within seconds
_SIOCGIFADDR = 0x8915


class Meeting(Frozen):
    """Where the hosts of one training meet; a training that is begun again has another one."""

    id: str
    host: str  # that leads
    space: str  # of its processes: hosts may share a name
    n_hosts: int
    address: str
    port: int
    module: tuple[str, ...]  # what python is to run
    has_begun: bool = False


class Left(Exception):
    """The leader is gone, and with it the training."""


def leading(machine: Machine, one_process: Launch = run_here) -> Launch:
    """How a command is started here and, as soon as they have joined, on machine.hosts.n - 1 more hosts."""
    hosts = machine.hosts

    def launch(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        assert hosts.address
        meeting = Meeting(
            id=uuid.uuid4().hex,
            host=platform.node(),
            space=process_space(),
            n_hosts=hosts.n,
            address=hosts.address,
            port=hosts.port,
            module=tuple(command[1:]),
        )
        node = Node(0, hosts.n, hosts.address, hosts.port)
        try:
            _write(meeting, folder)
            _wait_for_all(meeting, machine, folder, poll)
            _write(meeting.model_copy(update={"has_begun": True}), folder)
            on_all_devices(machine, _towards(hosts.address, one_process), node)(command, folder, poll)
        finally:
            if (now := _read(folder)) and now.id == meeting.id:  # else it is of who has taken over
                (folder / MEETING).unlink(missing_ok=True)

    return launch


def join(machine: Machine) -> Path | None:
    """Take part in a training below this root that wants another host, to its end: its folder, None if there is none.

    Raises:
        LaunchError: if this host's part fails; run it again together with the leader, and both go on.
    """
    for path in sorted(machine.root.glob(f"*/*/{MEETING}")):
        folder = path.parent
        meeting = _read(folder)
        if not meeting or (meeting.host, meeting.space) == (platform.node(), process_space()):
            continue
        if not meeting.has_begun and _is_led(folder, machine):
            for number in range(1, meeting.n_hosts):
                seat = _seat(folder, meeting, number, machine)
                if seat.claim() is None:
                    try:
                        _take_part(meeting, number, folder, machine)
                    finally:
                        seat.release()
                    return folder
    return None


def _take_part(meeting: Meeting, number: int, folder: Path, machine: Machine) -> None:
    log.info("joined %s as host %d of %d", folder, number + 1, meeting.n_hosts)
    here = folder / SEATS / meeting.id / str(number)  # the leader has the folder's own output
    gone_since: list[float] = []

    def poll() -> None:
        now = _read(folder)
        is_there = bool(now and now.id == meeting.id)
        if is_there and _is_led(folder, machine):
            gone_since.clear()
        elif not gone_since:
            gone_since.append(time.monotonic())
        elif time.monotonic() - gone_since[0] > _LEAVE_S:
            raise Left

    try:
        while (now := _read(folder)) and now.id == meeting.id and not now.has_begun:
            poll()
            time.sleep(POLL_S)
        if not now or now.id != meeting.id:
            raise Left
        node = Node(number, meeting.n_hosts, meeting.address, meeting.port)
        start = on_all_devices(machine, _towards(meeting.address, run_here), node)
        start([sys.executable, *meeting.module], here, poll)
    except Left:
        raise LaunchError(f"the host that leads {folder} has stopped; run again there and here to go on", 1) from None


def _wait_for_all(meeting: Meeting, machine: Machine, folder: Path, poll: Callable[[], None]) -> None:
    said = 0
    while True:
        seats = [_seat(folder, meeting, number, machine) for number in range(1, meeting.n_hosts)]
        missing = sum(seat.owner() is None for seat in seats)
        if not missing:
            return
        if missing != said:
            log.info("waiting for %d more of %d hosts; there: dora pretrain join", missing, meeting.n_hosts)
            said = missing
        poll()
        time.sleep(POLL_S)


def _seat(folder: Path, meeting: Meeting, number: int, machine: Machine) -> Lease:
    seat = folder / SEATS / meeting.id / str(number)
    seat.mkdir(parents=True, exist_ok=True)
    return Lease(seat, timeout_s=machine.lease_timeout_s)


def _is_led(folder: Path, machine: Machine) -> bool:
    return Lease(folder, timeout_s=machine.lease_timeout_s).owner() is not None


def _write(meeting: Meeting, folder: Path) -> None:
    with whole_file(folder / MEETING) as file:
        file.write(meeting.model_dump_json().encode())


def _read(folder: Path) -> Meeting | None:
    try:
        return Meeting.model_validate_json((folder / MEETING).read_bytes())
    except (OSError, ValidationError):
        return None


def _towards(address: str, launch: Launch) -> Launch:
    """Gloo by the network card that leads to an address: a host's own name often leads to loopback only."""
    card = None if "GLOO_SOCKET_IFNAME" in os.environ else card_towards(address)

    def launch_there(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
        launch(["env", f"GLOO_SOCKET_IFNAME={card}", *command] if card else command, folder, poll)

    return launch_there


def card_towards(address: str) -> str | None:
    """The network card from which an address is reached, where the system says so (Linux, IPv4)."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((address, 9))  # sends nothing
        except OSError:
            return None
        own = socket.inet_aton(asking.getsockname()[0])
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # a card without an address
            if found[20:24] == own:
                return name
    return None
