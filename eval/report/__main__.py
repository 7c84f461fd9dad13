"""Print a finished report, or several beside each other.

python -m eval.report artifacts/report/latest                            the report, as Markdown
python -m eval.report artifacts/report/latest --format latex             its table of scores, for a paper
python -m eval.report dora=artifacts/report/1f0c… dino=other/report/latest       one table of both
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from eval.report.compare import compare, comparison_table
from eval.report.data import ReportData
from eval.report.latex import latex
from eval.report.page import LIGHT, html_page, markdown_page
from eval.report.tables import markdown, score_table


class Named(NamedTuple):
    """A report, where it lies, and what it is called here."""

    name: str
    folder: Path
    data: ReportData


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", metavar="[NAME=]FOLDER", help="holds a report.json")
    parser.add_argument("--format", choices=("markdown", "latex", "json", "html"), default="markdown")
    options = parser.parse_args(arguments)
    try:
        reports = _read_all(options.reports)
        (first, *others) = reports
        print(_several(reports, options.format) if others else _one(*first[1:], options.format), end="")
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read(folder: Path) -> ReportData:
    """The values of a finished report.

    Raises:
        FileNotFoundError: if the folder holds no report.json.
        ValueError: if that file is not of this schema.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"no report.json in {folder}. A finished run leaves one in <root>/report/latest.")
    try:
        return ReportData.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise ValueError(
            f"{path} is no report of schema 1: {where}: {problem['msg']}. Make the report again."
        ) from None


def _read_all(given: Sequence[str]) -> list[Named]:
    """Each with the name that stands before it, or else that of the run that made it."""
    found: list[tuple[str, Path, ReportData]] = []
    for text in given:
        name, separator, rest = text.partition("=")
        is_named = bool(separator) and not Path(text).exists()
        folder = Path(rest if is_named else text)
        data = read(folder)
        found.append((name if is_named else data.run.name, folder, data))
    names = [name for name, _, _ in found]
    return [
        Named(name if names.count(name) == 1 else f"{name} {folder.resolve().name[:6]}", folder, data)
        for name, folder, data in found
    ]


def _one(folder: Path, data: ReportData, form: str) -> str:
    if form == "html":
        return html_page(data, folder, LIGHT)
    if form == "json":
        return data.model_dump_json(indent=1) + "\n"
    return latex(score_table(data)) if form == "latex" else markdown_page(data)


def _several(reports: Sequence[Named], form: str) -> str:
    if form == "html":
        raise ValueError("several reports are printed as markdown, latex or json; a page is of one.")
    comparison = compare([(one.name, one.data) for one in reports])
    if form == "json":
        return comparison.model_dump_json(indent=1) + "\n"
    if form == "latex":
        return latex(comparison_table(comparison, headlines_only=True))
    return markdown(comparison_table(comparison)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
