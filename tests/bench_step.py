"""One pretraining step against the same step written plainly, frame by frame.

The plain side is what one writes first: the backbone called once per frame and object, the head (and so its weight
norm) in each of these calls, attention matrices built in full in every block, the last block computed for all tokens,
the local loss once more for each object, one backward pass over all, loops over parameters for clipping, AdamW and
the teacher. Both sides take the very same steps: their losses are compared.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import repeat
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from bench import Measurement, alternate
from torch import Tensor, nn

from dora.artifacts import Machine
from dora.config import LossConfig, OptimizerConfig, PretrainConfig, TrackingConfig
from dora.data.augment import Views
from dora.method.dora import Dora, draw_heads
from dora.method.objective import Moment
from dora.method.products import product
from dora.training.distributed import Ranks
from dora.training.flops import flops_per_clip
from dora.training.optimizer import parameter_groups, set_rates
from dora.training.run import new_state
from dora.training.step import backward, clipped_norm, update

LR, TEMPERATURE, MOMENTUM = 1e-4, 0.04, 0.996
OPTIMIZER, TRACKING, LOSS = OptimizerConfig(), TrackingConfig(), LossConfig()
ALONE = Ranks(0, 1, torch.device("cpu"))
NOW = Moment(step=5, epoch=50)  # the last layer is no longer frozen
# Without drop path, so that both sides draw nothing and give equal losses.
CONFIG = PretrainConfig.model_validate({"backbone": {"drop_path_rate": 0}, "clips_per_batch": 1, "precision": "fp32"})


def step_fp32_ratio() -> Measurement:
    """ViT-S/16, one clip of 8 frames with 6 local crops, 65 536 prototypes: forward, backward, update, float32."""
    plain, ours = PlainTraining(CONFIG), OurTraining(CONFIG)
    measured = alternate(plain.step, ours.step)
    torch.testing.assert_close(torch.tensor(plain.losses), torch.tensor(ours.losses), rtol=1e-4, atol=0)
    return measured


def step_bf16_ratio() -> Measurement:
    """The same under bf16 autocast, both sides."""
    config = CONFIG.model_copy(update={"precision": "bf16"})
    plain, ours = PlainTraining(config), OurTraining(config)
    measured = alternate(plain.step, ours.step)
    torch.testing.assert_close(torch.tensor(plain.losses), torch.tensor(ours.losses), rtol=2e-2, atol=0)
    return measured


def step_fp32_of_matmul() -> Measurement:
    """Our step's floating-point operations a second, as a share of the best that torch.matmul reaches here."""
    return share_of(torch.matmul)


def step_fp32_of_onednn() -> Measurement:
    """The same of the product that the step uses on a CPU: on AMD's processors faster than torch.matmul."""
    return share_of(lambda a, b: product(a, b.T))


def share_of(multiply: Callable[[Tensor, Tensor], Tensor]) -> Measurement:
    ours, work = OurTraining(CONFIG), flops_per_clip(CONFIG)
    pairs = [(torch.randn(m, k), torch.randn(k, n)) for m, k, n in ((2048, 2048, 2048), (4728, 384, 1536))]
    ours.step()
    shares: list[float] = []
    for _ in range(5):
        best = max(rate(multiply, a, b) for a, b in pairs)
        started = time.perf_counter()
        ours.step()
        shares.append(work / (time.perf_counter() - started) / best)
    return Measurement(100 * median(shares), "%", [100 * share for share in shares])


def rate(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    """Floating-point operations a second of the fastest of some products."""
    seconds: list[float] = []
    for _ in range(8):
        started = time.perf_counter()
        multiply(a, b)
        seconds.append(time.perf_counter() - started)
    return 2 * a.numel() * b.shape[1] / min(seconds)


def step_memory_ratio() -> Measurement:
    """Peak memory of a process that takes two of our steps, as a share of one that takes two plain ones."""
    ratios = [peak_bytes("OurTraining") / peak_bytes("PlainTraining") for _ in range(3)]
    return Measurement(median(ratios), "x", ratios)


def peak_bytes(training: str) -> int:
    command = f"import bench_step; bench_step.print_peak(bench_step.{training})"
    folder = Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", command], cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    return int(run.stdout.split()[-1])


def print_peak(training: "type[OurTraining]") -> None:
    """What a process of its own says: its peak resident memory in bytes."""
    run = training(CONFIG)
    run.step(), run.step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


class OurTraining:
    """The project's own step, as its training loop takes it."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config, self.objective = config, Dora(config)
        self.state, _ = new_state(config, self.objective, ALONE, Machine())
        clips, views, generator = (config.clips_per_batch, config.clip.n_frames), config.augment, torch.Generator()
        generator.manual_seed(0)
        self.views = Views(
            torch.randn(views.n_global_views, *clips, 3, views.global_size, views.global_size, generator=generator),
            torch.randn(views.n_local_crops, *clips, 3, views.local_size, views.local_size, generator=generator),
            tuple(range(config.clips_per_batch)),
        )
        self.losses: list[float] = []

    def step(self) -> None:
        state = self.state
        set_rates(state.optimizer, lr=LR, weight_decay=OPTIMIZER.weight_decay)
        batch = backward(
            state,
            state.student,
            self.objective,
            repeat(self.views),
            1,
            moment=NOW,
            ranks=ALONE,
            asks={},
            when_read=lambda: None,
        )
        clipped_norm(state)
        update(state, self.objective, batch, epoch=NOW.epoch, teacher_momentum=MOMENTUM)
        state.optimizer.zero_grad()
        self.losses.append(batch.numbers["loss"].item())


class PlainTraining:
    """The same step as loops."""

    def __init__(self, config: PretrainConfig) -> None:
        like = OurTraining(config)
        self.student, self.teacher, self.views = like.state.student, like.state.teacher, like.views
        self.half = config.precision == "bf16"
        self.optimizer = torch.optim.AdamW(parameter_groups(self.student), foreach=False)
        self.center = torch.zeros(config.head.n_prototypes)
        self.heads = draw_heads(6, TRACKING.n_objects, seed=config.seed, step=NOW.step)
        self.losses: list[float] = []

    def step(self) -> None:
        with torch.autocast("cpu", torch.bfloat16) if self.half else nullcontext():
            loss, teacher_logits = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            assert parameter.grad is not None
            factor = OPTIMIZER.clip_grad_norm / (parameter.grad.norm() + 1e-6)
            if factor < 1:
                parameter.grad.mul_(factor)
        set_rates(self.optimizer, lr=LR, weight_decay=OPTIMIZER.weight_decay)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.mul_(MOMENTUM).add_((1 - MOMENTUM) * fast)
        self.center = 0.9 * self.center + 0.1 * torch.cat(teacher_logits).float().mean(0)
        self.losses.append(loss.item())

    def loss(self) -> tuple[Tensor, list[Tensor]]:
        frames, crops = self.views.global_views[0].transpose(0, 1), self.views.local_views.transpose(1, 2)
        n_frames, n_crops, n_objects = len(frames), len(crops), len(self.heads)
        with torch.no_grad():
            seen = [plain_backbone(self.teacher.backbone, frame) for frame in frames]
            teacher_logits = [plain_head(self.teacher.head, tokens[:, 0]) for tokens, *_ in seen]
            masks = plain_masks(seen, self.heads, side=frames.shape[-1] // 16)
        masked_logits = [
            [self._predict(frame * masks[j][t].unsqueeze(1)) for t, frame in enumerate(frames)]
            for j in range(n_objects)
        ]
        crop_logits = [self._predict(crops[:, t].flatten(0, 1)).chunk(n_crops) for t in range(n_frames)]
        loss = torch.zeros(())
        for j in range(n_objects):
            for t in range(n_frames):
                target = ((teacher_logits[t].float() - self.center) / TEMPERATURE).softmax(-1)
                of_object = cross_entropy(target, masked_logits[j][t])
                of_crops = sum(cross_entropy(target, crop) for crop in crop_logits[t]) / n_crops
                loss = loss + (of_object + of_crops) / 2 / (n_frames * n_objects)
        return loss, teacher_logits

    def _predict(self, images: Tensor) -> Tensor:
        tokens, *_ = plain_backbone(self.student.backbone, images)
        return plain_head(self.student.head, tokens[:, 0])


def plain_backbone(vit: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, and attention, queries and keys of the last block, computed for every token of every block."""
    x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    side = images.shape[-1] // 16
    positions = vit.pos_embed
    if side != 14:
        grid = positions[:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, scale_factor=(side + 0.1) / 14, mode="bicubic")
        positions = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], dim=1) + positions
    attention = query = key = x
    for block in vit.blocks:
        query, key, value = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 6, 64)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-2, -1) * 64**-0.5).softmax(-1)
        x = x + block.attn.proj((attention @ value).transpose(1, 2).flatten(2))
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    return vit.norm(x), attention, query, key


def plain_head(head: nn.Module, x: Tensor) -> Tensor:
    last = head.last_layer
    weight = last.weight_v * (last.weight_g / last.weight_v.norm(dim=1, keepdim=True))
    return F.normalize(head.mlp(x), dim=-1) @ weight.T


def plain_masks(
    seen: list[tuple[Tensor, Tensor, Tensor, Tensor]], heads: list[int], *, side: int
) -> list[list[Tensor]]:
    """For each object and frame, 1 where the image is kept; `side` is in patches."""

    def joined(per_head: Tensor) -> Tensor:
        return per_head[:, :, 1:].transpose(1, 2).flatten(2)

    tokens, attention, query, _ = seen[0]
    prototypes = attention[:, heads, 0, 1:] @ joined(query)
    patches = F.normalize(tokens[:, 1:], dim=-1)
    share = (patches @ prototypes.transpose(1, 2)).double() / TRACKING.sinkhorn_epsilon
    share = (share - share.amax((1, 2), keepdim=True)).exp()
    for _ in range(TRACKING.sinkhorn_iterations):
        share = share / share.sum(1, keepdim=True)
        share = share / share.sum(2, keepdim=True)
    prototypes = share.float().transpose(1, 2) @ patches
    masks: list[list[Tensor]] = [[] for _ in heads]
    for *_, key in seen:
        soft = (prototypes @ joined(key).transpose(1, 2) * 384**-0.5).softmax(-1)
        kept = (soft > soft.mean(-1, keepdim=True)).float().unflatten(-1, (side, side))
        for j, of_object in enumerate(masks):
            of_object.append(F.interpolate(kept[:, j, None], scale_factor=16.0)[:, 0])
    return masks


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    return -(target * (logits.float() / LOSS.student_temperature).log_softmax(-1)).sum(-1).mean()


BENCHES = {
    "step_fp32_ratio": step_fp32_ratio,
    "step_fp32_of_matmul": step_fp32_of_matmul,
    "step_fp32_of_onednn": step_fp32_of_onednn,
    "step_bf16_ratio": step_bf16_ratio,
    "step_memory_ratio": step_memory_ratio,
}
