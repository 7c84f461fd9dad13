"""What a checkpoint sees in a clip, drawn: where its heads look, and the objects that it finds and follows."""

from dora.viz.config import ViewConfig
from dora.viz.show import Shown, visualise

__all__ = ["Shown", "ViewConfig", "visualise"]
