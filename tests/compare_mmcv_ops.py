"""How near eval/openmm/ops.py is to compiled mmcv 2.1.0: python tests/compare_mmcv_ops.py [--source DIR] [--golden].

mmcv as a whole does not build against this torch (it insists on C++17), but the two sources of each operation that we
use do, by themselves and as C++20. They are taken from the unpacked source archive in DIR, or from one that pip
downloads into a temporary folder; g++ and ninja build them (a minute), nothing is installed. The table that is printed
is the one of docs/openmm.md: of how many cases the results are the same bits, and by how much the others differ.

--golden also writes tests/golden/mmcv_ops.*: compiled mmcv's results on small cases, which tests/test_golden.py checks
wherever the tests run.
"""

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from mmcv_op_cases import Case, golden_cases, nms_cases, roi_cases
from safetensors.torch import save_file
from torch import Tensor

from eval.openmm import ops

VERSION = "2.1.0"
GOLDEN = Path(__file__).parent / "golden" / "mmcv_ops.safetensors"
SOURCES = ("pytorch/nms.cpp", "pytorch/cpu/nms.cpp", "pytorch/roi_align.cpp", "pytorch/cpu/roi_align.cpp")
BINDING = """
#include <torch/extension.h>

at::Tensor nms(at::Tensor boxes, at::Tensor scores, float iou_threshold, int offset);
void roi_align_forward(at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, int, int, float, int, int, bool);
void roi_align_backward(at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, int, int, float, int, int, bool);

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using pybind11::arg;
  m.def("nms", &nms, arg("boxes"), arg("scores"), arg("iou_threshold"), arg("offset"));
  m.def("roi_align_forward", &roi_align_forward, arg("input"), arg("rois"), arg("output"), arg("argmax_y"),
        arg("argmax_x"), arg("aligned_height"), arg("aligned_width"), arg("spatial_scale"), arg("sampling_ratio"),
        arg("pool_mode"), arg("aligned"));
  m.def("roi_align_backward", &roi_align_backward, arg("grad_output"), arg("rois"), arg("argmax_y"), arg("argmax_x"),
        arg("grad_input"), arg("aligned_height"), arg("aligned_width"), arg("spatial_scale"), arg("sampling_ratio"),
        arg("pool_mode"), arg("aligned"));
}
"""


def download(folder: Path) -> Path:
    """mmcv's sources, unpacked into `folder`."""
    # Its setup.py imports what later versions of setuptools have not.
    (folder / "constraint.txt").write_text("setuptools<80\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", f"mmcv=={VERSION}", "--no-deps", "--no-binary", "mmcv", "-d", "."],
        cwd=folder, check=True, env={**os.environ, "PIP_CONSTRAINT": str(folder / "constraint.txt")},
    )  # fmt: skip
    with tarfile.open(folder / f"mmcv-{VERSION}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"mmcv-{VERSION}"


def compiled(source: Path, folder: Path) -> ModuleType:
    """The two operations as mmcv has them."""
    from torch.utils.cpp_extension import load

    (folder / "binding.cpp").write_text(BINDING)
    csrc = source / "mmcv" / "ops" / "csrc"
    # Named apart: two sources of one file name would overwrite each other's object file.
    copies = [folder / name.replace("/", "_") for name in SOURCES]
    for name, copy in zip(SOURCES, copies, strict=True):
        copy.write_text((csrc / name).read_text())
    return load(
        "mmcv_ops", [str(folder / "binding.cpp"), *map(str, copies)], extra_cflags=["-std=c++20", "-O2"],
        extra_include_paths=[str(csrc / "common")], build_directory=str(folder),
    )  # fmt: skip


def compare(of: ModuleType, cases: Iterator[Case]) -> dict[str, list[float]]:
    """By group, each case's largest difference; infinite where shapes differ."""
    rows: dict[str, list[float]] = {}
    for case in cases:
        theirs, ours = case.call(of), case.call(ops)
        worst = 0.0
        for a, b in zip(theirs, ours, strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                worst = math.inf
            elif not torch.equal(a, b):
                worst = max(worst, float((a.double() - b.double()).abs().max()))
        rows.setdefault(case.group, []).append(worst)
    return rows


def table(rows: dict[str, list[float]]) -> str:
    lines = ["| cases | number | same bits | largest difference |", "| --- | --- | --- | --- |"]
    for group, worst in rows.items():
        lines.append(f"| {group} | {len(worst)} | {sum(w == 0 for w in worst)} | {max(worst):.2g} |")
    return "\n".join(lines)


def write_golden(of: ModuleType) -> None:
    """Compiled mmcv's answers to `golden_cases`, in the form of tests/golden."""
    tensors: dict[str, Tensor] = {}
    meanings: dict[str, dict[str, Any]] = {}
    calls: dict[str, dict[str, Any]] = {}
    for case in golden_cases():
        calls[case.group] = case.parameters
        answers = dict(zip(case.results, case.call(of), strict=True))
        for role, some in (("input", case.tensors), ("expected", answers)):
            for name, value in some.items():
                tensors[f"{case.group}.{name}"] = value.clone()
                shape, dtype = list(value.shape), str(value.dtype).removeprefix("torch.")
                meanings[f"{case.group}.{name}"] = {"role": role, "shape": shape, "dtype": dtype}
    save_file(tensors, GOLDEN)
    content = GOLDEN.read_bytes()
    doc = {
        "name": GOLDEN.stem, "title": "nms and roi_align of compiled mmcv on a CPU", "file": GOLDEN.name,
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
        "reference": {
            "project": "open-mmlab/mmcv", "version": VERSION, "functions": ["ops.nms", "ops.roi_align"],
            "how": "mmcv/ops/csrc/pytorch/{,cpu/}{nms,roi_align}.cpp, built by tests/compare_mmcv_ops.py with "
            f"-std=c++20 -O2 against torch {torch.__version__.partition('+')[0]}",
        },
        "params": calls, "tensors": meanings, "tolerance": {"kept": "exact", "others": {"rtol": 1e-6, "atol": 1e-6}},
        "notes": [
            "at most 16 boxes where scores are tied: of more, the order of equals depends on the machine",
            "on x86-64 all are the same bits; elsewhere multiplications and additions may be fused",
        ],
    }  # fmt: skip
    GOLDEN.with_suffix(".json").write_text(json.dumps(doc, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="mmcv-2.1.0's unpacked source archive (else downloaded)")
    parser.add_argument("--golden", action="store_true", help="write tests/golden/mmcv_ops.*")
    parser.add_argument("--repeats", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        of = compiled(options.source or download(folder), folder)
        generator = torch.Generator().manual_seed(0)
        rows = compare(of, nms_cases(generator, options.repeats))
        rows |= compare(of, roi_cases(generator, options.repeats))
        print(table(rows))
        if options.golden:
            write_golden(of)


if __name__ == "__main__":
    main()
