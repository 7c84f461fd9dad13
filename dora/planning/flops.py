"""Floating-point operations of a training step, counted without doing them."""

from dora.config import PretrainConfig


def flops_per_clip(config: PretrainConfig) -> float:
    """Multiplications and additions of one clip's step, forward and backward, without optimiser and augmentation."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode  # tensors with shapes and no numbers
    from torch.utils.flop_counter import FlopCounterMode

    from dora.data.augment import Views
    from dora.method.dora import dora_step
    from dora.method.network import build_network

    student = build_network(config.backbone, config.head, drop_path=False)
    teacher = build_network(config.backbone, config.head, drop_path=False).requires_grad_(False)
    views, n_frames = config.augment, config.clip.n_frames
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        clip = Views(
            torch.empty(1, n_frames, 3, views.global_size, views.global_size),
            torch.empty(views.n_local_crops, 1, n_frames, 3, views.local_size, views.local_size),
        )
        step = dora_step(
            student, teacher, clip, center=torch.empty(config.head.n_prototypes),
            teacher_temperature=config.loss.teacher_temperature, head_indices=range(config.tracking.n_objects),
            tracking=config.tracking, loss=config.loss,
        )  # fmt: skip
        step.loss.backward()
    return counter.get_total_flops()
