"""A study: which cells a grid makes, what its tables and plots say, and a small one run through Prefect."""

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny_eval
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.testing.utilities import prefect_test_harness
from test_flow import TINY
from typecheck import unchecked

from dora import cache, recipes
from dora.artifacts import Checkpoint, Hosts, Machine
from eval import benchmark, suites
from eval.covering import covering, is_known
from eval.report.data import RunFacts
from eval.report.latex import escape_latex, latex
from eval.report.tables import Cell as TableCell
from eval.report.tables import Table, markdown
from eval.study import cells
from eval.study.cells import changes
from eval.study.collect import collect, read_curves
from eval.study.data import CellRow, Curve, MetricRow, StudyData, is_clear, spread
from eval.study.made import Made
from eval.study.page import html_page, markdown_page, summary, write
from eval.study.plots import curve_plot, dot_plot, standalone
from eval.study.tables import curve_table, difference_table, main_table, variant_table
from eval.suites import Entry, Suite
from flows.study_order import place_study
from flows.study_plan import plan_study

GRID = {"pretrain.tracking.n_objects": [1, 3], "pretrain.tracking.refine": [True, False]}
DRAWING = "{http://www.w3.org/2000/svg}"


def test_a_grid_is_every_combination_from_every_seed():
    made = cells(("demo",), GRID, n_seeds=2)
    assert [cell.name for cell in made] == [
        f"demo, n_objects={k}, refine={refine} seed {seed}"
        for k in (1, 3) for refine in ("true", "false") for seed in (0, 1)
    ]  # fmt: skip
    last = made[-1].recipe.pretrain
    assert (last.tracking.n_objects, last.tracking.refine, last.seed) == (3, False, 1)
    assert changes(made[-1].recipe, made[0].recipe) == {
        "pretrain.tracking.n_objects": 3,
        "pretrain.tracking.refine": False,
    }


def test_variants_are_recipes_ablations_and_networks_that_have_learnt_nothing():
    made = cells(
        ("untrained", "raw-pixels", "demo", "demo/no-sinkhorn", "demo_dino"), {}, n_seeds=1,
        overrides=("pretrain.epochs=2",),
    )  # fmt: skip
    assert [cell.variant for cell in made] == ["untrained", "raw-pixels", "demo", "demo/no-sinkhorn", "demo_dino"]
    assert [cell.trained for cell in made] == [False, False, True, True, True]
    assert {cell.recipe.pretrain.epochs for cell in made} == {2}
    assert made[0].recipe.pretrain.backbone == made[1].recipe.pretrain.backbone == made[2].recipe.pretrain.backbone


def test_paths_that_end_alike_are_told_apart():
    grid = {"pretrain.augment.global_size": [64], "pretrain.augment.local_size": [32], "shards.short_side": [160]}
    assert cells(("demo",), grid, n_seeds=1)[0].variant == "demo, global_size=64, local_size=32, short_side=160"
    both = {"pretrain.clip.n_frames": [4], "pretrain.backbone.depth": [4]}
    assert cells(("demo",), both, n_seeds=1)[0].variant == "demo, n_frames=4, depth=4"


@pytest.mark.parametrize(
    ("variants", "grid", "n_seeds", "says"),
    [
        (("demoo",), {}, 1, "unknown recipe 'demoo'. Known: demo, "),
        (("untrained",), {}, 1, "expected at least one recipe and one seed, got untrained and 1"),
        (("demo",), {}, 0, "expected at least one recipe and one seed, got demo and 0"),
        (("demo",), {"pretrain.trackin.n_objects": [1]}, 1, "there is no 'trackin' here. Did you mean tracking?"),
        (("demo",), {"pretrain.tracking.n_objects": ["one"]}, 1, "pretrain.tracking.n_objects"),
        (("demo",), {"pretrain.epochs": []}, 1, "the grid has no value for pretrain.epochs"),
        (("demo", "demo"), {}, 1, "demo seed 0 and demo seed 0 are the same training"),
        (("demo", "raw-pixels", "raw-pixels"), {}, 1, "raw-pixels seed 0 and raw-pixels seed 0 are the same"),
        (("demo", "demo/k=2"), {"pretrain.tracking.n_objects": [3]}, 1, "are the same training"),
    ],
)
def test_a_study_that_cannot_be_is_refused(variants: tuple[str, ...], grid: Any, n_seeds: int, says: str):
    with pytest.raises(ValueError, match=re.escape(says)):
        cells(variants, grid, n_seeds=n_seeds)


def row(variant: str, seed: int, **changed: Any) -> CellRow:
    curves = {"loss": Curve(steps=(1, 2), values=(3.0 + seed, 1.0 + seed))} if variant != "untrained" else {}
    return CellRow(
        variant=variant, seed=seed, trained=variant != "untrained", changed=changed, fingerprint="ab" * 32,
        digest="cd" * 32, n_steps=2, n_clips=8, seconds=None if variant == "untrained" else 60.0, machine="a GPU",
        commit="abc", curves=curves,
    )  # fmt: skip


def metric(benchmark: str, name: str, headline: bool, values: dict[str, dict[int, float]]) -> MetricRow:
    return MetricRow(
        benchmark=benchmark, protocol=f"{benchmark}-x", metric=name, headline=headline, n_samples=8, values=values
    )  # fmt: skip


def data() -> StudyData:
    values = {
        "untrained": {0: 10.0, 1: 12.0},
        "demo": {0: 14.0, 1: 13.0},
        "k <1> & 50%": {0: 20.0},
    }
    return StudyData(
        title="A study", created="2026-01-02T03:04:05", reference="untrained",
        run=RunFacts(name="ablation", seconds=1.0, commands=("make it",)),
        cells=(row("untrained", 0), row("untrained", 1), row("demo", 0), row("demo", 1), row("k <1> & 50%", 0, k=1)),
        metrics=(
            metric("davis", "J_and_F_mean", True, values),
            metric("davis", "J_mean", False, values),
            metric("depth", "delta1", True, {"demo": {1: 5.0}}),
        ),
        failures={"demo seed 0, depth": "no light"},
    )  # fmt: skip


def test_means_deviations_and_what_is_clear_are_those_of_the_seeds():
    assert spread((1.0, 3.0)) == (2.0, pytest.approx(2**0.5), 2)
    assert spread((1.0,)) == (1.0, None, 1)
    assert all(map(math.isnan, spread((1.0, math.inf))[:2])) and spread((math.nan,)).deviation is None
    assert is_clear((3, 4), (1, 2)) and not is_clear((2, 4), (1, 2)) and not is_clear((), (1,))
    rows = [[(cell.text, cell.strong) for cell in one] for one in main_table(data()).rows]
    assert rows == [
        [("untrained", False), ("11.0 ± 1.4", False), ("–", False)],
        [("demo", False), ("13.5 ± 0.7", True), ("5.0", False)],
        [("k <1> & 50%", False), ("20.0 (1 of 2)", True), ("–", False)],
    ]
    assert [cell.text for cell in difference_table(data()).rows[0]] == ["demo", "+2.5", "–"]
    assert [cell.text for cell in curve_table(data()).rows[0]] == ["demo", "1.5"]
    assert variant_table(data()).rows[2][1].text == "k = 1"


def test_a_study_whose_reference_failed_still_has_its_table(tmp_path: Path):
    lost = data().model_copy(update={"reference": "demo_dino"})
    write(lost, tmp_path)
    assert "| demo | 13.5 ± 0.7 | 5.0 |" in markdown_page(lost)  # nothing to be clear of
    assert [cell.text for cell in difference_table(lost).rows[1]] == ["demo", "–", "–"]


def test_the_page_says_from_how_many_seeds():
    two = {"untrained": 2, "demo": 2}
    for counts, says in (
        (two, "from 2 seeds each"), (two | {"demo": 1}, "from 1 to 2 seeds each"),
        (dict.fromkeys(two, 1), "from one seed each"),
    ):  # fmt: skip
        rows = tuple(row(variant, seed) for variant, n in counts.items() for seed in range(n))
        assert says in summary(data().model_copy(update={"cells": rows}))


def test_curves_without_a_step_in_common_are_left_out():
    apart = [cell for cell in data().cells if cell.variant == "demo"]
    apart[1] = apart[1].model_copy(update={"curves": {"loss": Curve(steps=(5, 6), values=(1.0, 1.0))}})
    plot = ElementTree.fromstring(standalone(curve_plot(data().model_copy(update={"cells": tuple(apart)}))))
    assert not plot.findall(f".//{DRAWING}path")


def test_every_seed_is_a_dot_every_mean_a_bar_and_clear_variants_are_coloured():
    plot = ElementTree.fromstring(standalone(dot_plot(data())))
    assert len(plot.findall(f".//{DRAWING}circle")) == 6
    assert len(plot.findall(f".//{DRAWING}rect[@class='bar']")) == 4
    assert len(plot.findall(f".//{DRAWING}g[@class='clear']")) == 2
    told = plot.findtext(f"{DRAWING}title")
    assert told and "davis: untrained 11.0, demo 13.5, k <1> & 50% 20.0" in told
    curves = ElementTree.fromstring(standalone(curve_plot(data())))
    assert len(curves.findall(f".//{DRAWING}path[@class='curve c0']")) == 2  # in the legend and in the chart


def test_names_that_would_be_cut_lose_the_recipe_that_a_grid_shares():
    names = ["untrained", "demo, n_objects=1, refine=true", "demo, n_objects=1, refine=false"]
    cells = tuple(row(name, 0) for name in names)
    plot = ElementTree.fromstring(standalone(curve_plot(data().model_copy(update={"cells": cells}))))
    texts = [text.text for text in plot.iter(f"{DRAWING}text")]
    assert texts[:2] == names[1:]  # there is room for them in this plot, in the other one there is not
    of_one = {name: {0: 1.0} for name in names}
    metrics = (metric("davis", "J_and_F_mean", True, of_one),)
    plot = ElementTree.fromstring(standalone(dot_plot(data().model_copy(update={"cells": cells, "metrics": metrics}))))
    texts = [text.text for text in plot.iter(f"{DRAWING}text")]
    assert texts[:3] == ["untrained", "n_objects=1, refine=true", "n_objects=1, refine=false"]


def test_a_curve_of_one_point_is_a_dot():
    one = row("demo", 0).model_copy(update={"curves": {"online_knn": Curve(steps=(5,), values=(20.0,))}})
    plot = ElementTree.fromstring(standalone(curve_plot(data().model_copy(update={"cells": (one,)}))))
    assert len(plot.findall(f".//{DRAWING}path[@class='curve point c0']")) == 1


def test_the_page_escapes_names_and_asks_for_nothing(tmp_path: Path):
    page = html_page(data())
    assert "k &lt;1&gt; &amp; 50%" in page and "k <1>" not in page
    assert not re.search(r"(src|href)=\"(?!#|data:)", page) and "://" not in page
    assert "no light" in page and "make it" in page
    write(data(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"index.html", "study.json", "study.md", "study.tex", "scores.svg", "curves.svg"}
    assert StudyData.model_validate_json((tmp_path / "study.json").read_bytes()) == data()
    assert "| demo | **13.5 ± 0.7** | 5.0 |" in markdown_page(data())


def test_the_schema_of_study_json_is_stable():
    """Fields may be added; one that is renamed or gone needs another schema_version."""
    written = json.loads(data().model_dump_json())
    assert written["schema_version"] == 1
    assert set(written) == {
        "schema_version", "title", "created", "run", "reference", "cells", "metrics", "failures",
    }  # fmt: skip
    assert set(written["cells"][0]) == {
        "variant", "seed", "trained", "changed", "fingerprint", "digest", "n_steps", "n_clips", "seconds", "machine",
        "commit", "curves",
    }  # fmt: skip
    assert set(written["metrics"][0]) == {"benchmark", "protocol", "metric", "headline", "n_samples", "values"}


def test_latex_prints_what_the_table_says():
    assert escape_latex(r"50% of a_b & {c} ± 1 \x") == r"50\% of a\_b \& \{c\} $\pm$ 1 \textbackslash{}x"
    table = Table("A caption.", ("Name", "AP"), ((TableCell("k_1"), TableCell("1.0", strong=True)),), numeric=(1,))
    assert latex(table).splitlines() == [
        "% A caption.", r"\begin{tabular}{lr}", r"\toprule", r"Name & AP \\", r"\midrule", r"k\_1 & \textbf{1.0} \\",
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
    assert "| k_1 | **1.0** |" in markdown(table)


def test_what_masks_cover_is_measured_of_rendered_walks_only(tmp_path: Path):
    assert is_known(recipes.demo()) and not is_known(recipes.venice())
    checkpoint = tiny_eval.write_checkpoint(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="known of rendered walks only"):
        covering(checkpoint, (), recipes.venice(), Machine(root=tmp_path))


def test_curves_are_read_from_the_steps_that_have_them(tmp_path: Path):
    lines = [
        {"step": step, "loss": float(step), **({"online_knn": 50.0} if step == 250 else {})} for step in range(1, 251)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = read_curves(tmp_path)
    assert curves["online_knn"] == Curve(steps=(250,), values=(50.0,))
    assert curves["loss"].steps[:2] == (3, 6) and curves["loss"].values[:2] == (2.0, 5.0)
    assert curves["loss"].steps[-1] == 250


def test_a_training_that_was_stopped_counts_the_seconds_of_all_its_runs(tmp_path: Path):
    def last_run(folder: Path) -> dict[str, Any]:
        (folder / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        tiny_eval.write_checkpoint(folder / "checkpoint.safetensors")
        return {"seconds": 5000.0}

    built = cache.build(Machine(root=tmp_path), "checkpoint", 1, {}, {}, last_run)
    encoder = Checkpoint(
        folder=built.folder, fingerprint=built.manifest.fingerprint, digest=built.manifest.digest, reused=False,
        path=built.folder / "checkpoint.safetensors", n_steps=1, n_clips=8, loss=1.0,
    )  # fmt: skip
    (cell,) = cells(("demo",), {}, n_seeds=1)
    got = collect(
        "study", [Made(cell, encoder, ())], reference="demo", failures={}, run=RunFacts(name="n", commands=())
    )
    assert got.cells[0].seconds == 5000 and built.manifest.seconds < 60


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    entries = (Entry(benchmark="imagenet_knn", world=benchmark.MINIATURE_WORLD),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suites.SUITES, "knn", lambda: Suite(name="knn", entries=entries))
        patch.setitem(recipes.RECIPES, "tiny", lambda: TINY)
        yield


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"rerun": ("tinny",)}, "cannot rerun tinny. Known: acquire; shard; pretrain; evaluate; study; "),
        ({"reference": "untrained"}, "cannot compare with 'untrained'. Known: tiny."),
        ({"machine": Machine(cells_at_once=2, hosts=Hosts(n=2, address="a"))}, "2 cells at once share one host"),
        ({"benchmarks": ("davis",)}, "davis: not in the suite knn. Known: imagenet_knn."),
        ({"overrides": ("pretrain.epoch=1",)}, "there is no 'epoch' here"),
        ({"overrides": ("imagenet_knn.kk=1",)}, "kk"),
    ],
)
def test_a_study_is_refused_before_it_starts(parameters: dict[str, Any], says: str, tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape(says)):
        place_study(variants=("tiny",), suite="knn", **{"machine": Machine(root=tmp_path)} | parameters)


def test_a_plan_says_that_a_study_will_fail_of_which_nothing_can_be_learnt(tmp_path: Path):
    machine = Machine(root=tmp_path, device="cpu", threads=1)
    missing = (f'videos=[{{"kind": "file", "name": "walk", "path": "{tmp_path}/walk.mp4"}}]',)
    order = place_study(variants=("tiny",), suite="knn", overrides=missing, machine=machine, dry_run=True)
    with unchecked():
        planned = plan_study(order)
    assert {step.action for step in planned.steps} == {"fail"}
    said = list(planned.lines())
    assert said[0].startswith("acquire walk: 1 will fail: ") and "walk.mp4" in said[0]
    assert said[-2] == "study: 1 will fail: it needs acquire walk, which will fail"


def states_of(state: Any) -> dict[str, str]:
    """Task run -> state, once all have ended; they arrive in the background."""
    of_run = FlowRunFilter.model_validate({"id": {"any_": [state.state_details.flow_run_id]}})
    with get_client(sync_client=True) as client:
        for _ in range(100):
            tasks = client.read_task_runs(flow_run_filter=of_run)
            if any(task.name == "study" for task in tasks) and all(
                task.state and task.state.is_final() for task in tasks
            ):
                break
            time.sleep(0.1)
    return {task.name: str(task.state_name) for task in tasks}


@pytest.mark.slow
def test_cells_share_what_they_can_and_each_can_be_run_again_alone(tmp_path: Path):
    from flows.study import study

    machine = Machine(root=tmp_path / "root", device="cpu", threads=1, cells_at_once=2)
    asked: dict[str, Any] = {
        "variants": ("untrained", "raw-pixels", "tiny"), "grid": {"pretrain.tracking.n_objects": [1, 2]},
        "suite": "knn",
    }  # fmt: skip

    def carry_out(machine: Machine = machine, **more: Any) -> Any:
        with unchecked():  # it draws data sets
            state: Any = study(**asked, machine=machine, return_state=True, **more)
        assert state.name == "Completed", state.message
        return state

    def run(machine: Machine = machine, **more: Any) -> dict[str, str]:
        return states_of(carry_out(machine, **more))

    def planned(**more: Any) -> dict[str, str]:
        with unchecked():
            plan = plan_study(place_study(**asked, machine=machine, dry_run=True, **more))
        return {step.name: step.action for step in plan.steps}

    with prefect_test_harness(server_startup_timeout=120):
        foreseen = carry_out(dry_run=True)
        assert foreseen.message.startswith("nothing was made. 11 to make: ") and not machine.root.exists()
        first = run()
        assert {step["name"] for step in foreseen.result()["steps"]} == first.keys()
        assert set(planned().values()) == {"reuse"}
        assert planned(n_seeds=2)["pretrain tiny, n_objects=1 seed 1"] == "make"
        assert set(first.values()) == {"Completed"}
        assert sum(name.startswith("pretrain") for name in first) == 2
        assert sum(name.startswith("evaluate") for name in first) == 4
        assert sum(name.startswith("cover") for name in first) == 2
        assert sum(name.startswith(("acquire", "shard")) for name in first) == 2
        latest = machine.root / "study" / "latest"
        found = StudyData.model_validate_json((latest / "study.json").read_bytes())
        assert found.variants == ("untrained", "raw-pixels", "tiny, n_objects=1", "tiny, n_objects=2")
        assert len({cell.digest for cell in found.cells}) == len(found.cells)
        (headline,) = [one for one in found.metrics if one.headline]
        assert {variant: len(values) for variant, values in headline.values.items()} == dict.fromkeys(found.variants, 1)
        rerun = ("tiny, n_objects=2 seed 0",)
        to_make = {name for name, action in planned(rerun=rerun).items() if action != "reuse"}
        again = run(rerun=rerun)
        made = {name for name, state in again.items() if state != "Cached"}
        assert to_make == made | {"study"}  # which stays as it is if all comes out the same
        assert sum(cell.curves["mask_iou"].steps[0] == 0 for cell in found.cells if cell.trained) == 2
        one = "tiny, n_objects=2 seed 0"
        assert made == {f"pretrain {one}", f"cover {one}", f"evaluate imagenet_knn: {one}"}
        assert cache.read_manifest(latest) is not None
        slowly = run(machine.model_copy(update={"cells_at_once": 1}), rerun=("pretrain", "evaluate"))
        assert {name.split()[0] for name, state in slowly.items() if state != "Cached"} >= {"pretrain", "evaluate"}
        same = StudyData.model_validate_json((latest / "study.json").read_bytes())
        assert [cell.digest for cell in same.cells] == [cell.digest for cell in found.cells]
        assert same.metrics == found.metrics
