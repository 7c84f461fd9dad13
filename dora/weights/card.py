"""The model card of an export: what the weights are, and where they come from. No paths of this machine."""

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from dora.cache import MANIFEST, Manifest, read_manifest
from dora.config import PretrainConfig
from dora.data.source import Source
from dora.data.walking_tours import tour
from dora.training.keeper import EPOCHS

PAPER = """```bibtex
@inproceedings{venkataramanan2024imagenet,
  title={Is ImageNet worth 1 video? Learning strong image encoders from 1 long unlabelled video},
  author={Venkataramanan, Shashanka and Rizve, Mamshad Nayeem and Carreira, Jo{\\~a}o and Asano, Yuki M. and
          Avrithis, Yannis},
  booktitle={International Conference on Learning Representations},
  year={2024}
}
```"""
_LIBRARY = {"timm": "timm", "huggingface": "transformers", "dino": "pytorch"}
_OBJECTIVE = {
    "dora": "DoRA (arXiv:2310.08584)",
    "dino": "DINO (arXiv:2104.14294), on frames of videos",
    "ibot": "iBOT (arXiv:2111.07832), on frames of videos",
}
_LOAD = {
    "timm": "import timm\nmodel = timm.create_model('local-dir:FOLDER', pretrained=True).eval()\n"
    "features = model(images)  # 'hf-hub:USER/NAME' once it is on the hub",
    "huggingface": "from transformers import AutoImageProcessor, ViTModel\n"
    "process = AutoImageProcessor.from_pretrained('FOLDER')\n"
    "model = ViTModel.from_pretrained('FOLDER', add_pooling_layer=False).eval()",
    "dino": "import torch\ncheckpoint = torch.load('FOLDER/checkpoint.pth', weights_only=True)\n"
    "teacher = {name.removeprefix('backbone.'): value for name, value in checkpoint['teacher'].items()}\n"
    "timm_or_dino_vit.load_state_dict(teacher, strict=False)  # not strict: the head's names, if they are there",
}


def model_card(
    checkpoint: Path, config: PretrainConfig, *, step: int | None, to: Literal["timm", "huggingface", "dino"],
    which: str,
) -> str:  # fmt: skip
    """Markdown for README.md, from the checkpoint's config and from the manifests around it, where there are any."""
    folder = checkpoint.absolute().parent
    is_last = folder.name != EPOCHS
    folder = folder if is_last else folder.parent
    made = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    videos = list(_videos(folder.parents[1], made)) if made else []
    videos = videos or ["Unknown: the checkpoint was apart from its shards."]
    scores = (list(_scores(folder.parents[1], made)) if made and is_last else []) or ["None were measured."]
    commit = f", commit {made.commit}" if made and made.commit else ""
    networks = "student and teacher" if to == "dino" else f"the {which}'s backbone"
    values = {
        "objective": _OBJECTIVE[config.objective], "architecture": _architecture(config), "networks": networks,
        "steps": f"{step:,} of {config.clips_per_batch} clips of {config.clip.n_frames} frames" if step else "unknown",
        "epochs": f"{config.epochs} asked for", "seed": config.seed, "precision": config.precision,
        "begun with": f"{config.start.path.name} ({config.start.which})" if config.start else "random weights",
        "made with": f"dora {metadata.version('dora')}{commit}" + (f", {_libraries(made)}" if made else ""),
    }  # fmt: skip
    return "\n".join([
        "---", f"library_name: {_LIBRARY[to]}", "pipeline_tag: image-feature-extraction",
        f"tags: [self-supervised, vision-transformer, video, {config.objective}]", "---", "",
        f"# {config.backbone.architecture}, {config.objective} on video", "",
        "An image encoder that was trained without labels on the frames of long videos.", "",
        "| | |", "| --- | --- |", *[f"| {name} | {value} |" for name, value in values.items()], "",
        "## Trained on", "", *videos, "",
        "## Use", "", "```python", _LOAD[to], "```", "",
        f"Images are {config.backbone.image_size} x {config.backbone.image_size} RGB, ImageNet's mean and deviation.",
        "The [CLS] token describes the image, the patch tokens its parts.", "",
        "For research on representations: retrieval, nearest neighbours, and as the start of a training with labels.",
        "It has no classes and no notion of what it may be used for; it knows only what the videos above show, with",
        "their places, people and biases. Measure it on your own data before anything depends on it. A licence of the",
        "weights is not given here: who publishes them gives one.", "",
        "## Numbers", "", *scores, "",
        "## Recipe", "", "```json", json.dumps(shown(config), indent=1), "```", "",
        "## Paper", "", PAPER, "",
    ])  # fmt: skip


def shown(config: PretrainConfig) -> dict[str, Any]:
    """A config for others' eyes: of the file that the training began with only the name."""
    plain = config.model_dump(mode="json")
    if config.start:
        plain["start"]["path"] = config.start.path.name
    return plain


def _architecture(config: PretrainConfig) -> str:
    sizes = config.backbone.model_dump(exclude={"architecture", "drop_path_rate"}, exclude_none=True)
    return f"{config.backbone.architecture} ({', '.join(f'{name} {value}' for name, value in sizes.items())})"


def _libraries(made: Manifest) -> str:
    return ", ".join(f"{name} {made.libraries[name]}" for name in ("torch", "timm") if name in made.libraries)


def _videos(root: Path, made: Manifest) -> Iterator[str]:
    """A line for each of the shards that the checkpoint's manifest names."""
    for name, made_from in made.inputs.items():
        if not name.startswith("shards"):
            continue
        shards = read_manifest(root / "shards" / made_from.fingerprint[:16])
        if shards is None:
            yield f"- Unknown: shards/{made_from.fingerprint[:8]} are no longer there."
        else:
            video = shards.inputs.get("video")
            origin = _origin(read_manifest(root / "video" / video.fingerprint[:16]) if video else None)
            facts = shards.facts
            pictures = (
                f"{facts['n_frames']:,} frames of {facts['width']} x {facts['height']}, {facts['fps']:g} a second"
            )
            yield f"- **{facts['name']}**: {origin}; {pictures}; {_faces(facts.get('faces'))}"


def _origin(video: Manifest | None) -> str:
    """Where a video came from and its licence; of a file of the user's only that it was one."""
    if video is None:
        return "source unknown"
    source, kind = video.facts.get("source"), video.config.get("kind")
    if isinstance(source, dict):
        said = Source.model_validate(source)
        who = f"“{said.title}”" + (f" by {said.uploader}" if said.uploader else "") if said.title else str(said)
        return f"{who}, {said.url}, licence {said.licence or 'unknown'}"
    if kind == "walking_tour":
        return f"Walking Tours, {tour(video.config['name']).url}, licence CC BY (the data set's page)"
    if kind == "miniature":
        return f"a rendered street, seed {video.config['seed']}"
    return f"a file of the trainer's (sha256 {str(video.config.get('sha256', 'unknown'))[:16]}), licence unknown"


def _faces(faces: dict[str, Any] | None) -> str:
    if faces is None:
        return "whether faces were blurred is unknown"
    if faces["detector"] == "none":
        return "faces were not blurred"
    return f"{sum(faces['per_minute']):,} faces were blurred, found by {Path(faces['detector']).name}"


def _scores(root: Path, made: Manifest) -> Iterator[str]:
    for path in sorted(root.glob(f"score-*/*/{MANIFEST}")):
        score = read_manifest(path.parent)
        measured = score and score.inputs.get("checkpoint")
        if score and measured and measured.digest == made.digest:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in score.facts["metrics"].items())
            toy = " (a toy data set: no number to compare)" if "dataset" in score.inputs else ""
            yield f"- {score.stage.removeprefix('score-')}{toy}: {numbers}"
