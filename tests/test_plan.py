import re
from pathlib import Path

import pytest
from footage import cut, write

from dora import cache, recipes
from dora.__main__ import main
from dora.artifacts import Machine
from dora.cache import plain
from dora.config import FileVideo, MiniatureVideo, Recipe, ShardsConfig, UrlVideo, WalkingTour
from dora.data.clips import Clips
from dora.data.order import steps_per_epoch
from dora.data.shards import shard
from dora.data.video import acquire
from dora.data.walking_tours import MEAN_DURATION_S
from dora.planning.amounts import Known, amounts, known
from dora.planning.measured import Earlier
from dora.planning.probe import make_film, probe, steady_rate
from dora.training.flops import flops_per_clip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(root=tmp_path / "root", device="cpu", threads=1)


def recipe_of(path: Path, *changes: str) -> Recipe:
    demo = recipes.demo().model_copy(update={"videos": (FileVideo(name="walk", path=path),)})
    short = ("pretrain.clip.gap_s=0.2", "pretrain.steps_per_epoch=null", "pretrain.clips_per_batch=2")
    return recipes.override(demo, [*short, *changes])


@pytest.mark.parametrize("change", ["shards.fps=10", "shards.fps=5", "pretrain.clip.start_stride_s=0.4"])
def test_what_is_counted_is_what_is_made(tmp_path: Path, machine: Machine, change: str):
    recipe = recipe_of(write(tmp_path / "walk.mp4"), "shards.frames_per_shard=8", change)
    planned = amounts(recipe, machine)
    made = shard(acquire(recipe.videos[0], machine), recipe.shards, machine)
    clips = Clips([made.folder], recipe.pretrain.clip)
    (one,) = planned.videos
    assert (one.n_frames, one.n_tars, one.width, one.height) == (made.n_frames, made.n_tars, made.width, made.height)
    assert planned.n_starts == one.n_starts == len(clips)
    assert planned.steps_per_epoch == steps_per_epoch(len(clips), recipe.pretrain)
    assert planned.n_source_frames == made.n_source_frames


def test_the_papers_setting_adds_up(machine: Machine):
    planned = amounts(recipes.venice(), machine)
    (venice,) = planned.videos
    assert (venice.n_frames, venice.n_tars, venice.n_starts) == (66_000, 33, 66_000 - 70)
    assert planned.steps_per_epoch == 6 * 65_930 // 128
    assert planned.n_clips == planned.steps_per_epoch * 100 * 128
    assert amounts(recipes.walking_tours(), machine).n_starts > 9 * 35_000


def test_a_video_that_is_not_here_counts_as_published_or_as_assumed_and_says_so(tmp_path: Path, machine: Machine):
    listed = Known("wildlife", 3540, 30, 3840, 2160, "from the data set's description", None)
    assert known(WalkingTour(name="wildlife"), machine) == listed
    istanbul = known(WalkingTour(name="istanbul"), machine)
    assert istanbul.duration_s == MEAN_DURATION_S and istanbul.source.startswith("assumed")
    assert known(UrlVideo(url="http://127.0.0.1/x.mp4"), machine).source.startswith("assumed")
    assert known(MiniatureVideo(duration_s=7), machine).duration_s == 7
    short = cut(write(tmp_path / "cut.mkv"), 0.6)
    with pytest.raises(ValueError, match=r"is cut off: .*accept="):
        known(FileVideo(path=short), machine)
    assert 1 < known(FileVideo(path=short, accept=("duration",)), machine).duration_s < 3
    here = machine.model_copy(update={"videos": {"istanbul": write(tmp_path / "istanbul.mp4")}})
    assert known(WalkingTour(name="istanbul"), here).duration_s == pytest.approx(3)


def test_too_short_a_video_is_refused_before_anything_is_made(tmp_path: Path, machine: Machine):
    with pytest.raises(ValueError, match=r"a clip needs 4 frames .* but walk has \d+\. Lower pretrain\.clip"):
        amounts(recipe_of(write(tmp_path / "walk.mp4"), "pretrain.clip.gap_s=2"), machine)


def test_a_plan_refuses_what_training_would(machine: Machine):
    with pytest.raises(ValueError, match=r"pretrain\.clip\.gap_s is 0\.04 s, less than one stored frame of miniature"):
        amounts(recipes.override(recipes.demo(), ["pretrain.clip.gap_s=0.04"]), machine)


def test_a_training_unlike_all_before_is_reckoned_by_operations_from_one_of_the_same_network(machine: Machine):
    recipe = recipes.demo()
    unlike = recipes.override(recipe, ["pretrain.tracking.n_objects=1", "pretrain.epochs=12"])
    assert Earlier(unlike, machine).checkpoint(unlike.pretrain).source.startswith("not measured; by arithmetic")
    facts = {"n_clips": amounts(recipe, machine).n_clips, "seconds": 600}
    older = plain(recipe.pretrain) | {"loss": {"of": "an older version"}}
    cache.build(machine, "checkpoint", 0, older, {}, lambda folder: facts)
    assert Earlier(unlike, machine).checkpoint(unlike.pretrain).source.startswith("not measured; by arithmetic")
    cache.build(machine, "checkpoint", 1, recipe.pretrain, {}, lambda folder: facts)
    ratio = amounts(unlike, machine).n_clips / facts["n_clips"]
    ratio *= flops_per_clip(unlike.pretrain) / flops_per_clip(recipe.pretrain)
    found = Earlier(unlike, machine).checkpoint(unlike.pretrain)
    assert found.seconds == pytest.approx(600 * ratio) and found.source.startswith(f"by operations {ratio:.3g} times")
    other = recipes.override(recipe, ["pretrain.precision=bf16"])  # another speed, though the same work
    assert Earlier(other, machine).checkpoint(other.pretrain).seconds is None
    larger = recipes.override(recipe, ["pretrain.backbone.depth=6"])
    assert Earlier(larger, machine).checkpoint(larger.pretrain).seconds is None


@pytest.mark.parametrize("of_clips", ["on their own", "compared"])
def test_the_probe_measures_the_recipes_own_video_and_leaves_nothing(
    tmp_path: Path, machine: Machine, of_clips: str, caplog: pytest.LogCaptureFixture
):
    compared = ("loss.koleo_weight=0.3", "tracking.threshold=batch", "tracking.threshold_clips=2")
    changes = [f"pretrain.{change}" for change in compared] if of_clips == "compared" else []
    recipe = recipe_of(write(tmp_path / "walk.mp4"), *changes)
    told: list[str] = []
    speeds = probe(recipe, machine, amounts(recipe, machine).videos[0], seconds=0.6,
                   progress=lambda done, total, unit, note="": told.append(note))  # fmt: skip
    assert speeds.film == "walk.mp4" and speeds.bytes_per_pixel > 0
    assert min(speeds.pictures_per_s, speeds.clips_read_per_s, speeds.clips_trained_per_s) > 0
    assert told == ["sharding", "reading", "training", ""]
    assert not machine.root.exists()
    assert "warms up" not in caplog.text  # what the probe itself has asked for is no news


def test_a_first_step_that_compiles_does_not_count():
    assert steady_rate([100.0, 186.0, 186.5, 187.0]) == 2
    assert steady_rate([0.0, 86.0, 88.0]) == 0.5


def test_a_film_like_a_video_that_is_not_here_is_made(tmp_path: Path, machine: Machine):
    config = MiniatureVideo(width=64, height=48, fps=30)
    recipe = Recipe(videos=(config,), shards=ShardsConfig(short_side=48))
    like = amounts(recipes.override(recipe, ["pretrain.clips_per_batch=1", "videos.0.duration_s=20"]), machine)
    film = acquire(FileVideo(path=make_film(tmp_path / "film.mp4", like.videos[0])), machine)
    assert (film.width, film.height, film.fps, film.n_frames) == (64, 48, 30, 60)


def test_the_command_says_everything_on_one_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                                                 tmp_path: Path):  # fmt: skip
    monkeypatch.setenv("DORA_ROOT", str(tmp_path))
    assert main(["plan", "demo", "--seconds", "0.5", "pretrain.epochs=3"]) == 0
    said = capsys.readouterr().out
    for word in ("frames ", "clips ", "96 in 3 epochs", "sharding ", "reading ", "training ", "GFLOP a clip"):
        assert word in said
    assert main(["plan", "dmo"]) == 2
    assert re.search(r"unknown recipe 'dmo'\. Known: demo", capsys.readouterr().err)
