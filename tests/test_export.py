import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from dora import cache
from dora.__main__ import main
from dora.artifacts import Artifact, Machine
from dora.config import BackboneConfig, HeadConfig, PretrainConfig
from dora.data.source import Source
from dora.method.network import Network, build_network
from dora.method.vit import tokens
from dora.weights.card import model_card
from dora.weights.export import export
from dora.weights.load import load_encoder, load_weights

BACKBONE = BackboneConfig(
    architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=3
)
CONFIG = PretrainConfig.model_validate(
    {
        "backbone": BACKBONE, "head": HeadConfig(n_prototypes=12, hidden_dim=16, bottleneck_dim=8), "seed": 7,
        "start": {"path": "/data/someone/secret/dino.pth"},
    }
)  # fmt: skip
IBOT = PretrainConfig.model_validate(
    CONFIG.model_dump()
    | {
        "objective": "ibot", "ibot": {"n_patch_prototypes": 9},
        "augment": {"global_blur_probability": [0.1, 0.1], "solarize_probability": [0, 0]},
    }
)  # fmt: skip


def network(config: PretrainConfig, *, seed: int) -> Network:
    torch.manual_seed(seed)
    made = build_network(config, drop_path=False).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def write_checkpoint(folder: Path, config: PretrainConfig = CONFIG) -> tuple[Path, Network, Network]:
    """A file as the training leaves it, and the networks in it."""
    student, teacher = network(config, seed=1), network(config, seed=2)
    tensors = {f"student.{name}": value for name, value in student.state_dict().items()}
    tensors |= {f"teacher.{name}": value for name, value in teacher.state_dict().items()}
    tensors["optimizer.backbone.norm.bias.exp_avg"] = torch.zeros(24)
    about = {"format": 1, "config": config.model_dump(mode="json"), "step": 1234}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "checkpoint.safetensors", {"dora": json.dumps(about)})
    return folder / "checkpoint.safetensors", student, teacher


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("which", ["teacher", "student"])
def test_timm_reads_its_export_and_gives_our_features_to_the_bit(tmp_path: Path, images: Tensor, which: str):
    path, student, teacher = write_checkpoint(tmp_path)
    ours = {"teacher": teacher, "student": student}[which].backbone
    out = export(path, tmp_path / "out", to="timm", which=which)
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    assert torch.equal(theirs.forward_features(images), ours.forward_features(images))
    assert torch.equal(theirs(images), ours(images))
    assert theirs.pretrained_cfg["mean"] == [0.485, 0.456, 0.406] and theirs.num_classes == 0
    again = timm.create_model(
        BACKBONE.architecture, pretrained=True, num_classes=0, img_size=32, patch_size=8, embed_dim=24, depth=2,
        num_heads=3, mlp_ratio=3, pretrained_cfg_overlay={"file": str(out / "model.safetensors")},
    ).eval()  # fmt: skip
    assert torch.equal(again(images), ours(images))
    with_classes = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=5).eval()
    assert with_classes(images).shape == (2, 5)
    assert torch.equal(with_classes.forward_features(images), ours.forward_features(images))
    assert torch.equal(tokens(load_encoder(out), images), tokens(ours, images))


def hugging_face_forward(folder: Path, images: Tensor) -> Tensor:
    """What ViTModel computes from its config and tensors, written from transformers' documented structure."""
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        x = (x - mean) / (variance + config["layer_norm_eps"]).sqrt()
        return x * weights.pop(f"{name}.weight") + weights.pop(f"{name}.bias")

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights.pop(f"{name}.weight").T + weights.pop(f"{name}.bias")

    start = "embeddings.patch_embeddings.projection"
    kernel = weights.pop(f"{start}.weight")
    patches = F.unfold(images, config["patch_size"], stride=config["patch_size"]).transpose(1, 2)
    x = patches @ kernel.flatten(1).T + weights.pop(f"{start}.bias")
    cls = weights.pop("embeddings.cls_token").expand(len(x), -1, -1)
    x = torch.cat([cls, x], dim=1) + weights.pop("embeddings.position_embeddings")
    n_heads = config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        normed = norm(x, f"{layer}.layernorm_before")
        query, key, value = (
            linear(normed, f"{layer}.attention.attention.{part}").unflatten(-1, (n_heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attention = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((attention @ value).transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        hidden = F.gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + linear(hidden, f"{layer}.output.dense")
    x = norm(x, "layernorm")
    assert not weights  # no tensor that a ViTModel without pooler does not have
    return x


def test_a_vit_written_from_hugging_faces_structure_gives_our_features(tmp_path: Path, images: Tensor):
    path, _, teacher = write_checkpoint(tmp_path)
    out = export(path, tmp_path / "out", to="huggingface")
    expected = tokens(teacher.backbone, images)
    torch.testing.assert_close(hugging_face_forward(out, images), expected, rtol=1e-5, atol=1e-6)
    config = json.loads((out / "config.json").read_text())
    assert (config["layer_norm_eps"], config["intermediate_size"], config["image_size"]) == (1e-6, 72, 32)
    assert torch.equal(tokens(load_encoder(out), images), expected)  # our reader fuses query, key, value again
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert processor["crop_size"] == {"height": 32, "width": 32} and processor["size"] == {"shortest_edge": 37}


@pytest.mark.parametrize("config", [CONFIG, IBOT], ids=["dora", "ibot"])
def test_dinos_export_read_back_gives_the_same_logits(tmp_path: Path, images: Tensor, config: PretrainConfig):
    path, student, teacher = write_checkpoint(tmp_path, config)
    out = export(path, tmp_path / "out", to="dino", head=True)
    held = torch.load(out / "checkpoint.pth", weights_only=True)
    assert set(held) == {"student", "teacher", "step", "args"} and held["step"] == 1234
    assert ("module.backbone.masked_embed" in held["student"]) == (config is IBOT)
    assert all(name.startswith("module.") for name in held["student"])  # DINO resumes a student that DDP wraps
    assert {name.partition(".")[0] for name in held["teacher"]} == {"backbone", "head"}
    for name, expected in (("student", student), ("teacher", teacher)):
        fresh = network(config, seed=3)
        load_weights(fresh, out / "checkpoint.pth", which=name, head=True)
        x, before = tokens(fresh.backbone, images), tokens(expected.backbone, images)
        for patches in (False, True):
            logits = [net.head.project(y, patches=patches).logits() for net, y in ((fresh, x), (expected, before))]
            assert torch.equal(*logits)
        assert all(torch.equal(value, expected.state_dict()[key]) for key, value in fresh.state_dict().items())
    assert torch.equal(tokens(load_encoder(out), images), tokens(teacher.backbone, images))
    bare = torch.load(export(path, tmp_path / "bare", to="dino") / "checkpoint.pth", weights_only=True)
    assert not any(name.startswith("head.") for name in bare["teacher"])


def test_dinos_scripts_are_told_the_patch_size_of_an_architecture_that_has_its_own(tmp_path: Path):
    backbone = BACKBONE.model_copy(update={"patch_size": None})
    path, *_ = write_checkpoint(tmp_path, CONFIG.model_copy(update={"backbone": backbone}))
    held = torch.load(export(path, tmp_path / "out", to="dino") / "checkpoint.pth", weights_only=True)
    assert held["args"]["patch_size"] == 16


def test_an_export_is_whole_or_not_there(tmp_path: Path):
    path, *_ = write_checkpoint(tmp_path / "run")
    scaled = CONFIG.model_copy(update={"backbone": BACKBONE.model_copy(update={"architecture": SCALED})})
    other, *_ = write_checkpoint(tmp_path / "scaled", scaled)
    for to in ("huggingface", "dino"):
        with pytest.raises(ValueError, match=r"no place for blocks.0.ls1.gamma. Take --to timm"):
            export(other, tmp_path / "out", to=to)
    with pytest.raises(ValueError, match="no place for a projection head"):
        export(path, tmp_path / "out", to="timm", head=True)
    torch.save({"teacher": {"cls_token": torch.zeros(1)}}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="no checkpoint that dora wrote"):
        export(tmp_path / "foreign.pth", tmp_path / "out", to="timm")
    assert {entry.name for entry in tmp_path.iterdir()} == {"run", "scaled", "foreign.pth"}
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export(path, tmp_path / "run", to="timm")
    (tmp_path / "empty").mkdir()
    export(path, tmp_path / "empty", to="timm")
    assert {entry.name for entry in (tmp_path / "empty").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    theirs = timm.create_model(f"local-dir:{export(other, tmp_path / 'new/out', to='timm')}", pretrained=True)
    assert theirs.blocks[0].ls1.gamma.shape == (24,)


SCALED = "vit_small_patch14_dinov2"
ORIGIN = Source(
    kind="youtube", url="https://www.youtube.com/watch?v=fGX0Te6pFvk", tool="yt-dlp 2026", downloaded_at="now",
    size_bytes=1, licence="CC BY", title="Venice walk", uploader="A Walker",
)  # fmt: skip


def build(machine: Machine, stage: str, config: dict[str, Any], inputs: dict[str, Artifact], facts: dict[str, Any]):
    def make(folder: Path) -> dict[str, Any]:
        (folder / "content").write_text(stage)
        if stage == "checkpoint":
            path, *_ = write_checkpoint(folder)
            (folder / "epochs").mkdir()
            shutil.copy(path, folder / "epochs/epoch-0020.safetensors")
        return facts

    built = cache.build(machine, stage, 1, config, inputs, make)
    return Artifact(folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest)


def test_the_model_card_says_where_the_weights_come_from_and_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    machine = Machine(root=tmp_path / "root")
    files = [
        build(machine, "video", {"kind": "url", "name": "venice"}, {}, {"source": ORIGIN.model_dump()}),
        build(machine, "video", {"kind": "file", "sha256": "ab" * 32}, {}, {"source": "/data/someone/walk.mp4"}),
    ]
    size = {"n_frames": 66000, "width": 910, "height": 512, "fps": 10.0}
    blurred = {"detector": "/data/nets/centerface.onnx", "per_minute": [1000, 234]}
    kinds = {"venice": blurred, "own": {"detector": "none", "per_minute": [0]}}
    shards = {
        f"shards-{number}": build(machine, "shards", {"name": name}, {"video": video},
                                  {**size, "name": name, "faces": kinds[name]})
        for number, (name, video) in enumerate(zip(kinds, files, strict=True))
    }  # fmt: skip
    checkpoint = build(machine, "checkpoint", {}, shards, {"n_steps": 1234})
    build(machine, "score-davis", {}, {"checkpoint": checkpoint}, {"metrics": {"J_and_F_mean": 58.44}})
    build(machine, "score-davis", {"other": 1}, {"checkpoint": files[0]}, {"metrics": {"J_and_F_mean": 11.11}})

    monkeypatch.setenv("DORA_ROOT", str(machine.root))
    digits = checkpoint.folder.name[:6]
    assert main(["export", f"checkpoint/{digits}", "--to", "dino", "--out", str(tmp_path / "out")]) == 0
    assert "README.md, checkpoint.pth" in capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    for said in (
        "Venice walk” by A Walker, https://www.youtube.com/watch?v=fGX0Te6pFvk, licence CC BY; 66,000 frames",
        "1,234 faces were blurred, found by centerface.onnx",
        "a file of the trainer's (sha256 abababababababab), licence unknown",
        "faces were not blurred",
        "| steps | 1,234 of 128 clips of 8 frames |",
        "| objective | DoRA (arXiv:2310.08584) |",
        "| seed | 7 |",
        "| precision | bf16 |",
        "| begun with | dino.pth (teacher) |",
        "- davis: J_and_F_mean 58.44",
        "torch.load('FOLDER/checkpoint.pth', weights_only=True)",
        "venkataramanan2024imagenet",
    ):
        assert said in card
    assert "11.11" not in card
    epoch = checkpoint.folder / "epochs/epoch-0020.safetensors"
    of_epoch = (export(epoch, tmp_path / "epoch", to="timm") / "README.md").read_text()
    assert "Venice walk” by A Walker" in of_epoch and "58.44" not in of_epoch and "None were measured." in of_epoch
    shutil.rmtree(shards["shards-1"].folder)
    fewer = (export(epoch, tmp_path / "fewer", to="timm") / "README.md").read_text()
    gone = f"- Unknown: shards/{shards['shards-1'].fingerprint[:8]} are no longer there.\n"
    assert "Venice walk” by A Walker" in fewer and gone in fewer
    held = str(torch.load(tmp_path / "out/checkpoint.pth", weights_only=True)["args"])
    assert "dino.pth" in held
    for path in ("/data", str(tmp_path), "secret"):
        assert path not in card and path not in held


def test_a_checkpoint_apart_from_its_run_has_a_card_that_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, *_ = write_checkpoint(tmp_path)
    card = (export(path, tmp_path / "out", to="timm") / "README.md").read_text()
    assert "Unknown: the checkpoint was apart from its shards." in card and "None were measured." in card
    assert "timm.create_model('local-dir:FOLDER', pretrained=True)" in card and card.startswith("---\nlibrary_name: ")
    assert main(["export", str(path), "--to", "timm", "--out", str(tmp_path / "out")]) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert "Unknown" in model_card(Path("/checkpoint.safetensors"), CONFIG, step=None, to="timm", which="teacher")
