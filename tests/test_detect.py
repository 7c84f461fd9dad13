"""`python -m eval.detect`: the detector that a score left, on pictures that `dora data statistics` wrote."""

import json
from pathlib import Path

import pytest
import torch
from footage import write as write_film
from small_coco import CONFIG, write, write_vit

from dora.artifacts import Machine
from dora.data.statistics import StatisticsConfig, analyse
from eval import benchmark
from eval.detect import main
from eval.openmm import Unavailable, installed

torch.set_num_threads(1)
try:
    installed()
except Unavailable as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.slow
def test_a_fine_tuned_detector_counts_objects_of_a_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    machine = Machine(root=tmp_path / "root", datasets={"coco": write(tmp_path / "coco")}, device="cpu")
    score = benchmark.score(write_vit(tmp_path / "vit.pth"), "coco", CONFIG, machine)
    film, out = write_film(tmp_path / "walk.mp4"), tmp_path / "statistics"
    config = StatisticsConfig(cuts=False, motion=False, min_score=0.0)
    analyse([film], out, config, write_frames=True, machine=machine)
    arguments = [str(score.folder), "--frames", str(out / "frames" / "walk"), "--out", str(tmp_path / "walk.json")]
    assert main(arguments) == 2 and "Name it: --checkpoint" in capsys.readouterr().err
    assert main([*arguments, "--checkpoint", str(tmp_path / "vit.pth")]) == 0
    found = json.loads((tmp_path / "walk.json").read_text())
    assert {one["image_id"] for one in found} <= {0, 1, 2} and found
    assert all(len(one["bbox"]) == 4 and 0 <= one["score"] <= 1 for one in found)
    (video,) = analyse([film], out, config, detector=tmp_path / "walk.json", machine=machine).statistics.videos
    assert sum(video.series.n_objects or ()) == len(found)
    assert len(video.classes or {}) == len({one["category_id"] for one in found})


def test_what_is_no_finished_score_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [str(tmp_path), "--frames", str(tmp_path), "--out", str(tmp_path / "out.json")]
    assert main(arguments) == 2
    assert "is no finished score-coco" in capsys.readouterr().err
