"""A picture of a whole video: a bar of its time, pictures evenly over it, and those from where something is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from dora.data.container import open_video
from dora.data.disk import whole_file
from dora.data.timeline import Timeline

COLUMNS, N_EVENLY, MOST_SPANS = 5, 20, 10
_WIDTH, _GAP, _LINE, _BAR = 232, 8, 20, 18  # pixels
_PAPER, _INK = (250, 250, 248), (40, 40, 40)
_COLOURS = {"": (120, 150, 190), "black": (200, 40, 60), "frozen": (225, 130, 0), "undecodable": (150, 50, 190)}


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Mark(NamedTuple):
    """A stretch of the video that is pointed at."""

    start_s: float
    end_s: float
    kind: str  # black, frozen, undecodable


class _Wanted(NamedTuple):
    time_s: float
    mark: Mark | None = None
    place: str = ""  # in the mark


def write_contact_sheet(
    path: Path, video: Path, timeline: Timeline, *, title: str, marks: Sequence[Mark], threads: int
) -> None:
    """Write the sheet as a JPEG; of many marks the longest are shown with pictures, all of them in the bar."""
    duration_s = timeline.seconds(timeline.end)
    step_s = duration_s / N_EVENLY
    evenly = [_Wanted(_key_before(timeline, (i + 0.5) * step_s, nearest_s=i * step_s)) for i in range(N_EVENLY)]
    closer: list[_Wanted] = []
    for mark in sorted(sorted(marks, key=lambda mark: mark.start_s - mark.end_s)[:MOST_SPANS]):
        middle_s = _key_before(timeline, (mark.start_s + mark.end_s) / 2, nearest_s=mark.start_s)
        closer += [_Wanted(mark.start_s, mark, "begins"), _Wanted(middle_s, mark, "middle")]
    times_s = sorted({wanted.time_s for wanted in evenly + closer})
    found = dict(zip(times_s, _pictures_at(video, timeline, times_s, threads=threads), strict=True))
    sheet = _draw(title, duration_s, marks, found, evenly, closer)
    with whole_file(path) as file:
        sheet.save(file, "JPEG", quality=82)


def clock(seconds: float) -> str:
    """1:50:00.0 rather than 6600."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest // 10:02d}.{rest % 10}"


def _key_before(timeline: Timeline, time_s: float, *, nearest_s: float) -> float:
    """The last key frame up to a moment, for it is decoded at once; the moment itself if that is before `nearest_s`."""
    key = _group(timeline, _time(timeline, time_s))
    key_s = timeline.seconds(int(timeline.keys[key]))
    return key_s if key_s >= nearest_s else time_s


def _time(timeline: Timeline, time_s: float) -> int:
    return int(timeline.times[0]) + round(time_s / float(timeline.time_base))


def _group(timeline: Timeline, time: int) -> int:
    return max(0, int(np.searchsorted(timeline.keys, time, side="right")) - 1)


def _pictures_at(
    video: Path, timeline: Timeline, times_s: Sequence[float], *, threads: int
) -> Iterator[Image.Image | None]:
    """The pictures shown at some moments in order of time, None where there is none that can be decoded."""
    frame: VideoFrame | None = None
    with open_video(video) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        frames = container.decode(stream)
        for time_s in times_s:
            time = _time(timeline, time_s)
            group = _group(timeline, time)
            if frame is None or frame.pts is None or _group(timeline, frame.pts) != group:  # else it is nearer to go on
                frame = None
                container.seek(int(timeline.keys[group]), stream=stream)
                frames = container.decode(stream)
            try:
                while frame is None or _shown_until(timeline, frame) <= time:
                    frame = next(frames)
            except (StopIteration, av.error.FFmpegError):
                frame = None
            yield frame and _upright(frame, stream)


def _shown_until(timeline: Timeline, frame: VideoFrame) -> int:
    assert frame.pts is not None
    following = int(np.searchsorted(timeline.times, frame.pts, side="right"))
    return int(timeline.times[following]) if following < len(timeline.times) else timeline.end


def _upright(frame: VideoFrame, stream: VideoStream) -> Image.Image:
    """Small, as it is shown."""
    width = round(frame.width * float(stream.sample_aspect_ratio or 1))
    height, turns = frame.height, round(frame.rotation / 90) % 4
    scale = _WIDTH / (height if turns % 2 else width)
    scale = min(scale, _WIDTH / (width if turns % 2 else height))  # an upright phone's takes no more room than others
    picture = frame.reformat(
        width=max(1, round(width * scale)), height=max(1, round(height * scale)), format="rgb24", interpolation="AREA"
    )
    return Image.fromarray(np.rot90(picture.to_ndarray(), turns))


def _draw(
    title: str, duration_s: float, marks: Sequence[Mark], found: Mapping[float, Image.Image | None],
    evenly: Sequence[_Wanted], closer: Sequence[_Wanted],
) -> Image.Image:  # fmt: skip
    tallest = max((picture.height for picture in found.values() if picture), default=_WIDTH // 2)
    row, width = tallest + _LINE + _GAP, COLUMNS * (_WIDTH + _GAP) + _GAP
    top = _LINE + 2 * _GAP + _BAR + _LINE + _GAP
    middle = top + -(-len(evenly) // COLUMNS) * row
    n_rows = -(-len(closer) // 4)  # a pair must not be torn apart
    sheet = Image.new("RGB", (width, middle + (n_rows * row + _LINE if closer else 0)), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    draw.text((_GAP, _GAP // 2), title, fill=_INK, font=font)
    _draw_bar(draw, font, _LINE + _GAP, width, duration_s, marks)
    for number, wanted in enumerate(evenly):
        place = _GAP + number % COLUMNS * (_WIDTH + _GAP), top + number // COLUMNS * row
        mark = next((mark for mark in marks if mark.start_s <= wanted.time_s < mark.end_s), None)
        _paste(sheet, draw, font, place, tallest, found[wanted.time_s], clock(wanted.time_s), mark)
    for number, wanted in enumerate(closer):
        place = _GAP + number % 4 * (_WIDTH + _GAP), middle + _LINE + number // 4 * row
        assert wanted.mark is not None
        label = f"{wanted.mark.kind} {wanted.place} {clock(wanted.time_s)}"
        _paste(sheet, draw, font, place, tallest, found[wanted.time_s], label, wanted.mark)
    return sheet


def _draw_bar(
    draw: ImageDraw.ImageDraw, font: Font, top: int, width: int, duration_s: float, marks: Sequence[Mark]
) -> None:
    """The whole time as one bar, with the marks in it."""
    left, long = _GAP, width - 2 * _GAP
    draw.rectangle((left, top, left + long, top + _BAR), fill=_COLOURS[""])
    for mark in marks:
        begin, end = (left + long * time_s / duration_s for time_s in (mark.start_s, mark.end_s))
        draw.rectangle((begin, top, max(begin + 1, end), top + _BAR), fill=_COLOURS[mark.kind])
    for share, anchor in ((0, "la"), (0.25, "ma"), (0.5, "ma"), (0.75, "ma"), (1, "ra")):
        draw.text((left + long * share, top + _BAR + 2), clock(share * duration_s), fill=_INK, font=font, anchor=anchor)


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, font: Font, place: tuple[int, int], tallest: int,
    picture: Image.Image | None, label: str, mark: Mark | None,
) -> None:  # fmt: skip
    left, top = place
    colour = _COLOURS[mark.kind] if mark else _INK
    width, height = picture.size if picture else (_WIDTH, tallest)
    if picture:
        sheet.paste(picture, place)
    else:
        draw.text((left + _GAP, top + _GAP), "cannot be decoded", fill=_INK, font=font)
    if mark or not picture:
        draw.rectangle((left - 1, top - 1, left + width, top + height), outline=colour, width=4)
    draw.text((left, top + height + 1), label, fill=colour, font=font)
