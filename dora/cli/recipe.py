"""`dora recipe`: print a recipe as JSON, or the names there are."""

import argparse

from dora import recipes
from dora.ablations import ABLATIONS
from dora.cli import Commands


def add(commands: Commands) -> None:
    """Add this command to the parser of `dora`."""
    parser = commands.add_parser(
        "recipe", help="print a recipe as JSON, e.g. dora recipe demo pretrain.epochs=10; without a name, list them",
        epilog="venice/k=2 is the recipe venice with the ablation k=2; without a name all of both are listed.",
    )  # fmt: skip
    parser.add_argument("name", nargs="?", help=f"one of {', '.join(recipes.names())}; /ABLATION may follow")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="single values to replace")
    parser.set_defaults(run=_recipe)


def _recipe(options: argparse.Namespace) -> int:
    if options.name is None:
        print("\n".join(_listing()))
    else:
        print(recipes.override(recipes.load(options.name), options.overrides).model_dump_json(indent=2))
    return 0


def _listing() -> list[str]:
    lines = [f"{name:16} {(run.__doc__ or '').splitlines()[0]}" for name, run in recipes.RECIPES.items()]
    lines += ["", "ablations, as in venice/k=2:"]
    for name, ablation in ABLATIONS.items():
        values = ", ".join(one.removeprefix("pretrain.") for one in ablation.overrides)
        lines.append(f"{name:20} {ablation.question}: {values if len(values) < 60 else values[:57] + '...'}")
    return lines
