"""A finished folder is reused, a half-made one is gone on with, a damaged one is made again; nothing else happens."""

import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dora import cache, inventory
from dora.__main__ import main
from dora.artifacts import Artifact, Machine
from dora.config import Frozen
from dora.data.disk import whole_file
from dora.lease import Lease, LeaseLost, raise_if_lost


class Bread(Frozen):
    flour_g: int = 500


PLAIN = Bread()


def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root")


def bake(folder: Path) -> dict[str, Any]:
    (folder / "loaf.txt").write_text("bread")
    return {"loaves": 1}


def refuse(folder: Path) -> dict[str, Any]:
    raise AssertionError("made again")


def artifact(built: cache.Built) -> Artifact:
    return Artifact(folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest)


def build(where: Machine, config: Bread = PLAIN, make: Any = bake, **options: Any) -> cache.Built:
    return cache.build(where, "bread", 1, config, options.pop("inputs", {}), make, **options)


def test_second_request_is_served_from_disk(tmp_path: Path):
    first = build(machine(tmp_path))
    second = build(machine(tmp_path), make=refuse)
    assert not first.reused and second.reused
    assert second.manifest == first.manifest and second.manifest.facts == {"loaves": 1}
    assert first.folder == tmp_path / "root" / "bread" / first.manifest.fingerprint[:16]


def test_fingerprint_depends_on_stage_version_config_and_inputs_only(tmp_path: Path):
    made = artifact(build(machine(tmp_path)))
    other = made.model_copy(update={"fingerprint": "0" * 64})
    asked = [
        cache.fingerprint("toast", 1, Bread(), {"bread": made}),
        cache.fingerprint("crumbs", 1, Bread(), {"bread": made}),
        cache.fingerprint("toast", 2, Bread(), {"bread": made}),
        cache.fingerprint("toast", 1, Bread(flour_g=1), {"bread": made}),
        cache.fingerprint("toast", 1, Bread(), {"bread": other}),
        cache.fingerprint("toast", 1, Bread(), {}),
    ]
    assert len(set(asked)) == len(asked)
    moved = made.model_copy(update={"folder": Path("/elsewhere"), "reused": True})
    assert cache.fingerprint("toast", 1, {"flour_g": 500}, {"bread": moved}) == asked[0]


def test_a_stage_that_fails_leaves_no_manifest_and_its_work_is_found_again(tmp_path: Path):
    def half(folder: Path) -> dict[str, Any]:
        (folder / ".dough").write_text("half")
        raise ValueError("oven is cold")

    def rest(folder: Path) -> dict[str, Any]:
        assert (folder / ".dough").read_text() == "half"
        return bake(folder)

    with pytest.raises(ValueError, match="oven is cold"):
        build(machine(tmp_path), make=half)
    assert not list(tmp_path.rglob("manifest.json"))
    built = build(machine(tmp_path), make=rest)
    assert not built.reused and not (built.folder / ".dough").exists()
    assert list(built.manifest.files) == ["loaf.txt"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda loaf: loaf.unlink(),
        lambda loaf: loaf.write_text("longer bread"),
        lambda loaf: loaf.write_text("BREAD"),
    ],
    ids=["gone", "another size", "same size, other content"],
)
def test_a_damaged_artifact_is_made_again_never_served(tmp_path: Path, harm: Any):
    built = build(machine(tmp_path))
    loaf = built.folder / "loaf.txt"
    harm(loaf)
    if loaf.exists():
        os.utime(loaf, ns=(1, built.manifest.files["loaf.txt"].mtime_ns + 10**9))
    again = build(machine(tmp_path))
    assert not again.reused and loaf.read_text() == "bread"


def test_a_touched_but_equal_file_is_no_damage(tmp_path: Path):
    os.utime(build(machine(tmp_path)).folder / "loaf.txt")
    assert build(machine(tmp_path), make=refuse).reused


def test_a_manifest_that_cannot_be_read_counts_as_unfinished(tmp_path: Path):
    built = build(machine(tmp_path))
    (built.folder / "manifest.json").write_text('{"stage": "bre')
    assert not build(machine(tmp_path)).reused


def test_an_input_that_came_out_different_makes_what_follows_again(tmp_path: Path):
    where = machine(tmp_path)
    made = artifact(build(where))
    toast = {"bread": made}
    cache.build(where, "toast", 1, {}, toast, bake)
    same = cache.build(where, "toast", 1, {}, toast, refuse)
    other = cache.build(where, "toast", 1, {}, {"bread": made.model_copy(update={"digest": "f" * 64})}, bake)
    assert same.reused and not other.reused


def test_records_of_how_it_went_do_not_change_what_came_out(tmp_path: Path):
    def timed(folder: Path) -> dict[str, Any]:
        (folder / "log.jsonl").write_text(str(time.time_ns()))
        return bake(folder)

    first = build(machine(tmp_path), make=timed, records=("log.*",))
    again = build(machine(tmp_path), make=timed, records=("log.*",), rerun=True)
    assert first.manifest.files["log.jsonl"] != again.manifest.files["log.jsonl"]
    assert first.manifest.digest == again.manifest.digest


def test_an_interrupted_rerun_is_finished_not_begun_again(tmp_path: Path):
    where = machine(tmp_path)
    build(where)

    def stop_half_way(folder: Path) -> dict[str, Any]:
        assert not (folder / "loaf.txt").exists()
        (folder / ".dough").write_text("second")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(where, make=stop_half_way, rerun=True)
    built = build(where, make=lambda folder: {"dough": (folder / ".dough").read_text()}, rerun=True)
    assert built.manifest.facts == {"dough": "second"}


def test_a_run_that_goes_on_does_not_make_again_what_it_has_made_anew(tmp_path: Path):
    where = machine(tmp_path)
    with cache.for_run("monday"):
        build(where)
        assert build(where, make=refuse, rerun=True).reused
    with cache.for_run("tuesday"):
        assert not build(where, rerun=True).reused
        assert build(where, make=refuse, rerun=True).reused
    assert not build(where, rerun=True).reused
    assert not build(where, rerun=True).reused  # runs without a name are not one run


def test_two_who_want_the_same_make_it_once(tmp_path: Path):
    calls: list[int] = []

    def slowly(folder: Path) -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.3)
        return bake(folder)

    results: list[cache.Built] = []
    threads = [threading.Thread(target=lambda: results.append(build(machine(tmp_path), make=slowly))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and sorted(built.reused for built in results) == [False, True, True]


KILLED = """
import sys, time
from pathlib import Path
from dora import cache
from dora.artifacts import Machine
def make(folder):
    (folder / "part").write_text("half")
    print("working", flush=True)
    time.sleep(60)
cache.build(Machine(root=Path(sys.argv[1])), "bread", 1, {"flour_g": 500}, {}, make)
"""


def test_a_killed_builders_lease_is_taken_over_and_its_work_kept(tmp_path: Path):
    where = machine(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(where.root)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"working\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    built = build(where, make=lambda folder: {"found": (folder / "part").read_text()})
    assert built.manifest.facts == {"found": "half"}


READ_WHEN_KILLED = """
import sys
from pathlib import Path
from dora import cache
from dora.artifacts import Machine
def make(folder):
    (folder / ".journal").write_text("all of it")
    with (folder / "film").open("wb") as file:
        file.truncate(2**40)  # a hole, which takes minutes to read
    print("made", flush=True)
    return {}
cache.build(Machine(root=Path(sys.argv[1])), "bread", 1, {"flour_g": 500}, {}, make)
"""


def test_a_builder_that_is_killed_while_its_files_are_read_leaves_what_to_go_on_from(tmp_path: Path):
    where = machine(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", READ_WHEN_KILLED, str(where.root)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"made\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()

    def go_on(folder: Path) -> dict[str, Any]:
        (folder / "film").write_text("short")
        return {"found": (folder / ".journal").read_text()}

    assert build(where, make=go_on).manifest.facts == {"found": "all of it"}


def test_what_a_killed_builder_had_not_tidied_up_is_gone_when_it_is_served(tmp_path: Path):
    built = build(machine(tmp_path))
    (built.folder / cache.REQUEST).write_text("{}")
    (built.folder / ".journal").write_text("all of it")
    assert build(machine(tmp_path), make=refuse).reused
    assert {path.name for path in built.folder.iterdir() if not Lease.owns(path)} == {"loaf.txt", cache.MANIFEST}


@pytest.mark.parametrize("notices", ["at its end", "at work"])
def test_a_builder_that_slept_through_its_lease_leaves_the_folder_to_the_other(tmp_path: Path, notices: str):
    where = Machine(root=tmp_path / "root", lease_timeout_s=0.4)
    left: list[str] = []

    def sleep(folder: Path) -> dict[str, Any]:
        left.append(".".join(sorted(path.name for path in folder.glob(".d*"))))
        if len(left) == 1:
            (folder / ".dough of the other").touch()
            (folder / ".lease").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1, "at": 1}))
            while notices == "at work":
                raise_if_lost()
                time.sleep(0.01)
        return bake(folder)

    assert not build(where, make=sleep, rerun=True).reused
    assert left == ["", ".dough of the other"]  # the other died, so that it went on for it


def test_another_hosts_lease_is_respected_until_its_heart_stops(tmp_path: Path):
    where = Machine(root=tmp_path / "root", lease_timeout_s=0.4)
    folder = where.root / "bread" / cache.fingerprint("bread", 1, Bread(), {})[:16]
    folder.mkdir(parents=True)
    (folder / ".lease").write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1, "at": 1}))
    started = time.monotonic()
    assert not build(where).reused
    assert time.monotonic() - started >= 0.4


def test_an_unwritable_root_says_what_to_do(tmp_path: Path):
    (tmp_path / "root").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"cannot make artifacts in .*root: .* set DORA_ROOT"):
        build(machine(tmp_path))


def test_why_names_the_value_that_differs_and_what_depends_on_it(tmp_path: Path):
    where = machine(tmp_path)
    build(where)
    white = artifact(build(where, Bread(flour_g=400)))
    cache.build(where, "toast", 1, {}, {"bread": white}, bake)
    text = "\n".join(inventory.why(where.root, "bread"))
    assert "is finished" in text and "config flour_g: 500 -> 400" in text and "toast/" in text
    with pytest.raises(ValueError, match=r"no stage 'butter' was asked for .* Known: bread, toast"):
        list(inventory.why(where.root, "butter"))


def test_what_was_stopped_and_gone_on_with_is_told_with_the_time_of_all_its_runs(tmp_path: Path):
    where = machine(tmp_path)
    built = build(where, make=lambda folder: bake(folder) | {"seconds": 36000.0})
    assert built.manifest.seconds < 60 and built.manifest.total_s == 36000
    cache.build(where, "toast", 1, {}, {"bread": artifact(built)}, bake)
    assert "in 36000 s) and reused" in "\n".join(inventory.why(where.root, "bread"))
    assert any("36000.0 s" in line for line in inventory.table(where.root))


def aged(folder: Path, where: Machine, days: float) -> None:
    """As if it had been asked for, and last changed, so many days ago."""
    then, asked = time.time() - days * 86400, where.root / cache.REQUESTS
    lines = [json.loads(line) for line in asked.read_text().splitlines()]
    for line in lines:
        line["at"] = then if folder.name == line["fingerprint"][:16] else line["at"]
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(folder, (then, then))


def test_garbage_is_what_is_old_and_nothing_that_is_kept_is_made_from(tmp_path: Path):
    where = machine(tmp_path)
    first, second, third = (build(where, Bread(flour_g=flour)) for flour in (1, 2, 3))
    toast = cache.build(where, "toast", 1, {}, {"bread": artifact(first)}, bake)
    cache.build(where, "meal", 1, {}, {"toast": artifact(toast)}, bake)
    seen: list[list[str]] = []

    def look(folder: Path) -> dict[str, Any]:
        for made in (first, second, third, toast):
            aged(made.folder, where, days=5)
        aged(folder, where, days=5)
        seen.append([entry.name for entry in inventory.garbage(where, keep_days=3)])
        return bake(folder)

    breakfast = cache.build(where, "breakfast", 1, {}, {"bread": artifact(second)}, look)
    assert seen == [[f"bread/{third.folder.name}"]]
    aged(breakfast.folder, where, days=5)  # made, and nobody's any more
    names = {entry.name.split("/")[0] for entry in inventory.garbage(where, keep_days=3)}
    assert names == {"bread", "breakfast"} and len(inventory.garbage(where, keep_days=3)) == 3


@pytest.mark.parametrize("at", ["around what only the owner may do", "at the end"])
def test_an_owner_whose_folder_is_gone_has_lost_its_lease(tmp_path: Path, at: str):
    (tmp_path / "claim").mkdir()
    lease = Lease(tmp_path / "claim", timeout_s=60)
    assert lease.claim() is None
    shutil.rmtree(tmp_path / "claim")
    assert lease.owner() is None
    if at != "at the end":
        with pytest.raises(LeaseLost), lease.holding():
            raise AssertionError("it is another's")
    lease.release()


def test_what_fails_while_a_lease_is_held_is_no_lost_lease(tmp_path: Path):
    with Lease(tmp_path, timeout_s=60) as lease, pytest.raises(FileNotFoundError, match="gone"), lease.holding():
        raise FileNotFoundError("the bread is gone")


def test_a_process_that_is_forked_under_a_lease_s_lock_keeps_nobody_waiting(tmp_path: Path):
    with Lease(tmp_path, timeout_s=60) as lease:
        with lease.holding():
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
        try:
            with lease.guard.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            child.kill()
            child.join()


def test_a_misspelt_city_of_the_machine_is_refused_with_those_that_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DORA_VIDEOS__CHIANG_MAI", "/data/walk.mp4")
    assert Machine().videos == {"chiang_mai": Path("/data/walk.mp4")}
    monkeypatch.setenv("DORA_VIDEOS__VENISE", "/data/venice.mp4")
    with pytest.raises(ValueError, match=r"unknown walking tour 'venise'\. Known: amsterdam, .*venice"):
        Machine()


def test_two_who_write_one_file_at_once_leave_one_of_the_two_whole(tmp_path: Path):
    path = tmp_path / "film"
    with whole_file(path) as slow:
        slow.write(b"slow, ")
        slow.flush()
        with whole_file(path) as swift:
            swift.write(b"swift")
        assert path.read_bytes() == b"swift"
        slow.write(b"but whole")
    assert path.read_bytes() == b"slow, but whole"
    assert [path.name for path in tmp_path.iterdir()] == ["film"]


def test_what_a_killed_writer_has_left_is_written_over(tmp_path: Path):
    (tmp_path / ".film").write_bytes(b"all but its e")
    with whole_file(tmp_path / "film") as file:
        file.write(b"short")
    assert (tmp_path / "film").read_bytes() == b"short" and not (tmp_path / ".film").exists()


def test_the_command_line_lists_verifies_removes_and_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    where = machine(tmp_path)
    built = build(where)
    monkeypatch.setenv("DORA_ROOT", str(where.root))
    name = f"bread/{built.folder.name}"
    assert main(["cache", "list"]) == 0 and name in capsys.readouterr().out
    assert main(["cache", "verify"]) == 0 and "all as made" in capsys.readouterr().out
    (built.folder / "loaf.txt").write_text("BREAD")
    assert main(["cache", "verify"]) == 1 and "altered" in capsys.readouterr().out
    assert main(["cache", "remove", "zzz"]) == 2 and "names 0 artifacts" in capsys.readouterr().err
    assert main(["cache", "remove", "../root"]) == 2
    assert main(["cache", "gc", "--keep-days", "30", "--yes"]) == 0 and built.folder.exists()
    assert main(["cache", "gc", "--keep-days", "0"]) == 0 and built.folder.exists()
    assert main(["cache", "remove", built.folder.name[:6]]) == 0 and not built.folder.exists()
