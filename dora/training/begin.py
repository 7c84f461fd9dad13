"""The network that a training begins with."""

import torch

from dora.config import PretrainConfig
from dora.method.network import Network, build_network
from dora.seeds import derived_seed
from dora.weights.load import start_from


def first_student(config: PretrainConfig) -> Network:
    """The student before its first step, to which the teacher is equal: from the recipe's seed, or `config.start`.

    Draws from torch's generator, which it seeds.

    Raises:
        FileNotFoundError, ValueError: as dora.weights.load.load_weights, if it begins with weights.
    """
    torch.manual_seed(derived_seed(config.seed, "weights"))
    student = build_network(config, drop_path=True)
    if config.start:
        start_from(student, config.start)
    return student
