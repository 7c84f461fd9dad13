from pathlib import Path

import pytest

from dora import recipes
from dora.config import FileVideo, UrlVideo, WalkingTour
from dora.data.listing import absolute, read

# As published: one `URL, City` a line, a comma missing here and there, one city misspelt.
PUBLISHED = """\
https://www.youtube.com/watch?v=E07rTPgIvn0, Amsterdam
https://www.youtube.com/watch?v=yLTycPjm0nk Kuala_Lampur
https://www.youtube.com/watch?v=YcI_UXfMTgo, Wildlife

https://www.youtube.com/watch?v=fGX0Te6pFvk ,Venice
"""


def test_the_published_list_is_read_by_its_ids(tmp_path: Path):
    (tmp_path / "WTour.txt").write_text(PUBLISHED)
    first, second, third, fourth = read([str(tmp_path / "WTour.txt")])
    assert (first, second, fourth) == tuple(WalkingTour(name=city) for city in ("amsterdam", "kuala_lumpur", "venice"))
    assert third == UrlVideo(name="Wildlife", url="https://www.youtube.com/watch?v=YcI_UXfMTgo")


def test_a_list_mixes_files_addresses_and_cities(tmp_path: Path):
    (tmp_path / "my walk.mp4").touch()
    (tmp_path / "list.txt").write_text(
        "\ufeff# my videos\nmy walk.mp4\nother.mkv, Other one\nChiang Mai  # a city\n"
        "https://host.test/a%20b.webm#t=3\n/data/c.mov,\n"
    )
    assert read([str(tmp_path / "list.txt"), "zurich"]) == (
        FileVideo(name="my walk", path=tmp_path / "my walk.mp4"),
        FileVideo(name="Other one", path=tmp_path / "other.mkv"),
        WalkingTour(name="chiang_mai"),
        UrlVideo(name="a b", url="https://host.test/a%20b.webm#t=3"),
        FileVideo(name="c", path=Path("/data/c.mov")),
        WalkingTour(name="zurich"),
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("https://youtu.be/abcdefghijk?t=3", "abcdefghijk"),
        ("https://www.youtube.com/watch?list=x&v=-bcdefghijk", "bcdefghijk"),
        ("https://www.youtube.com/shorts/abcdefghijk", "abcdefghijk"),
        ("https://figshare.com/ndownloader/files/44522", "44522"),
        ("https://vimeo.com/1234/", "1234"),
        ("https://host.test/", "video"),
        ("HTTPS://host.test/x.m3u8?key=1", "x"),
        ("walks/Zürich: (4K) 60.mp4", "Zürich_ _4K_ 60"),
        ("..hidden.mp4", "hidden"),
        (f"{'x' * 100}.mp4", "x" * 60),
        (f"{'夜' * 100}.mp4", "夜" * 48),  # a folder in a tar has at most 155 bytes
    ],
)
def test_every_video_has_a_valid_name(given: str, name: str):
    assert read([given])[0].name == name


def test_names_are_made_different_and_a_city_keeps_its_own():
    names = [video.name for video in read(["a/walk.mp4", "b/walk.mp4", "c/Walk.mkv", "venice.mp4", "venice"])]
    assert names == ["walk", "walk_2", "Walk_3", "venice_2", "venice"]


@pytest.mark.parametrize(
    "given", [["a.mp4", "./a.mp4"], ["Venice", "https://youtu.be/fGX0Te6pFvk"], ["https://h.test/a?key=1"] * 2]
)
def test_a_video_that_is_named_twice_is_refused(given: list[str]):
    with pytest.raises(ValueError, match="is named twice") as error:
        read(given)
    assert "key=1" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "url", "name"),
    [
        ("https://x.test/hls/,low,high,/master.m3u8, Walk", "https://x.test/hls/,low,high,/master.m3u8", "Walk"),
        ("https://x.test/hls/,low,high,/a.m3u8,A", "https://x.test/hls/,low,high,/a.m3u8", "A"),
        ("https://x.test/hls/,low,high,/a.m3u8", "https://x.test/hls/,low,high,/a.m3u8", "a"),
        ("https://x.test/a.mp4,Name", "https://x.test/a.mp4", "Name"),
        ("https://x.test/a.mp4,Venice, Italy", "https://x.test/a.mp4", "Venice_ Italy"),
        ("https://x.test/a.mp4 , A walk", "https://x.test/a.mp4", "A walk"),
        ("https://x.test/a.mp4, a/b", "https://x.test/a.mp4", "a_b"),
        ("A walk, https://x.test/a.mp4,", "https://x.test/a.mp4", "A walk"),
        ("https://x.test/2024%2Cwalk.mp4", "https://x.test/2024%2Cwalk.mp4", "2024_walk"),
        ("HTTPS://x.test/a.mp4, A", "https://x.test/a.mp4", "A"),
    ],
)
def test_a_line_is_an_address_and_a_name(tmp_path: Path, line: str, url: str, name: str):
    (tmp_path / "list.csv").write_text(f"{line}\n")
    assert read([str(tmp_path / "list.csv")]) == (UrlVideo(name=name, url=url),)


def test_column_names_are_no_video_but_a_file_of_that_name_is(tmp_path: Path):
    (tmp_path / "list.csv").write_text('URL,"Name"\nhttps://x.test/a.mp4,A\n')
    assert read([str(tmp_path / "list.csv")]) == (UrlVideo(name="A", url="https://x.test/a.mp4"),)
    (tmp_path / "list.txt").write_text("video\n")
    with pytest.raises(ValueError, match="names no video"):
        read([str(tmp_path / "list.txt")])
    (tmp_path / "video").touch()
    assert read([str(tmp_path / "list.txt")]) == (FileVideo(name="video", path=tmp_path / "video"),)


@pytest.mark.parametrize("given", ["https://", "http:///walk.mp4", "https://[half/a.mp4"])
def test_an_address_that_is_none_is_refused(given: str):
    with pytest.raises(ValueError, match="is no valid address of a video"):
        read([given])


def test_a_list_that_is_none_is_refused(tmp_path: Path):
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "film.txt").write_bytes(b"\xff\xfe\x00film")
    (tmp_path / "folder.txt").mkdir()
    for name, says in (("empty", "names no video"), ("film", "is no text file"), ("folder", "is no text file")):
        with pytest.raises(ValueError, match=says):
            read([str(tmp_path / f"{name}.txt")])
    with pytest.raises(FileNotFoundError, match="no list of videos"):
        read([str(tmp_path / "none.txt")])


def test_a_path_becomes_absolute_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert [absolute(one) for one in ("a.mp4", "venice", "http://h.test/a.mp4")] == [
        str(tmp_path / "a.mp4"), "venice", "http://h.test/a.mp4",
    ]  # fmt: skip


def test_other_videos_keep_the_rest_of_a_recipe():
    recipe = recipes.for_videos(recipes.demo(), ["venice", "walk.mp4"])
    assert [video.name for video in recipe.videos] == ["venice", "walk"]
    assert recipe.pretrain == recipes.demo().pretrain and recipe.shards == recipes.demo().shards


def test_a_recipe_refuses_two_videos_of_one_name():
    with pytest.raises(ValueError, match="two videos are called venice: give each a name of its own"):
        recipes.Recipe(videos=(WalkingTour(), FileVideo(name="venice", path=Path("a.mp4"))))
