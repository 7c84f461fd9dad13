import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny import PRETRAIN

from dora import recipes
from dora.ablations import ABLATIONS
from dora.artifacts import Hosts, Machine
from dora.config import FileVideo, PretrainConfig, Recipe, StartConfig, WalkingTour
from dora.method.vit import build_vit
from dora.training.stage import check


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_the_way_through_json(name: str):
    recipe = recipes.load(name)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown recipe 'venise'\. Known: demo, .*venice, .*walking_tours"):
        recipes.load("venise")


def test_a_single_value_is_replaced_by_its_dotted_path():
    changed = recipes.override(recipes.demo(), ["pretrain.epochs=10", "pretrain.precision=bf16", "videos.0.seed=3"])
    assert changed.pretrain.epochs == 10 and changed.pretrain.precision == "bf16"
    assert changed.model_dump()["videos"][0]["seed"] == 3
    assert recipes.demo().pretrain.epochs != 10


def test_a_value_inside_a_part_that_was_given_before_is_replaced_too():
    def changed(*assignments: str) -> Recipe:
        return recipes.override(recipes.demo(), assignments)

    head = changed("pretrain.start.path=a.pth", "pretrain.start.head=true")
    assert head.pretrain.start == StartConfig(path=Path("a.pth"), head=True)
    student = changed('pretrain.start={"path": "a.pth"}', "pretrain.start.which=student")
    assert student.pretrain.start == StartConfig(path=Path("a.pth"), which="student")
    black = changed('videos=[{"kind": "file", "path": "a.mp4"}]', 'videos.0.accept=["black"]')
    assert black.videos == (FileVideo(path=Path("a.mp4"), accept=("black",)),)
    with pytest.raises(ValueError, match=r"^pretrain\.start\.whch: Extra inputs are not permitted"):
        changed("pretrain.start.path=a.pth", "pretrain.start.whch=student")
    with pytest.raises(ValueError, match=r"there is no '1' here\. Known: 0"):
        changed('videos=[{"kind": "file", "path": "a.mp4"}]', "videos.1.name=b")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "pretrain.epoch=1",
            r"pretrain\.epoch: there is no 'epoch' here\. Did you mean epochs\? Known: objective, seed",
        ),
        ("training.epochs=1", r"there is no 'training' here"),
        ("pretrain.epochs.x=1", "epochs is a single value"),
        ("pretrain.epochs=many", r"pretrain\.epochs: .*valid integer.*\(got 'many'\)"),
        ("pretrain.epochs=0", r"greater than or equal to 1"),
        ("pretrain.precision=int8", "'fp32', 'bf16' or 'fp16'"),
        ("pretrain.epochs", "expected path=value"),
        ("pretrain.clip.n_cuts=4", r"^pretrain\.clip: expected fewer cuts .*, got 4 cuts of 4 frames.*n_frames$"),
    ],
)
def test_a_wrong_path_or_value_is_refused_with_what_was_expected(assignment: str, message: str):
    with pytest.raises(ValueError, match=message):
        recipes.override(recipes.demo(), [assignment])


def test_defaults_are_the_papers_setting():
    config = PretrainConfig()
    assert config.clip.n_frames == 8 and config.clip.gap_s == 1.0
    assert config.tracking.n_objects == 3 and config.head.n_prototypes == 65536
    assert config.backbone.architecture == "vit_small_patch16_224"


def test_a_misspelt_field_never_passes():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        WalkingTour.model_validate({"kind": "walking_tour", "city": "venice"})


def test_all_ten_tours_are_in_the_recipe_of_all():
    assert len(recipes.walking_tours().videos) == 10


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_a_recipe_that_differs_from_the_papers(name: str):
    recipe = recipes.load(f"venice/{name}")
    assert recipe.model_dump() != recipes.venice().model_dump() or name == "video=venice"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_an_ablation_changes_the_values_that_it_names_and_no_other():
    changed = recipes.load("demo/k=2")
    assert changed.pretrain.tracking.n_objects == 2
    assert recipes.override(changed, ["pretrain.tracking.n_objects=3"]) == recipes.demo()
    assert recipes.load("venice/video=all").videos == recipes.walking_tours().videos
    with pytest.raises(ValueError, match=r"unknown ablation 'k=9'\. Known: video=amsterdam, .*no-sinkhorn"):
        recipes.load("venice/k=9")


def test_only_ablations_that_fit_are_offered():
    offered = recipes.choices()
    assert all(f"venice/{name}" in offered for name in ABLATIONS)
    assert "demo/k=2" in offered and "demo/cuts=7" not in offered
    for name in offered:
        recipes.load(name)


def test_an_ablation_of_the_objects_is_refused_where_there_are_none():
    with pytest.raises(ValueError, match="objective dino finds no objects"):
        recipes.load("venice_dino/k=2")


def test_the_miniature_of_one_view_has_the_papers_views_and_all_else_of_the_miniature():
    paper, one, two = (recipes.load(name).pretrain.augment for name in ("venice", "miniature_one_view", "miniature"))
    views = ("one_global_box", "global_blur_probability", "solarize_probability", "local_flip_probability")
    assert [getattr(one, name) for name in views] == [getattr(paper, name) for name in views]
    assert two.n_global_views == 2 and one.n_global_views == 1
    assert one == two.model_copy(update={name: getattr(one, name) for name in views})


@pytest.mark.parametrize("objective", ["dino", "ibot"])
@pytest.mark.parametrize("base", ["venice", "demo", "miniature"])
def test_a_baseline_sees_the_same_clips_through_the_same_networks(base: str, objective: str):
    dora, baseline = recipes.load(base), recipes.load(f"{base}_{objective}")
    assert (baseline.videos, baseline.shards) == (dora.videos, dora.shards)
    one, other = dora.pretrain, baseline.pretrain
    assert other.objective == objective and other.augment.n_global_views == 2
    assert (one.seed, one.clip, one.clips_per_batch, one.epochs) == (
        other.seed,
        other.clip,
        other.clips_per_batch,
        other.epochs,
    )
    assert one.backbone == other.backbone


def test_an_objective_with_the_views_of_another_is_refused_with_the_recipe_to_take():
    with pytest.raises(
        ValueError, match=r"objective dino sees 2 global views of each frame, but augment makes 1.*venice_dino"
    ):
        recipes.override(recipes.venice(), ["pretrain.objective=dino"])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["tracking.soft=true", "tracking.dropped=true"], "needs mask 'tracked', and no dropped"),
        (["tracking.soft=true", "tracking.mask=block"], "needs mask 'tracked'"),
        (["tracking.dropped=true", "tracking.mask=none"], "mask 'none' has none"),
        (["tracking.threshold_clips=16"], "with 'map' none do"),
        (["tracking.threshold=batch", "tracking.mask=patch"], "'batch' makes masks of several clips' tracking maps"),
        (["tracking.prototype=mean", "tracking.refine=false"], "it needs refine"),
        (["augment.blur_sigma=[2, 0.1]"], "the lower end first, got 2 before 0.1"),
        (["augment.local_scale=[5, 40]"], "less than or equal to 1"),
        (["optimizer.clip_grad_norm=Infinity"], "a number that can be written down, got Infinity"),
        (["optimizer.lr_per_256=1e999"], "optimizer.lr_per_256: expected a number that can be written down, got 1e999"),
        (["clip.gap_s=inf"], r"clip.gap_s: Input should be a finite number"),
        (["augment.jitter=[0.4, 0.4, 0.2, 1e999]"], "augment.jitter: expected a number that can be written down"),
        (["loss.koleo_clips=16"], "give koleo_weight"),
        (["loss.koleo_weight=0.1", "clips_per_batch=1"], "clips_per_batch has to be 2 or more"),
        (["loss.koleo_weight=0.1", "loss.koleo_clips=5"], "no multiple of the 5 clips"),
    ],
)
def test_a_value_that_would_do_nothing_or_harm_is_refused(values: list[str], why: str):
    with pytest.raises(ValueError, match=why):
        recipes.override(recipes.venice(), [f"pretrain.{value}" for value in values])


def test_a_baseline_refuses_the_loss_of_masked_objects():
    with pytest.raises(ValueError, match="objective ibot has no masked objects"):
        recipes.override(recipes.venice_ibot(), ["pretrain.loss.object_average=authors"])


def test_the_page_about_pretraining_lists_every_ablation_with_its_values():
    page = (Path(__file__).parents[1] / "docs/pretraining.md").read_text()
    for name, ablation in ABLATIONS.items():
        values = ", ".join(f"`{value.removeprefix('pretrain.')}`" for value in ablation.overrides)
        assert name.startswith("video=") or f"| `{name}` | {values} |" in page


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("tracking.n_objects=7", "n_objects is 7, but the ViT has 6 heads"),
        ("augment.local_size=50", "multiples of 8 x 8 pixels, got 50 x 50"),
        ("backbone.architecture=vit_smal", "unknown architecture 'vit_smal'"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_video_is_made(value: str, why: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(why)):
        check(recipes.override(recipes.demo(), [f"pretrain.{value}"]).pretrain, Machine(root=tmp_path))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"micro_batch": 4}, "compares 8 clips with one another .* but a process would see 4 at once"),
        ({"hosts": {"n": 2, "address": "10.0.0.1"}}, "2 processes share a batch of 8 clips"),
        ({"launcher": "slurm", "slurm": {"nodes": 3}}, "3 processes share a batch of 8 clips"),
        ({"launcher": "slurm", "slurm": {"nodes": 3}, "n_processes": 2}, "3 processes share a batch of 8 clips"),
        ({"launcher": "slurm", "n_processes": 2}, None),  # of two that could work, one does
        ({"device": "auto"}, None),
        ({"device": "auto", "cells_at_once": 2}, None),
        ({"n_processes": 2}, None),
        ({}, None),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused_before_a_video_is_made(
    values: dict[str, Any], why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    machine = Machine(root=tmp_path, **({"device": "cpu"} | values))
    with pytest.raises(ValueError, match=why) if why else nullcontext():
        check(recipes.miniature().pretrain, machine)


def test_fsdp_is_refused_where_the_number_of_processes_is_certain(tmp_path: Path):
    config = recipes.override(recipes.demo(), ["pretrain.clips_per_batch=4"]).pretrain
    machine = Machine(root=tmp_path, parallel="fsdp", n_processes=3, micro_batch=1)
    with pytest.raises(ValueError, match="all processes have as many micro-batches"):
        check(config, machine)
    hosts = Hosts(n=2, address="10.0.0.1")  # the other one may start another number
    check(config, machine.model_copy(update={"n_processes": 2, "hosts": hosts}))


def test_weights_that_a_training_cannot_begin_with_are_refused_before_a_video_is_made(tmp_path: Path):
    def checked(path: Path) -> None:
        check(PRETRAIN.model_copy(update={"start": StartConfig(path=path)}), Machine(root=tmp_path, device="cpu"))

    (tmp_path / "junk.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"junk.pth is damaged, incomplete or no file of weights"):
        checked(tmp_path / "junk.pth")
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        checked(tmp_path / "none.pth")
    for name, depth in (("own.pth", 2), ("other.pth", 3)):
        backbone = PRETRAIN.backbone.model_copy(update={"depth": depth})
        torch.save(build_vit(backbone, drop_path=False).state_dict(), tmp_path / name)
    with pytest.raises(ValueError, match=r"not in this network: backbone.blocks.2"):
        checked(tmp_path / "other.pth")
    drawn = torch.get_rng_state()
    checked(tmp_path / "own.pth")
    assert torch.equal(torch.get_rng_state(), drawn)
