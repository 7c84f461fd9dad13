import pytest

from eval import benchmark
from eval.benchmarks import imagenet_linear
from eval.finetune.grid import head_name
from eval.paper import PAPER, numbers


def test_every_number_is_a_percentage_and_says_where_it_was_found():
    for published in PAPER:
        assert 0 < published.value < 100
        assert len(published.provenance) > 10


def test_no_number_is_listed_twice():
    keys = [(n.method, n.pretraining, n.benchmark, n.metric) for n in PAPER]
    assert len(set(keys)) == len(keys)


def test_lookup_returns_the_numbers_of_one_metric_only():
    found = numbers("davis", "J_mean")
    assert {(n.method, n.value) for n in found} == {("DINO", 57.4), ("DINO", 60.2)}
    assert numbers("davis", "unheard_of") == ()


def test_what_only_one_source_says_is_not_verified():
    by_pretraining = {(n.method, n.pretraining): n for n in numbers("davis", "J_and_F_mean")}
    assert by_pretraining["DINO", "ImageNet-1k"].verified  # chart and reviews agree
    assert not by_pretraining["DoRA", "WT Venice"].verified  # read off the chart


@pytest.mark.parametrize("name", ["ade20k", "coco", "davis", "imagenet_knn", "voc_lost", "got10k"])
def test_the_metric_that_a_benchmark_is_quoted_by_has_a_number_of_the_paper(name: str):
    methods = {n.method for n in numbers(name, benchmark.load(name).HEADLINE)}
    assert {"DoRA", "DINO"} <= methods


def test_numbers_stand_beside_the_metric_that_was_chosen_as_theirs_were():
    """One rate of a linear probe, not our best of thirteen; the best look at a fine-tuned network, not our last."""
    assert not numbers("imagenet_linear", "top1") and not numbers("transfer_flowers", "top1")
    assert {n.value for n in numbers("imagenet_linear", "top1_lr_1e-2") if n.method == "DoRA"} == {
        44.5,
        43.0,
        41.8,
        35.3,
    }
    assert {n.value for n in numbers("imagenet_linear", "top1_lr_1e-3")} == {74.0, 77.0}  # DINO's, by DINO's rate
    assert {n.method for n in numbers("transfer_flowers", "top1_best")} == {"DoRA", "DINO"}
    rates = {f"top1_{head_name(lr)}" for lr in imagenet_linear.Config().lrs}
    assert {n.metric for n in PAPER if n.benchmark == "imagenet_linear"} <= rates


def test_a_number_whose_protocol_is_in_doubt_says_so():
    for name, why in (("got10k", "tracker"), ("voc_lost", "split")):
        found = [n for n in PAPER if n.benchmark == name and not n.verified]
        assert len(found) == 2 and all(why in n.caution for n in found)


def test_a_number_far_from_its_own_recipe_says_so_and_is_not_the_protocols():
    for name, metric in (("ade20k", "mIoU"), ("coco", "box_AP")):
        found = numbers(name, metric)
        assert all("must differ" in n.caution for n in found if n.method in ("DoRA", "DINO"))
        assert not any(n.caution or n.verified for n in found if n.method == "iBOT")
    assert not any(n.caution for n in PAPER if n.benchmark not in ("ade20k", "coco", "got10k", "voc_lost"))
