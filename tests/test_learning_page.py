"""What README and the pages say of the study is what docs/learning*.json hold, run by run."""

import re
from pathlib import Path

import pytest

from eval.study.data import StudyData, is_clear, spread
from eval.study.plots import dot_plot, standalone
from eval.study.tables import values_of

DOCS = Path(__file__).parents[1] / "docs"
FROZEN, SHORT, FINETUNED = (
    StudyData.model_validate_json((DOCS / name).read_bytes())
    for name in ("learning.json", "learning-short.json", "learning-finetuned.json")
)
TABLES = {  # where one stands, how it begins, and the runs that it is of
    "README, frozen": ("../README.md", "| encoder | DAVIS", FROZEN),
    "README, fine-tuned": ("../README.md", "| encoder | ADE20K", FINETUNED),
    "frozen": ("learning.md", "| encoder | DAVIS", FROZEN),
    "fine-tuned": ("learning.md", "| encoder | ADE20K", FINETUNED),
    "short": ("learning-tried.md", "| short encoder | DAVIS", SHORT),
}
ROUNDING = 0.06  # half of the last digit, and of the hundredths that the runs are kept to


def rows(page: Path, beginning: str) -> dict[str, list[str]]:
    """Cells of the table whose columns are the benchmarks, by the name of the encoder."""
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith(beginning):
            break
    next(lines)
    found: dict[str, list[str]] = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[re.sub(r"\s*\(.*?\)|\*", "", name)] = cells
    found.pop("samples", None)
    return found


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_of_a_table_is_the_mean_and_deviation_of_the_runs(name: str):
    page, beginning, data = TABLES[name]
    found = rows(DOCS / page, beginning)
    assert {"untrained", "DoRA", "DINO", "iBOT"} <= {name.removeprefix("short ") for name in found}
    assert set(found) <= set(data.variants)
    headlines = [row for row in data.metrics if row.headline]
    for variant, cells in found.items():
        assert len(cells) == len(headlines)
        for cell, row in zip(cells, headlines, strict=True):
            values = values_of(row, variant)
            if not values:  # not measured
                assert cell == "", (variant, row.benchmark)
                continue
            mean, _, deviation = cell.strip("*").partition(" ± ")
            assert float(mean) == pytest.approx(spread(values).mean, abs=ROUNDING), (variant, row.benchmark)
            assert bool(deviation) == (len(values) > 1), (variant, row.benchmark)
            if deviation:
                assert float(deviation) == pytest.approx(spread(values).deviation, abs=ROUNDING)
                clear = variant != data.reference and is_clear(values, values_of(row, data.reference))
                assert cell.startswith("**") == clear, (variant, row.benchmark)


@pytest.mark.parametrize("name", ["frozen", "fine-tuned", "short"])
def test_the_page_has_every_encoder_that_was_measured(name: str):
    page, beginning, data = TABLES[name]
    assert list(rows(DOCS / page, beginning)) == list(data.variants)


@pytest.mark.parametrize("data", [FROZEN, SHORT, FINETUNED], ids=["frozen", "short", "fine-tuned"])
def test_an_encoder_has_one_name_and_each_of_its_seeds_one_training(data: StudyData):
    runs = [(cell.variant, cell.seed) for cell in data.cells]
    trained = [cell.fingerprint for cell in data.cells if cell.trained]
    assert len({*runs}) == len(runs) and len({*trained}) == len(trained)


def test_the_plot_is_that_of_the_runs():
    assert (DOCS / "learning.svg").read_text(encoding="utf-8") == standalone(dot_plot(FROZEN))
