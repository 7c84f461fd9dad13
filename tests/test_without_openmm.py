"""OpenMMLab's libraries are heavy and seldom updated: absent or broken, they take nothing else down."""

import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
import small_ade20k
import small_coco
import tiny_eval

from dora.data.labelled import davis

ROOT = Path(__file__).parents[1]
OF_MM = re.compile(r"mm(engine|cv|det|seg)")
# Each module is imported, and each command run, by a Python that has everything but those libraries.
IMPORTS_ALL = """
import importlib, pkgutil, sys
import dora, eval, flows, infra

failed = {}
for package in (dora, eval, flows, infra):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: None):
        if module.name.endswith("__main__") or module.name == "infra.engine":  # these run what they are for
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = error.name.split(".")[0]
assert not [name for name in sys.modules if name.startswith(("mmengine", "mmcv", "mmdet", "mmseg"))]
print(*(f"{name}:{lacking}" for name, lacking in failed.items()))
"""


def environment(folder: Path) -> Path:
    """The interpreter of a new environment, where all of this one's packages are but the OpenMMLab libraries."""
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_path(name)).iterdir():
            link = site / entry.name
            if not OF_MM.match(entry.name) and not link.exists():
                link.symlink_to(entry)
    return folder / "bin" / "python"


def run(
    python: Path, *arguments: str, folder: Path, first: Path | None = None
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Its children are its like; what is in `first` hides the environment's packages."""
    paths = [*([first] if first else []), ROOT]
    variables = {"PYTHONPATH": ":".join(map(str, paths)), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [python, *arguments], cwd=folder, env=variables | {"DORA_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("without")
    tiny_eval.write_checkpoint(folder / "checkpoint.safetensors")
    return folder


@pytest.fixture(scope="module")
def python(folder: Path) -> Path:
    return environment(folder / "environment")


def measure(
    python: Path, name: str, data: Path, *overrides: str, folder: Path, first: Path | None = None
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    where = ("--checkpoint", str(folder / "checkpoint.safetensors"), "--data", str(data), "--out", str(folder / "root"))
    return run(python, "-m", "eval", name, *where, *overrides, folder=folder, first=first)


@pytest.mark.parametrize("command", [("dora", "--help"), ("eval", "list")])
def test_commands_that_ask_for_nothing_of_it_work(python: Path, folder: Path, command: tuple[str, str]):
    said = run(python, "-m", *command, folder=folder)
    assert said.returncode == 0 and not said.stderr, said.stderr
    assert command[0] == "dora" or "coco" in said.stdout


@pytest.mark.parametrize("name", ["ade20k", "ade20k_linear", "coco"])
def test_who_asks_for_it_is_told_in_one_sentence_which_extra_is_lacking(python: Path, folder: Path, name: str):
    said = measure(python, name, folder, folder=folder)
    assert said.returncode == 2
    (line,) = said.stderr.splitlines()
    assert line.startswith("eval: ") and "there is no mmengine, mmcv, mmdet, mmseg. Install the extra dense" in line


@pytest.mark.slow
def test_a_miniature_is_asked_for_in_vain_too(python: Path, folder: Path):
    checkpoint = str(folder / "checkpoint.safetensors")
    said = run(
        python, "-m", "eval", "ade20k", "--miniature", "--checkpoint", checkpoint, "--out", str(folder / "root"),
        folder=folder,
    )  # fmt: skip
    assert said.returncode == 2
    assert "Install the extra dense" in said.stderr.splitlines()[-1] and "Traceback" not in said.stderr


@pytest.mark.slow
def test_every_other_module_is_imported(python: Path, folder: Path):
    said = run(python, "-c", IMPORTS_ALL, folder=folder)
    assert said.returncode == 0, said.stderr
    failed = dict(line.split(":") for line in said.stdout.split())
    assert all(OF_MM.match(lacking) for lacking in failed.values()), failed
    # These are imported by benchmarks' functions, after `openmm.require()`.
    assert all(name.startswith(("eval.openmm.", "eval.dense.")) for name in failed), failed


@pytest.mark.slow
def test_other_benchmarks_measure(python: Path, folder: Path):
    davis.write(folder / "DAVIS", {"val": davis.walks(tiny_eval.WORLD, "val", 1)})
    said = measure(
        python, "davis", folder / "DAVIS", "short_side=32", "long_side_multiple=8", "radius=2", folder=folder
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "J_and_F_mean" in said.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "broken", "code", "expected"),
    [
        ("ade20k", "mmengine", "raise OSError('undefined symbol: _ZN3c10')", "undefined symbol: _ZN3c10"),
        (
            "coco",
            "mmdet",
            "assert False, 'MMCV==2.2.0 is used but incompatible'",
            "MMCV==2.2.0 is used but incompatible",
        ),
    ],
)
def test_what_is_broken_there_is_said_in_one_sentence(
    python: Path, folder: Path, name: str, broken: str, code: str, expected: str
):
    first = folder / broken
    (first / broken).mkdir(parents=True)
    (first / broken / "__init__.py").write_text(code)
    for library in {"mmengine", "mmcv", "mmdet", "mmseg"} - {broken}:
        (first / library).symlink_to(Path(sysconfig.get_path("purelib")) / library)
    write = small_ade20k.write_set if name == "ade20k" else small_coco.write
    said = measure(python, name, write(folder / name), "whole=false", folder=folder, first=first)
    assert said.returncode == 2
    line = said.stderr.splitlines()[-1]
    assert f"OpenMMLab's libraries are installed but do not work ({expected})" in line and "extra dense" in line
    assert "Traceback" not in said.stderr
    listed = run(python, "-m", "eval", "list", folder=folder, first=first)
    assert listed.returncode == 0 and not listed.stderr
