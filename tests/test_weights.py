import argparse
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from dora.config import BackboneConfig, HeadConfig, PretrainConfig, StartConfig
from dora.method.network import Network, build_network
from dora.method.vit import build_vit, position_embedding, tokens
from dora.weights.export import to_huggingface
from dora.weights.load import load_encoder, load_weights, resize_positions, start_from
from dora.weights.names import rename
from dora.weights.shapes import infer
from eval.benchmark import checkpoint_from_file

BACKBONE = BackboneConfig(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1
)
SCALED = BACKBONE.model_copy(update={"architecture": "vit_small_patch14_dinov2"})
HEAD = HeadConfig(n_prototypes=12, hidden_dim=16, bottleneck_dim=8)
CONFIG = PretrainConfig(backbone=BACKBONE, head=HEAD)
Tensors = dict[str, Tensor]


def network(config: PretrainConfig = CONFIG, *, seed: int = 0) -> Network:
    """Every number differs from a fresh one's."""
    torch.manual_seed(seed)
    made = build_network(config, drop_path=False).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def numbers(module: torch.nn.Module) -> Tensors:
    return {name: value.clone() for name, value in module.state_dict().items()}


def images(side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def as_dino_saves(student: Network, teacher: Network) -> dict[str, object]:
    """A training checkpoint: DDP's names for the student, the arguments as a Namespace, learning rates of numpy."""
    optimizer = torch.optim.AdamW(student.parameters())
    optimizer.param_groups[0]["lr"] = np.float64(0.1)
    return {
        "student": {f"module.{name}": value for name, value in student.state_dict().items()},
        "teacher": teacher.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, lr=np.float32(0.1), data=None),
        "dino_loss": {"center": torch.zeros(1, 12)},
    }


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_a_training_checkpoint_of_dino_is_read_whole(tmp_path: Path, which: str):
    networks = {"student": network(seed=1), "teacher": network(seed=2)}
    path = saved(tmp_path / "checkpoint.pth", as_dino_saves(networks["student"], networks["teacher"]))
    fresh = network(seed=3)
    loaded = start_from(fresh, StartConfig(path=path, which=which, head=True))
    expected = networks[which].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())
    assert (set(loaded.matched), loaded.resized, loaded.missing, loaded.unexpected) == (set(expected), (), (), ())
    assert f"the {which} in {path}" in str(loaded)


def test_the_head_stays_fresh_unless_it_is_asked_for(tmp_path: Path):
    path = saved(tmp_path / "checkpoint.pth", as_dino_saves(network(seed=1), network(seed=2)))
    fresh = network(seed=3)
    before = numbers(fresh.head)
    loaded = start_from(fresh, StartConfig(path=path))
    assert all(torch.equal(value, before[name]) for name, value in fresh.head.state_dict().items())
    assert set(loaded.missing) == {f"head.{name}" for name in before} == set(loaded.unexpected)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_refused_by_name_and_not_run(tmp_path: Path):
    trace = tmp_path / "trace"
    torch.save({"teacher": network().state_dict(), "args": Evil(trace)}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil.pth asks for 'posix.mkdir', which is code"):
        load_encoder(tmp_path / "evil.pth")
    for protocol in (2, 4):
        (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"state_dict": Evil(trace)}, protocol))
        with pytest.raises(ValueError, match=r"posix.mkdir|no file of weights"):
            load_encoder(tmp_path / "pickle.pth")
    assert not trace.exists()
    torch.save({"model": network()}, tmp_path / "module.pth")  # harmless, but a class all the same
    with pytest.raises(ValueError, match=r"asks for 'dora.method.network.Network'"):
        load_encoder(tmp_path / "module.pth")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"archive/{name}", b"")
    return buffer.getvalue()


def test_files_that_are_no_whole_weights_are_named_in_a_sentence(tmp_path: Path):
    torch.save(network().state_dict(), tmp_path / "whole.pth")
    save_file(network().state_dict(), tmp_path / "whole.safetensors")
    torch.save(network().state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    cases = {
        "is empty": b"",
        "is a web page": b"\n<!DOCTYPE html><html>",
        "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "damaged or incomplete": truncated(whole["whole.pth"]),
        "damaged or incomplete \\(": truncated(whole["whole.safetensors"]),
        "damaged, incomplete or no file": truncated(whole["old.pth"]),
        "no file of weights": b"any text at all",
        "no data.pkl": zipped("weights.npy"),
        "TorchScript": zipped("constants.pkl"),
    }
    for message, content in cases.items():
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match=message) as refusal:
            load_encoder(tmp_path / "file")
        assert "\n" not in str(refusal.value)
    for value, message in ((torch.zeros(2), "holds a Tensor"), ({"epoch": 3}, "holds no tensors")):
        with pytest.raises(ValueError, match=message):
            load_encoder(saved(tmp_path / "other.pth", value))
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load_encoder(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match=r"expected one of checkpoint.safetensors, model.safetensors"):
        load_encoder((tmp_path / "folder").mkdir() or tmp_path / "folder")


def dinov2_in_chunks(plain: Tensors) -> Tensors:
    chunked = {name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): value
               for name, value in plain.items()}  # fmt: skip
    return {f"teacher.backbone.{name}": value for name, value in chunked.items()} | {
        "teacher.backbone.mask_token": torch.ones(1, 64), "teacher.dino_head.mlp.0.weight": torch.ones(2),
        "student.backbone.cls_token": torch.zeros(1, 1, 64),
    }  # fmt: skip


def huggingface_now(plain: Tensors) -> Tensors:
    """As transformers calls them since its fifth version."""
    new = {}
    for name, value in to_huggingface(plain).items():
        for old, later in (
            ("encoder.layer", "layers"), ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"),
            (".output.dense", ".mlp.fc2"),
        ):  # fmt: skip
            name = name.replace(old, later)
        new[name] = value
    return new


def huggingface_dinov2(plain: Tensors) -> Tensors:
    scales = {name: plain.pop(name) for name in list(plain) if "gamma" in name}
    named = to_huggingface(plain)
    for old, new in (
        ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("intermediate.dense", "mlp.fc1"),
        ("attention.output.dense", "attention.KEPT"), ("output.dense", "mlp.fc2"), ("KEPT", "output.dense"),
    ):  # fmt: skip
        named = {name.replace(old, new): value for name, value in named.items()}
    for name, value in scales.items():
        _, number, scale, _ = name.split(".")
        named[f"encoder.layer.{number}.layer_scale{scale[-1]}.lambda1"] = value
    return named | {"embeddings.mask_token": torch.ones(1, 64)}


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda plain: {f"{prefix}{name}": value for name, value in plain.items()}


NAMINGS: dict[str, tuple[BackboneConfig, Callable[[Tensors], object]]] = {
    "timm": (BACKBONE, lambda plain: plain | {"head.weight": torch.ones(3, 64), "head.bias": torch.ones(3)}),
    "a state dict in a dict": (BACKBONE, lambda plain: {"state_dict": prefixed("module.")(plain), "epoch": 3}),
    "compiled": (BACKBONE, lambda plain: {"student": prefixed("module._orig_mod.backbone.")(plain)}),
    "ibot": (BACKBONE, lambda plain: plain | {"masked_embed": torch.ones(1, 64)}),
    "dinov2": (SCALED, lambda plain: plain | {"mask_token": torch.ones(1, 64)}),
    "dinov2 in chunks": (SCALED, dinov2_in_chunks),
    "hugging face": (BACKBONE, lambda plain: to_huggingface(plain) | {"pooler.dense.bias": torch.ones(64)}),
    "hugging face classifier": (BACKBONE, lambda plain: prefixed("vit.")(to_huggingface(plain))),
    "hugging face now": (BACKBONE, lambda plain: prefixed("vit.")(huggingface_now(plain))),
    "hugging face dinov2": (SCALED, huggingface_dinov2),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_comes_to_the_same_encoder(tmp_path: Path, naming: str):
    config, renaming = NAMINGS[naming]
    torch.manual_seed(0)
    vit = build_vit(config, drop_path=False).eval()
    path = saved(tmp_path / "weights.pth", renaming(numbers(vit)))
    loaded = load_encoder(path)
    assert numbers(loaded).keys() == numbers(vit).keys()
    assert torch.equal(tokens(loaded, images()), tokens(vit, images()))
    assert not loaded.training and loaded.blocks[0].attn.num_heads == 1


def test_weight_norm_of_either_torch_and_ibots_mask_token_are_ours():
    tensors = {
        "module.head.last_layer.parametrizations.weight.original0": torch.ones(5, 1),
        "module.head.last_layer.parametrizations.weight.original1": torch.ones(5, 2),
        "module.head.last_layer2.weight_g": torch.ones(3, 1),
        "module.backbone.masked_embed": torch.ones(1, 4),
    }
    renamed = rename(tensors)
    names = {"head.last_layer.weight_g", "head.last_layer.weight_v", "head.last_layer2.weight_g", "mask_token"}
    assert set(renamed) == names and renamed["mask_token"].shape == (1, 4)
    with pytest.raises(ValueError, match=r"two of the file's tensors are backbone.norm.weight"):
        rename({"norm.weight": torch.ones(4), "layernorm.weight": torch.ones(4)})


IBOT = PretrainConfig.model_validate(
    {
        "objective": "ibot", "backbone": BACKBONE, "head": HEAD,
        "augment": {"global_blur_probability": [0.1, 0.1], "solarize_probability": [0, 0]},
    }
)  # fmt: skip


def test_ibots_shared_head_is_taken_once_and_its_own_head_for_patches_not_lost(tmp_path: Path):
    shared = network(IBOT, seed=1).state_dict()
    shared["backbone.masked_embed"] = shared.pop("mask_token")
    twice = shared | {f"head.last_layer2.{k}": shared[f"head.last_layer.{k}"].clone() for k in ("weight_g", "weight_v")}
    path = saved(tmp_path / "shared.pth", {"student": twice})
    fresh = network(IBOT, seed=2)
    loaded = load_weights(fresh, path, which="student", head=True)
    assert loaded.unexpected == ("head.last_layer2.weight_g", "head.last_layer2.weight_v")
    assert torch.equal(fresh.mask_token, shared["backbone.masked_embed"])
    twice["head.last_layer2.weight_v"] += 1
    with pytest.raises(ValueError, match=r"not in this network: head.last_layer2.weight_v.*n_patch_prototypes=12"):
        load_weights(fresh, saved(tmp_path / "own.pth", {"student": twice}), which="student", head=True)
    # A teacher has no mask token; the student's stays as it is.
    del shared["backbone.masked_embed"]
    assert load_weights(fresh, saved(path, shared), which="teacher", head=True).missing == ("mask_token",)


@pytest.mark.parametrize("side", [48, 24])
def test_positions_of_another_grid_are_resized_listed_and_change_no_feature(tmp_path: Path, side: int):
    original = network(seed=1)
    path = saved(tmp_path / "checkpoint.pth", original.state_dict())
    other = CONFIG.model_copy(update={"backbone": BACKBONE.model_copy(update={"image_size": side})})
    fresh = network(other, seed=2)
    loaded = load_weights(fresh, path, which="teacher", head=False)
    assert loaded.resized == (f"backbone.pos_embed (4 x 4 patches to {side // 8} x {side // 8})",)
    assert "backbone.pos_embed" not in loaded.matched and "resized" in str(loaded)
    resized = resize_positions(original.backbone.pos_embed, side // 8)
    assert torch.equal(resized, position_embedding(original.backbone, side, side))
    assert torch.equal(tokens(fresh.backbone, images(side)), tokens(original.backbone, images(side)))


def changed(**sizes: object) -> Tensors:
    backbone = build_vit(BACKBONE.model_copy(update=sizes), drop_path=False)
    return {f"backbone.{name}": value for name, value in backbone.state_dict().items()}


def without(name: str) -> Tensors:
    return {key: value for key, value in changed().items() if key != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(patch_size=4, image_size=16), "patch_embed.proj.weight is .*depth 2, patch 4 .*backbone.patch_size=4"),
        (changed(embed_dim=384, num_heads=6, depth=12), "other shape.*width 384.*architecture=vit_small_patch8_224$"),
        (changed(depth=3), "not in this network: backbone.blocks.2.norm1.weight.*and 8 more.*depth 3"),
        (changed(depth=1), "missing: backbone.blocks.1.norm1.weight"),
        (changed(architecture="vit_small_patch14_dinov2"), "ls1.gamma.*LayerScale.*=vit_small_patch14_dinov2"),
        (without("backbone.blocks.1.attn.qkv.bias"), "missing: backbone.blocks.1.attn.qkv.bias"),
        (without("backbone.patch_embed.proj.weight"), "It has no patch embedding"),
        (changed() | {"backbone.reg_token": torch.ones(1, 4, 64)}, "4 register tokens"),
        (changed() | {"backbone.pos_embed": torch.ones(1, 18, 64)}, "1 x 18 x 64, expected.*square grid"),
        (changed() | {"backbone.norm.bias": torch.full((64,), torch.nan)}, "not finite: backbone.norm.bias"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_leaves_the_network_as_it_was(tmp_path: Path, tensors: Tensors, message: str):
    path = saved(tmp_path / "other.pth", {"teacher": tensors})
    fresh = network()
    before = numbers(fresh)
    with pytest.raises(ValueError, match=message):
        load_weights(fresh, path, which="teacher", head=False)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_a_head_that_is_not_there_or_of_other_sizes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no projection head.*start.head=false"):
        load_weights(network(), saved(tmp_path / "bare.pth", changed()), which="teacher", head=True)
    larger = CONFIG.model_copy(update={"head": HEAD.model_copy(update={"n_prototypes": 20})})
    path = saved(tmp_path / "larger.pth", network(larger).state_dict())
    with pytest.raises(ValueError, match=r"weight_g is \(20, 1\) where \(12, 1\).*pretrain.head.n_prototypes=20"):
        load_weights(network(), path, which="teacher", head=True)
    load_weights(network(), path, which="teacher", head=False)


def test_sizes_are_told_by_shapes_and_heads_by_a_config_or_the_architecture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    odd = BackboneConfig(
        architecture="vit_small_patch16_224", image_size=60, patch_size=12, embed_dim=192, depth=3, num_heads=3,
        mlp_ratio=7 / 3,
    )  # fmt: skip
    torch.manual_seed(0)
    vit = build_vit(odd, drop_path=False).eval()
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    loaded = load_encoder(tmp_path / "model.safetensors")
    assert torch.equal(tokens(loaded, images(60)), tokens(vit, images(60)))
    (tmp_path / "config.json").write_text('{"model_type": "vit", "num_attention_heads": 6, "layer_norm_eps": 1e-12}')
    loaded = load_encoder(tmp_path)
    assert loaded.blocks[0].attn.num_heads == 6 and loaded.norm.eps == 1e-12
    with_config = checkpoint_from_file(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 1024, "num_attention_heads": 16}')
    with caplog.at_level("WARNING"):
        assert load_encoder(tmp_path).blocks[0].attn.num_heads == 3
    assert "is another network's (hidden_size 1024 there, 192 here) and not read" in caplog.text
    narrow = build_vit(BACKBONE.model_copy(update={"embed_dim": 24}), drop_path=False)
    path = saved(tmp_path / "apart.pth", narrow.state_dict())
    (tmp_path / "config.json").unlink()
    without = checkpoint_from_file(tmp_path / "model.safetensors")
    assert with_config.digest == without.digest and with_config.fingerprint != without.fingerprint
    with pytest.raises(ValueError, match="heads of a ViT of width 24 cannot be told: name an architecture"):
        load_encoder(path)
    with pytest.raises(ValueError, match="does not fit"):
        load_encoder(path, architecture="vit_tiny_patch16_224")


def bare(width: int, patch: int = 14) -> Tensors:
    """A ViT's shapes, without numbers."""
    shapes = {
        "patch_embed.proj.weight": (width, 3, patch, patch), "pos_embed": (1, 257, width),
        "blocks.31.mlp.fc1.weight": (4 * width, width), "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.0.mlp.fc2.weight": (width, 4 * width),
    }  # fmt: skip
    return {f"backbone.{name}": torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "vit_large_patch14_224", "vit_huge_patch14_224", "vit_giant_patch14_224",
     "vit_gigantic_patch14_224"],
)  # fmt: skip
def test_heads_that_nothing_tells_are_as_many_as_timms_vit_of_that_width_has(name: str):
    with torch.device("meta"):
        vit = timm.create_model(name)
        found = build_vit(infer(bare(vit.embed_dim, vit.patch_embed.patch_size[0])), drop_path=False)
    assert found.blocks[0].attn.num_heads == vit.blocks[0].attn.num_heads


@pytest.mark.parametrize(("width", "patch"), [(1152, 14), (1280, 20), (2048, 14)])
def test_a_wide_vit_that_timm_does_not_know_has_no_usual_number_of_heads(width: int, patch: int):
    with pytest.raises(ValueError, match=f"heads of a ViT of width {width} cannot be told: name an architecture"):
        infer(bare(width, patch))
    assert infer(bare(width, patch), num_heads=16).num_heads == 16


def test_weights_that_say_another_number_of_heads_are_refused(tmp_path: Path):
    two = CONFIG.model_copy(update={"backbone": BACKBONE.model_copy(update={"num_heads": 2})})
    own = network(two).state_dict()
    about = json.dumps({"format": 1, "config": two.model_dump(mode="json"), "step": 1})
    tensors = {f"teacher.{name}": value for name, value in own.items()}
    save_file(tensors, tmp_path / "checkpoint.safetensors", {"dora": about})
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    save_file({name: value for name, value in own.items() if "head" not in name}, foreign / "model.safetensors")
    load_weights(network(), foreign, which="teacher", head=False)  # nobody says
    for path, config in (
        (tmp_path, None),
        (foreign, {"model_type": "vit", "num_attention_heads": 2}),
        (foreign, {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 2}}),
    ):
        if config:
            (foreign / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"has 2 attention heads, the network 1. Set .*backbone.num_heads=2\."):
            load_weights(network(), path, which="teacher", head=False)
        load_weights(network(two), path, which="teacher", head=False)
    (foreign / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "model_args": {}}')
    with pytest.raises(ValueError, match="has 3 attention heads, the network 1"):
        load_weights(network(), foreign, which="teacher", head=False)


def test_half_precision_and_a_compressed_archive_are_read_too(tmp_path: Path):
    vit = build_vit(BACKBONE, drop_path=False).half()
    path = saved(tmp_path / "half.pth", vit.state_dict())
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    for file in (path, packed):
        loaded = load_encoder(file)
        assert torch.equal(loaded.norm.weight, vit.norm.weight.float())
        assert torch.equal(loaded.blocks[1].mlp.fc1.weight, vit.blocks[1].mlp.fc1.weight.float())
