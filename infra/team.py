"""Prepare a team's Prefect server, the one at PREFECT_API_URL: python -m infra.team, before its workers start."""

import os
import sys

from dora.artifacts import Machine
from infra.deploy import prepare
from infra.rest import Prefect


def main() -> int:
    """Create or renew work pools, deployments and automations; runs that are under way stay as they are."""
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        print("error: set PREFECT_API_URL to the server's address, http://HOST:4200/api.", file=sys.stderr)
        return 2
    server = Prefect(url.removesuffix("/").removesuffix("/api"), auth=os.environ.get("PREFECT_API_AUTH_STRING"))
    try:
        prepare(server, Machine().root)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
