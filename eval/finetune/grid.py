"""Learning rates that are tried side by side, and what their heads are called. Loads no tensor library."""


def head_name(lr: float) -> str:
    """As the metrics have it: lr_8e-4."""
    digits, _, exponent = f"{lr:e}".partition("e")
    return f"lr_{float(digits):g}e{int(exponent)}"


def apart(lrs: tuple[float, ...]) -> tuple[float, ...]:
    """The same rates.

    Raises:
        ValueError: if one is not positive, or two have one name.
    """
    if min(lrs) <= 0 or len({head_name(lr) for lr in lrs}) < len(lrs):
        raise ValueError(f"expected positive learning rates that differ, got {lrs}")
    return lrs
