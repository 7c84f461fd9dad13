import math

import pytest
import torch
from tiny import PRETRAIN
from torch.utils.flop_counter import FlopCounterMode

from dora import recipes
from dora.config import PretrainConfig
from dora.data.augment import Views
from dora.method.network import build_network
from dora.method.objective import Moment
from dora.method.objectives import build
from dora.training.flops import flops_per_clip, peak_flops


def changed(part: str, **values: object) -> PretrainConfig:
    return PRETRAIN.model_copy(update={part: getattr(PRETRAIN, part).model_copy(update=values)})


def counted(config: PretrainConfig) -> int:
    """Operations of a step that is really taken, by torch's counter. It knows of no product that adds in place."""
    networks = [build_network(config, drop_path=False) for _ in range(2)]
    networks[1].requires_grad_(False)
    size, small, n = config.augment.global_size, config.augment.local_size, config.clip.n_frames
    views = Views(
        torch.randn(config.augment.n_global_views, 1, n, 3, size, size),
        torch.randn(config.augment.n_local_crops, 1, n, 3, small, small), (0,),
    )  # fmt: skip
    objective = build(config)
    centers = {name: torch.zeros(size) for name, size in objective.centers.items()}
    products = {torch.ops.mkldnn._linear_pointwise: lambda a, b, *_, **__: 2 * math.prod(a) * b[0]}
    with FlopCounterMode(display=False, custom_mapping=products) as counter:
        for task in objective.teach(networks[1], views, centers, Moment(0, 0)).tasks:
            task(networks[0]).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["demo", "demo_dino", "demo_ibot"])
def test_operations_counted_without_doing_them_are_those_that_are_done(name: str):
    config = getattr(recipes, name)().pretrain
    products_added = flops_per_clip(config) - counted(config)
    assert 0 <= products_added < 0.02 * flops_per_clip(config)


def test_a_second_view_costs_what_one_object_more_does():
    two = flops_per_clip(changed("augment", global_blur_probability=(0.1, 0.1), solarize_probability=(0.0, 0.0)))
    more = flops_per_clip(changed("tracking", n_objects=PRETRAIN.tracking.n_objects + 1))
    one = flops_per_clip(PRETRAIN)
    assert two - one == pytest.approx(more - one, rel=0.2)


def test_the_loss_over_prototypes_is_counted():
    few, many = (flops_per_clip(changed("head", n_prototypes=n)) for n in (16, 1016))
    # Two frames make 2 teacher tokens, each compared with 2 objects and 2 crops, at 8 dimensions. Either kind of view
    # costs forward its logits, the teacher's and what they aim at; backward both logits again, two gradients, a pull.
    n_tokens, n_views, dim = 2, 2, 8
    forward, backward = n_views + 1 + 1, 3 * n_views + 1 + 1
    per_prototype = 2 * (2 * n_tokens * dim * (forward + backward))
    assert many - few == 1000 * per_prototype


def test_to_count_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    flops_per_clip(PRETRAIN)
    assert torch.equal(torch.rand(1), expected)


def test_tokens_that_are_dropped_count_all_the_same():
    assert flops_per_clip(changed("tracking", dropped=True)) == flops_per_clip(PRETRAIN)


@pytest.mark.parametrize("name", ["miniature", "miniature_dino", "miniature_ibot", "venice/authors"])
def test_comparing_clips_with_one_another_does_not_count(name: str):
    config = recipes.load(name).pretrain
    assert config.clips_together > 1
    assert flops_per_clip(config) == flops_per_clip(config.clip_by_clip()) > 0


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla V100-SXM2-32GB", 125e12), ("NVIDIA L40S", 362e12), ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA H200", 989e12), ("NVIDIA H200 NVL", 835e12), ("Tesla V100-PCIE-16GB", 112e12),
        ("NVIDIA GH200 480GB", None), ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA L4", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_its_whole_name(name: str, peak: float | None):
    assert peak_flops(name) == peak
