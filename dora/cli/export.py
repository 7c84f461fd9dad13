"""`dora export`: give a checkpoint to others."""

import argparse
from pathlib import Path

from dora.cli import Commands, checkpoint_path

DESCRIPTION = """\
Writes a folder with the weights of a checkpoint, what their reader wants beside them, and a model card (README.md):

  timm         model.safetensors, config.json: timm.create_model('local-dir:FOLDER', pretrained=True)
  huggingface  model.safetensors, config.json, preprocessor_config.json:
               ViTModel.from_pretrained('FOLDER', add_pooling_layer=False)
  dino         checkpoint.pth with both networks in DINO's names, for scripts that were written for DINO
"""
EXAMPLES = """\
examples:
  dora export checkpoint/77e1 --to timm --out my-encoder      as `dora cache list` names it, a few digits do
  dora export run/checkpoint.safetensors --to huggingface --out my-encoder --which student
  dora export checkpoint/77e1 --to dino --head --out my-encoder
"""


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser(
        "export", help="write a checkpoint for timm, Hugging Face or DINO's scripts", description=DESCRIPTION,
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a file, its folder, or its name in the cache")
    parser.add_argument("--to", required=True, choices=("timm", "huggingface", "dino"))
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--which", choices=("teacher", "student"), default="teacher", help="(teacher; dino has both)")
    parser.add_argument("--head", action="store_true", help="the projection heads too (dino only)")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from dora.weights.export import export

    out = export(
        checkpoint_path(options.checkpoint), options.out, to=options.to, which=options.which, head=options.head
    )  # fmt: skip
    print(f"wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return 0
