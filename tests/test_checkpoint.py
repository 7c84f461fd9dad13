import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import PRETRAIN
from torch import Tensor

from dora.config import PretrainConfig
from dora.method.vit import tokens
from dora.training.checkpoint import Means, TrainingState, load_backbone, load_state, save_state
from dora.training.optimizer import set_rates
from dora.training.pretrain import new_state

CPU = torch.device("cpu")


def trained(config: PretrainConfig = PRETRAIN, n_steps: int = 2) -> TrainingState:
    """A state whose every part differs from a fresh one; one layer has no gradient, as in the first epoch."""
    state = new_state(config, CPU)
    state.student.eval()
    for step in range(n_steps):
        torch.manual_seed(step)
        set_rates(state.optimizer, lr=0.01, weight_decay=0.1)
        (logits,) = state.student([torch.rand(2, 3, 32, 32)])
        state.scaler.scale(logits.square().sum()).backward()
        state.student.head.last_layer.weight_g.grad = None
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad()
    state.center += 0.25
    state.step = n_steps
    state.since_log = Means().plus({"loss": 0.1}).plus({"loss": 0.2})
    state.in_epoch = Means().plus({"loss": 1 / 3})
    return state


def numbers(state: TrainingState) -> dict[str, Tensor]:
    tensors = {f"student.{name}": value for name, value in state.student.state_dict().items()}
    tensors |= {f"teacher.{name}": value for name, value in state.teacher.state_dict().items()}
    for name, parameter in state.student.named_parameters():
        tensors |= {f"{name}.{key}": value for key, value in state.optimizer.state.get(parameter, {}).items()}
    return tensors | {"center": state.center}


def test_a_loaded_state_equals_the_saved_one_and_trains_on_alike(tmp_path: Path):
    config = PRETRAIN.model_copy(update={"precision": "fp16"})  # so that the scaler counts too
    saved, loaded = trained(config), new_state(config, CPU)
    save_state(tmp_path / "state.safetensors", saved)
    load_state(tmp_path / "state.safetensors", loaded)
    before, after = numbers(saved), numbers(loaded)
    assert before.keys() == after.keys()
    assert "head.last_layer.weight_v.exp_avg" in after and "head.last_layer.weight_g.exp_avg" not in after
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (loaded.step, loaded.since_log, loaded.in_epoch) == (saved.step, saved.since_log, saved.in_epoch)
    assert loaded.scaler.state_dict() == saved.scaler.state_dict() != new_state(config, CPU).scaler.state_dict()


def test_equal_states_are_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        save_state(tmp_path / name, trained())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # no temporary file is left


def test_a_state_of_another_config_is_refused_with_the_difference(tmp_path: Path):
    save_state(tmp_path / "state", trained())
    optimizer = PRETRAIN.optimizer.model_copy(update={"min_lr": 0.5})
    other = new_state(PRETRAIN.model_copy(update={"optimizer": optimizer, "epochs": 7}), CPU)
    with pytest.raises(ValueError, match=r"other values: optimizer.min_lr was 1e-05, is 0.5, epochs was 2, is 7"):
        load_state(tmp_path / "state", other)


def test_means_are_exact_over_json():
    means = Means()
    for value in (0.1, 1 / 3, 2e-7):
        means = means.plus({"loss": value})
    assert Means.model_validate_json(means.model_dump_json()) == means
    assert means.values() == {"loss": (0.1 + 1 / 3 + 2e-7) / 3}


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_the_backbone_comes_out_as_it_went_in(tmp_path: Path, which: str):
    state = trained()
    save_state(tmp_path / "checkpoint.safetensors", state)
    vit = load_backbone(tmp_path / "checkpoint.safetensors", which)
    images = torch.rand(2, 3, 32, 32)
    expected = tokens(getattr(state, which).eval().backbone, images)
    assert torch.equal(tokens(vit, images), expected)
    assert not vit.training and next(vit.parameters()).dtype == torch.float32


def test_no_file_is_said_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*nothing"):
        load_backbone(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no checkpoint file at"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"truncated"])
def test_a_damaged_file_is_said_so(tmp_path: Path, content: bytes):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, trained())
    path.write_bytes(path.read_bytes()[:-100] if content == b"truncated" else content)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is damaged or no safetensors file"):
        load_backbone(path)


def test_a_file_of_somebody_else_is_said_so(tmp_path: Path):
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no checkpoint that dora wrote"):
        load_backbone(tmp_path / "other.safetensors")


def test_a_file_of_another_version_is_said_so(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"center": torch.zeros(2)}, path, {"dora": json.dumps({"format": 99, "config": {"backbone": {"x": 1}}})})
    with pytest.raises(ValueError, match="another version of dora"):
        load_backbone(path)
    with pytest.raises(ValueError, match="has format 99, this version of dora goes on from format 1"):
        load_state(path, new_state(PRETRAIN, CPU))


def test_weights_of_another_architecture_are_listed(tmp_path: Path):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, trained())
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors["teacher.backbone.blocks.2.norm1.weight"] = tensors.pop("teacher.backbone.norm.weight")
    tensors["teacher.backbone.pos_embed"] = torch.zeros(1, 5, 24)
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match="of another architecture") as error:
        load_backbone(path)
    for fault in (
        "missing: norm.weight;",
        "unexpected: blocks.2.norm1.weight;",
        "other shape: pos_embed is (1, 5, 24) where (1, 17, 24) is expected",
    ):
        assert fault in str(error.value)


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path):
    """A limit on the size of files stands in for a full disk: with its signal ignored, writing fails alike."""
    path, state = tmp_path / "state.safetensors", trained()
    save_state(path, state)
    before = path.read_bytes()
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*Free some space"):
            save_state(path, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]
