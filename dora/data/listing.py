"""The videos that a user names: files, addresses, cities of the walking tours, or text files that list such."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from dora.config import NAME_BYTES, FileVideo, UrlVideo, VideoConfig, WalkingTour
from dora.data.remote import FILES, MANIFESTS
from dora.data.walking_tours import CITIES, TOURS
from dora.data.web import UNREADABLE, public, youtube_id

LISTS = {".txt", ".csv", ".list"}
# A comma belongs to the address if a slash follows it in the same word: HLS lists of several rates have such.
_ADDRESS = re.compile(r"https?://\S+?(?=,*(?:\s|$)|,[^\s/]*(?:\s|$))", re.IGNORECASE)
_COLUMNS = {"url", "address", "link", "path", "file", "video", "city", "name", "title"}


class _Item(NamedTuple):
    what: str  # an address, a city or a path
    name: str = ""


def read(given: Sequence[str]) -> tuple[VideoConfig, ...]:
    """One video for each thing that is named, all with different names.

    A list has one a line, such as the data set's own `https://www.youtube.com/watch?v=fGX0Te6pFvk, Venice`; what
    stands beside an address or a path is its name, paths count from the list's folder, # begins a comment. A first
    line of column names is skipped.

    Raises:
        FileNotFoundError: for a list that is not there.
        ValueError: for an empty list, or a video that is named twice.
    """
    videos = [_video(item) for one in given for item in _items(one)]
    sources = [_source(video) for video in videos]
    for source in sources:
        if sources.count(source) > 1:
            raise ValueError(f"{public(source)} is named twice. Name each video once.")
    names = {video.name.casefold() for video in videos if isinstance(video, WalkingTour)}
    for place, video in enumerate(videos):
        if isinstance(video, FileVideo | UrlVideo):
            videos[place] = video.model_copy(update={"name": _unused(video.name, names)})
            names.add(videos[place].name.casefold())
    return tuple(videos)


def absolute(given: str) -> str:
    """The same for a process in another folder: a path becomes absolute, an address or a city stays."""
    return given if _is_address(given) or _city(given) else str(Path(given).expanduser().absolute())


def _items(given: str) -> Iterator[_Item]:
    path = Path(given).expanduser()
    if _is_address(given) or _city(given) or path.suffix.lower() not in LISTS:
        yield _Item(given.strip())
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"no list of videos {given}. Check the path.") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ValueError(f"{given} is no text file. Expected one video a line: a file, an address or a city.") from None
    if lines and _is_header(lines[0]) and not (path.parent / lines[0].strip()).exists():
        lines = lines[1:]
    found = [_line(line, path.parent) for line in lines]
    if not any(found):
        raise ValueError(f"{given} names no video. Expected one a line: a file, an address or a city.")
    yield from filter(None, found)


def _is_header(line: str) -> bool:
    return {cell.strip(' "').lower() for cell in re.split("[,;\t]", line)} <= _COLUMNS


def _line(line: str, folder: Path) -> _Item | None:
    line = re.sub(r"(^|\s)#.*", "", line).strip().strip(",").strip()
    if not line:
        return None
    if address := _ADDRESS.search(line):
        rest = line[: address.start()] + " " + line[address.end() :]
        return _Item(address[0], rest.strip(" \t,;"))
    if city := _city(line):
        return _Item(city)
    path, _, name = line.rpartition(",")
    if not path or (folder / line).exists():
        path, name = line, ""
    return _Item(str(folder / Path(path.strip()).expanduser()), name.strip())


def _video(item: _Item) -> VideoConfig:
    if city := _city(item.what):
        return WalkingTour(name=city)
    if not _is_address(item.what):
        path = Path(item.what)
        return FileVideo(path=path, name=_valid(item.name or path.stem))
    scheme, _, rest = item.what.partition("://")
    url = f"{scheme.lower()}://{rest}"
    if not re.match(r"[^\s/]+", rest) or public(url) == UNREADABLE:
        raise ValueError(f"{public(url)} is no valid address of a video. Expected https://host/path.")
    video_id = youtube_id(url)
    for tour in TOURS:
        if tour.youtube_id == video_id:
            return WalkingTour(name=tour.city)
    last = Path(unquote(urlsplit(url).path)).name
    is_file = Path(last).suffix.lower() in FILES | MANIFESTS
    return UrlVideo(url=url, name=_valid(item.name or video_id or (Path(last).stem if is_file else last)))


def _is_address(text: str) -> bool:
    return bool(re.match(r"\s*https?://", text, re.IGNORECASE))


def _city(text: str) -> str | None:
    name = re.sub(r"[\s-]+", "_", text.strip().lower())
    return name if name in CITIES else None


def _valid(text: str) -> str:
    """A name that can be a folder inside the tars."""
    name = re.sub(r"[^\w .-]+", "_", text).lstrip(" .-")[:60]
    return name.encode()[: NAME_BYTES - 10].decode(errors="ignore").strip() or "video"  # `_unused` may add a number


def _unused(name: str, names: set[str]) -> str:
    number, wanted = 1, name
    while name.casefold() in names:
        number += 1
        name = f"{wanted}_{number}"
    return name


def _source(video: VideoConfig) -> str:
    if isinstance(video, FileVideo):
        return str(video.path.expanduser().absolute())
    return video.url if isinstance(video, UrlVideo) else video.name
