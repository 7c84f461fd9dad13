"""The paper's analysis of its data set (Sec. 3.3, Fig. 2) for any video: light, cuts, objects, classes, motion."""

from dora.data.statistics.analysis import Analysis, analyse
from dora.data.statistics.config import StatisticsConfig

__all__ = ["Analysis", "StatisticsConfig", "analyse"]
