"""The bridge to OpenMMLab's libraries: quiet, repeatable, and exact where it stands in for compiled code."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv_op_cases import boxes_of, golden_cases, roi_case, rois_of
from torch import Tensor

from eval import openmm
from eval.openmm import ops

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def libraries() -> None:
    openmm.require()


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_requiring_prints_nothing_and_leaves_everything_as_it_was():
    said = in_a_process("""
import logging, warnings
import torch, torchvision, scipy.special, sympy  # these add filters of their own
before = list(warnings.filters), list(logging.root.handlers), logging.root.level
from eval import openmm
openmm.require()
openmm.require()
import mmengine, mmcv.ops, mmdet, mmseg
assert before == (list(warnings.filters), list(logging.root.handlers), logging.root.level)
""")
    assert said.stdout == said.stderr == ""


def test_quiet_is_quiet_only_inside():
    with openmm.quiet():
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    with pytest.raises(DeprecationWarning):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    with pytest.raises(UserWarning), openmm.quiet():
        warnings.warn("not about age", UserWarning, stacklevel=1)


def test_threads_that_overlap_leave_the_filters_as_they_were():
    before = list(warnings.filters)
    first, second = openmm.quiet(), openmm.quiet()
    with first:
        second.__enter__()  # as in another thread, which stays longer
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert list(warnings.filters) == before


@pytest.mark.usefixtures("libraries")
def test_both_libraries_live_in_one_process_and_find_their_own():
    import mmdet.models
    import mmseg.models
    from mmengine.registry import MODELS, DefaultScope

    openmm.require()
    assert DefaultScope.get_current_instance() is None  # one would send both libraries to the same registry
    for scope, library in (("mmseg", mmseg), ("mmdet", mmdet), ("mmseg", mmseg)):
        # Both have a class of this name.
        built = MODELS.build({"type": f"{scope}.CrossEntropyLoss", "avg_non_ignore": True})
        assert type(built) is library.models.losses.CrossEntropyLoss
        assert type(library.registry.MODELS.build({"type": "CrossEntropyLoss", "avg_non_ignore": True})) is type(built)


@pytest.mark.usefixtures("libraries")
def test_any_other_operation_is_refused_by_name():
    import mmcv.ops

    x = torch.ones(2, 2)
    with pytest.raises(NotImplementedError, match="sigmoid_focal_loss_forward of mmcv is compiled code"):
        mmcv.ops.sigmoid_focal_loss(x, torch.zeros(2, dtype=torch.long))
    with pytest.raises(NotImplementedError, match="softnms of mmcv"):
        mmcv.ops.soft_nms(torch.ones(1, 4), torch.ones(1))
    with pytest.raises(NotImplementedError, match="roi_align with pool_mode 'max' of mmcv"):
        mmcv.ops.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0, 0, 0, 2.0, 2]]), 2, 1.0, 0, "max")
    assert not hasattr(sys.modules[ops.NAME], "__path__")  # Python's own questions are not answered


@pytest.mark.usefixtures("libraries")
def test_mmcv_calls_the_stand_in():
    import mmcv.ops

    boxes = torch.tensor([[0, 0, 10, 10.0], [1, 1, 10, 10], [20, 20, 30, 30]])
    kept, indices = mmcv.ops.nms(boxes, torch.tensor([0.1, 0.9, 0.5]), 0.5)
    assert indices.tolist() == [1, 2] and kept.shape == (2, 5)
    images = torch.arange(16.0).view(1, 1, 4, 4).requires_grad_()
    pooled = mmcv.ops.RoIAlign(1, 1.0, 2)(images, torch.tensor([[0.0, 1, 1, 3, 3]]))
    assert pooled.item() == (5 + 6 + 9 + 10) / 4  # four samples on four pixels' centres
    pooled.backward()
    assert images.grad is not None
    assert images.grad.flatten().tolist() == [0.25 if i in (5, 6, 9, 10) else 0 for i in range(16)]


@pytest.mark.usefixtures("libraries")
def test_class_wise_nms_of_mmcv_keeps_classes_apart():
    import mmcv.ops

    boxes = torch.tensor([[0, 0, 10, 10.0], [0, 0, 10, 10], [0, 0, 10, 10]])
    with openmm.quiet():
        _, kept = mmcv.ops.batched_nms(
            boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 1, 0]), {"type": "nms", "iou_threshold": 0.5}
        )
    assert kept.tolist() == [1, 2]


def naive_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        if all(overlap(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a: Tensor, b: Tensor, offset: int) -> float:
    width, height = (max(0.0, float(min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + offset)) for i in (0, 1))
    area_a, area_b = (float((x[2] - x[0] + offset) * (x[3] - x[1] + offset)) for x in (a, b))
    return width * height / (area_a + area_b - width * height)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_nms_equals_naive_loops(n: int, offset: int):
    generator = torch.Generator().manual_seed(1)
    boxes, scores = boxes_of(n, generator, side=40), torch.rand(n, generator=generator)
    assert ops.nms(boxes, scores, 0.3, offset).tolist() == naive_nms(boxes, scores, 0.3, offset)


@pytest.mark.parametrize(
    "case", [case for case in golden_cases() if case.parameters["op"] == "roi_align"], ids=lambda case: case.group
)
def test_the_gradient_is_that_of_the_forward_pass(case):
    images, rois, gradient = (case.tensors[name].double() for name in ("images", "rois", "grad_output"))
    how = {name: case.parameters[name] for name in ("size", "spatial_scale", "sampling_ratio", "aligned")}
    _, ours = roi_case("", images, rois, **how).call(ops)
    # The operation is linear in the images: one pixel of them at a time tells its matrix.
    expected = torch.zeros_like(images)
    for place in np.ndindex(*images.shape):
        one = torch.zeros_like(images)
        one[place] = 1
        expected[place] = (roi_case("", one, rois, **how).call(ops)[0] * gradient).sum()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(2)
    images, rois = torch.randn(2, 3, 8, 8, generator=generator).to(dtype), rois_of(5, 2, generator, side=20)
    output, gradient = roi_case("", images, rois.to(dtype)).call(ops)
    assert output.dtype == gradient.dtype == dtype
    precise = roi_case("", images.float(), rois.to(dtype).float())
    assert torch.equal(output, precise.call(ops)[0].to(dtype))
    boxes, scores = boxes_of(30, generator).to(dtype), torch.rand(30, generator=generator).to(dtype)
    assert torch.equal(ops.nms(boxes, scores, 0.5, 0), ops.nms(boxes.float(), scores.float(), 0.5, 0))


def test_a_gradient_is_added_to_what_is_there():
    (case,) = [case for case in golden_cases() if case.group == "roi_align_aligned_0"]
    images, rois, gradient = (case.tensors[name] for name in ("images", "rois", "grad_output"))
    there, none = torch.ones_like(images), gradient.new_zeros(0)
    ops.roi_align_backward(
        gradient, rois, none, none, there, aligned_height=3, aligned_width=4, spatial_scale=0.25, sampling_ratio=0,
        pool_mode=1, aligned=True,
    )  # fmt: skip
    assert torch.equal(there, case.call(ops)[1] + 1)


def test_a_region_that_ends_before_it_begins_is_refused_as_by_mmcv():
    with pytest.raises(ValueError, match="x1 <= x2"):
        roi_case("", torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 3, 0, 1, 2]])).call(ops)


def test_the_stand_in_steps_aside_for_compiled_mmcv(tmp_path: Path):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    (tmp_path / "mmcv" / "_ext.py").write_text("compiled = True")
    said = in_a_process(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from eval.openmm import ops
print(ops.install())
import mmcv._ext
print(mmcv._ext.compiled, ops.install())
""")
    assert said.stdout.split() == ["False", "True", "False"]
