"""A stage's code may not move without a word about its output.

tests/stage_digests.json records, for each stage, its VERSION and a digest of all the code that it imports from this
project. When the code moves, either raise the VERSION (the output changed) or leave it (the output is the same); then
record that decision with

    python tests/test_versions.py

Comments, docstrings and layout do not count.
"""

import ast
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
RECORD = Path(__file__).with_name("stage_digests.json")

# Stage -> the modules where its work begins; what these import inside the project is found by walking.
STAGES = {
    "video": ["dora.data.video"],
    "verification": ["dora.data.verify"],
    "miniature": ["dora.data.miniature"],
    "shards": ["dora.data.shards"],
    "checkpoint": ["dora.training.stage", "dora.training.pretrain"],
    "features": ["eval.frozen.store"],
    "report": ["eval.report"],
    "covering": ["eval.covering"],
    "study": ["eval.study"],
} | {
    f"score-{path.stem}": [f"eval.benchmarks.{path.stem}"]
    for path in sorted((ROOT / "eval/benchmarks").glob("[a-z]*.py"))
}
# What decides where and whether to run, not what comes out.
NEUTRAL = {"dora.cache", "dora.lease", "dora.inventory", "dora.artifacts", "dora.progress", "dora.launch"}


def module_path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.exists():
            return path
    return None


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code_of(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


def stage_digest(stage: str) -> str:
    waiting, seen = list(STAGES[stage]), dict[str, str]()
    while waiting:
        name = waiting.pop()
        path = module_path(name) if name.split(".")[0] in ("dora", "eval") else None
        if path and name not in seen and name not in NEUTRAL:
            tree = code_of(path)
            texts = (one for one in path.parent.glob("*") if one.suffix in (".html", ".css", ".js"))
            templates = texts if path.name == "__init__.py" else ()
            seen[name] = "\n".join([ast.unparse(tree), *(template.read_text() for template in sorted(templates))])
            waiting += imports(tree)
    return hashlib.sha256("".join(f"{name}\n{seen[name]}\n" for name in sorted(seen)).encode()).hexdigest()


def version_of(stage: str) -> int:
    return importlib.import_module(STAGES[stage][0]).VERSION


def record() -> dict[str, object]:
    stages = {stage: {"version": version_of(stage), "digest": stage_digest(stage)} for stage in STAGES}
    return {"python": PYTHON, "stages": stages}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_whose_code_moved_raised_its_version_or_confirmed_the_same_output(stage: str):
    recorded = json.loads(RECORD.read_text())
    if recorded["python"] != PYTHON:
        pytest.skip(f"digests were recorded with Python {recorded['python']}, which prints code its own way")
    now = {"version": version_of(stage), "digest": stage_digest(stage)}
    assert now == recorded["stages"].get(stage), (
        f"the code of stage {stage} moved. If its output changed, raise its VERSION. "
        "Then record the decision: python tests/test_versions.py"
    )


def test_comments_and_docstrings_do_not_count(tmp_path: Path):
    plain, talkative = tmp_path / "a.py", tmp_path / "b.py"
    plain.write_text("def f(x):\n    return x + 1\n")
    talkative.write_text('"""Why."""\n\ndef f(x):\n    """What."""\n    # how\n    return x + 1\n')
    assert ast.unparse(code_of(plain)) == ast.unparse(code_of(talkative))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    RECORD.write_text(json.dumps(record(), indent=1) + "\n")
