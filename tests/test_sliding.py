"""Sliding windows: where they lie, how they are averaged, and that it is what mmsegmentation computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval import openmm
from eval.dense.sliding import Place, blend, cut, largest, places, slide

torch.set_num_threads(1)


def test_windows_cover_an_image_row_by_row_and_the_last_lies_inside():
    assert places((512, 683), window=512, stride=341) == [Place(0, 0, 512, 512), Place(0, 171, 512, 512)]
    assert [place.left for place in places((512, 1024), window=512, stride=341)] == [0, 341, 512]
    assert [place.left for place in places((512, 853), window=512, stride=341)] == [0, 341]
    assert places((7, 5), window=8, stride=5) == [Place(0, 0, 7, 5)]
    tops = [place.top for place in places((20, 8), window=8, stride=5)]
    assert tops == [0, 5, 10, 12]


def test_what_windows_say_is_averaged_where_they_overlap():
    where = places((1, 6), window=4, stride=2)
    said = [torch.full((1, 1, 1, 4), value) for value in (1.0, 3.0)]
    assert blend(said, where, (1, 6)).tolist() == [[[1, 1, 2, 2, 3, 3]]]


def test_windows_of_odd_sides_are_filled_up_for_the_network_alone():
    image = torch.randn(3, 10, 13)
    where = places((10, 13), window=16, stride=8)
    (windows,) = cut(image, where, batch_size=8, multiple=4)
    assert windows.shape == (1, 3, 12, 16)
    assert torch.equal(windows[0, :, :10, :13], image) and not windows[0, :, 10:].any()
    logits = slide(lambda x: x, image, window=16, stride=8, batch_size=8, multiple=4)
    torch.testing.assert_close(logits, image, rtol=0, atol=0)


def test_the_largest_logit_is_found_some_classes_at_a_time_and_the_first_of_equals():
    logits = torch.randn(37, 9, 11)
    logits[20] = logits[3] = 10 * torch.rand(9, 11)
    whole = F.interpolate(logits[None], (31, 25), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(largest(logits, (31, 25)), whole.to(torch.uint8))
    assert not (largest(logits, (9, 11)) == 20).any()


@pytest.fixture(scope="module")
def segmentor() -> nn.Module:
    """mmsegmentation's own, with windows of 32 pixels, 21 apart, on maps of a quarter of the size."""
    openmm.require()
    from eval.openmm import segmentation

    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), Listed())
    config = {
        "type": "mmseg.EncoderDecoder",
        "decode_head": {
            "type": "mmseg.FCNHead", "in_channels": 8, "in_index": 0, "channels": 8, "num_convs": 1,
            "concat_input": False, "num_classes": 21, "norm_cfg": {"type": "BN"},
        },
        "test_cfg": {"mode": "slide", "crop_size": (32, 32), "stride": (21, 21)},
    }  # fmt: skip
    return segmentation.segmentor(backbone, config).eval()


class Listed(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (71, 44), (32, 95), (20, 61), (17, 19)])
@pytest.mark.parametrize("batch_size", [1, 4])
@torch.inference_mode()
def test_logits_and_labels_equal_mmsegmentations(segmentor: nn.Module, size: tuple[int, int], batch_size: int):
    image = torch.randn(3, *size)
    ours = slide(
        lambda x: segmentor.decode_head(segmentor.extract_feat(x)), image, window=32, stride=21, batch_size=batch_size
    )
    meta = {"ori_shape": size, "img_shape": size, "pad_shape": size, "padding_size": [0, 0, 0, 0]}
    theirs = segmentor.slide_inference(image[None], [dict(meta)])
    torch.testing.assert_close(ours[None], theirs)
    if batch_size == 1:
        assert torch.equal(ours[None], theirs)
    from mmseg.structures import SegDataSample

    photo = (size[0] * 2 + 1, size[1] * 3 // 2)
    sample = SegDataSample(metainfo={**meta, "ori_shape": photo})
    (predicted,) = segmentor.predict(image[None], [sample])
    equal = (largest(ours, photo) == predicted.pred_sem_seg.data[0]).float().mean()
    assert equal == 1 if batch_size == 1 else equal > 0.999
