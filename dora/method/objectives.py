"""The objectives by name."""

from dora.config import PretrainConfig
from dora.method.dino import Dino
from dora.method.dora import Dora
from dora.method.ibot import Ibot
from dora.method.objective import Objective


def build(config: PretrainConfig) -> Objective:
    """What the recipe's training minimises."""
    return {"dora": Dora, "dino": Dino, "ibot": Ibot}[config.objective](config)
