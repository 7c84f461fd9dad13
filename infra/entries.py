"""What prefect.yaml offers, read without Prefect."""

from pathlib import Path
from typing import Any

import yaml

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
# In every pool, for runs that a command waits for: its own worker takes no others, and they do not outlive it.
COMMAND_QUEUE = "command"


def deployments() -> dict[str, dict[str, Any]]:
    """The entries of prefect.yaml by name."""
    return {entry["name"]: entry for entry in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]}


def pools() -> list[str]:
    """The work pools that they need, by name."""
    return sorted({entry["work_pool"]["name"] for entry in deployments().values()})
