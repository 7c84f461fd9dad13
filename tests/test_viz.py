"""`dora viz`: the pictures that were asked for, seen as training sees them, and one sentence for each mistake."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from footage import FPS, ffmpeg, walk, write
from PIL import Image
from safetensors.torch import save_file
from tiny import PRETRAIN

from dora.__main__ import main
from dora.artifacts import Machine
from dora.config import BackboneConfig, PretrainConfig
from dora.method.dora import draw_heads
from dora.method.network import Network, build_network
from dora.method.seen import look, tracked
from dora.method.vit import build_vit, clip_tokens
from dora.viz import ViewConfig, visualise
from dora.viz.footage import open_footage
from dora.viz.seeing import overlap
from dora.weights.export import export
from dora.weights.load import load_encoder

torch.set_num_threads(1)
CPU = Machine(device="cpu")
SHORT = ViewConfig(n_frames=3, gap_s=0.5, between=1, n_objects=2)


def network(config: PretrainConfig = PRETRAIN, *, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network(config, drop_path=False).eval()


def write_checkpoint(path: Path, config: PretrainConfig = PRETRAIN) -> Path:
    """As a training leaves it."""
    tensors = {f"teacher.{name}": value for name, value in network(config, seed=2).state_dict().items()}
    tensors |= {f"student.{name}": value for name, value in network(config, seed=1).state_dict().items()}
    save_file(
        tensors, path, {"dora": json.dumps({"format": 1, "config": config.model_dump(mode="json"), "step": 1})}
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "checkpoint.safetensors")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "walk.mp4")


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_sheets_films_and_numbers_are_written_and_the_same_when_drawn_again(
    checkpoint: Path, film: Path, tmp_path: Path
):
    shown = [visualise(checkpoint, film, tmp_path / name, SHORT, machine=CPU) for name in "ab"]
    names = ["attention.mp4", "attention.png", "tracking.mp4", "tracking.png", "viz.json"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    facts = json.loads((tmp_path / "a" / "viz.json").read_text())
    assert facts == shown[0].facts
    assert facts["schema"] == "dora.viz/1"
    assert (facts["seen"]["height"], facts["seen"]["width"]) == (32, 40)  # 64 x 48, 32 wide: 42.7, so five patches
    assert [frame["time_s"] for frame in facts["frames"]] == [1.0, 1.5, 2.0]  # in the middle of three seconds
    assert len(decoded(tmp_path / "a" / "attention.mp4")) == facts["film"]["n_pictures"] == 5


def test_maps_are_those_of_training(checkpoint: Path, film: Path, tmp_path: Path):
    shown = visualise(checkpoint, film, tmp_path, SHORT.model_copy(update={"between": 0}), machine=CPU)
    vit = load_encoder(checkpoint)
    frames = np.stack([picture.pixels for picture in open_footage(film, fps=1).pictures([1.0, 1.5, 2.0])])
    seen = look(lambda images: clip_tokens(vit, images), frames, short_side=32, patch_size=8)
    torch.testing.assert_close(shown.sight.attention[0], seen.attention, atol=1e-5, rtol=1e-4)
    for refine, objects in ((False, shown.sight.plain), (True, shown.sight.refined)):
        config = PRETRAIN.tracking.model_copy(update={"refine": refine})
        maps, masks = tracked(seen, shown.facts["heads"]["used"], config)
        torch.testing.assert_close(objects.maps.transpose(0, 1), maps, atol=1e-5, rtol=1e-4)
        assert torch.equal(objects.masks.transpose(0, 1), masks)


@pytest.mark.parametrize("options", [["-g", "12", "-bf", "2"], ["-g", "250"], ["-g", "1"]], ids=" ".join)
def test_the_picture_of_a_moment_is_the_one_shown_then(options: list[str], tmp_path: Path):
    colours = [(16 * (number % 16), 16 * (number // 16), 80) for number in range(120)]  # 10 s, each its own
    shades = [np.broadcast_to(np.uint8(colour), (32, 48, 3)) for colour in colours]
    source = write(tmp_path / "source.mp4", shades)
    ffmpeg("-i", source, "-c:v", "libx264", "-crf", "4", *options, tmp_path / "film.mp4")
    times_s = [0.0, 0.04, 0.1, 1.0, 1.5, 6.0, 9.2, 9.99]
    found = list(open_footage(tmp_path / "film.mp4", fps=1).pictures(times_s))
    for time_s, picture in zip(times_s, found, strict=True):
        number = int(time_s * FPS)
        assert picture.time_s == pytest.approx(number / FPS)
        assert abs(picture.pixels.mean((0, 1)) - colours[number]).max() < 6


def test_a_turned_video_is_upright(tmp_path: Path):
    write(tmp_path / "film.mp4")
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "film.mp4", "-c", "copy", tmp_path / "turned.mp4")
    straight, turned = (
        next(open_footage(tmp_path / name, fps=1).pictures([1.0])).pixels for name in ("film.mp4", "turned.mp4")
    )
    assert abs(np.rot90(straight).astype(int) - turned).mean() < 2


def test_images_of_a_folder_come_in_the_order_of_their_numbers(checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, pixels in enumerate(walk()[:12]):
        Image.fromarray(pixels).save(folder / f"img{number}.png")
    (folder / "notes.txt").write_text("no image")
    (picture,) = open_footage(folder, fps=4).pictures([2.6])  # img10, not img2
    assert picture.time_s == 2.5 and np.array_equal(picture.pixels, walk()[10])
    config = ViewConfig(n_frames=4, gap_s=0.5, fps=4, between=3, n_objects=1)
    facts = visualise(checkpoint, folder, tmp_path / "out", config, machine=CPU).facts
    assert facts["film"]["n_pictures"] == 7  # no more pictures than images
    assert facts["with_sinkhorn"]["mask_overlap"] is None


def test_others_checkpoints_show_the_same_as_ours(film: Path, tmp_path: Path):
    backbone = BackboneConfig(
        architecture="vit_tiny_patch16_224", image_size=32, patch_size=8, embed_dim=128, depth=1, num_heads=2
    )
    config = PRETRAIN.model_copy(update={"backbone": backbone})
    ours = write_checkpoint(tmp_path / "checkpoint.safetensors", config)
    vit = build_vit(backbone, drop_path=False)
    vit.load_state_dict(load_encoder(ours).state_dict())
    dino = {f"module.backbone.{name}": value for name, value in vit.state_dict().items()}
    torch.save({"teacher": dino, "epoch": 3}, tmp_path / "dino.pth")
    torch.save(vit.state_dict(), tmp_path / "plain.pth")
    export(ours, tmp_path / "timm", to="timm", which="teacher", head=False)
    export(ours, tmp_path / "huggingface", to="huggingface", which="teacher", head=False)
    view = ViewConfig(n_frames=2, gap_s=0.5, between=0, n_objects=1)
    shown = {
        name: visualise(tmp_path / name, film, tmp_path / "out", view, machine=CPU).sight
        for name in (ours.name, "dino.pth", "plain.pth", "timm", "huggingface")
    }
    student = view.model_copy(update={"which": "student"})
    for name, network in ((ours.name, "student"), ("dino.pth", "teacher"), ("plain.pth", None)):
        facts = visualise(tmp_path / name, film, tmp_path / "out", student, machine=CPU).facts
        assert facts["checkpoint"]["network"] == network  # that of the file, which may not have the one asked for
    for sight in shown.values():
        torch.testing.assert_close(sight.attention, shown[ours.name].attention)
        assert torch.equal(sight.refined.masks, shown[ours.name].refined.masks)


def test_heads_are_those_asked_for_or_drawn_from_the_seed(checkpoint: Path, film: Path, tmp_path: Path):
    def used(**values: object) -> list[int]:
        config = SHORT.model_copy(update={"between": 0, **values})
        return visualise(checkpoint, film, tmp_path, config, machine=CPU).facts["heads"]["used"]

    assert used(heads=(2, 0)) == [2, 0]
    assert used(seed=3) == draw_heads(3, 2, seed=3, step=0)  # as training draws them


def test_a_larger_size_gives_finer_maps_of_the_same_shape_of_picture(checkpoint: Path, film: Path, tmp_path: Path):
    config = SHORT.model_copy(update={"short_side": 100, "between": 0})
    shown = visualise(checkpoint, film, tmp_path, config, machine=CPU)
    assert shown.sight.attention.shape == (3, 3, 12, 17)  # 100 x 133 pixels, in patches of 8
    assert shown.facts["seen"] == {
        "height": 96, "width": 136, "rows": 12, "columns": 17, "cropped": False, "stretched": 1.0625
    }  # fmt: skip


def test_overlap_is_the_mean_intersection_over_union_of_pairs():
    masks = torch.zeros(1, 3, 1, 4, dtype=torch.bool)
    masks[0, 0, 0, :2], masks[0, 1, 0, 1:3], masks[0, 2, 0, 3] = True, True, True
    assert overlap(masks) == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert overlap(masks[:, :1]) is None
    assert overlap(masks[:, [1, 1]]) == 1


def test_the_command_says_what_it_did(checkpoint: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--gap", "0.5", "--frames", "3", "--heads", "0,1", "--between", "0", "--device", "cpu", "--at", "0.5"]
    assert main(["viz", "--checkpoint", str(checkpoint), "--video", str(film), "--out", str(tmp_path), *arguments]) == 0
    said = capsys.readouterr().out
    assert "64 x 48, 3 frames from 0.50 s to 1.50 s, nothing cropped, seen at 40 x 32" in said
    assert "heads 0, 1 of 3" in said and "look at tracking.png first" in said


def _text(path: Path) -> Path:
    path.write_text("hello")
    return path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: ["--video", folder / "none.mp4"], "no video at"),
        (lambda folder: ["--video", folder], "no images in"),
        (lambda folder: ["--video", _text(folder / "text.mp4")], "is no video that can be read"),
        (lambda folder: ["--frames", "2", "--checkpoint", _text(folder / "text.pth")], "text.pth"),
        (lambda folder: ["--checkpoint", "checkpoint/77e1"], "names 0 artifacts"),
        (lambda folder: ["--checkpoint", "none.pth"], "no file of weights at none.pth"),
        (lambda folder: ["--at", "3"], "no frame at 3 s: walk.mp4 ends at 3.00 s"),
        (lambda folder: [], "8 frames 1 s apart from 0 s on reach to 7 s, but walk.mp4 ends at 3.00 s. 3 fit"),
        (lambda folder: ["--gap", "0.5", "--at", "1", "--frames", "5"], "4 fit"),
        (lambda folder: ["--frames", "2", "--heads", "0,7"], "no head 7: this ViT has 3, 0 to 2"),
        (lambda folder: ["--frames", "2", "--heads", "1,1"], "all different"),
        (lambda folder: ["--frames", "2", "--objects", "9"], "n_objects is 9, but the ViT has 3 heads"),
        (lambda folder: ["--frames", "0"], "n_frames"),
        (lambda folder: ["--at", "-1"], "at_s"),
    ],
)
def test_a_mistake_is_one_clear_sentence(
    change: Callable[[Path], list[object]], sentence: str, checkpoint: Path, film: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setenv("DORA_ROOT", str(tmp_path / "root"))
    arguments = ["--checkpoint", checkpoint, "--video", film, "--out", tmp_path / "out", *change(tmp_path)]
    assert main(["viz", *map(str, arguments)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("dora: ") and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_video_that_breaks_off_before_it_promises_to_is_told(checkpoint: Path, tmp_path: Path):
    whole = write(tmp_path / "film.mkv", [pixels for pixels in walk() for _ in range(4)])
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="it breaks off or is damaged there"):
        visualise(checkpoint, whole, tmp_path / "out", ViewConfig(at_s=9, n_frames=2, n_objects=1), machine=CPU)
