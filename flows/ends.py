"""How the stages of a run have ended, and the command that repeats the run."""

import json
import shlex
from inspect import signature
from typing import Any

from prefect.runtime import deployment, flow_run

from dora.data.web import shareable
from eval.report import RunFacts

Future = Any  # of Prefect; its annotations do not know that a task also takes futures of its parameters


def problems(*futures: Future) -> list[str]:
    """Wait for all; the messages of those that failed themselves, not of those whose input failed."""
    for future in futures:
        future.wait()
    return [str(future.state.message) for future in futures if future.state.is_failed() or future.state.is_crashed()]


def facts(flow: Any, seconds: float, *, otherwise: str) -> RunFacts:
    """What a page says about the run of `flow` that made it; `otherwise` is its name outside a deployment.

    A page is shown to others: its addresses have lost what may be secret in them.
    """
    name = deployment.name or otherwise
    command = ["python -m infra.local run", name]
    for key, default in signature(flow.fn).parameters.items():
        value = flow_run.parameters.get(key, default.default)
        if key != "machine" and value != default.default:
            said = shareable(json.loads(json.dumps(value, default=str)))
            text = said if isinstance(said, str) else json.dumps(said)
            command += ["--param", shlex.quote(f"{key}={text}")]
    return RunFacts(name=name, seconds=seconds, commands=(" ".join(command),))
