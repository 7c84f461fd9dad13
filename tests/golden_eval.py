"""Golden checks of the evaluation: k-NN, DAVIS propagation, preprocessing and metrics, GOT-10k, objects found."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import golden_case
import numpy as np
import torch
from golden_case import Case
from golden_method import vit_with
from numpy.typing import ArrayLike
from PIL import Image

from eval.discovery.attention_masks import attention_masks, dino_seg, jaccard
from eval.discovery.boxes import overlaps
from eval.discovery.lost import discover
from eval.features import normalised
from eval.frozen.probe import n_correct
from eval.frozen.tokens import last_class_tokens
from eval.images import resized
from eval.nearest_neighbours import is_correct, nearest_neighbours, votes
from eval.propagation import grid_labels, label_map, network_size, propagate
from eval.region_contour import (
    Statistics,
    boundary,
    contour_accuracy,
    object_statistics,
    region_similarity,
    score_sequence,
    statistics,
    summary,
)
from eval.trackers import overlap
from eval.video.following import STD

LONG_SIDE_MULTIPLE = 64  # the vectors' rule says so in words


def knn(case: Case) -> None:
    t, params = case.tensors, case.doc["params"]
    found = nearest_neighbours(
        t["test_features"], t["train_features"], k=max(params["k"]), rows_per_chunk=50, columns_per_chunk=100
    )
    for k in params["k"]:
        expected = case.doc["values"][f"k{k}"]
        nearest = found.first(k)
        summed = votes(nearest, t["train_labels"], n_classes=params["num_classes"], temperature=params["T"])
        rtol = case.doc["tolerance"]["scores"]["rtol"]
        torch.testing.assert_close(summed.float(), t[f"k{k}.scores"], rtol=rtol, atol=0)
        assert torch.equal(summed.argmax(dim=1), t[f"k{k}.prediction_top1"])
        labels = t["test_labels"]
        top1, top5 = (100 * is_correct(summed, labels, top=top).double().mean().item() for top in (1, 5))
        assert abs(top1 - expected["top1"]) < 1e-9
        least = expected["top5_counting_only_classes_with_votes"]
        most = least + 100 * expected["of_these_true_class_has_no_vote"] / len(labels)
        assert least - 1e-9 <= top5 <= most + 1e-9


def davis_prop(case: Case) -> None:
    t, params = case.tensors, case.doc["params"]
    masks = np.load(case.folder / params["masks_npz"]["file"])
    height, width = params["original_hw"]
    size = network_size(height, width, short_side=params["read_seg_scale_size"][0], multiple=LONG_SIDE_MULTIPLE)
    grid = (size[0] // params["patch_size"], size[1] // params["patch_size"])
    assert list(grid) == params["grid_hw"]
    first = grid_labels(masks["first_annotation"], grid)
    assert torch.equal(first.permute(2, 0, 1).byte(), t["first_seg"])
    soft = list(
        propagate(
            t["features_f16"].float(), first, n_last_frames=params["n_last_frames"], top_k=params["topk"],
            radius=params["size_mask_neighborhood"], temperature=params["temperature"],
        )
    )  # fmt: skip
    atol = case.doc["tolerance"]["probs_f32"]["atol"]
    torch.testing.assert_close(torch.stack(soft).permute(0, 3, 1, 2), t["probs_f32"], rtol=0, atol=atol)
    ours = np.stack([label_map(frame, patch_size=params["patch_size"], size=(height, width)) for frame in soft])
    assert (ours != masks["masks"]).sum() <= 20 + 0.0002 * ours.size


def davis_preprocess(case: Case) -> None:
    factor = case.doc["params"]["factor"]
    for name, values in case.doc["values"].items():
        image, annotation = (case.tensors[f"{name}.{what}"].numpy() for what in ("image_rgb", "annotation"))
        size = network_size(*image.shape[:2], short_side=values["scale_size"][0], multiple=LONG_SIDE_MULTIPLE)
        assert list(size) == values["frame_hw"]
        frame = normalised(resized(image, *size)[None], std=STD)[0]
        torch.testing.assert_close(frame, case.tensors[f"{name}.frame"], rtol=0, atol=1e-5)
        first = grid_labels(annotation, (size[0] // factor, size[1] // factor))
        assert torch.equal(first.permute(2, 0, 1).byte(), case.tensors[f"{name}.first_seg"])


def davis_metrics(case: Case) -> None:
    values = case.doc["values"]
    scores = {name: score_sequence(_masks(case, name)) for name in values["sequences"]}
    for name, score in scores.items():
        np.testing.assert_allclose(score.J, case.tensors[f"{name}.J"].numpy(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(score.F, case.tensors[f"{name}.F"].numpy(), rtol=0, atol=1e-12)
    objects = object_statistics(scores)
    assert set(objects) == set(values["per_object"])
    for name, both in objects.items():
        for letter, ours in zip("JF", both, strict=True):
            expected = values["per_object"][name]
            theirs = [expected[f"{letter}-{field}"] for field in ("Mean", "Recall", "Decay")]
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    _assert_summary(summary(objects), values["summary"])
    lacking = values.get("summary_when_last_object_is_missing")
    if lacking:
        name, removed = lacking["sequence"], lacking["removed_object"]
        frames = ((truth, np.where(result == removed, np.uint8(0), result)) for truth, result in _masks(case, name))
        _assert_summary(summary(object_statistics({name: score_sequence(frames)})), lacking)


def davis_edge(case: Case) -> None:
    t, values = {name: tensor.numpy() for name, tensor in case.tensors.items()}, case.doc["values"]
    for name, expected in values.items():
        if name == "statistics_mean_recall_decay":
            for length, triple in expected.items():
                np.testing.assert_allclose(
                    statistics(t[f"stats{length}"]), [float(x) for x in triple], rtol=0, atol=1e-12
                )
            continue
        truth, result, void = t[f"{name}.gt"], t[f"{name}.result"], t["void"]
        assert (boundary(truth) == t[f"{name}.boundary_gt"]).all(), name
        ours = {
            "J": region_similarity(truth, result),
            "F": contour_accuracy(truth, result),
            "F_bound_px2": contour_accuracy(truth, result, tolerance_px=2),
            "J_void": region_similarity(truth, result, void=void),
            "F_void": contour_accuracy(truth, result, void=void),
        }
        assert set(ours) == set(expected)
        for metric, value in ours.items():
            assert abs(value - expected[metric]) < 1e-12, (name, metric)


def got10k(case: Case) -> None:
    t, values = {name: tensor.numpy() for name, tensor in case.tensors.items()}, case.doc["values"]
    counted: list[np.ndarray] = []
    for name, facts in values["sequences"].items():
        found, truth = t[f"{name}.pred"], t[f"{name}.gt"]
        overlaps = overlap.iou(found, truth, size=tuple(facts["resolution_wh"]))
        _assert_exact(overlaps, t[f"{name}.iou_bounded"])
        _assert_exact(overlap.iou(found, truth, size=None), t[f"{name}.iou_unbounded"])
        counted.append(overlaps[overlap.counted(t[f"{name}.cover"])])
        expected, ours = values["seq_wise"][name], overlap.scores(counted[-1])
        _assert_exact((ours.AO, ours.SR_50), (expected["ao"], expected["sr_0.50"]))
    overlaps, expected = np.concatenate(counted), values["overall"]
    ours = overlap.scores(overlaps)
    _assert_exact(overlaps, t["overall.ious"])
    _assert_exact(overlap.success_curve(overlaps), t["overall.succ_curve"])
    _assert_exact(ours, [expected[key] for key in ("ao", "sr_0.50", "sr_0.75_ours")])
    assert len(overlaps) == expected["frames_counted"]
    found, truth = t["special.pred"], t["special.gt"]  # NaN, empty, negative and far away
    overlaps = overlap.iou(found, truth, size=None)
    _assert_exact(overlaps, t["special.iou"])
    _assert_exact(overlap.iou(found, truth, size=(100, 80)), t["special.iou_bound_100_80"])
    _assert_exact(overlap.center_error(found, truth), t["special.center_error"])
    _assert_exact(overlap.success_curve(overlaps), t["special.succ_curve"])
    ours = overlap.scores(overlaps)
    _assert_exact((ours.AO, ours.SR_50), [float(values["special"][key]) for key in ("ao", "sr")])
    assert np.isnan(overlap.scores(np.empty(0))).all()


def lost(case: Case) -> None:
    t, values, patch = case.tensors, case.doc["values"], case.doc["params"]["patch_size"]
    hits: list[bool] = []
    for name in (name for name in values if name.startswith("im")):
        facts, keys = values[name], t[f"{name}.keys"][0]
        how = {"patch": patch, "size": tuple(facts["image_chw"][1:])}
        found = discover(keys, tuple(facts["grid_hw"]), n_candidates=facts["k_patches"], **how)
        assert torch.equal(-found.degree.float(), t[f"{name}.scores"])
        assert found.seed == facts["seed_index"] and len(found.similar) == facts["n_similar"]
        if f"{name}.similar_seeds_sorted" in t:
            assert torch.equal(found.similar.sort().values, t[f"{name}.similar_seeds_sorted"])
        assert np.array_equal(found.mask, t[f"{name}.expanded_mask"].numpy())
        assert list(found.box) == t[f"{name}.box"].tolist()
        alone = discover(keys, tuple(facts["grid_hw"]), n_candidates=1, **how)
        assert list(alone.box) == t[f"{name}.box_without_expansion"].tolist()
        shares = overlaps(found.box, t[f"{name}.gt_boxes"].numpy())
        np.testing.assert_allclose(shares, t[f"{name}.iou"].numpy(), rtol=0, atol=1e-6)
        hits.append(bool(shares.max() >= 0.5))
        assert hits[-1] == facts["corloc_hit"]
    assert abs(100 * np.mean(hits) - values["corloc_percent"]) < 1e-9


def attention_jaccard(case: Case) -> None:
    t, atol = case.tensors, case.doc["tolerance"]["jaccard"]
    for name, facts in case.doc["values"].items():
        attention, patch, grid = t[f"{name}.attn_cls"], facts["patch"], tuple(facts["grid_hw"])
        for percent in (60, 90):
            masks = attention_masks(attention, mass=percent / 100).unflatten(1, grid)
            assert torch.equal(masks.byte(), t[f"{name}.mask_keep{percent}"])
            full = masks.repeat_interleave(patch, 1).repeat_interleave(patch, 2).numpy()
            found, expected = jaccard(full, t[f"{name}.target"].numpy()), facts[f"keep{percent}"]
            assert masks.flatten(1).sum(1).tolist() == expected["kept_patches_per_head"]
            for ours, kind in ((found.jaccard, "jaccard"), (found.without_void, "jaccard_ours_void_excluded")):
                np.testing.assert_allclose(ours, expected[f"{kind}_per_object_and_head"], rtol=0, atol=atol)
                whole = expected["jaccard_reference" if kind == "jaccard" else kind]
                assert abs(ours.max(axis=1).mean() - whole) < atol
        for head, box in facts["dino_seg_box_head"].items():
            ours = dino_seg(
                attention, grid, head=int(head), mass=0.6, patch=patch, size=(patch * grid[0], patch * grid[1]),
                as_published=True,
            )  # fmt: skip
            assert list(ours) == box


def linear_features(case: Case) -> None:
    t, values = case.tensors, case.doc["values"]
    vit = vit_with(golden_case.load(Path(case.doc["params"]["weights"]).stem))
    known = {name: match for name in t if (match := re.fullmatch(r"features_n(\d+)_avg([01])", name))}
    assert known
    for name, match in known.items():
        features = last_class_tokens(vit, t["image"], int(match[1]), avgpool=match[2] == "1").flatten(1)
        torch.testing.assert_close(features, t[name], **case.doc["tolerance"]["features"])
    found = n_correct(t["acc_logits"], t["acc_targets"], tops=(1, 5))
    percent = 100 * found.double() / len(t["acc_targets"])
    expected = [values["top1_percent"], values["top5_percent"]]
    atol = float(case.doc["tolerance"]["accuracy"])
    np.testing.assert_allclose(percent.numpy(), expected, rtol=0, atol=atol)


def _assert_exact(ours: ArrayLike, theirs: ArrayLike) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def _masks(case: Case, sequence: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with zipfile.ZipFile(case.folder / f"davis_{sequence}.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.startswith("gt/")):
            truth, result = (archive.read(which) for which in (name, name.replace("gt/", "result/")))
            yield np.array(Image.open(io.BytesIO(truth))), np.array(Image.open(io.BytesIO(result)))


def _assert_summary(ours: dict[str, float], theirs: dict[str, float]) -> None:
    names = {"J&F-Mean": "J_and_F_mean"} | {
        f"{letter}-{field.title()}": f"{letter}_{field}" for letter in "JF" for field in Statistics._fields
    }
    for name, our_name in names.items():
        assert abs(ours[our_name] - theirs[name]) < 1e-9, name


CHECKS: dict[str, Callable[[Case], None]] = {
    "knn": knn,
    "davis_prop": davis_prop,
    "davis_preprocess": davis_preprocess,
    "davis_metrics": davis_metrics,
    "davis_edge": davis_edge,
    "got10k": got10k,
    "lost": lost,
    "attention_jaccard": attention_jaccard,
    "linear_features": linear_features,
}
