"""The encoders of a study: variants of a recipe, each learnt from several seeds."""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from dora import recipes
from dora.artifacts import Checkpoint, Machine
from dora.config import Frozen, Recipe
from eval.raw_pixels import raw_pixels
from eval.untrained import untrained

UNTRAINED, RAW_PIXELS = "untrained", "raw-pixels"
UNLEARNT = {UNTRAINED: "networks as they are initialised", RAW_PIXELS: "pixels of patches, in place of a network"}


class Cell(Frozen):
    """One encoder of a study."""

    variant: str = Field(description="what its seeds share, and what a row of the table is called")
    seed: int
    recipe: Recipe
    trained: bool = Field(default=True, description="false: one of UNLEARNT, of the recipe's architecture")

    @property
    def name(self) -> str:
        """As logs and errors call it."""
        return f"{self.variant} seed {self.seed}"

    @property
    def footage(self) -> str:
        """What tells apart the videos, and the shards of them, that cells learn from."""
        return self.recipe.model_dump_json(include={"videos", "shards"})


def cells(
    variants: Sequence[str], grid: Mapping[str, Sequence[Any]], *, n_seeds: int, overrides: Sequence[str] = ()
) -> tuple[Cell, ...]:
    """Every variant with every combination of the grid's values, each from `n_seeds` seeds.

    Variants are recipes by name, such as "demo_dino" or "demo/no-sinkhorn"; "untrained" among them are networks that
    have learnt nothing, of the first recipe's architecture, and "raw-pixels" the pixels of its patches. `grid` maps a
    path in the recipe to the values that it takes, such as {"pretrain.tracking.n_objects": [1, 3]}; `overrides` hold
    in every cell.

    Raises:
        ValueError: for an unknown recipe, path or value, or if two cells would be the same.
    """
    learnt = [name for name in variants if name not in UNLEARNT]
    if not learnt or n_seeds < 1:
        raise ValueError(
            f"expected at least one recipe and one seed, got {', '.join(variants) or 'no variant'} and {n_seeds}. "
            f"Recipes: {', '.join(recipes.names())}."
        )
    if empty := [path for path, values in grid.items() if not values]:
        raise ValueError(f"the grid has no value for {', '.join(empty)}. Name at least one, or leave the path out.")
    found: list[Cell] = []
    for name in variants:
        is_trained = name not in UNLEARNT
        base = recipes.override(recipes.load(name if is_trained else learnt[0]), overrides)
        for chosen in _combinations(grid) if is_trained else ({},):
            variant = ", ".join([name, *(f"{_short(path, grid)}={_text(value)}" for path, value in chosen.items())])
            changed = [f"{path}={json.dumps(value)}" for path, value in chosen.items()]
            for seed in range(n_seeds):
                recipe = recipes.override(base, [*changed, f"pretrain.seed={seed}"])
                found.append(Cell(variant=variant, seed=seed, recipe=recipe, trained=is_trained))
    _refuse_twins(found)
    return tuple(found)


def unlearnt(cell: Cell, machine: Machine) -> Checkpoint:
    """A cell's network before any training, in root/untrained or root/raw_pixels; of UNLEARNT the encoder itself."""
    backbone = cell.recipe.pretrain.backbone
    if cell.variant == RAW_PIXELS:
        return raw_pixels(backbone, machine)
    (fresh,) = untrained(backbone, machine, seeds=(cell.seed,))
    return fresh


def changes(recipe: Recipe, reference: Recipe) -> dict[str, Any]:
    """Path -> value of what `recipe` has otherwise than `reference`, but for the seed."""
    mine, theirs = (_flat(one.model_dump(mode="json")) for one in (recipe, reference))
    paths = [path for path in mine if path != "pretrain.seed" and (path not in theirs or mine[path] != theirs[path])]
    return {path: mine[path] for path in paths}


def _combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _short(path: str, grid: Mapping[str, Sequence[Any]]) -> str:
    """The path's last word, or as many words as tell it from the grid's other paths."""
    words = path.split(".")
    for n in range(1, len(words) + 1):
        end = words[-n:]
        if sum(other.split(".")[-n:] == end for other in grid) == 1:
            return ".".join(end)
    return path


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, part in value.items():  # pyright: ignore[reportUnknownVariableType]
        found |= _flat(part, f"{path}.{key}" if path else str(key))  # pyright: ignore[reportUnknownArgumentType]
    return found


def _refuse_twins(found: Sequence[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in found:
        what = cell.model_dump_json(exclude={"variant"} if cell.trained else None)  # what learns nothing is its name
        twin = seen.setdefault(what, cell)
        if twin is not cell:
            raise ValueError(f"{twin.name} and {cell.name} are the same training. Leave one of them out.")
