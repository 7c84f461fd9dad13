import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import PRETRAIN, PRETRAIN_OF, write_shards

from dora.artifacts import Machine
from dora.config import PretrainConfig
from dora.method.network import Network, build_network
from dora.method.vit import cls_token
from dora.training.distributed import Ranks
from dora.training.effective_rank import effective_rank
from dora.training.lookout import Lookout
from dora.training.online_knn import Frames, accuracy, chance, features, read_frames
from dora.training.sheets import draw_sheet, look_at, sheet_clips, write_sheet

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards") / "walk", n_frames=40)


def network(config: PretrainConfig = PRETRAIN) -> Network:
    torch.manual_seed(0)
    return build_network(config, drop_path=False)


def sheet(shards: Path, config: PretrainConfig) -> Image.Image:
    clips = sheet_clips([shards], config)
    return draw_sheet(look_at(network(config), clips, config, device=CPU), clips, config, title="step 10")


def test_a_sheet_shows_objects_over_time_and_where_each_head_looks(shards: Path):
    # Two clips of two 64 x 48 frames at 480 x 360: frames, two objects' maps and masks; three heads at 320 x 240.
    rows = 5 * (360 + 4) + (240 + 4)
    assert sheet(shards, PRETRAIN).size == (190 + 960, 2 * (34 + 24 + 24 + rows))


@pytest.mark.parametrize("objective", ["dino", "ibot"])
def test_an_objective_without_objects_shows_where_each_head_looks(shards: Path, objective: str):
    config = PRETRAIN_OF[objective]
    n_frames, rows = config.clip.n_frames, (240 + 4)
    tile = 960 / n_frames
    assert sheet(shards, config).size == (190 + 960, 2 * (34 + 24 + 24 + round(tile * 3 / 4) + 4 + rows))


def test_masks_that_know_of_no_objects_are_not_drawn(shards: Path):
    config = PRETRAIN.model_copy(update={"tracking": PRETRAIN.tracking.model_copy(update={"mask": "block"})})
    assert sheet(shards, config).height < sheet(shards, PRETRAIN).height


def test_the_same_teacher_gives_the_same_sheet_and_nothing_half_is_left(shards: Path, tmp_path: Path):
    one, two = (write_sheet(tmp_path, step, sheet(shards, PRETRAIN)) for step in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    assert [path.name for path in sorted((tmp_path / "sheets").iterdir())] == ["step-00000001.jpg", "step-00000002.jpg"]


def test_frames_are_spread_over_all_videos_and_labelled_by_stretch(tmp_path: Path):
    long = write_shards(tmp_path / "long", n_frames=900)  # 90 s
    short = write_shards(tmp_path / "short", name="park", n_frames=300)  # 30 s
    frames = read_frames([long, short], 32)
    assert frames.images.shape == (256, 3, 32, 32)
    assert frames.stretch.bincount().tolist() == [22, 21, 21] * 4  # about 10 s each; nine and three
    n_kept_out = (~frames.may_vote).sum(1)
    # Frames lie 0.47 s apart: within 2 s are four on each side and oneself; at an end, four and oneself.
    assert n_kept_out.max() == 9 and n_kept_out[0] == n_kept_out[-1] == 5
    assert frames.may_vote[:192, 192:].all()  # another video is another moment


def test_a_short_video_has_two_stretches_and_short_moments(shards: Path):
    frames = read_frames([shards], 16)
    assert len(frames.images) == 40 and frames.stretch.tolist() == [0] * 20 + [1] * 20
    assert (~frames.may_vote).sum(1).max() == 7  # 4 s make two stretches of 2 s, and moments of 0.39 s


def frames_of(stretch: list[int]) -> Frames:
    n = len(stretch)
    return Frames(torch.zeros(n, 3, 8, 8), torch.tensor(stretch), ~torch.eye(n, dtype=torch.bool))


def test_online_knn_is_dinos_vote_written_out():
    torch.manual_seed(0)
    frames, cls = frames_of([0] * 9 + [1] * 9 + [2] * 9), torch.randn(27, 5)
    unit = F.normalize(cls.double(), dim=-1)
    n_right = 0
    for query in range(27):
        others = sorted(set(range(27)) - {query}, key=lambda other: -float(unit[query] @ unit[other]))[:10]
        votes = [0.0, 0.0, 0.0]
        for other in others:
            votes[int(frames.stretch[other])] += float((unit[query] @ unit[other] / 0.07).exp())
        n_right += votes.index(max(votes)) == int(frames.stretch[query])
    assert accuracy(cls, frames) == pytest.approx(100 * n_right / 27)


def test_features_that_tell_the_place_score_all_and_features_that_tell_nothing_score_by_chance():
    frames = frames_of([0] * 50 + [1] * 50 + [2] * 50 + [3] * 50)
    assert accuracy(F.one_hot(frames.stretch, 4).float(), frames) == 100
    assert chance(frames) == pytest.approx(100 * 49 / 199)
    torch.manual_seed(0)
    told = [accuracy(torch.randn(200, 64), frames) for _ in range(5)]
    assert abs(sum(told) / 5 - chance(frames)) < 5


def test_effective_rank_counts_directions_and_not_how_far_features_lie_from_the_origin():
    torch.manual_seed(0)
    drawn = torch.randn(40, 6)
    even = torch.linalg.qr(drawn - drawn.mean(0))[0]  # as much in each of six directions, around the origin
    assert effective_rank(even) == pytest.approx(6)
    assert effective_rank(even[:, :2] + 100) == pytest.approx(2, rel=1e-3)
    assert effective_rank(torch.full((40, 5), 3.0)) == 1
    assert math.isnan(effective_rank(torch.full((40, 5), math.inf)))
    shares = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
    expected = math.prod(share**-share for share in shares)
    assert effective_rank(even[:, :4] * torch.tensor(shares).sqrt()) == pytest.approx(expected)


def test_who_looks_alike_at_the_same_moment_has_no_vote():
    """A network that knows nothing but the time scores by its neighbours, unless they are kept out."""
    stretch = torch.arange(200) // 10
    time = torch.arange(200.0)
    cls = torch.stack([torch.cos(time / 100), torch.sin(time / 100)], 1)
    apart = (time[:, None] - time).abs()
    open_to_all, far_only = (
        Frames(torch.zeros(200, 3, 1, 1), stretch, apart > least) for least in (0, 10)
    )  # fmt: skip
    assert accuracy(cls, open_to_all) > 60 and accuracy(cls, far_only) == 0


def test_features_are_the_teachers_class_tokens_whatever_is_taken_at_once(shards: Path):
    teacher, images = network(), read_frames([shards], 32).images
    with torch.no_grad():
        expected = cls_token(teacher.backbone, images)
    for at_once in (7, 64):
        torch.testing.assert_close(features(teacher, images, at_once=at_once, device=CPU), expected)


def lookout(shards: Path, *, rank: int = 0, **machine: object) -> Lookout:
    values = {"device": "cpu", "watch_every_steps": 5} | machine
    return Lookout([shards], PRETRAIN, Machine(**values), n_steps=12, ranks=Ranks(rank, 2, CPU))


def test_a_look_is_due_every_few_steps_and_at_the_end(shards: Path):
    assert [step for step in range(1, 13) if lookout(shards).is_due(step)] == [5, 10, 12]
    assert not any(lookout(shards, watch_every_steps=0).is_due(step) for step in range(1, 13))


def test_rank_0_looks_for_all_unless_the_teacher_is_shared_out(shards: Path):
    teacher = network()
    sight = lookout(shards).look(teacher, title="step 5")
    assert sight is not None and 0 <= sight.numbers["online_knn"] <= 100
    assert 1 <= sight.numbers["effective_rank"] <= 48
    assert sight.numbers == lookout(shards).look(teacher, title="step 10").numbers  # the same frames again
    assert np.asarray(sight.sheet).std() > 10
    n_calls: list[int] = []
    teacher.register_forward_hook(lambda *_: n_calls.append(1))
    assert lookout(shards, rank=1).look(teacher, title="") is None and not n_calls
    assert lookout(shards, rank=1, parallel="fsdp").look(teacher, title="") is None and len(n_calls) == 3
