"""A checkpoint's encoder fine-tuned on a data set's training photos and measured on its validation photos."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dora.artifacts import Checkpoint, Machine
from dora.progress import Progress
from eval.benchmark import Result
from eval.classifying import sheet
from eval.classifying.accuracy import judge
from eval.classifying.network import Classifier, network
from eval.classifying.photos import Sets
from eval.classifying.recipe import Finetuning
from eval.classifying.task import task
from eval.finetune.loop import finetune
from eval.finetune.team import Team, joined

SHEET, LOOKS = "classified.jpg", "looks"
MAX_CLASSES = 1000  # of a table of classes that somebody reads


def evaluate(
    checkpoint: Checkpoint, config: Finetuning, machine: Machine, out: Path, progress: Progress, sets: Sets
) -> Result:
    """Top-1 and top-5 of the network as training leaves it, and the best top-1 of all looks; goes on in `out`.

    Raises:
        Interrupted, ValueError, OSError: as `finetune` and `judge`.
    """
    with joined(machine, out) as team:
        model = network(checkpoint, config, len(sets.classes)).to(team.ranks.device)
        look = looking(model, sets, config, machine, out, team)
        spent = finetune(task(model, sets, config, team.ranks, look), config, machine, out, team, progress)
        judged = judge(model, sets.val, config, out, team, n_workers=machine.n_workers, progress=progress)
        if team.ranks.rank:
            return Result({}, (), n_samples=0)
        metrics = judged.accuracy()
        looks = [json.loads(path.read_bytes())["top1"] for path in sorted((out / LOOKS).glob("*.json"))]
        metrics["top1_best"] = max(metrics["top1"], *looks) if looks else metrics["top1"]
        if len(sets.classes) <= MAX_CLASSES:
            _write(out / "classes.json", judged.of_classes(sets.classes))
        sheet.write(out / SHEET, sets, judged, config)
        notes = (*spent.notes, *judged.notes)
        return Result(metrics, (SHEET,), n_samples=len(sets.val), notes=notes, cost=team.cost())


def looking(
    model: Classifier, sets: Sets, config: Finetuning, machine: Machine, out: Path, team: Team
) -> Callable[[int], None]:
    """What measures the validation set after some iterations: out/looks/00000012.json each."""
    due = config.looks()

    def look(iteration: int) -> None:
        path = out / LOOKS / f"{iteration:08d}.json"
        if iteration not in due or team.ranks.decided_by_first(path.exists):
            return
        folder = out / f".{LOOKS}" / path.stem
        judged = judge(model, sets.val, config, folder, team, n_workers=machine.n_workers)
        if team.ranks.rank == 0:
            path.parent.mkdir(exist_ok=True)
            _write(path, {"iteration": iteration, **judged.accuracy()})

    return look


def _write(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
