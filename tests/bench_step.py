"""One pretraining step against the same step written plainly, frame by frame.

The plain side is what one writes first: the backbone called once per frame and object, the head (and so its weight
norm) in each of these calls, attention matrices built in full in every block, the last block computed for all tokens,
the local loss once more for each object, loops over parameters for clipping, AdamW and the teacher.
Both sides take the very same steps: their losses are compared.
"""

import copy

import torch
import torch.nn.functional as F
from bench import Measurement, alternate
from torch import Tensor, nn

from dora.config import BackboneConfig, HeadConfig, LossConfig, OptimizerConfig, TrackingConfig
from dora.data.augment import Views
from dora.method.dora import dora_step, updated_center
from dora.method.network import Network, build_network
from dora.training.optimizer import build_optimizer, clip_gradients, parameter_groups, set_rates, update_teacher

LR, TEMPERATURE, HEADS = 1e-4, 0.04, [4, 0, 3]
OPTIMIZER, TRACKING, LOSS = OptimizerConfig(), TrackingConfig(), LossConfig()


def step_fp32_ratio() -> Measurement:
    """ViT-S/16, one clip of 8 frames with 6 local crops, 65 536 prototypes: forward, backward, update, float32.

    Without drop path, so that both sides draw nothing and give equal losses.
    """
    torch.manual_seed(0)
    student = build_network(BackboneConfig(), HeadConfig(), drop_path=False)
    views = Views(torch.randn(1, 8, 3, 224, 224), torch.randn(6, 1, 8, 3, 112, 112))
    plain, ours = PlainTraining(copy.deepcopy(student), views), OurTraining(student, views)
    measured = alternate(plain.step, ours.step)
    torch.testing.assert_close(torch.tensor(plain.losses), torch.tensor(ours.losses), rtol=1e-4, atol=0)
    return measured


class OurTraining:
    """The project's own step, as its training loop takes it."""

    def __init__(self, student: Network, views: Views) -> None:
        self.student, self.views = student, views
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.optimizer = build_optimizer(student)
        self.center = torch.zeros(student.head.last_layer.weight_g.shape[0])
        self.losses: list[float] = []

    def step(self) -> None:
        step = dora_step(
            self.student, self.teacher, self.views, center=self.center, teacher_temperature=TEMPERATURE,
            head_indices=HEADS, tracking=TRACKING, loss=LOSS,
        )  # fmt: skip
        self.optimizer.zero_grad()
        step.loss.backward()
        clip_gradients(self.student.parameters(), OPTIMIZER.clip_grad_norm)
        set_rates(self.optimizer, lr=LR, weight_decay=OPTIMIZER.weight_decay)
        self.optimizer.step()
        update_teacher(self.teacher, self.student, OPTIMIZER.teacher_momentum)
        self.center = updated_center(self.center, step.teacher_logits.mean((0, 1)), LOSS.center_momentum)
        self.losses.append(step.loss.item())


class PlainTraining(OurTraining):
    """The same step as loops."""

    def __init__(self, student: Network, views: Views) -> None:
        super().__init__(student, views)
        self.optimizer = torch.optim.AdamW(parameter_groups(student), foreach=False)

    def step(self) -> None:
        frames, crops = self.views.global_views.transpose(0, 1), self.views.local_views.transpose(1, 2)
        n_frames, n_crops, n_objects = len(frames), len(crops), len(HEADS)
        with torch.no_grad():
            seen = [plain_backbone(self.teacher.backbone, frame) for frame in frames]
            teacher_logits = [plain_head(self.teacher.head, tokens[:, 0]) for tokens, *_ in seen]
            masks = plain_masks(seen, side=frames.shape[-1] // 16)
        masked_logits = [
            [self._predict(frame * masks[j][t].unsqueeze(1)) for t, frame in enumerate(frames)]
            for j in range(n_objects)
        ]
        crop_logits = [self._predict(crops[:, t].flatten(0, 1)).chunk(n_crops) for t in range(n_frames)]

        loss = torch.zeros(())
        for j in range(n_objects):
            for t in range(n_frames):
                target = ((teacher_logits[t] - self.center) / TEMPERATURE).softmax(-1)
                of_object = cross_entropy(target, masked_logits[j][t])
                of_crops = sum(cross_entropy(target, crop) for crop in crop_logits[t]) / n_crops
                loss = loss + (of_object + of_crops) / 2 / (n_frames * n_objects)

        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            assert parameter.grad is not None
            factor = OPTIMIZER.clip_grad_norm / (parameter.grad.norm() + 1e-6)
            if factor < 1:
                parameter.grad.mul_(factor)
        set_rates(self.optimizer, lr=LR, weight_decay=OPTIMIZER.weight_decay)
        self.optimizer.step()
        momentum = OPTIMIZER.teacher_momentum
        with torch.no_grad():
            for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                slow.mul_(momentum).add_((1 - momentum) * fast)
        self.center = 0.9 * self.center + 0.1 * torch.cat(teacher_logits).mean(0)
        self.losses.append(loss.item())

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


def plain_masks(seen: list[tuple[Tensor, Tensor, Tensor, Tensor]], side: int) -> list[list[Tensor]]:
    """For each object and frame, 1 where the image is kept; `side` is in patches."""

    def joined(per_head: Tensor) -> Tensor:
        return per_head[:, :, 1:].transpose(1, 2).flatten(2)

    tokens, attention, query, _ = seen[0]
    prototypes = attention[:, HEADS, 0, 1:] @ joined(query)
    patches = F.normalize(tokens[:, 1:], dim=-1)
    share = (patches @ prototypes.transpose(1, 2)).double() / TRACKING.sinkhorn_epsilon
    share = (share - share.amax((1, 2), keepdim=True)).exp()
    for _ in range(TRACKING.sinkhorn_iterations):
        share = share / share.sum(1, keepdim=True)
        share = share / share.sum(2, keepdim=True)
    prototypes = share.float().transpose(1, 2) @ patches
    masks: list[list[Tensor]] = [[] for _ in HEADS]
    for *_, key in seen:
        soft = (prototypes @ joined(key).transpose(1, 2) * 384**-0.5).softmax(-1)
        kept = (soft > soft.mean(-1, keepdim=True)).float().unflatten(-1, (side, side))
        for j, of_object in enumerate(masks):
            of_object.append(F.interpolate(kept[:, j, None], scale_factor=16.0)[:, 0])
    return masks


def cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    return -(target * (logits / LOSS.student_temperature).log_softmax(-1)).sum(-1).mean()


BENCHES = {"step_fp32_ratio": step_fp32_ratio}
