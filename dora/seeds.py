"""One seed for everything random in a run, none of it dependent on what was drawn before."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed for one purpose: `derived_seed(config.seed, "views", position)`.

    As no generator is carried from step to step, a resumed run needs no generator state and draws the same.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
