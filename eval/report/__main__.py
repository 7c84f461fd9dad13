"""Print a finished report, or several beside each other.

python -m eval.report artifacts/report/latest                            the report, as Markdown
python -m eval.report artifacts/report/latest --format latex             its table of scores, for a paper
python -m eval.report dora=artifacts/report/1f0c… dino=other/report/latest       one table of both
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from eval.report.compare import compare, comparison_table
from eval.report.data import ReportData
from eval.report.latex import latex
from eval.report.page import markdown_page
from eval.report.tables import markdown, score_table


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", metavar="[NAME=]FOLDER", help="holds a report.json")
    parser.add_argument("--format", choices=("markdown", "latex", "json"), default="markdown")
    options = parser.parse_args(arguments)
    try:
        reports = _read_all(options.reports)
        print(_one(reports[0][1], options.format) if len(reports) == 1 else _several(reports, options.format), end="")
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


def _read_all(given: Sequence[str]) -> list[tuple[str, ReportData]]:
    """Each with the name that stands before it, or else that of the run that made it."""
    found: list[tuple[str, Path, ReportData]] = []
    for text in given:
        name, separator, rest = text.partition("=")
        folder = Path(rest if separator and not Path(text).exists() else text)
        data = read(folder)
        found.append((name if str(folder) == rest else data.run.name, folder, data))
    names = [name for name, _, _ in found]
    return [
        (name if names.count(name) == 1 else f"{name} {folder.resolve().name[:6]}", data)
        for name, folder, data in found
    ]


def _one(data: ReportData, form: str) -> str:
    if form == "json":
        return data.model_dump_json(indent=1) + "\n"
    return latex(score_table(data)) if form == "latex" else markdown_page(data)


def _several(reports: Sequence[tuple[str, ReportData]], form: str) -> str:
    comparison = compare(reports)
    if form == "json":
        return comparison.model_dump_json(indent=1) + "\n"
    if form == "latex":
        return latex(comparison_table(comparison, headlines_only=True))
    return markdown(comparison_table(comparison)) + "\n"


if __name__ == "__main__":
    sys.exit(main())
