import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_server import Fault, Site, mpd, serving
from fault_table import film as noisy_film
from footage import DURATION_S, FPS, HEIGHT, WIDTH, blot, cut, ffmpeg, rename_codec, walk, write
from PIL import Image

from dora.artifacts import Machine, Network
from dora.cache import read_manifest
from dora.config import FileVideo, MiniatureVideo, UrlVideo, WalkingTour
from dora.data.disk import require_space, whole_file
from dora.data.video import acquire, check, probe


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_probe_says_what_the_file_holds(tmp_path: Path, suffix: str):
    found = probe(write(tmp_path / f"walk{suffix}"))
    assert found.duration_s == pytest.approx(DURATION_S, abs=0.01)
    assert found.fps == pytest.approx(FPS)
    assert (found.width, found.height, found.n_frames) == (WIDTH, HEIGHT, round(DURATION_S * FPS))


def test_probe_gives_the_size_as_shown(tmp_path: Path):
    upright, wide = tmp_path / "upright.mp4", tmp_path / "wide.mp4"
    write(tmp_path / "walk.mp4")
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "walk.mp4", "-c", "copy", upright)
    assert probe(upright)[2:4] == (HEIGHT, WIDTH)
    ffmpeg("-i", tmp_path / "walk.mp4", "-vf", "setsar=2", wide)
    assert probe(wide)[2:4] == (2 * WIDTH, HEIGHT)


def test_probe_accepts_pictures_that_start_late(tmp_path: Path):
    found = probe(write(tmp_path / "late.mkv", times=range(24, 60)))
    assert found.duration_s == pytest.approx(DURATION_S, abs=0.01)


def test_a_film_whose_first_picture_is_damaged_is_whole_otherwise(tmp_path: Path, machine: Machine):
    path = blot(write(tmp_path / "walk.mp4"))
    assert probe(path).duration_s == pytest.approx(DURATION_S, abs=0.01) and probe(path)[2:4] == (WIDTH, HEIGHT)
    with pytest.raises(ValueError, match=r"undecodable: 12 pictures damaged or missing: 0:00:00\.0 to 0:00:01\.0"):
        acquire(FileVideo(path=path), machine)
    assert acquire(FileVideo(path=path, accept=("undecodable",)), machine).n_frames == 36


@pytest.mark.parametrize("name", ["cut.mkv", "fast.mp4"])
def test_a_film_that_is_cut_off_is_taken_by_who_accepts_it(tmp_path: Path, machine: Machine, name: str):
    path = cut(write(tmp_path / name), 0.6) if name == "cut.mkv" else _cut_fast_start(tmp_path / name)
    with pytest.raises(ValueError, match=r'take what there is: accept=\["duration"\]'):
        acquire(FileVideo(path=path, accept=("undecodable",)), machine)
    video = acquire(FileVideo(path=path, accept=("undecodable", "duration")), machine)
    assert 1 < video.duration_s < 2.5 and video.n_frames == round(video.duration_s * FPS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-display_hflip"], "mirrored"),
        (["-display_vflip"], "mirrored"),
        (["-display_rotation", "90", "-display_hflip"], "mirrored"),
        (["-display_rotation", "45"], "turned by 45 degrees"),
    ],
)
def test_a_film_to_be_shown_mirrored_or_aslant_is_refused_and_the_command_cures_it(
    tmp_path: Path, machine: Machine, options: list[str], says: str
):
    ffmpeg(*options, "-i", write(tmp_path / "walk.mp4"), "-c", "copy", tmp_path / "odd.mp4")
    with pytest.raises(ValueError, match=rf"odd\.mp4 asks to be shown {says}, expected a quarter turn") as error:
        acquire(FileVideo(path=tmp_path / "odd.mp4"), machine)
    _cure(str(error.value), tmp_path / "odd.mp4")
    assert acquire(FileVideo(path=tmp_path / "upright.mp4"), machine).n_frames == 36


def _cure(message: str, path: Path) -> None:
    """Run the command of a message."""
    *arguments, out = shlex.split(message.split(": ffmpeg ")[1].replace("FILE", str(path)))
    ffmpeg(*arguments, path.with_name(out))


def test_an_avi_that_cannot_say_when_its_pictures_are_shown_is_named_and_the_command_cures_it(
    tmp_path: Path, machine: Machine
):
    write(tmp_path / "walk.mp4", [*walk(), *walk()])
    reordered = ["-c:v", "libx264", "-bf", "3", "-b_strategy", "0"]
    ffmpeg("-i", tmp_path / "walk.mp4", *reordered, tmp_path / "reordered.avi")
    with pytest.raises(ValueError, match=r"reordered\.avi does not say when its pictures are shown: an AVI") as error:
        acquire(FileVideo(path=tmp_path / "reordered.avi"), machine)
    _cure(str(error.value), tmp_path / "reordered.avi")
    assert acquire(FileVideo(path=tmp_path / "whole.mp4"), machine).n_frames == 72
    for codec in (["libx264", "-bf", "0"], ["mpeg4", "-bf", "2"], ["mjpeg", "-pix_fmt", "yuvj420p"]):
        ffmpeg("-i", tmp_path / "walk.mp4", "-c:v", *codec, tmp_path / "fine.avi")
        assert probe(tmp_path / "fine.avi").n_frames == 72


@pytest.mark.parametrize(("curve", "name"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_hdr_is_warned_about_and_the_command_makes_it_ordinary(
    tmp_path: Path, machine: Machine, caplog: pytest.LogCaptureFixture, curve: str, name: str
):
    marked = f"format=yuv420p10le,setparams=color_trc={curve}:color_primaries=bt2020:colorspace=bt2020nc:range=tv"
    ffmpeg("-i", write(tmp_path / "walk.mp4"), "-vf", marked, "-c:v", "libx264", tmp_path / "hdr.mp4")
    with caplog.at_level(logging.WARNING, "dora.video"):
        acquire(FileVideo(path=tmp_path / "hdr.mp4", name="walk"), machine)
        (told,) = caplog.messages
        assert told.startswith(f"walk is in HDR ({name}), whose pictures are stored washed out")
        _cure(told, tmp_path / "hdr.mp4")
        acquire(FileVideo(path=tmp_path / "sdr.mp4"), machine)
    assert caplog.messages == [told]


def test_a_miniature_is_rendered_once(machine: Machine):
    config = MiniatureVideo(duration_s=1, fps=8, width=64, height=48)
    first, second = acquire(config, machine), acquire(config, machine)
    assert not first.reused and second.reused
    assert first.path.is_file() and first == second.model_copy(update={"reused": False})
    assert (first.duration_s, first.fps, first.width, first.height, first.n_frames) == (1, 8, 64, 48, 8)
    assert acquire(config.model_copy(update={"seed": 1}), machine).fingerprint != first.fingerprint


def test_a_file_counts_by_its_content_and_not_by_its_path(tmp_path: Path, machine: Machine):
    original = write(tmp_path / "walk.mp4")
    first = acquire(FileVideo(path=original), machine)
    assert first.path.samefile(original)  # linked, not copied
    moved = original.rename(tmp_path / "moved.mp4")
    assert acquire(FileVideo(path=moved), machine) == first.model_copy(update={"reused": True})
    write(moved, fps=24)
    altered = acquire(FileVideo(path=moved), machine)
    assert altered.fingerprint != first.fingerprint and altered.fps == 24
    manifest = read_manifest(first.folder)
    assert manifest and "path" not in manifest.config and manifest.facts["source"] == str(original)


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, machine: Machine):
    reads: list[str] = []
    path = write(tmp_path / "walk.mp4")
    for _ in range(2):
        acquire(FileVideo(path=path), machine, progress=lambda done, total, unit, note="": reads.append(note))
    assert reads.count("reading") == 1


def test_a_damaged_memory_of_hashes_is_only_a_slower_start(tmp_path: Path, machine: Machine):
    path = write(tmp_path / "walk.mp4")
    first = acquire(FileVideo(path=path), machine)
    (machine.root / "video" / ".hashes.json").write_text("{ half")
    assert acquire(FileVideo(path=path), machine).fingerprint == first.fingerprint


def test_a_walking_tour_is_the_file_that_the_machine_names(tmp_path: Path):
    machine = Machine(root=tmp_path / "root", videos={"zurich": write(tmp_path / "z.mp4")})
    assert acquire(WalkingTour(name="zurich", min_height=48, accept=("duration",)), machine).name == "zurich"
    with pytest.raises(ValueError, match=r'z\.mp4 is 64x48, zurich is wanted with 2160 rows.*accept=\["resolution"\]'):
        acquire(WalkingTour(name="zurich"), machine)


def _text(path: Path) -> Path:
    path.write_text("This is no video.\n" * 50)
    return path


def _playlist(path: Path) -> Path:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nother.ts\n#EXT-X-ENDLIST\n")
    return path


def _picture(path: Path) -> Path:
    Image.new("RGB", (64, 48)).save(path, format="PNG")
    return path


def _sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros(8000, np.int16).tobytes())
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _empty(path: Path) -> Path:
    path.touch()
    return path


def _cut_fast_start(path: Path) -> Path:
    write(path.with_name("whole.mp4"))
    ffmpeg("-i", path.with_name("whole.mp4"), "-c", "copy", "-movflags", "faststart", path)
    return cut(path, 0.6)


@pytest.mark.parametrize(
    ("name", "make", "kind", "message"),
    [
        ("none.mp4", lambda path: path, FileNotFoundError, "no video at .*none.mp4"),
        ("folder.mp4", _folder, ValueError, "is a folder, expected one video file"),
        ("empty.mp4", _empty, ValueError, r"is empty \(0 bytes\)"),
        ("text.mp4", _text, ValueError, "is no video"),
        ("text.txt", _text, ValueError, "is no video"),
        ("list.m3u8", _playlist, ValueError, "is no video"),
        ("picture.png", _picture, ValueError, "is no video"),
        ("sound.wav", _sound, ValueError, r"has no pictures \(its streams: audio\)"),
        ("cut.mp4", lambda path: cut(write(path), 0.7), ValueError, r"cut-off mp4.*\(moov\) is missing"),
        ("codec.mp4", lambda path: rename_codec(write(path)), ValueError, "is in a codec that FFmpeg .* not know"),
        ("fast.mp4", _cut_fast_start, ValueError, r"is cut off: it says 3\.0 s, but it ends at [12]\.\d s"),
        ("cut.mkv", lambda path: cut(write(path), 0.6), ValueError, r"is cut off: it says 3\.\d s, .* ends at [12]\."),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_sentence(tmp_path: Path, machine: Machine, name, make, kind, message):
    path = make(tmp_path / name)
    with pytest.raises(kind, match=message) as error:
        acquire(FileVideo(path=path), machine)
    assert name in str(error.value) and "\n" not in str(error.value)
    assert not list(machine.root.glob("video/*/manifest.json"))


def test_a_refused_file_is_taken_once_it_is_whole(tmp_path: Path, machine: Machine):
    path = cut(write(tmp_path / "walk.mp4"), 0.5)
    with pytest.raises(ValueError, match="cut-off"):
        acquire(FileVideo(path=path), machine)
    assert acquire(FileVideo(path=write(path)), machine).n_frames == 36


AS_NOBODY = """
import os, sys
from pathlib import Path
from dora.data.video import probe

if os.getuid() == 0:  # who may read everything
    os.setuid(65534)
try:
    probe(Path(sys.argv[1]))
except PermissionError as error:
    print(error)
"""


def test_a_file_without_read_permission_is_refused(tmp_path: Path):
    path = write(tmp_path / "walk.mp4")
    path.chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "popen-", "pytest-")):
            folder.chmod(0o755)
    run = subprocess.run([sys.executable, "-c", AS_NOBODY, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"{path} may not be read by this user. Give it read permission (chmod a+r)."


def test_a_disk_too_small_is_refused_with_the_numbers(tmp_path: Path):
    with pytest.raises(OSError, match=r"no space left to copy it in .*: needs about 1e\+03 TB, .* free\. Free some"):
        require_space(tmp_path, 1e15, "copy it")
    require_space(tmp_path, 1, "copy it")


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path):
    (tmp_path / ".big").symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match=r"^no space left to write big in .* free\."),
        whole_file(tmp_path / "big") as file,
    ):
        file.write(bytes(1 << 20))
    assert list(tmp_path.iterdir()) == []
    with whole_file(tmp_path / "big") as file:
        file.write(b"now it fits")
    assert (tmp_path / "big").read_bytes() == b"now it fits"


def test_a_file_from_another_disk_is_copied(tmp_path: Path):
    other = Path("/dev/shm")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("no second disk")
    machine = Machine(root=other / f"dora-test-{os.getpid()}")
    path = write(tmp_path / "walk.mp4")
    try:
        video = acquire(FileVideo(path=path), machine)
        assert not video.path.samefile(path) and video.path.read_bytes() == path.read_bytes()
    finally:
        shutil.rmtree(machine.root)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def online(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root", network=Network(first_wait_s=0.01, timeout_s=2, retries=1))


def film(tmp_path: Path) -> bytes:
    path = tmp_path / "walk.mp4"
    return (path if path.exists() else write(path)).read_bytes()  # it holds the time of its making


def test_a_download_is_a_video_that_says_where_it_came_from(site: Site, tmp_path: Path, online: Machine):
    url = site.put("walk.mp4", film(tmp_path))
    config = UrlVideo(name="walk", url=url.replace("//", "//me:hidden@") + "?signature=hidden")
    video = acquire(config, online)
    assert video.path.read_bytes() == film(tmp_path) and video.name == "walk" and video.n_frames == 36
    assert video.source.startswith(f"{url}, httpx ")
    text = (video.folder / "manifest.json").read_text()
    source = json.loads(text)["facts"]["source"]
    assert (source["kind"], source["url"], source["size_bytes"], source["etag"]) == (
        "file", url, len(film(tmp_path)), '"1"',
    )  # fmt: skip
    assert "hidden" not in text + (online.root / "requests.jsonl").read_text()
    assert sorted(path.name for path in video.folder.iterdir() if not path.name.startswith(".lease")) == [
        "manifest.json", "video.mp4",
    ]  # fmt: skip
    site.files.clear()
    assert acquire(config, online) == video.model_copy(update={"reused": True})


def test_a_page_s_video_says_format_and_tool(site: Site, tmp_path: Path, online: Machine):
    site.put("a.mp4", film(tmp_path))
    url = site.put("film.mpd", mpd({"id": "401", "url": "a.mp4", "width": 64, "height": 48, "fps": 12}))
    video = acquire(UrlVideo(name="film", url=url), online)
    assert video.path.read_bytes() == film(tmp_path)
    assert re.fullmatch(re.escape(url) + r" format 401, yt-dlp 20\d\d\.\d+\.\d+", video.source)


def test_neither_defects_to_live_with_nor_the_machine_make_another_video(site: Site, tmp_path: Path, online: Machine):
    config = UrlVideo(url=site.put("walk.mp4", film(tmp_path)))
    first = acquire(config, online)
    slower = online.model_copy(update={"network": Network(rate_limit=1e9, timeout_s=7)})
    again = acquire(config.model_copy(update={"accept": ("frozen",)}), slower)
    assert again.reused and again.fingerprint == first.fingerprint


def test_a_video_with_a_checksum_is_the_same_at_every_mirror(site: Site, tmp_path: Path, online: Machine):
    checksum = hashlib.sha256(film(tmp_path)).hexdigest()
    first = acquire(UrlVideo(url=site.put("a.mp4", film(tmp_path)), sha256=checksum), online)
    assert acquire(UrlVideo(url=site.url("gone.mp4"), sha256=checksum), online).reused
    assert first.sha256 == checksum


@pytest.mark.parametrize("kind", ["file", "page"])
def test_another_content_than_the_recipe_s_is_removed(site: Site, tmp_path: Path, online: Machine, kind: str):
    url = site.put("a.mp4", film(tmp_path))
    if kind == "page":
        url = site.put("film.mpd", mpd({"id": "1", "url": "a.mp4", "width": 64, "height": 48, "fps": 12}))
    with pytest.raises(ValueError, match=r"is another (file|video) than expected: sha256 .*, expected 0000"):
        acquire(UrlVideo(url=url, sha256="0" * 64), online)
    assert not list(online.root.rglob("*.mp4*"))


def test_what_is_no_whole_film_is_removed_and_asked_for_again(site: Site, tmp_path: Path, online: Machine):
    whole = film(tmp_path)
    config = UrlVideo(url=site.put("walk.mp4", whole[: len(whole) // 2]))
    with pytest.raises(ValueError, match=r"cut-off mp4.*It came from http://127.* and was removed"):
        acquire(config, online)
    assert not list(online.root.rglob("*.mp4*"))
    site.put("walk.mp4", whole)
    assert acquire(config, online).path.read_bytes() == whole


@pytest.mark.parametrize(
    ("spoil", "needed", "says"),
    [
        (lambda path: blot(write(path)), ("undecodable",), "is refused"),
        (_cut_fast_start, ("duration", "undecodable"), r"is cut off: .* stays there; remove it to"),
    ],
)
def test_a_download_with_a_defect_is_kept_for_who_accepts_it(
    site: Site, tmp_path: Path, online: Machine, spoil, needed, says: str
):
    url = site.put("walk.mp4", spoil(tmp_path / "walk.mp4").read_bytes())
    with pytest.raises(ValueError, match=says):
        acquire(UrlVideo(url=url), online)
    assert acquire(UrlVideo(url=url, accept=needed), online).path.is_file()
    assert len(site.files["/walk.mp4"].asked) == 1


def test_too_few_rows_are_refused_but_kept_for_who_accepts_them(site: Site, tmp_path: Path, online: Machine):
    config = UrlVideo(url=site.put("walk.mp4", film(tmp_path)), min_height=2160)
    with pytest.raises(ValueError, match=r'is 64x48, video is wanted with 2160 rows.*accept=\["resolution"\]'):
        acquire(config, online)
    video = acquire(config.model_copy(update={"accept": ("resolution",)}), online)
    assert video.reused and len(site.files["/walk.mp4"].asked) == 1
    with pytest.raises(ValueError, match=r"has 12 frames a second, video is wanted with 25"):
        acquire(UrlVideo(url=site.url("walk.mp4"), min_fps=25), online)


ACQUIRE = """
import sys
from pathlib import Path
from dora.artifacts import Machine, Network
from dora.config import UrlVideo
from dora.data.video import acquire

acquire(UrlVideo(url=sys.argv[1]), Machine(root=Path(sys.argv[2]), network=Network(rate_limit=2e4)))
"""


def test_a_killed_download_goes_on_in_its_stage_folder(site: Site, tmp_path: Path, online: Machine):
    whole = noisy_film(n_frames=48)
    assert len(whole) > 130_000  # more than the child gets before it waits for its rate limit
    url = site.put("walk.mp4", whole)
    child = subprocess.Popen([sys.executable, "-c", ACQUIRE, url, str(online.root)])
    give_up = time.monotonic() + 20
    while not any(part.stat().st_size for part in online.root.glob("video/*/.download/.video.mp4.part")):
        assert child.poll() is None and time.monotonic() < give_up
        time.sleep(0.01)
    child.kill()
    child.wait()
    video = acquire(UrlVideo(url=url), online)
    assert video.path.read_bytes() == whole
    assert [status for status, _ in site.files["/walk.mp4"].served] == [200, 206]


def test_a_download_that_was_whole_when_it_was_killed_is_not_asked_for_again(
    site: Site, tmp_path: Path, online: Machine
):
    config = UrlVideo(url=site.put("walk.mp4", film(tmp_path)))
    before = acquire(config, online)
    source = json.loads((before.folder / "manifest.json").read_text())["facts"]["source"]
    (before.folder / "manifest.json").unlink()
    (before.folder / ".origin.json").write_text(json.dumps({"file": "video.mp4", "source": source}))
    assert not acquire(config, online).reused
    (before.folder / "manifest.json").unlink()
    (before.folder / ".origin.json").write_text(json.dumps({"file": "video.mp4", "source": source}))
    (before.folder / ".download").mkdir()
    before.path.rename(before.folder / ".download" / "video.mp4")
    assert acquire(config, online).path.read_bytes() == film(tmp_path)
    assert len(site.files["/walk.mp4"].asked) == 1


def test_a_download_fails_in_one_sentence(site: Site, tmp_path: Path, online: Machine):
    with pytest.raises(FileNotFoundError, match=r"answers 404\. There is no such file"):
        acquire(UrlVideo(url=site.url("none.mp4")), online)
    site.put("walk.mp4", film(tmp_path), always=Fault(status=500))
    with pytest.raises(ConnectionError, match="gave nothing new in 2 tries in a row"):
        acquire(UrlVideo(url=site.url("walk.mp4")), online)


def test_a_walking_tour_that_no_file_is_named_for_will_be_downloaded(tmp_path: Path):
    check(WalkingTour(name="venice"), Machine(root=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no video at .*none\.mp4"):
        check(WalkingTour(name="venice"), Machine(root=tmp_path, videos={"venice": tmp_path / "none.mp4"}))
    for refuse in (check, acquire):
        with pytest.raises(ValueError, match=r"unknown walking tour 'venise'\. Known: amsterdam"):
            refuse(WalkingTour(name="venise"), Machine(root=tmp_path))


def test_a_finished_download_needs_neither_network_nor_cookies(site: Site, tmp_path: Path, online: Machine):
    config = UrlVideo(url=site.put("walk.mp4", film(tmp_path)))
    lacking = online.model_copy(update={"network": Network(cookies=tmp_path / "none.txt")})
    with pytest.raises(FileNotFoundError, match="no cookies file"):
        check(config, lacking)
    acquire(config, online)
    check(config, lacking)


def test_other_videos_say_where_they_came_from_too(tmp_path: Path, machine: Machine):
    assert acquire(MiniatureVideo(duration_s=1, fps=8, width=64, height=48), machine).source == "rendered from seed 0"
    path = write(tmp_path / "walk.mp4")
    assert acquire(FileVideo(path=path), machine).source == str(path)
