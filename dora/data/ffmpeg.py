"""The one place that writes ffmpeg command lines: lists of arguments, never through a shell."""

import io
import signal
import subprocess
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import imageio_ffmpeg
import numpy as np
from jaxtyping import UInt8

from dora.artifacts import Machine
from dora.launch import die_with_parent


def binary(machine: Machine) -> str:
    """The machine's own ffmpeg (5.1 or newer), else the one that imageio-ffmpeg ships."""
    return str(machine.ffmpeg or imageio_ffmpeg.get_ffmpeg_exe())


def decode_command(ffmpeg: str, path: Path, *, fps: float, width: int, height: int, threads: int) -> list[str]:
    """Decode to raw RGB frames on stdout: `fps` a second from the first frame on, upright, full range."""
    rate = Fraction(fps).limit_denominator(1001)
    # Lanczos widens its kernel when it shrinks, so fine detail does not flicker; the matrix and range of the file's
    # own tags are undone on the way to RGB.
    picture = f"setpts=PTS-STARTPTS,fps={rate},scale={width}:{height}:flags=lanczos+accurate_rnd+full_chroma_int"
    return [
        ffmpeg, "-hide_banner", "-nostdin", "-loglevel", "repeat+error",
        "-protocol_whitelist", "file",  # a playlist must not reach the network
        "-threads", str(threads), "-i", f"file:{path}", "-map", "0:V:0",
        "-vf", picture, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "pipe:1",
    ]  # fmt: skip


class Decoding:
    """Frames of a video, in one sequential pass of an ffmpeg child that never outlives us.

    with Decoding(path, command, width=…, height=…) as frames:
        for frame in frames: …
    """

    def __init__(self, path: Path, command: list[str], *, width: int, height: int) -> None:
        self.path = path
        self.n_frames = 0
        self.n_errors = 0
        self.last_error = ""
        self._shape = (height, width, 3)
        self._child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )  # fmt: skip
        self._pictures = cast(io.BufferedReader, self._child.stdout)
        self._complaints = cast(io.BufferedReader, self._child.stderr)
        self._listener = threading.Thread(target=self._listen, name="ffmpeg errors", daemon=True)
        self._listener.start()

    def __enter__(self) -> "Decoding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()  # nothing to a child that has ended
        self._child.wait()
        self._listener.join()
        self._pictures.close()
        self._complaints.close()

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "Y X 3"]]:
        """Yield frames to the end.

        Raises:
            ValueError: if ffmpeg gives up, with its last line.
        """
        frame = np.empty(self._shape, np.uint8)
        while self._pictures.readinto(frame.data) == frame.nbytes:
            self.n_frames += 1
            yield frame
            frame = np.empty(self._shape, np.uint8)
        exit_code = self._child.wait()
        self._listener.join()
        if exit_code < 0:
            raise OSError(f"ffmpeg was killed by signal {-exit_code} while it decoded {self.path}. Run again to go on.")
        if exit_code:
            raise ValueError(f"ffmpeg could not decode {self.path} (exit code {exit_code}): {self.last_error}")

    def _listen(self) -> None:
        for line in self._complaints:
            self.n_errors += 1
            self.last_error = line.decode(errors="replace").strip()
