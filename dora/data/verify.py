"""Whether a video file is what it should be, from its first picture to its last: before hours are spent on it.

What is found is an artifact, made once for a file. Whether that will do is judged anew each time, from what the run
expects and accepts, and enters no fingerprint.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import av.error
from av.video.frame import VideoFrame

from dora.artifacts import Artifact, Machine, Video
from dora.cache import build
from dora.config import Defect
from dora.data.contact_sheet import Mark, clock, write_contact_sheet
from dora.data.container import why_unreadable
from dora.data.defects import Findings, checks, refusal
from dora.data.looks import Look, Looker, Span
from dora.data.packets import read_packets
from dora.data.timeline import check_order
from dora.data.watch import WatchConfig, watch
from dora.progress import Progress, silent

log = logging.getLogger("dora.verify")

VERSION = 1
DEFAULT = WatchConfig()
SHEET = "verify.jpg"
_MOST_BAD = 100  # stretches that are kept; of all pictures there is the number
_SAME_DAMAGE_S = 1.0  # damaged pictures so near to each other are named as one stretch


class Verification(Artifact):
    """What was found in one video file, and its contact sheet."""

    findings: Findings
    sheet: Path


def require(
    video: Video, *, expected_s: float | None, min_height: int, accept: tuple[Defect, ...], machine: Machine,
    index: int | None = None, rerun: bool = False, progress: Progress = silent,
) -> Verification:  # fmt: skip
    """Look through a video once, and let it pass if nothing is wrong with it that is not accepted.

    `index` is its place in the recipe, so that the message can name the switch.

    Raises:
        ValueError: with every defect, where it is, how to cut it away and how to accept it.
    """
    verification = verify(video, DEFAULT, machine, rerun=rerun, progress=progress)
    found = checks(verification.findings, expected_s=expected_s, min_height=min_height)
    for check in found:
        if check.is_defect and check.name in accept:
            log.warning("%s: %s: %s (accepted)", video.name, check.name, check.says)
    refused = [check for check in found if check.is_defect and check.name not in accept]
    if refused:
        # Not Path.is_file, which raises for a long sentence about a download.
        own = Path(video.source) if os.path.isfile(video.source) else video.path  # the user's, where there is one
        raise ValueError(
            refusal(own, verification.findings, refused, name=video.name, index=index, accepted=accept,
                    sheet=verification.sheet)
        )  # fmt: skip
    log.info("verified %s: %s, nothing refused", video.name, clock(verification.findings.timing.duration_s))
    return verification


def verify(
    video: Video, config: WatchConfig, machine: Machine, *, rerun: bool = False, progress: Progress = silent
) -> Verification:
    """What there is to find in a video: made once for its content.

    Raises:
        ValueError: if it cannot be read at all.
    """

    def make(folder: Path) -> dict[str, object]:
        found = inspect(
            video.path, config, sheet=folder / SHEET, title=video.name, threads=machine.threads, progress=progress
        )  # fmt: skip
        return found.model_dump(mode="json")

    built = build(machine, "verification", VERSION, config, {"video": video}, make, rerun=rerun)
    return Verification(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=built.reused,
        findings=Findings.model_validate(built.manifest.facts), sheet=built.folder / SHEET,
    )  # fmt: skip


def inspect(
    path: Path, config: WatchConfig, *, sheet: Path | None, title: str = "", threads: int = 0,
    progress: Progress = silent,
) -> Findings:  # fmt: skip
    """Read all of a file, look at its pictures, and write its contact sheet if it is to have one.

    Raises:
        FileNotFoundError, PermissionError: if it is not there, or not for this user.
        ValueError: if it is no video, holds no picture that can be decoded, does not say when they are shown, or wants
            them mirrored.
    """
    check_order(path)
    looker, keys = Looker(config), dict[int, Look]()

    def see(frame: VideoFrame) -> None:
        assert frame.pts is not None
        keys[frame.pts] = looker.look(frame, 0.0)

    try:
        packets = read_packets(path, see, progress)
        timeline = packets.timeline
        keys = {time: look._replace(time_s=timeline.seconds(time)) for time, look in keys.items()}
        watched = watch(path, packets, keys, config, threads=threads, progress=progress)
        if not watched.n_looked:
            raise ValueError(f"{path} has no picture that can be decoded. Copy or download it again.")
        findings = Findings(
            timing=packets.timing, width=packets.width, height=packets.height, breaks_off=packets.breaks_off,
            every_frame=config.every_frame, n_looked=watched.n_looked, whole_s=watched.whole_s,
            n_bad=len(watched.bad_s), bad=_stretches(watched.bad_s, packets.timing.gap_s)[:_MOST_BAD],
            n_backwards=watched.n_backwards,
            span_s=config.span_s, black=watched.spans.black, frozen=watched.spans.frozen,
        )  # fmt: skip
        if sheet:
            write_contact_sheet(
                sheet, path, timeline, title=_title(title or path.name, findings), marks=_marks(findings),
                threads=threads,
            )  # fmt: skip
    except av.error.FFmpegError as error:
        raise ValueError(why_unreadable(path, error)) from None
    return findings


def _title(name: str, findings: Findings) -> str:
    timing = findings.timing
    rate = f"{1 / timing.gap_s:.4g} pictures a second" if timing.gap_s else ""
    return f"{name}   {clock(timing.duration_s)}   {findings.width}x{findings.height}   {rate}"


def _marks(findings: Findings) -> list[Mark]:
    marks = [Mark(span.start_s, span.end_s, "black") for span in findings.black]
    marks += [Mark(span.start_s, span.end_s, "frozen") for span in findings.frozen]
    return marks + [Mark(span.start_s, span.end_s, "undecodable") for span in findings.bad]


def _stretches(times_s: Sequence[float], picture_s: float) -> tuple[Span, ...]:
    """Moments that lie near to each other, as spans."""
    spans: list[Span] = []
    for time_s in times_s:
        end_s = time_s + picture_s
        if spans and time_s - spans[-1].end_s < _SAME_DAMAGE_S:
            spans[-1] = Span(start_s=spans[-1].start_s, end_s=end_s)
        else:
            spans.append(Span(start_s=time_s, end_s=end_s))
    return tuple(spans)
