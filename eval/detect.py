"""Find objects in pictures with a detector that the benchmark `coco` has fine-tuned: COCO's results, as JSON.

Example:
    dora data statistics walk.mp4 --write-frames
    python -m eval.detect artifacts/score-coco/68ff… --frames statistics/frames/walk --out walk.json
    dora data statistics walk.mp4 --detector walk.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dora import cache, inventory
from dora.artifacts import Checkpoint, Machine
from dora.data.disk import whole_file
from dora.progress import Progress, progress_bar, silent
from eval import benchmark, openmm
from eval.benchmarks import coco

STAGE = "score-coco"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code (2: the user can mend it)."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "score", metavar="SCORE", help="a finished score-coco: its folder, or as `dora cache list` has it"
    )
    parser.add_argument("--frames", type=Path, required=True, metavar="DIR", help="pictures and their images.json")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the file to write")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="what was fine-tuned, where it is not beside it"
    )
    options = parser.parse_args(arguments)
    try:
        machine = Machine()
        named = Path(options.score)
        folder = named if named.is_dir() else inventory.find(machine.root, options.score).folder
        with progress_bar() as progress:
            found = detect(folder, options.frames, machine, checkpoint=options.checkpoint, progress=progress)
        with whole_file(options.out) as file:
            file.write(json.dumps(found).encode())
    except (ValueError, OSError) as error:
        print(f"eval: {error}", file=sys.stderr)
        return 2
    print(f"{len(found):,} detections in {options.out}")
    return 0


def detect(
    score: Path, frames: Path, machine: Machine, *, checkpoint: Path | None = None, progress: Progress = silent
) -> list[dict[str, Any]]:
    """All detections in the pictures that images.json lists, as the benchmark would find them in photos.

    Raises:
        FileNotFoundError: if the detector, its checkpoint or the pictures are not there.
        ValueError: if the folder is no finished score-coco, or OpenMMLab's libraries are missing.
    """
    config, origin = _request(score, checkpoint)
    images = _images(frames)
    openmm.require()
    from dora.training.tensor_file import read_tensors
    from eval.dense.coco_annotations import CATEGORY_IDS
    from eval.features import device
    from eval.finetune.state import MODEL, load_model
    from eval.images import read_video_frame
    from eval.openmm import detection

    model: Any = coco.network(origin, config)
    learnt = score / MODEL
    if not learnt.is_file():
        raise FileNotFoundError(f"no detector at {learnt}. `python -m eval coco` leaves one in its score's folder.")
    load_model(learnt, model, read_tensors(learnt)[0]["training"])
    model = model.to(device(machine)).eval()
    prepare = detection.pipeline(coco.test_steps(config))
    found: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        objects = detection.detect(
            model, model.data_preprocessor, prepare(read_video_frame(frames / image["file_name"]), [])
        )
        for (x1, y1, x2, y2), strength, label in zip(
            objects.boxes.tolist(), objects.scores.tolist(), objects.labels.tolist(), strict=True
        ):
            box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            found.append({
                "image_id": image["id"], "category_id": CATEGORY_IDS[label], "bbox": box, "score": round(strength, 5)
            })  # fmt: skip
        progress(number + 1, len(images), "pictures")
    return found


def _request(score: Path, checkpoint: Path | None) -> tuple[coco.Config, Checkpoint]:
    """The setting of a score, and the checkpoint that it is of."""
    manifest = cache.read_manifest(score)
    if manifest is None or manifest.stage != STAGE:
        raise ValueError(f"{score} is no finished {STAGE}: `dora cache list` says which there are.")
    if checkpoint is None:
        fingerprint = manifest.inputs["checkpoint"].fingerprint
        folders = [path for path in (score.parent.parent / "checkpoint").glob("*") if fingerprint.startswith(path.name)]
        if not folders:
            raise FileNotFoundError(f"the checkpoint {fingerprint[:16]} is not beside {score}. Name it: --checkpoint.")
        checkpoint = folders[0] / "checkpoint.safetensors"
    return coco.Config.model_validate(manifest.config["config"]), benchmark.checkpoint_from_file(checkpoint)


def _images(frames: Path) -> list[dict[str, Any]]:
    listing = frames / "images.json"
    if not listing.is_file():
        raise FileNotFoundError(f"no {listing}. `dora data statistics VIDEO --write-frames` writes it.")
    return json.loads(listing.read_bytes())["images"]


if __name__ == "__main__":
    sys.exit(main())
