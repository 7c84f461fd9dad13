"""Data sets are got from a server on loopback: whole or not at all, whatever the network, a kill or an archive does."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_server import Fault, Site, noise, serving
from small_sets import served, tarred, write, zipped

from dora.__main__ import main
from dora.artifacts import Machine, Network
from dora.data.datasets.get import USED, get, read_manifest
from dora.data.datasets.table import SETS


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write(root, "ade20k", "coco", "davis", "voc2012", "voc2007")
    return root


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root", network=Network(retries=1, first_wait_s=0, timeout_s=5))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def left_over(folder: Path) -> list[str]:
    """What lies beside a set: archives, parts, what was being unpacked."""
    found = [p for p in folder.parent.rglob("*") if p.is_file() and not p.is_relative_to(folder)]
    return sorted(str(p.relative_to(folder.parent)) for p in found if not p.name.startswith(".lease"))


@pytest.mark.parametrize(
    ("name", "pack", "top"),
    [("davis", zipped, "DAVIS"), ("ade20k", zipped, "ADEChallengeData2016"), ("voc2012", tarred, "VOCdevkit/VOC2012"),
     ("voc2007", tarred, "VOCdevkit/VOC2007")],
)  # fmt: skip
def test_a_set_comes_out_as_it_was_packed_and_is_got_once(
    originals: Path, tmp_path: Path, site: Site, machine: Machine, name: str, pack, top: str
):
    content = pack(originals / name, top)
    url = site.put("archive", content)
    wanted, folder = served(name, (url, content, top)), tmp_path / "data" / name
    first = get(wanted, folder, machine)
    assert not first.reused and first.report.problems == [] and first.folder == folder
    came = files(folder)
    manifest = json.loads(came.pop(".complete"))
    assert came == files(originals / name)
    assert manifest["archives"] == [
        {"name": "archive", "url": url, "size_bytes": len(content), "sha256": wanted.archives[0].sha256}
    ]
    assert manifest["n_files"] == len(came) and manifest["size_bytes"] == sum(map(len, came.values()))
    assert manifest["tool"].startswith("dora ") and left_over(folder) == []
    n_asked = len(site.files["/archive"].asked)
    second = get(wanted, folder, machine)
    assert second == first._replace(reused=True) and len(site.files["/archive"].asked) == n_asked


def coco_archives(originals: Path, tmp_path: Path) -> dict[str, bytes]:
    """COCO comes in three parts."""
    archives: dict[str, bytes] = {}
    for part in ("annotations", "val2017", "train2017"):
        folder = tmp_path / "parts" / part
        shutil.copytree(originals / "coco" / part, folder / part)
        archives[f"{part}.zip"] = zipped(folder, "")
    return archives


def test_several_archives_make_one_set_and_progress_is_of_all_of_them(
    originals: Path, tmp_path: Path, site: Site, machine: Machine
):
    archives = coco_archives(originals, tmp_path)
    wanted = served("coco", *((site.put(name, content), content, "") for name, content in archives.items()))
    told: list[tuple[float, float, str, str]] = []
    got = get(
        wanted, tmp_path / "coco", machine, keep_archives=True,
        progress=lambda done, total, unit, note="": told.append((done, total, unit, note)),
    )  # fmt: skip
    assert got.report.problems == [] and got.report.counts["training images"] == 3
    assert left_over(got.folder) == sorted(f".downloads/coco/{name}" for name in archives) + sorted(
        f"parts/{p.relative_to(tmp_path / 'parts')}" for p in (tmp_path / "parts").rglob("*") if p.is_file()
    )
    megabytes = [(done, total) for done, total, unit, _ in told if unit == "MB"]
    all_of_it = sum(map(len, archives.values())) / 1e6
    assert [done for done, _ in megabytes] == sorted(done for done, _ in megabytes)
    assert megabytes[-1][0] == pytest.approx(all_of_it)
    assert {round(total, 6) for _, total in megabytes} == {round(all_of_it, 6)}
    assert {unit for _, _, unit, _ in told} == {"MB", "MB checked", "files"}
    assert {note for _, _, unit, note in told if unit == "files"} == set(archives)
    shutil.rmtree(got.folder)
    again = get(wanted, tmp_path / "coco", machine)  # from the archives that were kept
    assert not again.reused and all(len(file.asked) == 1 for file in site.files.values())


CHILD = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from dora.artifacts import Machine
from dora.data.datasets.get import get
from dora.data.datasets.table import DataSet

def kill(done, total, unit, note=""):
    if unit == "files" and done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

get(DataSet.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Machine(), progress=kill)
"""


def test_a_run_that_is_killed_while_unpacking_leaves_no_set_and_the_next_downloads_nothing(
    originals: Path, tmp_path: Path, site: Site, machine: Machine
):
    content = zipped(originals / "davis", "DAVIS")
    wanted, folder = served("davis", (site.put("davis.zip", content), content, "DAVIS")), tmp_path / "data/davis"
    child = [sys.executable, "-c", CHILD, wanted.model_dump_json(), str(folder), str(Path(__file__).parents[1])]
    assert subprocess.run(child, check=False).returncode == -signal.SIGKILL
    unpacking = folder.with_name(".davis-unpacking")
    assert not folder.exists() and 0 < len(files(unpacking)) < len(files(originals / "davis"))
    (unpacking / "rubbish").write_text("from then")
    got = get(wanted, folder, machine)
    assert not got.reused and got.report.problems == [] and len(site.files["/davis.zip"].asked) == 1
    assert set(files(folder)) == {*files(originals / "davis"), ".complete"} and left_over(folder) == []


@pytest.mark.parametrize("wants_them_now", [False, True])
def test_archives_that_a_kill_has_left_go_with_the_next_call_unless_they_are_wanted_now(
    originals: Path, tmp_path: Path, site: Site, machine: Machine, wants_them_now: bool
):
    content = zipped(originals / "davis", "DAVIS")
    wanted, folder = served("davis", (site.put("davis.zip", content), content, "DAVIS")), tmp_path / "davis"
    get(wanted, folder, machine, keep_archives=True)
    (folder.parent / ".downloads/davis" / USED).touch()  # as a run sets it before the set gets its name
    assert get(wanted, folder, machine, keep_archives=wants_them_now).reused
    assert left_over(folder) == ([".downloads/davis/davis.zip"] if wants_them_now else [])
    get(wanted, folder, machine)  # what was kept on purpose stays
    assert left_over(folder) == ([".downloads/davis/davis.zip"] if wants_them_now else [])


def test_a_run_that_is_stopped_while_unpacking_clears_up(originals: Path, tmp_path: Path, site: Site, machine: Machine):
    content = zipped(originals / "davis", "DAVIS")
    wanted, folder = served("davis", (site.put("davis.zip", content), content, "DAVIS")), tmp_path / "davis"

    def stop(done: float, total: float, unit: str, note: str = "") -> None:
        if unit == "files" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(wanted, folder, machine, progress=stop)
    assert left_over(folder) == [".downloads/davis/davis.zip"] and not folder.exists()


def test_two_at_once_download_and_unpack_once(originals: Path, tmp_path: Path, site: Site, machine: Machine):
    content = zipped(originals / "davis", "DAVIS")
    wanted, folder = served("davis", (site.put("davis.zip", content), content, "DAVIS")), tmp_path / "davis"
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: get(wanted, folder, machine), range(2)))
    assert sorted(got.reused for got in both) == [False, True] and len(site.files["/davis.zip"].asked) == 1


def test_a_connection_that_is_cut_is_gone_on_with(originals: Path, tmp_path: Path, site: Site, machine: Machine):
    content = zipped(originals / "davis", "DAVIS")
    url = site.put("davis.zip", content, faults=[Fault(cut_after=100_000), Fault(status=503)])
    got = get(served("davis", (url, content, "DAVIS")), tmp_path / "davis", machine)
    assert got.report.problems == []
    assert [status for status, _ in site.files["/davis.zip"].served] == [200, 503, 206]


def test_what_has_arrived_before_a_failure_is_kept_for_the_next_run(
    originals: Path, tmp_path: Path, site: Site, machine: Machine
):
    archives = coco_archives(originals, tmp_path)
    wanted = served("coco", *((site.put(name, content), content, "") for name, content in archives.items()))
    site.files["/val2017.zip"].always = Fault(status=404)
    with pytest.raises(FileNotFoundError, match=r"val2017\.zip answers 404\. There is no such file"):
        get(wanted, tmp_path / "coco", machine)
    assert not (tmp_path / "coco").exists()
    site.files["/val2017.zip"].always = Fault()
    assert get(wanted, tmp_path / "coco", machine).report.problems == []
    assert len(site.files["/annotations.zip"].asked) == 1


def test_another_content_than_the_publishers_is_refused(originals: Path, tmp_path: Path, site: Site, machine: Machine):
    content = zipped(originals / "davis", "DAVIS")
    url = site.put("davis.zip", content[:-1] + b"!")
    with pytest.raises(ValueError, match="is another file than expected: sha256"):
        get(served("davis", (url, content, "DAVIS")), tmp_path / "davis", machine)
    assert not (tmp_path / "davis").exists() and left_over(tmp_path / "davis") == []


@pytest.mark.parametrize("damage", ["wrong byte", "a page instead"])
def test_a_damaged_archive_is_removed_so_that_the_next_run_gets_it_anew(
    originals: Path, tmp_path: Path, site: Site, machine: Machine, damage: str
):
    content = zipped(originals / "davis", "DAVIS")
    middle = len(content) // 2
    bad = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    wrong = bad if damage == "wrong byte" else b"<html>log in first</html>"
    wanted = served("davis", (site.put("davis.zip", wrong), content, "DAVIS"), with_sums=False)
    with pytest.raises(ValueError, match=r"davis\.zip is (damaged at|no whole zip)"):
        get(wanted, tmp_path / "davis", machine)
    assert not (tmp_path / "davis").exists() and left_over(tmp_path / "davis") == []
    site.put("davis.zip", content)
    assert get(wanted, tmp_path / "davis", machine).report.problems == []


def test_an_archive_far_bigger_than_the_set_is_refused(originals: Path, tmp_path: Path, site: Site, machine: Machine):
    content = zipped(originals / "davis", "DAVIS")
    wanted = served("davis", (site.put("davis.zip", content), content, "DAVIS"), size_bytes=10_000)
    with pytest.raises(ValueError, match=r"would unpack to .* files of .* GB, expected at most"):
        get(wanted, tmp_path / "davis", machine)
    assert left_over(tmp_path / "davis") == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked_for(tmp_path: Path, site: Site, machine: Machine):
    content = noise(1000)
    wanted = served("davis", (site.put("davis.zip", content), content, "DAVIS"), size_bytes=1e18)
    left = tmp_path / ".davis-unpacking" / "of a killed run, which may be what fills the disk"
    left.mkdir(parents=True)
    with pytest.raises(
        OSError, match=r"no space left to get davis \(1 kB of archives, 1e\+06 TB unpacked\) in .*: needs"
    ):
        get(wanted, tmp_path / "davis", machine)
    assert site.files["/davis.zip"].asked == [] and not left.exists()


def test_a_place_where_nothing_can_be_made_is_told(tmp_path: Path, site: Site, machine: Machine):
    (tmp_path / "file").write_text("mine")
    wanted = served("davis", (site.put("davis.zip", b"x"), b"x", "DAVIS"))
    with pytest.raises(OSError, match=r"no folder can be made at .*file/.downloads/davis \(.*\)\. Choose a place"):
        get(wanted, tmp_path / "file/davis", machine)


def test_a_folder_that_holds_something_else_is_left_alone(
    originals: Path, tmp_path: Path, site: Site, machine: Machine
):
    content = zipped(originals / "davis", "DAVIS")
    wanted = served("davis", (site.put("davis.zip", content), content, "DAVIS"))
    mine, partial, empty, by_hand = (tmp_path / name for name in ("mine", "partial", "empty", "by_hand"))
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"mine is there and is no whole davis: .*holds something else"):
        get(wanted, mine, machine)
    shutil.copytree(originals / "davis", partial)
    shutil.rmtree(partial / "Annotations")
    with pytest.raises(FileExistsError, match=r"partial is there and is no whole davis: no Annotations/480p"):
        get(wanted, partial, machine)
    shutil.copytree(originals / "davis", by_hand)
    assert get(wanted, by_hand, machine).reused and read_manifest(by_hand) is None
    assert site.files["/davis.zip"].asked == [] and files(mine) == {"thesis.txt": b"years of work"}
    empty.mkdir()
    assert not get(wanted, empty, machine).reused


def test_a_set_that_was_got_and_then_lost_files_is_told_and_not_replaced(
    originals: Path, tmp_path: Path, site: Site, machine: Machine
):
    content = zipped(originals / "davis", "DAVIS")
    wanted = served("davis", (site.put("davis.zip", content), content, "DAVIS"))
    got = get(wanted, tmp_path / "davis", machine)
    next(got.folder.glob("Annotations/480p/*/00003.png")).unlink()
    again = get(wanted, tmp_path / "davis", machine)
    assert again.reused and "00003 has no counterpart" in again.report.problems[0]


def test_each_archive_has_its_bar(originals: Path, tmp_path: Path, site: Site):
    archives = coco_archives(originals, tmp_path)
    wanted = served("coco", *((site.put(name, content), content, "") for name, content in archives.items()))
    code = (
        "import sys; from pathlib import Path; from dora.artifacts import Machine\n"
        "from dora.progress import progress_bar\n"
        "from dora.data.datasets.get import get; from dora.data.datasets.table import DataSet\n"
        "sys.stderr.isatty = lambda: True\n"
        "with progress_bar() as progress:\n"
        "    get(DataSet.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Machine(), progress=progress)\n"
    )
    child = [sys.executable, "-c", code, wanted.model_dump_json(), str(tmp_path / "coco")]
    shown = subprocess.run(child, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stderr
    n_files = [int(n) for n in re.findall(r"0/(\d+) \[00:00<\?, \? files/s", shown)]
    assert n_files == [2, 2, 3]  # annotations, val2017, train2017: a bar each, not one that ends with the first
    assert len(re.findall(r"0/[\d.]+ \[00:00<\?, \? MB/s", shown)) == 1  # of all three together


@pytest.mark.parametrize("name", ["imagenet", "got10k", "nyu"])
def test_a_gated_set_is_not_got_but_explained(tmp_path: Path, machine: Machine, name: str):
    with pytest.raises(PermissionError, match=r"(?s)FOLDER=.*dora data check"):
        get(SETS[name], tmp_path / name, machine)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_that_a_set_is_there_and_how_to_name_it(
    originals: Path, tmp_path: Path, site: Site, machine: Machine, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    content = zipped(originals / "davis", "DAVIS")
    folder = machine.root / "datasets/davis"
    get(served("davis", (site.put("davis.zip", content), content, "DAVIS")), folder, machine)
    monkeypatch.setenv("DORA_ROOT", str(machine.root))
    monkeypatch.chdir(tmp_path)
    assert main(["data", "get", "imagenet", "davis"]) == 2  # the one that can be got is got
    out = capsys.readouterr().out
    assert f"davis is there already: {folder}" in out and f'davis = "{folder}"' in out
    assert main(["data", "get", "davis"]) == 1  # a miniature has not the real counts
    out = capsys.readouterr().out
    assert "- train sequences: expected 60, got 1." in out
    monkeypatch.setenv("DORA_DATASETS__DAVIS", str(folder))
    main(["data", "get", "davis"])
    assert "Name it to the benchmarks" not in capsys.readouterr().out
    (tmp_path / "machine.toml").write_text(f'[datasets]\ndavis = "{folder}"\n')
    monkeypatch.delenv("DORA_DATASETS__DAVIS")
    assert Machine().datasets["davis"] == folder
    elsewhere = tmp_path / "elsewhere/davis"
    elsewhere.mkdir(parents=True)
    (elsewhere / "thesis.txt").write_text("years of work")
    assert main(["data", "get", "davis", "--into", str(tmp_path / "elsewhere")]) == 2
    assert f"{elsewhere} is there and is no whole davis" in capsys.readouterr().err
