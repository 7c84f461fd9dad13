"""A training's log as curves while it grows, and what is sent to Prefect of it."""

import base64
import json
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.report.live import LiveLog, thinned
from flows import live
from flows.live import Live
from flows.shown import MAX_PICTURE_BYTES, Board, data_url


def line(step: int, **values: float) -> str:
    return json.dumps({"step": step, "loss": 10 / step, "lr": 1e-3, "data_wait_share": 0.1} | values) + "\n"


class Kept(Board):
    """Keeps what it is given instead of sending it: there is no server here."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, Any]] = []

    def _send(self, kind: str, key: str, data: Any, description: str | None) -> None:
        self.sent.append((key, data))


def test_only_what_is_new_is_read_and_a_line_that_is_on_its_way_waits(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = LiveLog(path)
    assert not log.read()
    path.write_text(line(1) + line(2) + '{"step": 3, "lo')
    assert log.read() and log.last("step") == 2 and not log.read()
    path.write_text(line(1) + line(2) + line(3, online_knn=40.0, online_knn_chance=8.0))
    assert log.read() and log.last("step") == 3 and log.last("loss") == pytest.approx(10 / 3)


def test_a_log_that_a_resumed_training_has_cut_is_read_anew(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(map(line, range(1, 9))))
    log = LiveLog(path)
    log.read()
    (tmp_path / "shorter").write_text("".join(map(line, range(1, 4))))
    (tmp_path / "shorter").replace(path)
    assert log.read() and log.last("step") == 3


def test_the_picture_is_svg_with_a_chart_for_each_group_that_the_log_has(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(line(step, loss=float("nan") if step == 3 else 1 / step) for step in range(1, 2000)))
    log = LiveLog(path)
    log.read()
    svg = log.svg("pretrain <vit>, step 1999")
    texts = [one.text for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "pretrain <vit>, step 1999" and "nan" not in svg
    assert {"Loss", "Learning rate", "Time spent waiting for data, %"} < set(texts) and "Online k-NN, %" not in texts
    assert len(svg) < 40_000


def test_many_points_become_the_means_of_neighbours():
    assert thinned([(step, step) for step in range(1, 4)]) == [(1, 1), (2, 2), (3, 3)]
    assert thinned([(step, step % 2) for step in range(1, 601)]) == [(2 * n, 0.5) for n in range(1, 301)]


def test_a_look_sends_what_has_changed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.0)
    board = Kept()
    shown = Live("pretrain vit_small", board)
    shown.look(tmp_path)
    assert board.sent == []
    (tmp_path / "log.jsonl").write_text(line(1))
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "sheets").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "sheets" / "step-00000001.jpg")
    for _ in range(3):
        shown.look(tmp_path)
    keys = [key for key, _ in board.sent]
    assert keys == ["pretrain-vit-small-curves", "pretrain-vit-small-tensorboard", "pretrain-vit-small-sheet"]
    (tmp_path / "log.jsonl").write_text(line(1) + line(2))
    Image.new("RGB", (64, 48), "blue").save(tmp_path / "sheets" / "step-00000500.jpg")
    shown.look(tmp_path)
    assert [key for key, _ in board.sent[3:]] == ["pretrain-vit-small-sheet"]  # curves once a minute


def test_a_watched_job_is_shown_at_its_end(tmp_path: Path):
    board = Kept()

    def job(command: list[str], folder: Path, poll: Any) -> None:
        poll()
        (folder / "log.jsonl").write_text(line(1))

    Live("evaluate ade20k", board).watching(job)([], tmp_path, lambda: None)
    ((key, data),) = board.sent
    assert key == "evaluate-ade20k-curves" and data.startswith("data:image/svg+xml;base64,")


def test_a_look_at_a_log_of_a_week_takes_no_time_if_nothing_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(live, "CURVES_EVERY_S", 0.0)
    (tmp_path / "log.jsonl").write_text("".join(map(line, range(1, 10_000))))
    shown = Live("pretrain", Kept())
    shown.look(tmp_path)
    started = time.process_time()
    for _ in range(100):
        shown.look(tmp_path)
    assert (time.process_time() - started) / 100 < 0.005


def test_a_large_picture_is_made_smaller(tmp_path: Path):
    noise = Image.effect_noise((2400, 1800), 120).convert("RGB")
    noise.save(tmp_path / "large.jpg", quality=95)
    large = (tmp_path / "large.jpg").read_bytes()
    assert len(large) > MAX_PICTURE_BYTES > len(data_url(large, "jpeg"))
    small = b"\xff\xd8 few bytes"
    assert base64.b64decode(data_url(small, "jpeg").partition(",")[2]) == small


def test_a_server_that_does_not_answer_fails_nothing(caplog: pytest.LogCaptureFixture):
    class Broken(Board):
        def _send(self, kind: str, key: str, data: Any, description: str | None) -> None:
            raise ConnectionError("nobody there")

    board = Broken()
    for _ in range(3):
        board.show("markdown", "cost", "text")
    assert caplog.text.count("cannot show cost on Prefect's pages just now: nobody there") == 1
