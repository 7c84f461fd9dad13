"""Golden check of the stand-in for mmcv's compiled operations."""

from collections.abc import Callable

import torch
from golden_case import Case
from mmcv_op_cases import nms_case, roi_case

from eval.openmm import ops


def mmcv_ops(case: Case) -> None:
    t, tolerance = case.tensors, case.doc["tolerance"]["others"]
    for name, parameters in case.doc["params"].items():
        how = {key: value for key, value in parameters.items() if key != "op"}
        if parameters["op"] == "nms":
            call = nms_case(name, t[f"{name}.boxes"], t[f"{name}.scores"], how["iou_threshold"], how["offset"])
        else:
            call = roi_case(name, t[f"{name}.images"], t[f"{name}.rois"], **how)
            assert torch.equal(call.tensors["grad_output"], t[f"{name}.grad_output"])
        for result, ours in zip(call.results, call.call(ops), strict=True):
            how_near = {"rtol": 0, "atol": 0} if result == "kept" else tolerance
            torch.testing.assert_close(ours, t[f"{name}.{result}"], **how_near)


CHECKS: dict[str, Callable[[Case], None]] = {"mmcv_ops": mmcv_ops}
