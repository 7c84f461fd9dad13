"""A table as LaTeX, for papers: booktabs' rules, and nothing that needs another package."""

import re
from collections.abc import Iterable

from eval.report.tables import Cell, Table

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "≥": r"$\ge$", "×": r"$\times$",
    "†": r"$\dagger$", "‡": r"$\ddagger$", "ε": r"$\varepsilon$", "→": r"$\to$", "<": r"\textless{}",
    ">": r"\textgreater{}",
}  # fmt: skip
ANY = re.compile("|".join(map(re.escape, SPECIAL)))


def latex(table: Table) -> str:
    """A tabular with the table's rows; its caption stands above as a comment. Smaller print of cells is left out."""
    columns = "".join("r" if i in table.numeric else "l" for i in range(len(table.columns)))
    lines = [
        *(f"% {line}" for line in table.caption.splitlines()),
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(Cell(column) for column in table.columns),
        r"\midrule",
        *map(_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return ANY.sub(lambda found: SPECIAL[found[0]], " ".join(text.split()))


def _row(cells: Iterable[Cell]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return rf"\textbf{{{text}}}" if cell.strong else rf"\texttt{{{text}}}" if cell.code else text
