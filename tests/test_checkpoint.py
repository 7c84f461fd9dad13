import json
import resource
import signal
from pathlib import Path

import pytest
import torch
from learner import CONFIG, Learner
from safetensors.torch import load_file, save_file
from torch import Tensor

from dora.config import PretrainConfig, StartConfig
from dora.method.vit import tokens
from dora.training.checkpoint import (
    Means,
    TrainingState,
    load_state,
    load_strictly,
    save_state,
    snapshot,
)
from dora.training.tensor_file import Damaged
from dora.weights.load import load_encoder


def trained(config: PretrainConfig = CONFIG) -> TrainingState:
    """A state whose every part differs from a fresh one; one layer has no moments, as in the first epoch."""
    return Learner(config).learn(1).state


def numbers(state: TrainingState) -> dict[str, Tensor]:
    tensors = {f"student.{name}": value for name, value in state.student.state_dict().items()}
    tensors |= {f"teacher.{name}": value for name, value in state.teacher.state_dict().items()}
    for name, parameter in state.student.named_parameters():
        tensors |= {f"{name}.{key}": value for key, value in state.optimizer.state.get(parameter, {}).items()}
    return tensors | state.centers


def test_a_loaded_state_equals_the_saved_one_and_trains_on_alike(tmp_path: Path):
    config = CONFIG.model_copy(update={"precision": "fp16"})  # so that the scaler counts too
    saved, loaded = trained(config), Learner(config).state
    save_state(tmp_path / "state.safetensors", saved)
    load_state(tmp_path / "state.safetensors", loaded)
    before, after = numbers(saved), numbers(loaded)
    assert before.keys() == after.keys()
    assert "head.mlp.0.weight.exp_avg" in after and "head.last_layer.weight_g.exp_avg" not in after
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("step", "shift", "n_skipped", "n_rollbacks", "since_log", "in_epoch"):
        assert getattr(loaded, name) == getattr(saved, name) != getattr(Learner(config).state, name)
    assert loaded.scaler.state_dict() == saved.scaler.state_dict() != Learner(config).state.scaler.state_dict()


def test_equal_states_are_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        save_state(tmp_path / name, trained())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # no temporary file is left


def test_a_state_of_another_config_is_refused_with_the_difference(tmp_path: Path):
    save_state(tmp_path / "state", trained())
    changes = {
        "start": StartConfig(path=Path("weights.pth")),
        "optimizer": CONFIG.optimizer.model_copy(update={"min_lr": 0.5}),
        "epochs": 7,
    }
    other = Learner(CONFIG.model_copy(update=changes)).state
    with pytest.raises(
        ValueError, match=r"values: start was None, is .*optimizer.min_lr was 1e-05, is 0.5, epochs was"
    ):
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
    vit = load_encoder(tmp_path / "checkpoint.safetensors", which)
    images = torch.rand(2, 3, 32, 32)
    expected = tokens(getattr(state, which).eval().backbone, images)
    assert torch.equal(tokens(vit, images), expected)
    assert not vit.training and next(vit.parameters()).dtype == torch.float32


def test_no_file_is_said_so(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint file at .*nothing"):
        load_state(tmp_path / "nothing", Learner().state)
    with pytest.raises(FileNotFoundError, match="no checkpoint file at"):
        load_state(tmp_path, Learner().state)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"truncated"])
def test_a_damaged_file_is_said_so(tmp_path: Path, content: bytes):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, trained())
    path.write_bytes(path.read_bytes()[:-100] if content == b"truncated" else content)
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is damaged or no safetensors file"):
        load_state(path, Learner().state)


def test_a_file_of_somebody_else_is_said_so(tmp_path: Path):
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no checkpoint that dora wrote"):
        load_state(tmp_path / "other.safetensors", Learner().state)


def test_a_file_of_another_version_is_said_so(tmp_path: Path):
    path = tmp_path / "other.safetensors"
    save_file({"center": torch.zeros(2)}, path, {"dora": json.dumps({"format": 99, "config": {"backbone": {"x": 1}}})})
    with pytest.raises(ValueError, match="another version of dora"):
        load_encoder(path)
    with pytest.raises(ValueError, match="has format 99, this version of dora goes on from format 2"):
        load_state(path, Learner().state)


def test_weights_of_the_first_format_are_still_read(tmp_path: Path):
    """It had no checksums, and one centre."""
    path, state = tmp_path / "old.safetensors", trained()
    tensors = {f"teacher.{name}": value for name, value in state.teacher.state_dict().items()}
    about = {"format": 1, "config": {"backbone": CONFIG.backbone.model_dump()}, "step": 3}
    save_file(tensors | {"center": torch.zeros(16)}, path, {"dora": json.dumps(about)})
    expected = state.teacher.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in load_encoder(path).state_dict().items())


def test_networks_alone_are_no_state_to_go_on_from(tmp_path: Path):
    path, state = tmp_path / "epoch.safetensors", trained()
    snapshot(state, networks_only=True).write(path)
    with pytest.raises(ValueError, match=r"has centers \[\] where \['cls'\] are expected"):
        load_state(path, state)


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_bit_that_has_changed_is_found_where_it_is_read(tmp_path: Path, which: str):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, trained())
    tensors = load_file(path)
    content = bytearray(path.read_bytes())
    content[content.index(tensors["student.backbone.norm.weight"].numpy().tobytes(), 2000)] ^= 1
    path.write_bytes(content)
    if which == "teacher":
        load_encoder(path, which)
    else:
        with pytest.raises(Damaged, match=r"is damaged: student.backbone.norm.weight is not what was written"):
            load_encoder(path, which)


def test_weights_of_another_architecture_are_listed():
    vit = trained().teacher.backbone
    tensors = vit.state_dict()
    tensors["blocks.2.norm1.weight"] = tensors.pop("norm.weight")
    tensors["pos_embed"] = torch.zeros(1, 5, 24)
    with pytest.raises(ValueError, match=r"the weights in somewhere are of another architecture") as error:
        load_strictly(vit, tensors, Path("somewhere"))
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
