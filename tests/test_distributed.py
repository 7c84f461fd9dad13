import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from learner import ALONE, Learner, clipping, finish
from safetensors.torch import load_file

from dora.training.checkpoint import load_state, save_state
from dora.training.job import CHECKPOINT
from dora.training.keeper import Keeper

HERE = Path(__file__).parent


def by_two(folder: Path, parallel: str, n_steps: int, *options: str) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run = subprocess.run(
        [*torchrun, str(HERE / "learner.py"), str(folder), parallel, str(n_steps), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def assert_alike(one: Path, other: Path) -> None:
    """To float tolerance, but for the keys' bias: it has no gradient, and AdamW makes steps of the rounding."""
    a, b = load_file(one / CHECKPOINT), load_file(other / CHECKPOINT)
    assert a.keys() == b.keys()
    for name in a:
        for part in (0, 2) if "qkv.bias" in name and a[name].ndim else (None,):
            ours, theirs = (x[name] if part is None else x[name].chunk(3)[part] for x in (a, b))
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [("ddp", "parameter"), ("fsdp", "global", "recompute"), ("fsdp", "parameter", "compile")]
)
def test_two_ranks_learn_what_one_does_and_states_go_from_one_to_the_other(tmp_path: Path, options: tuple[str, ...]):
    parallel, by, *others = options
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    finish(tmp_path / "one", Learner(clipping(by)), 4)
    begun = Keeper(tmp_path / "two", keep_last=2, ranks=ALONE)
    begun.save(Learner(clipping(by)).learn(1).state)  # the last layers are frozen: no moments
    begun.close()
    by_two(tmp_path / "two", parallel, 4, by, *others)
    assert_alike(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "epochs" / "epoch-0000.safetensors").exists()

    back = Learner(clipping(by))
    load_state(tmp_path / "two" / CHECKPOINT, back.state)
    save_state(tmp_path / "again", back.state)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "two" / CHECKPOINT).read_bytes()
