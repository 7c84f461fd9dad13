"""Whether a service answers: python -m infra.health URL. For containers' health checks, so it imports little."""

import sys
import urllib.request
from collections.abc import Sequence

ANSWER_LIMIT_S = 8
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 if it answers that it is well, 1 with one sentence if not, 2 without an address."""
    if len(arguments) != 1:
        print("usage: python -m infra.health URL", file=sys.stderr)
        return 2
    try:
        with DIRECT.open(arguments[0], timeout=ANSWER_LIMIT_S):
            return 0
    except (OSError, ValueError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
