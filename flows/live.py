"""A training while it goes: its curves and its newest picture on Prefect's pages, read from the folder it works in.

The training may run in another process, or as a job on another host: the files are the only link.
"""

import logging
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from dora.launch import Launch
from dora.training.job import LOG
from eval.report.live import LiveLog
from flows.shown import Board, data_url

log = logging.getLogger("flows.live")

LOOK_EVERY_S = 5.0
CURVES_EVERY_S = 60.0


class Live:
    """Shows a folder's log, at most once a minute, and its newest picture, if they have changed."""

    def __init__(self, name: str, board: Board) -> None:
        self._name, self._board = name, board
        self._key = name.lower().replace("_", "-").replace(" ", "-")
        self._log: LiveLog | None = None
        self._sheet: Path | None = None
        self._look_at = self._draw_at = 0.0

    def watching(self, launch: Launch) -> Launch:
        """The same launch, looked after."""

        def watched(command: list[str], folder: Path, poll: Callable[[], None]) -> None:
            def poll_and_look() -> None:
                poll()
                self._look(folder)

            launch(command, folder, poll_and_look)
            self._look_at = self._draw_at = 0.0
            self._look(folder)

        return watched

    def look(self, folder: Path) -> None:
        """Called about once a second."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_EVERY_S
        self._log = self._log or LiveLog(folder / LOG)
        if time.monotonic() >= self._draw_at and self._log.read():
            self._draw_at = time.monotonic() + CURVES_EVERY_S
            self._show_curves(folder)
        if (sheet := max(folder.glob("sheets/*.jpg"), default=None)) and sheet != self._sheet:
            self._sheet = sheet
            told = f"{self._name}: what the teacher sees, {sheet.stem}"
            self._board.show("image", f"{self._key}-sheet", data_url(sheet.read_bytes(), "jpeg"), told)

    def _look(self, folder: Path) -> None:
        try:
            self.look(folder)
        except (OSError, ValueError) as error:  # a file that is being replaced, another host's that is late
            self._look_at = time.monotonic() + CURVES_EVERY_S
            log.warning("cannot show how %s goes just now: %s", self._name, error)

    def _show_curves(self, folder: Path) -> None:
        assert self._log is not None
        step, loss = self._log.last("step"), self._log.last("loss")
        told = [f"{self._name}, {time.strftime('%Y-%m-%d %H:%M')}"]
        told += [f"step {step:.0f}"] if step is not None else []
        told += [f"loss {loss:.3f}"] if loss is not None else []
        title = "   ".join(told)
        self._board.show("image", f"{self._key}-curves", data_url(self._log.svg(title).encode(), "svg+xml"), title)
        boards = folder / "tensorboard"
        if boards.is_dir():
            one, all_of_them = shlex.quote(str(boards)), shlex.quote(str(folder.parent))
            text = (
                "On a host that sees this folder:\n\n"
                f"    tensorboard --logdir {one}\n\nor, beside all others that were made here:\n\n"
                f"    tensorboard --logdir {all_of_them}\n"
            )
            self._board.show("markdown", f"{self._key}-tensorboard", text, f"all curves of {self._name} in TensorBoard")
