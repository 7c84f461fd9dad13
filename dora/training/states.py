"""Where the states of a run lie. Loads no tensor library."""

from pathlib import Path

STATES = ".states"


def saved_states(folder: Path) -> list[Path]:
    """The complete training states of a run's folder, the newest first."""
    return sorted((folder / STATES).glob("step-*.safetensors"), reverse=True)


def saved_step(path: Path) -> int:
    """After which step a state was saved."""
    return int(path.stem.removeprefix("step-"))
