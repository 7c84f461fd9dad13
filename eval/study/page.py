"""StudyData -> index.html (one file that asks for nothing else), study.md, study.tex, study.json and two plots."""

from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval.report import page
from eval.report.latex import latex
from eval.report.tables import Table, escape_markdown, markdown
from eval.study import plots, tables
from eval.study.data import CURVES, SCORES, StudyData


def write(data: StudyData, folder: Path) -> None:
    """All forms of a study."""
    (folder / "study.json").write_text(data.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "study.md").write_text(markdown_page(data), encoding="utf-8")
    (folder / "study.tex").write_text(latex(tables.main_table(data)), encoding="utf-8")
    (folder / SCORES).write_text(plots.standalone(plots.dot_plot(data)), encoding="utf-8")
    if has_curves(data):
        (folder / CURVES).write_text(plots.standalone(plots.curve_plot(data)), encoding="utf-8")
    (folder / "index.html").write_text(html_page(data), encoding="utf-8")


def html_page(data: StudyData) -> str:
    """The page."""
    folders = [Path(__file__).parent, Path(page.__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("study.html").render(
        data=data, tables=tables, summary=summary(data), by_first_cell=page.by_first_cell,
        scores=Markup(plots.dot_plot(data)),
        curves=Markup(plots.curve_plot(data)) if has_curves(data) else "",
    )  # fmt: skip


def markdown_page(data: StudyData) -> str:
    """The same tables, with the plots by their names in the study's folder."""

    def texts(*found: Table) -> list[str]:
        return [markdown(table) for table in found if table.rows]

    curves = [f"![How the trainings went]({CURVES})"] if has_curves(data) else []
    commands = ["\n".join(f"    {command}" for command in data.run.commands)] if data.run.commands else []
    sections = {
        "Scores": [
            *texts(tables.failure_table(data), tables.main_table(data), tables.difference_table(data)),
            f"![Every seed's score]({SCORES})",
            *texts(tables.protocol_table(data)),
        ],
        "Trainings": [*texts(tables.variant_table(data), tables.curve_table(data)), *curves],
        "Every metric": texts(tables.metric_table(data)),
        "Lineage": texts(tables.lineage_table(data)),
        "How to repeat it": commands,
    }
    parts = [f"# {escape_markdown(data.title)}", escape_markdown(summary(data))]
    parts += [part for heading, found in sections.items() if found for part in (f"## {heading}", *found)]
    return "\n\n".join(parts) + "\n"


def summary(data: StudyData) -> str:
    """What was compared, in a sentence."""
    counts = Counter(cell.variant for cell in data.cells).values()
    least, most = min(counts), max(counts)
    seeds = "one seed" if most == 1 else f"{most} seeds" if least == most else f"{least} to {most} seeds"
    n_benchmarks = len({row.benchmark for row in data.metrics})
    missing = f"; {len(data.failures)} of its parts failed" if data.failures else ""
    variants = f"{len(data.variants)} variants from {seeds} each, among them {data.reference} as the reference"
    return f"{variants}, by {n_benchmarks} benchmarks{missing}."


def has_curves(data: StudyData) -> bool:
    """Whether any training left a log."""
    return any(cell.curves for cell in data.cells)
