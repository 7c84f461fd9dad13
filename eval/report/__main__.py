"""Print finished reports as Markdown, for a README or an issue: python -m eval.report artifacts/report/latest."""

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from eval.report.data import ReportData
from eval.report.page import markdown_page


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.report",
        description="Print finished reports as Markdown.",
        epilog="example: python -m eval.report artifacts/report/latest > results.md",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="holds a report.json")
    try:
        pages = [markdown_page(read(folder)) for folder in parser.parse_args(arguments).folders]
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(pages), end="")
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


if __name__ == "__main__":
    sys.exit(main())
