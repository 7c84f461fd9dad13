"""Prefect on this machine: a server and a worker that live as long as the command that needs them.

    python -m infra.local demo [--video FILE|URL|CITY|LIST …] the demo, on the miniature or on other footage
    python -m infra.local run evaluate --param recipe=demo    any deployment of prefect.yaml
    python -m infra.local up | down                           server and worker until Ctrl-C, or until down
    python -m infra.local ui                                  the pages about past runs until Ctrl-C
    python -m infra.local worker --server URL [--pool gpu]    take runs of a server elsewhere

The server listens on loopback unless told otherwise, keeps its database below the artifacts' root and calls nobody.
Everything started here ends with the command that started it, however it ends.
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dora.artifacts import Machine
from dora.cache import span
from dora.config import FileVideo
from dora.data import listing
from dora.data.video import probe
from dora.recipes import explain
from flows.order import Order, find_checkpoint, place
from flows.study_order import StudyOrder, place_study
from infra import join, services, standing
from infra.entries import COMMAND_QUEUE, deployments, pools
from infra.watch import Watch

PROXY = "DORA_NETWORK__PROXY"
# What reads and checks the parameters of the flow at an entrypoint.
PLACES: dict[str, Callable[..., Order | StudyOrder]] = {
    "flows.pipeline.dora": place,
    "flows.study.study": place_study,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 the run failed, 2 refused or could not start, 130 or 143 stopped from outside."""
    given = command_line().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return given.command(given)
    except ValidationError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 2


def run(given: argparse.Namespace) -> int:
    """Run one deployment and follow it to its end."""
    started = time.monotonic()
    machine = Machine()
    known = deployments()
    if given.name not in known:
        raise ValueError(f"unknown deployment {given.name!r}. Known: {', '.join(known)}.")
    parameters = dict(_parameter(text) for text in given.param)
    if given.video:
        parameters["videos"] = [one for text in given.video for one in _named(text)]
    # The flow may run in another folder.
    if videos := parameters.get("videos"):
        parameters["videos"] = [listing.absolute(one) for one in ([videos] if isinstance(videos, str) else videos)]
        for video in listing.read(parameters["videos"]):
            if isinstance(video, FileVideo):
                probe(video.path, accept=("duration",))  # whether that is accepted the recipe says
    if checkpoint := parameters.get("checkpoint"):
        parameters["checkpoint"] = str(find_checkpoint(Path(checkpoint), machine).absolute())
    # Refused now rather than in half a minute.
    check = PLACES[known[given.name]["entrypoint"]]
    order = check(**known[given.name]["parameters"] | {"machine": machine} | parameters)
    parameters.setdefault("machine", as_parameter(machine))
    secret = {PROXY: machine.network.proxy.get_secret_value()} if machine.network.proxy else {}
    only = known[given.name]["work_pool"]["name"], COMMAND_QUEUE
    print("starting Prefect", flush=True)
    auth = standing.password(services.LOOPBACK)
    with services.prefect(machine.root, only=only, secret=secret, auth=auth) as server:
        print(f"Prefect's pages while this runs: {server.url}", flush=True)
        state = _run_to_its_end(server, given.name, parameters)
    took = span(time.monotonic() - started)
    if state["type"] != "COMPLETED":
        print(f"error: {given.name} {state['name'].lower()} after {took}.\n{state['message']}", file=sys.stderr)
        return 1
    print(f"\n{given.name} done in {took}.")
    if order.page:
        print(f"Report: {order.page}  (beside it the same as JSON and Markdown)")
    print("Prefect's pages about this run: make ui")
    return 0


def as_parameter(machine: Machine) -> dict[str, Any]:
    """The whole machine, because a server that was here before has another environment than this command.

    But for what is secret, because Prefect keeps parameters: that a worker has from its own environment.
    """
    return machine.model_dump(mode="json", exclude={"network": {"proxy"}})


def _run_to_its_end(server: services.Prefect, name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """As `prefect deployment run dora/NAME --watch`; Ctrl-C cancels the run and waits until its stages have stopped."""
    deployment = server.call("GET", f"/deployments/name/dora/{name}")
    asked = {"parameters": parameters, "work_queue_name": COMMAND_QUEUE}
    run = server.call("POST", f"/deployments/{deployment['id']}/create_flow_run", asked)
    watch = Watch(server, run["id"])
    try:
        return watch.follow()
    except (KeyboardInterrupt, SystemExit):
        print("stopping the run", file=sys.stderr)
        watch.cancel()
        raise


def _terminate(*_: object) -> None:
    """Unwind on SIGTERM as on Ctrl-C, so that everything that was started is stopped."""
    sys.exit(143)


def _named(text: str) -> list[str]:
    """The videos in one argument: make passes all of VIDEO="venice zurich" as one, and a file may have spaces too."""
    return [text] if Path(text).expanduser().exists() else text.split()


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"expected NAME=VALUE after --param, got {text!r}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        if value.startswith(("[", "{", '"')):
            raise ValueError(
                f"--param {name}: expected JSON, got {value!r}. A shell takes quotes away that it is not told to keep: "
                f"""--param '{name}=["a", "b"]', and of make ARGS='--param {name}=[\\"a\\",\\"b\\"]'."""
            ) from None
        return name, value  # a bare word such as demo


def command_line() -> argparse.ArgumentParser:
    """What may stand behind `python -m infra.local`."""
    parser = argparse.ArgumentParser(prog="python -m infra.local", description="Prefect on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="the whole chain in miniature")
    demo.add_argument(
        "--video", nargs="+", action="extend", metavar="FILE|URL|CITY|LIST",
        help="learn from this footage instead of the rendered walk; a LIST.txt names one a line",
    )  # fmt: skip
    demo.set_defaults(command=run, name="demo")
    one = commands.add_parser("run", help="any deployment of prefect.yaml")
    one.add_argument("name", help="demo, evaluate, full-benchmark, ...")
    one.set_defaults(command=run, video=None)
    for command in (demo, one):
        command.add_argument(
            "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the flow, value in JSON"
        )
    stay = commands.add_parser("up", help="server, deployments and worker until Ctrl-C")
    stay.add_argument("--detach", action="store_true", help="give the terminal back; down stops it")
    stay.add_argument(
        "--host", default=services.LOOPBACK, metavar="ADDRESS", help="of this machine, for workers elsewhere"
    )
    stay.set_defaults(command=standing.up)
    commands.add_parser("down", help="end what up started").set_defaults(command=standing.down)
    commands.add_parser("ui", help="the pages about past runs until Ctrl-C").set_defaults(command=standing.ui)
    elsewhere = commands.add_parser("worker", help="take runs of a server elsewhere until Ctrl-C")
    elsewhere.add_argument("--server", default=os.environ.get("PREFECT_API_URL"), metavar="http://HOST:4200/api")
    elsewhere.add_argument("--pool", action="append", choices=pools(), help="only this one")
    elsewhere.add_argument("--own-root", action="store_true", help="the artifacts' folder is not the server's")
    elsewhere.add_argument("--health", type=int, metavar="PORT", help="answer http://127.0.0.1:PORT/health")
    elsewhere.set_defaults(command=join.worker)
    return parser


if __name__ == "__main__":
    sys.exit(main())
