"""DAVIS against plain versions of the published procedure and of the official measure, written out in this file.

Plain is what the scripts do, one thing after the other: a frame at a time through a ViT whose attention is three
products, the full affinity of all context frames' patches with the target's, a mask over it, and J&F of each object
over full frames. Both sides' labels and scores are compared before anything is timed.
"""

import gc
import json
import math
import subprocess
import sys
from collections import deque
from itertools import chain, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from bench import Measurement, alternate
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dora.config import BackboneConfig
from dora.data.labelled.davis import ANNOTATIONS, IMAGES, LISTS
from dora.data.labelled.files import voc_palette, write_labels, write_lines, write_photo
from dora.method.vit import build_vit, position_embedding
from eval.propagation import grid_labels, label_map, propagate
from eval.region_contour import score_sequence
from eval.video.following import RESULTS, STD, follow
from eval.video.how import Propagation
from eval.video.sequences import sequences

# A 480p frame of a ViT-S/16, the full context, three labels.
HEIGHT, WIDTH, DIM, PATCH = 30, 52, 384, 16
N_LAST, TOP_K, RADIUS, TEMPERATURE = 7, 5, 12, 0.1
HOW = {"n_last_frames": N_LAST, "top_k": TOP_K, "radius": RADIUS, "temperature": TEMPERATURE}
FRAME = (480, 854)
# Of the videos that go from pixels to PNGs; DAVIS' have 67. From the ninth on a frame has its whole context.
N_FRAMES = 16
ROUNDS, VIDEO_ROUNDS = 5, 3
# The golden cases' own tolerances: labels of so many pixels may differ.
N_MAY_DIFFER, SHARE_MAY_DIFFER = 20, 0.0002


class Context(NamedTuple):
    """What a target frame is compared with: features and labels of the first frame and of the last ones."""

    features: list[Tensor]  # each N D
    labels: list[Tensor]  # each C N


def plain_mask() -> Tensor:
    """1 where two patches are near, filled in patch by patch as the script does it."""
    mask = torch.zeros(HEIGHT, WIDTH, HEIGHT, WIDTH)
    for i in range(HEIGHT):
        for j in range(WIDTH):
            for p in range(2 * RADIUS + 1):
                for q in range(2 * RADIUS + 1):
                    row, column = i - RADIUS + p, j - RADIUS + q
                    if 0 <= row < HEIGHT and 0 <= column < WIDTH:
                        mask[i, j, row, column] = 1
    return mask.reshape(HEIGHT * WIDTH, HEIGHT * WIDTH)


def plain_step(target: Tensor, context: Context, mask: Tensor) -> Tensor:
    """The target's soft labels (C N) by the full affinity."""
    sources = F.normalize(torch.stack(context.features), dim=2)
    targets = F.normalize(target, dim=1).T[None].expand(len(sources), -1, -1)
    affinity = torch.exp(torch.bmm(sources, targets) / TEMPERATURE)
    affinity *= mask
    affinity = affinity.reshape(-1, affinity.shape[-1])
    lowest = torch.topk(affinity, dim=0, k=TOP_K).values.min(dim=0).values
    affinity[affinity < lowest] = 0
    affinity = affinity / affinity.sum(dim=0, keepdim=True)
    return torch.cat(context.labels, dim=1) @ affinity


def plain_propagation(features: list[Tensor], first: Tensor, mask: Tensor) -> list[Tensor]:
    """Soft labels (C N) of all frames but the first."""
    queue: deque[tuple[Tensor, Tensor]] = deque(maxlen=N_LAST)
    found: list[Tensor] = []
    for target in features[1:]:
        context = Context([features[0], *(feature for feature, _ in queue)], [first, *(labels for _, labels in queue)])
        found.append(plain_step(target, context, mask))
        queue.append((target, found[-1]))
    return found


def plain_features(vit: VisionTransformer, image: Tensor) -> Tensor:
    """Patch tokens (N D) of one normalised image, every product as torch has it."""
    x = vit.patch_embed.proj(image).flatten(2).transpose(1, 2)
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + position_embedding(vit, *image.shape[2:])
    for block in vit.blocks:
        attention, y = block.attn, block.norm1(x)
        parts = F.linear(y, attention.qkv.weight, attention.qkv.bias)
        q, k, v = parts.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weight = (q @ k.transpose(2, 3) * attention.scale).softmax(dim=-1)
        y = (weight @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(y, attention.proj.weight, attention.proj.bias)
        y = F.gelu(F.linear(block.norm2(x), block.mlp.fc1.weight, block.mlp.fc1.bias))
        x = x + F.linear(y, block.mlp.fc2.weight, block.mlp.fc2.bias)
    return vit.norm(x)[0, 1:]


def plain_labels(soft: Tensor) -> np.ndarray:
    """A frame's labels at the video's own size."""
    maps = F.interpolate(soft.reshape(1, -1, HEIGHT, WIDTH), scale_factor=PATCH, mode="bilinear")[0]
    for c in range(len(maps)):
        if maps[c].max() > 0:
            maps[c] -= maps[c].min()
            maps[c] /= maps[c].max()
    labels = maps.argmax(dim=0).numpy().astype(np.uint8)
    return np.array(Image.fromarray(labels).resize(FRAME[::-1], Image.Resampling.NEAREST))


@torch.inference_mode()
def plain_video(vit: VisionTransformer, data: Path, out: Path) -> None:
    """From a sequence's folder to its result PNGs and their J and F, a frame at a time."""
    (sequence,) = sequences(data, "val")
    first = np.array(Image.open(sequence.annotations[0]))
    features: list[Tensor] = []
    for path in sequence.photos:
        image = cv2.resize(cv2.imread(str(path)), (WIDTH * PATCH, HEIGHT * PATCH))[:, :, ::-1].astype(np.float32) / 255
        image = (image - np.array((0.485, 0.456, 0.406), np.float32)) / np.array(STD, np.float32)
        features.append(plain_features(vit, torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1))[None]))
    small = torch.from_numpy(np.array(Image.fromarray(first).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)))
    soft = plain_propagation(features, F.one_hot(small.long()).flatten(0, 1).T.float(), plain_mask())
    for path, labels in zip(sequence.annotations, [first, *map(plain_labels, soft)], strict=True):
        write_labels(out / path.name, labels, voc_palette())
    pairs = [(np.array(Image.open(path)), np.array(Image.open(out / path.name))) for path in sequence.annotations]
    plain_scores(pairs, int(first.max()))


def plain_boundary(mask: np.ndarray) -> np.ndarray:
    """The official one-pixel boundary, over the full frame."""
    right, below, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = mask ^ right | mask ^ below | mask ^ diagonal
    edge[-1], edge[:, -1] = mask[-1] ^ right[-1], mask[:, -1] ^ below[:, -1]
    edge[-1, -1] = False
    return edge


def plain_scores(frames: list[tuple[np.ndarray, np.ndarray]], n_objects: int) -> list[tuple[float, float]]:
    """J and F of each object of each evaluated frame, over full frames."""
    radius = math.ceil(0.008 * math.hypot(*frames[0][0].shape))
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    found: list[tuple[float, float]] = []
    for truth, result in frames[1:-1]:
        truth = np.where(truth == 255, 0, truth)
        for label in range(1, n_objects + 1):
            a, b = truth == label, result == label
            union = np.sum(a | b)
            J = float(np.sum(a & b) / union) if union else 1.0
            edge_a, edge_b = plain_boundary(a), plain_boundary(b)
            near_a, near_b = (cv2.dilate(edge.astype(np.uint8), disk) for edge in (edge_a, edge_b))
            n_a, n_b = np.sum(edge_a), np.sum(edge_b)
            if n_a and n_b:
                precision, recall = np.sum(edge_b * near_a) / n_b, np.sum(edge_a * near_b) / n_a
                f = float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
            else:
                f = float(n_a == n_b)
            found.append((J, f))
    return found


def davis_step_ratio() -> Measurement:
    """One frame's labels from seven frames before it and the first one."""
    features, first = _video_features(N_LAST + 2)
    mask, grid = plain_mask(), first.T.reshape(HEIGHT, WIDTH, -1)
    flat = [feature.flatten(0, 1) for feature in features]
    with torch.inference_mode():
        soft = plain_propagation(flat, first, mask)
        ours = torch.stack(list(propagate(features, grid, **HOW)))
    _assert_same_labels([plain_labels(labels) for labels in soft], [_drawn(labels) for labels in ours])
    context = Context(flat[:-1], [first, *soft[:-1]])

    # Ours keeps the context between steps: a step is what one more frame takes, the same for each after the eighth.
    steps = propagate(chain(features[:1], cycle(features[1:])), grid, **HOW)

    @torch.inference_mode()
    def plain() -> None:
        plain_step(flat[-1], context, mask)

    @torch.inference_mode()
    def one_more() -> None:
        next(steps)

    for _ in range(N_LAST):
        one_more()
    return alternate(plain, one_more, rounds=2 * ROUNDS)


def davis_total_ratio() -> Measurement:
    """A short video from JPEGs to PNGs and J&F: features, propagation, labels at full size. Ours also makes a film."""
    torch.manual_seed(0)
    vit = build_vit(BackboneConfig(architecture="vit_small_patch16_224"), drop_path=False).eval().requires_grad_(False)
    with TemporaryDirectory() as folder:
        data = Path(folder) / "DAVIS"
        _write_video(data)
        plain_out, out = Path(folder) / "plain", Path(folder) / "ours"
        plain_out.mkdir()
        how, n_runs = Propagation(), 0

        def plain() -> None:
            plain_video(vit, data, plain_out)

        def ours() -> None:
            nonlocal n_runs
            n_runs += 1
            run = out / str(n_runs)
            run.mkdir(parents=True)
            (sequence,) = sequences(data, "val")
            follow(vit, sequence, how, run, n_threads=1, told=lambda t: None)

        measured = alternate(plain, ours, rounds=VIDEO_ROUNDS)
        both = (
            [np.array(Image.open(p)) for p in sorted(f.glob("*.png"))] for f in (plain_out, out / "1" / RESULTS / "v")
        )
        _assert_same_labels(*both)
    return measured


def davis_memory_ratio() -> Measurement:
    """Peak memory that propagation adds to a process, ours over plain: each in a process of its own."""
    rounds = [_peak_bytes("ours") / _peak_bytes("plain") for _ in range(ROUNDS)]
    return Measurement(float(np.median(rounds)), "x", rounds)


def jf_ratio() -> Measurement:
    """Twelve 480p frames with three objects, whose results are shifted and turned."""
    frames = [(_ellipses(t, 0), _ellipses(t, 1)) for t in range(12)]
    score = score_sequence(frames)
    theirs = np.array(plain_scores(frames, 3)).reshape(-1, 3, 2)
    assert (score.J.T == theirs[..., 0]).all() and (score.F.T == theirs[..., 1]).all()
    return alternate(lambda: plain_scores(frames, 3), lambda: score_sequence(frames), rounds=2 * ROUNDS)


def _video_features(n: int) -> tuple[list[Tensor], Tensor]:
    """Features (h w D) of a smooth scene that moves to the right under noise, and labels (C N) of its first frame."""
    generator = torch.Generator().manual_seed(0)
    scene = F.interpolate(torch.randn(1, DIM, 8, 13, generator=generator), (HEIGHT, WIDTH), mode="bilinear")
    scene = scene[0].permute(1, 2, 0)
    features = [scene.roll(t, 1) + 0.5 * torch.randn(HEIGHT, WIDTH, DIM, generator=generator) for t in range(n)]
    first = grid_labels(_ellipses(0, 0), (HEIGHT, WIDTH))
    return features, first.flatten(0, 1).T.contiguous()


def _drawn(soft: Tensor) -> np.ndarray:
    return label_map(soft, patch_size=PATCH, size=FRAME)


def _assert_same_labels(plain: list[np.ndarray], ours: list[np.ndarray]) -> None:
    differing = sum(int((a != b).sum()) for a, b in zip(plain, ours, strict=True))
    assert differing <= N_MAY_DIFFER + SHARE_MAY_DIFFER * sum(a.size for a in plain), f"{differing} pixels differ"


def _ellipses(t: int, shift: int) -> np.ndarray:
    labels = np.zeros(FRAME, np.uint8)
    things = ((300, 240, 50, 120), (600, 300, 60, 70), (150, 200, 30, 60))
    for label, (x, y, a, b) in enumerate(things, start=1):
        at = (x + 5 * t + 6 * shift * label, y + 3 * shift)
        cv2.ellipse(labels, at, (a, b), 10 * t + 6 * shift, 0, 360, label, -1)
    return labels


def _write_video(data: Path) -> None:
    noise = cv2.resize(np.random.default_rng(0).integers(0, 160, (60, 107, 3), dtype=np.uint8), FRAME[::-1])
    colours = np.array([(0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90)], np.uint8)
    for folder in (IMAGES, ANNOTATIONS):
        (data / folder / "v").mkdir(parents=True)
    for t in range(N_FRAMES):
        labels = _ellipses(t, 0)
        write_photo(data / IMAGES / "v" / f"{t:05d}.jpg", noise + colours[labels])
        write_labels(data / ANNOTATIONS / "v" / f"{t:05d}.png", labels, voc_palette())
    write_lines(data / LISTS / "val.txt", ["v"])


def _peak_bytes(side: str) -> int:
    command = [sys.executable, __file__, side]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(run.stdout)


def _measure_peak(side: str) -> int:
    """What this process' largest size grew by while it propagated. The kernel keeps that mark, and lowers it if asked.

    The mask and the features are there before; so is what the libraries load with their first product.
    """
    features, first = _video_features(N_LAST + 3)
    flat, grid = [f.flatten(0, 1) for f in features], first.T.reshape(HEIGHT, WIDTH, -1)
    rows, columns = ((torch.arange(n)[:, None] - torch.arange(n)).abs() <= RADIUS for n in (HEIGHT, WIDTH))
    mask = torch.kron(rows.float(), columns.float())  # the same as plain_mask's, sooner
    propagate_small = propagate((f[:4, :4] for f in features), grid[:4, :4], **HOW)
    with torch.inference_mode():
        list(propagate_small)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        if side == "ours":
            for _ in propagate(features, grid, **HOW):
                pass
        else:
            plain_propagation(flat, first, mask)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


BENCHES = {
    "davis_step_ratio": davis_step_ratio,
    "davis_total_ratio": davis_total_ratio,
    "davis_memory_ratio": davis_memory_ratio,
    "jf_ratio": jf_ratio,
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    print(_measure_peak(sys.argv[1]))
