"""Two hosts on this one, to try what spans hosts: network namespaces with a cable between, each with a name of its own.

    python -m infra.netns.hosts       # until Ctrl-C; prints what to write before a command, to run it on either

They share disk and processes, and nothing else: neither reaches the other's loopback, or any other network.
Debian's package is iproute2.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

NETWORK = "10.77.0"
PROGRAMS = ("ip", "unshare", "hostname")


class Host(NamedTuple):
    """One of the two."""

    name: str
    address: str
    card: str

    def command(self, *words: str) -> list[str]:
        """The words that run a command on it, in the process that they start."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *named, *words]


def missing() -> str | None:
    """What keeps this machine from being two hosts, in words, or None."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root, to make network namespaces"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} here: apt-get install --no-install-recommends iproute2 util-linux hostname"
    return None


@contextmanager
def two_hosts() -> Generator[tuple[Host, Host]]:
    """Hosts that are there as long as the context.

    Raises:
        OSError: if they cannot be made here, with the reason.
    """
    if reason := missing():
        raise OSError(reason)
    names = [f"dora{os.getpid()}-{number}" for number in range(2)]
    first, second = (Host(name, f"{NETWORK}.{number}", f"{name}c") for number, name in enumerate(names, start=1))
    try:
        for host in (first, second):
            _ip("netns", "add", host.name)
        _ip("link", "add", first.card, "netns", first.name, "type", "veth", "peer", second.card, "netns", second.name)
        for host in (first, second):
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.card)
            for card in (host.card, "lo"):
                _ip("-n", host.name, "link", "set", card, "up")
        yield first, second
    finally:
        for host in (first, second):
            subprocess.run(["ip", "netns", "delete", host.name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"no network namespaces here: ip {' '.join(arguments)}: {done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Two hosts until Ctrl-C."""
    argparse.ArgumentParser(
        prog="python -m infra.netns.hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with two_hosts() as hosts:
            for host in hosts:
                print(f"{host.address}   ip netns exec {host.name} unshare --uts sh -c "
                      f"'hostname {host.name}; exec bash'", flush=True)  # fmt: skip
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
