"""Floating-point operations of a training step, counted without doing them, and what GPUs could do of them."""

import math
import re
from typing import Any

from dora.config import PretrainConfig

# Dense half-precision peaks from the makers' data sheets: bf16, on V100 fp16. The last one that fits a name is meant.
PEAK_FLOPS = {
    "V100": 125e12, "V100 PCIE": 112e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12,
    "H100": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H200": 989e12, "H200 NVL": 835e12,
}  # fmt: skip
PARTS_OF_A_GPU = {"MIG", "Laptop", "D"}  # they share a name with what has more


def peak_flops(device_name: str) -> float | None:
    """What a GPU can do in a second by its maker's word, None if it is not in the table: "NVIDIA H100 80GB HBM3"."""
    words = set(re.split(r"[ -]", device_name))
    fitting = [peak for name, peak in PEAK_FLOPS.items() if set(name.split()) <= words]
    return fitting[-1] if fitting and not words & PARTS_OF_A_GPU else None


def flops_per_clip(config: PretrainConfig) -> float:
    """Multiplications and additions of one clip's step, forward and backward, without optimiser and augmentation.

    What Machine.recompute does twice counts once, and tokens that tracking.dropped leaves out count all the same. What
    compares clips with one another, such as KoLeo, does not count.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode  # tensors with shapes and no numbers
    from torch.utils.flop_counter import FlopCounterMode

    from dora.data.augment import Views
    from dora.method.network import build_network
    from dora.method.objective import Moment
    from dora.method.objectives import build

    config = config.clip_by_clip()
    # How many tokens are dropped depends on numbers.
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"dropped": False})})
    objective, views, n_frames = build(config), config.augment, config.clip.n_frames
    n_global, n_local = views.n_global_views, views.n_local_crops
    with torch.random.fork_rng(devices=[]):  # a training that asks must not draw otherwise for it
        student, teacher = (build_network(config, drop_path=False) for _ in range(2))
    teacher.requires_grad_(False)
    numberless = FakeTensorMode(allow_non_fake_inputs=True)
    for module in (*student.modules(), *teacher.modules()):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                like = numberless.from_tensor(parameter.detach())
                module._parameters[name] = torch.nn.Parameter(like, parameter.requires_grad)
    with numberless:
        clip = Views(
            torch.empty(n_global, 1, n_frames, 3, views.global_size, views.global_size),
            torch.empty(n_local, 1, n_frames, 3, views.local_size, views.local_size),
            (0,),
        )
        centers = {name: torch.empty(n_prototypes) for name, n_prototypes in objective.centers.items()}
    # Outside of the mode what does not depend on these has numbers: iBOT counts its masked patches.
    with FlopCounterMode(display=False, custom_mapping=_of_products()) as counter:
        for task in objective.teach(teacher, clip, centers, Moment(step=0, epoch=0)).tasks:
            task(student).loss.backward()
    return counter.get_total_flops()


def _of_products() -> dict[Any, Any]:
    """Products that torch's counter does not know, by what they cost."""
    import torch

    from dora.method.products import HAS_ONEDNN

    def addmm_(added: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    def linear(a: Any, b: Any, *_: Any, **__: Any) -> int:
        return 2 * math.prod(a) * b[0]

    of_onednn = {torch.ops.mkldnn._linear_pointwise: linear} if HAS_ONEDNN else {}
    return {torch.ops.aten.addmm_: addmm_, **of_onednn}
