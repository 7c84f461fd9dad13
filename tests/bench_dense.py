"""Labels of a photo by sliding windows, against mmsegmentation's own loop over them, on the very same network.

The plain side is EncoderDecoder.predict of mmsegmentation 1.2.2: a window at a time, its logits padded to the photo's
size and added, then the logits of all 150 classes enlarged to the photo's full size at once. Both sides' labels are
compared.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from bench import Measurement, alternate
from small_ade20k import write_checkpoint
from torch import Tensor

from eval import openmm
from eval.benchmarks import ade20k
from eval.dense.pyramid import STRIDES
from eval.dense.segmenting import WINDOWS_AT_ONCE
from eval.dense.sliding import largest, slide

# The protocol's shape at half its size, so that a round takes seconds: a photo of 4:3 that is two windows wide.
SIZE, WINDOW, STRIDE, PHOTO = (256, 341), 256, 170, (512, 683)


def ade20k_slide_ratio() -> Measurement:
    """UPerNet on a small ViT (four blocks of width 64, patches of 16), 150 classes: image to labels."""
    openmm.require()
    from mmseg.structures import SegDataSample

    model = _network()
    image = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    model.test_cfg.update(mode="slide", crop_size=(WINDOW, WINDOW), stride=(STRIDE, STRIDE))
    meta = {"ori_shape": PHOTO, "img_shape": SIZE, "pad_shape": SIZE, "padding_size": [0, 0, 0, 0]}

    @torch.inference_mode()
    def plain() -> Tensor:
        (sample,) = model.predict(image[None], [SegDataSample(metainfo=dict(meta))])
        return sample.pred_sem_seg.data[0]

    @torch.inference_mode()
    def ours() -> Tensor:
        logits = slide(
            lambda windows: model.decode_head(model.extract_feat(windows)), image,
            window=WINDOW, stride=STRIDE, batch_size=WINDOWS_AT_ONCE, multiple=max(STRIDES),
        )  # fmt: skip
        return largest(logits, PHOTO)

    assert (plain() == ours()).float().mean() > 0.999
    return alternate(plain, ours)


def _network() -> Any:
    with TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "vit.pth", patch_size=16, image_size=64)
        return ade20k.network(checkpoint, ade20k.Config(crop=WINDOW)).eval()


BENCHES = {"ade20k_slide_ratio": ade20k_slide_ratio}
