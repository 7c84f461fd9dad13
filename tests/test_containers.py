"""Dockerfile and compose files, as far as they can be judged without Docker: linter, schema, and what we promise."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from prefect.workers.process import ProcessWorker

from infra import health, runs, services
from infra.entries import deployments, pools
from infra.kubernetes.cluster import Cluster
from infra.kubernetes.pod import environment
from infra.kubernetes.pool import base_job_template
from infra.kubernetes.training import PYTHON, training
from infra.kubernetes.worker import standing
from infra.local import command_line
from infra.worker import serve_health

INFRA = Path(__file__).parents[1] / "infra"
DOCKERFILE = INFRA / "Dockerfile"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
FILES = ["compose.yaml", "compose.gpu.yaml"]
SECRETS = ("DORA_AUTH", "DORA_DB_PASSWORD")


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: word and rest, lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in text.splitlines() if line.strip()]


def last(word: str) -> str:
    return [rest for one, rest in instructions() if one == word][-1]


def test_the_linter_has_nothing_against_the_dockerfile():
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_the_image_is_made_of_locked_versions_runs_as_nobody_and_says_whether_it_is_well():
    assert "--require-hashes -r requirements.lock" in DOCKERFILE.read_text()
    user, group = last("USER").split(":")
    assert int(user) == int(group) == Cluster(image="dora:1").user
    assert "infra.health" in last("HEALTHCHECK") and json.loads(last("ENTRYPOINT")) == ["tini", "--"]
    assert PYTHON.startswith("/opt/venv/") and "PATH=/opt/venv/bin:$PATH" in last("ENV")
    assert "PREFECT_SERVER_ANALYTICS_ENABLED=false" in last("ENV") and "DO_NOT_TRACK=1" in last("ENV")


def test_everything_that_the_image_copies_is_there_and_let_through():
    let_through = {line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied: set[str] = set()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            copied |= set(rest.split()[:-1])
    assert copied == let_through
    assert all((INFRA.parent / name).exists() for name in copied)


def test_neither_git_nor_the_image_takes_the_passwords():
    assert (INFRA / "Dockerfile.dockerignore").read_text().splitlines()[-1] == "**/.env"  # the last rule wins
    assert ".env" in (INFRA / ".gitignore").read_text().splitlines()


def test_the_installer_is_the_makefiles():
    pattern = r"uv==[\d.]+"
    assert re.findall(pattern, DOCKERFILE.read_text()) == re.findall(pattern, (INFRA.parent / "Makefile").read_text())


def compose_schema() -> Draft202012Validator:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return Draft202012Validator(json.loads(vendored.read_text()))


@pytest.mark.parametrize("name", FILES)
def test_compose_files_follow_the_published_schema(name: str):
    errors = list(compose_schema().iter_errors(yaml.safe_load((INFRA / name).read_text())))
    assert not errors, errors


def test_the_schema_would_find_a_misspelt_field():
    assert not compose_schema().is_valid({"services": {"server": {"image": "dora:1", "port": []}}})


def test_every_port_is_on_loopback_and_the_database_has_none():
    ports = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert [port for some in ports.values() for port in some] == ["127.0.0.1:4200:4200", "127.0.0.1:6006:6006"]
    assert COMPOSE["networks"]["database"]["internal"]
    assert [name for name, one in COMPOSE["services"].items() if "database" in one["networks"]] == [
        "database",
        "server",
    ]


def test_passwords_are_asked_for_and_never_written_down():
    text = (INFRA / "compose.yaml").read_text()
    for name in SECRETS:
        assert re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert all(use.startswith(f"${{{name}:?") for use in re.findall(rf"\$\{{{name}[^}}]*\}}", text))
    server = COMPOSE["services"]["server"]["environment"]
    assert server["PREFECT_SERVER_API_AUTH_STRING"].startswith("${DORA_AUTH:?")


def test_images_have_versions():
    known: dict[str, Any] = COMPOSE["services"]
    assert all(re.search(r":\d", service["image"]) for service in known.values())
    assert set(known) == {"database", "server", "setup", "worker", "tensorboard"}


def test_every_pool_of_a_deployment_has_a_worker_in_the_compose_file():
    served: list[str] = []
    for service in COMPOSE["services"].values():
        command = service.get("command", json.loads(last("CMD"))) if service["image"] == "dora:0.1.0" else []
        if "worker" in command:
            given = command_line().parse_args(command[command.index("infra.local") + 1 :])
            served += given.pool or pools()  # as infra/join.py
    assert sorted(served) == sorted({entry["work_pool"]["name"] for entry in deployments().values()})


def test_the_worker_has_time_to_put_its_runs_back():
    """The limits of what it waits for when it is told to stop, and a margin."""
    grace_s = int(COMPOSE["services"]["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > runs.STOP_LIMIT_S + services.STOP_LIMIT_S + 10


def test_nothing_of_prefects_phones_home_and_runs_tell_that_they_are_alive_however_they_are_started():
    """Here by services.py; in containers, Kubernetes' pods included, by the image, which nobody overrides."""
    told = dict(word.split("=", 1) for word in last("ENV").split() if "=" in word)
    assert (services.QUIET | services.HEARTBEAT).items() <= told.items()
    for name, service in COMPOSE["services"].items():
        if name != "database":
            assert service["image"] == "dora:0.1.0"
            assert not set(service.get("environment", {})) & set(services.QUIET | services.HEARTBEAT)
    cluster = Cluster(image="dora:0.1.0")
    assert not set(environment(cluster)) & set(services.QUIET | services.HEARTBEAT)
    manifests = standing(cluster, "kubernetes") + training(cluster, "venice", PurePosixPath("/data/.job.json"), 2)
    manifests.append(base_job_template(cluster)["job_configuration"]["job_manifest"])
    pods = [one["spec"]["template"]["spec"] for one in manifests if one["kind"] in ("Deployment", "Job")]
    images = [container["image"] for pod in pods for container in pod["containers"]]
    assert images == ["dora:0.1.0", "dora:0.1.0", "{{ image }}"]


def test_whoever_depends_on_health_depends_on_a_check():
    known = COMPOSE["services"]
    for service in known.values():
        for name, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "test" in known[name]["healthcheck"]


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_health_is_what_the_service_answers(status: int, exit_code: int, capsys: pytest.CaptureFixture[str]):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.handle_request)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/health"
    assert health.main([address]) == exit_code
    thread.join()
    server.server_close()
    assert health.main([address]) == 1  # nobody is there any more
    assert "Traceback" not in capsys.readouterr().err
    assert health.main([]) == 2


def test_a_worker_is_well_as_long_as_it_asks_for_runs_in_every_pool():
    workers = [ProcessWorker(work_pool_name=pool, name="here") for pool in pools()]
    server = serve_health(workers, 0)
    try:
        address = f"http://127.0.0.1:{server.server_port}/health"
        assert health.main([address]) == 0
        workers[1]._last_polled_time -= timedelta(hours=1)
        assert health.main([address]) == 1
    finally:
        server.shutdown()
        server.server_close()
