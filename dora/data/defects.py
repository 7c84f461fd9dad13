"""What was found in a video, and whether that will do: one check for each kind of defect, in words and numbers."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from dora.cache import span as in_words
from dora.config import Defect, Frozen
from dora.data.contact_sheet import clock
from dora.data.looks import Span
from dora.data.packets import Timing

# Lists give durations to the minute; a trailer, an excerpt or another video differs by more.
_EXPECTED_SHARE, _EXPECTED_S = 0.02, 1.0
# Containers round, and count from other clocks.
_PROMISED_SHARE, _PROMISED_S = 0.01, 0.5
# A phone's jitter is far below; frames are stored by their times, so it does no harm.
_UNEVEN_SHARE = 0.1
_ODD_SHARE = 0.01  # of the pictures, whose time stamps are missing, another's or go back
# A picture held for so long is stored several times; so long in medians, for a time lapse.
_GAP_S, _GAP_MEDIANS = 1.0, 3.0
_MOST_SPANS = 6  # in a sentence


class Findings(Frozen):
    """What one look through a whole file gave; times in seconds from the first picture."""

    timing: Timing
    width: int = Field(description="as shown, upright and with square pixels")
    height: int
    breaks_off: str | None = Field(description="what the reader said where it could not read on")
    every_frame: bool
    n_looked: int = Field(description="pictures that were decoded and looked at")
    whole_s: float = Field(description="seconds of which every picture was decoded")
    n_bad: int = Field(description="pictures there that are damaged or missing")
    bad: tuple[Span, ...] = Field(description="when: stretches with such pictures, the first few")
    n_backwards: int = Field(description="pictures that came after later ones")
    span_s: float = Field(description="shorter spans were not looked for")
    black: tuple[Span, ...]
    frozen: tuple[Span, ...]


class Check(NamedTuple):
    """One thing looked at."""

    name: Defect
    is_defect: bool
    says: str
    remedy: str  # of a defect, with {file} and {whole} for the name of a better one

    def advice(self, path: Path, name: str) -> str:
        """What to do about it, with the file and a better one's name filled in; empty for what keep_best cuts away."""
        return self.remedy.format(file=shlex.quote(str(path)), whole=_whole(path, name))


def checks(findings: Findings, *, expected_s: float | None, min_height: int) -> list[Check]:
    """Every check in the order of the report."""
    return [
        _duration(findings.timing, expected_s),
        _resolution(findings, min_height),
        _undecodable(findings),
        _uneven(findings),
        _spans(findings, "black", findings.black),
        _spans(findings, "frozen", findings.frozen),
    ]


def refusal(
    path: Path, findings: Findings, refused: Sequence[Check], *, name: str, index: int | None,
    accepted: Sequence[Defect], sheet: Path,
) -> str:  # fmt: skip
    """Why a run does not start, and for each reason the ways out."""

    def switch(names: Sequence[Defect]) -> str:
        value = "accept=" + json.dumps([*accepted, *names], separators=(",", ":"))
        return f"{value} of the video {name}" if index is None else f"'videos.{index}.{value}'"

    names: list[Defect] = [check.name for check in refused]
    lines = [f"the video {name} is refused ({path}; pictures: {sheet})"]
    for check in refused:
        sentences = [f"{check.name}: {check.says}.", check.advice(path, name), f"Accept it: {switch([check.name])}"]
        lines.append("  " + " ".join(filter(None, sentences)))
    if best := keep_best(findings, names, path, name):
        lines.append(f"  {best}")
    if len(refused) > 1:
        lines.append(f"  To live with all of it: {switch(names)}")
    return "\n".join(lines)


def keep_best(findings: Findings, names: Sequence[Defect], path: Path, name: str) -> str:
    """How to keep the longest stretch that is neither black nor frozen, if these are among what is wrong."""
    spans = [*(findings.black if "black" in names else ()), *(findings.frozen if "frozen" in names else ())]
    if not spans:
        return ""
    duration_s = findings.timing.duration_s
    spans.sort(key=lambda span: span.start_s)
    good = [
        Span(start_s=a, end_s=b)
        for a, b in zip([0.0, *(s.end_s for s in spans)], [*(s.start_s for s in spans), duration_s], strict=True)
    ]
    best = max(good, key=lambda span: span.length_s)
    if best.length_s < 1:
        return "Nothing else is left of it."
    start = f"-ss {best.start_s:.2f} " if best.start_s > 0 else ""
    end = f"-to {best.end_s:.2f} " if best.end_s < duration_s else ""
    command = f"ffmpeg {start}{end}-i {shlex.quote(str(path))} -c copy {_whole(path, name)}"
    return f"Keep its longest good stretch, {in_words(best.length_s)}: {command}"


def _whole(path: Path, name: str) -> str:
    return shlex.quote(f"{name}-whole{path.suffix}")


def _duration(timing: Timing, expected_s: float | None) -> Check:
    promised_s, real_s = timing.promised_s, timing.duration_s
    says, again = clock(real_s), "Copy or download it again."
    if promised_s is not None and timing.end_s < promised_s - max(_PROMISED_S, _PROMISED_SHARE * promised_s):
        return Check("duration", True, f"cut off at {clock(timing.end_s)} of {clock(promised_s)} promised", again)
    if real_s < timing.end_s - max(_EXPECTED_S, _EXPECTED_SHARE * timing.end_s):
        says = f"the pictures end at {clock(real_s)}, the sound goes on until {clock(timing.end_s)}"
        return Check("duration", True, says, again)
    if expected_s is not None:
        says += f", expected {clock(expected_s)}"
        if abs(real_s - expected_s) > max(_EXPECTED_S, _EXPECTED_SHARE * expected_s):
            return Check("duration", True, says, "Is it the right video, and all of it?")
    elif promised_s is not None:
        says += ", as the file promises"
    return Check("duration", False, says, "")


def _resolution(findings: Findings, min_height: int) -> Check:
    says = f"{findings.width}x{findings.height}"
    if findings.height < min_height:
        return Check("resolution", True, f"{says}, expected {min_height} rows", "Download a higher format.")
    return Check("resolution", False, says, "")


def _undecodable(findings: Findings) -> Check:
    is_whole = findings.whole_s > findings.timing.duration_s - findings.timing.gap_s
    whole = "every picture" if is_whole else f"key frames, and every picture of {in_words(findings.whole_s)}"
    says = f"{findings.n_looked} pictures looked at ({whole})"
    found: list[str] = []
    if findings.breaks_off:
        found.append(f"reading breaks off at {clock(findings.timing.end_s)} ({findings.breaks_off})")
    if findings.n_bad:
        found.append(f"{findings.n_bad} pictures damaged or missing: {_listed(findings.bad)}")
    return Check("undecodable", bool(found), "; ".join([*found, says]), "Copy or download it again.")


def _uneven(findings: Findings) -> Check:
    timing = findings.timing
    says = f"{1 / timing.gap_s:.4g} pictures a second" if timing.gap_s else "no rate"
    found: list[str] = []
    if timing.uneven_share > _UNEVEN_SHARE:
        found.append(
            f"{timing.uneven_share:.0%} of the gaps between pictures differ from the usual {timing.gap_s:.3g} s"
        )
    if timing.largest_gap_s > max(_GAP_S, _GAP_MEDIANS * timing.gap_s):
        found.append(f"no picture for {timing.largest_gap_s:.1f} s from {clock(timing.largest_gap_at_s)} on")
    for number, words in (
        (timing.n_untimed, "packets without a time stamp"),
        (timing.n_duplicates, "pictures at the time of another"),
        (timing.n_backwards + findings.n_backwards, "pictures that go back in time"),
    ):
        if number > max(1, _ODD_SHARE * timing.n_pictures):
            found.append(f"{number} {words}")
    if not found and timing.uneven_share:
        says += f", {timing.uneven_share:.2%} of the gaps uneven, the largest {timing.largest_gap_s:.3g} s"
    remedy = "Write it anew: ffmpeg -i {file} -fps_mode cfr {whole}"
    return Check("uneven", bool(found), "; ".join([*found, says]), remedy)


def _spans(findings: Findings, name: Defect, spans: Sequence[Span]) -> Check:
    if not spans:
        return Check(name, False, f"nothing of {findings.span_s:g} s or longer", "")
    total_s = sum(span.length_s for span in spans)
    share = total_s / findings.timing.duration_s
    return Check(name, True, f"{in_words(total_s)} ({share:.1%}): {_listed(spans)}", "")


def _listed(spans: Sequence[Span]) -> str:
    shown = [f"{clock(span.start_s)} to {clock(span.end_s)}" for span in spans[:_MOST_SPANS]]
    return ", ".join(shown) + (f" and {len(spans) - len(shown)} more" if len(spans) > len(shown) else "")
