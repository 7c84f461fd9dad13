"""Which file is meant by what a user calls a checkpoint."""

from pathlib import Path
from typing import Any

import pytest

from dora import cache
from dora.artifacts import Machine
from eval import learning
from eval.__main__ import main
from flows.order import find_checkpoint


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path)


@pytest.fixture
def made(machine: Machine) -> Path:
    def make(folder: Path) -> dict[str, Any]:
        (folder / "checkpoint.safetensors").write_bytes(b"weights")
        return {}

    return cache.build(machine, "checkpoint", 1, {"k": 3}, {}, make).folder


def test_a_file_is_itself_and_a_folder_is_what_it_holds(machine: Machine, made: Path):
    file = made / "checkpoint.safetensors"
    assert find_checkpoint(file, machine) == find_checkpoint(made, machine) == file


def test_a_few_digits_name_an_artifact(machine: Machine, made: Path):
    named = Path("checkpoint") / made.name[:4]
    assert find_checkpoint(named, machine) == made / "checkpoint.safetensors"


def test_an_artifact_that_is_not_there_is_refused_with_those_that_are(machine: Machine, made: Path):
    with pytest.raises(ValueError, match=f"names 0 artifacts, expected one. There is: checkpoint/{made.name[:4]}"):
        find_checkpoint(Path("checkpoint/zzzz"), machine)


def test_a_file_that_is_not_there_stays_what_was_said(machine: Machine):
    assert find_checkpoint(Path("none.safetensors"), machine) == Path("none.safetensors")


def test_a_measurement_takes_the_same_names(
    machine: Machine, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("DORA_ROOT", str(machine.root))
    for named in (f"checkpoint/{made.name[:4]}", str(made), str(made / "checkpoint.safetensors")):
        assert main(["davis", "--checkpoint", named, "--data", str(machine.root / "nowhere")]) == 2
        assert "nowhere" in capsys.readouterr().err  # so the weights were found
    for command, first in ((main, ["davis"]), (learning.main, [])):
        assert command([*first, "--checkpoint", "checkpoint/zzzz"]) == 2
        assert "names 0 artifacts" in capsys.readouterr().err
