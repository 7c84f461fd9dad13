"""`dora recipe`: print a recipe as JSON."""

import argparse

from dora import recipes
from dora.cli import Commands


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser("recipe", help="print a recipe as JSON, e.g. dora recipe demo pretrain.epochs=10")
    parser.add_argument("name", help=f"one of {', '.join(recipes.names())}")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="single values to replace")
    parser.set_defaults(run=_recipe)


def _recipe(options: argparse.Namespace) -> int:
    print(recipes.override(recipes.load(options.name), options.overrides).model_dump_json(indent=2))
    return 0
