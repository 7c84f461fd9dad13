import pytest
from pydantic import ValidationError

from dora import recipes
from dora.config import PretrainConfig, Recipe, WalkingTour


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_survives_the_way_through_json(name: str):
    recipe = recipes.load(name)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown recipe 'venise'\. Known: demo, venice, walking_tours"):
        recipes.load("venise")


def test_a_single_value_is_replaced_by_its_dotted_path():
    changed = recipes.override(recipes.demo(), ["pretrain.epochs=10", "pretrain.precision=bf16", "videos.0.seed=3"])
    assert changed.pretrain.epochs == 10 and changed.pretrain.precision == "bf16"
    assert changed.model_dump()["videos"][0]["seed"] == 3
    assert recipes.demo().pretrain.epochs != 10


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("pretrain.epoch=1", r"pretrain\.epoch: there is no 'epoch' here\. Did you mean epochs\? Known: seed"),
        ("training.epochs=1", r"there is no 'training' here"),
        ("pretrain.epochs.x=1", "epochs is a single value"),
        ("pretrain.epochs=many", r"pretrain\.epochs: .*valid integer.*\(got 'many'\)"),
        ("pretrain.epochs=0", r"greater than or equal to 1"),
        ("pretrain.precision=int8", "'fp32', 'bf16' or 'fp16'"),
        ("pretrain.epochs", "expected path=value"),
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
