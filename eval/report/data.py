"""ReportData: what a report says, as values. report.json is this model; page and Markdown are written from it alone.

The schema is stable: while `schema_version` is the same, fields are added, never renamed or given another meaning.
A number that is NaN or infinite is written as the string "NaN", "Infinity" or "-Infinity".
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from dora.config import Frozen
from eval.paper import PaperNumber


class Part(Frozen):
    """A frozen value whose NaN survives JSON."""

    model_config = ConfigDict(ser_json_inf_nan="strings")


class RunFacts(Part):
    """The run that made a report. What it reused stands in the artifacts; none of this enters a fingerprint."""

    name: str = Field(description="what the user started: a recipe's or a deployment's name")
    seconds: float | None = Field(None, description="wall clock from the start of the run to its report")
    commands: tuple[str, ...] = Field((), description="what to type to get the same again")


class ScoreRow(Part):
    """One metric of one benchmark, and what the paper says about it."""

    benchmark: str
    protocol: str
    paper_protocol: bool = Field(description="the protocol is the paper's; only then do its numbers compare")
    metric: str
    headline: bool = Field(description="the metric that the benchmark is quoted by")
    value: float
    n_samples: int
    paper: tuple[PaperNumber, ...]
    variant: str | None = Field(
        default=None,
        description="what sets the protocol apart from the paper's: short, miniature, digits; empty: nothing",
    )


class Curves(Part):
    """A training log, thinned to a few hundred points: means of stretches, each at its stretch's last step."""

    steps: tuple[int, ...]
    curves: dict[str, tuple[float, ...]] = Field(description="loss, lr, teacher_entropy, … one value a step of `steps`")


class Training(Curves):
    """The log of the pretraining."""

    uniform_entropy: float = Field(description="nats; teacher_entropy of a teacher that prefers no prototype")
    clips_per_s: float | None = Field(description="median over the log")
    data_wait_share: float | None = Field(description="mean over the log; of the time, 0 to 1")
    memory_bytes: int | None = Field(description="peak of one process")
    energy_kwh: float | None = Field(default=None, description="of all GPUs, where they tell it")


class MeasuringCost(Part):
    """What measuring took, training on labels included, over all interruptions."""

    device: str
    n_devices: int
    seconds: float = Field(description="wall clock")
    device_hours: float
    memory_bytes: int = Field(description="peak of one process")
    energy_kwh: float | None = Field(default=None, description="of all GPUs, where they tell it")


class ClassTable(Part):
    """A benchmark's numbers for each class, object or sequence; those without any are left out."""

    file: str = Field(description="in the score's folder, where all are; it says of what")
    columns: tuple[str, ...] = Field(description="the first is the name")
    rows: tuple[tuple[str | int | float | None, ...], ...] = Field(description="null: there is no such number")
    n_left_out: int


class Measurement(Part):
    """One score apart from its numbers, which are the rows of `scores` with its protocol."""

    benchmark: str
    protocol: str
    n_samples: int
    seconds: float = Field(description="that making the score took, in its last run")
    notes: tuple[str, ...] = Field(description="sentences that belong beside the numbers")
    cost: MeasuringCost | None = Field(description="null: the benchmark does not count it")
    training: Curves | None = Field(description='of what was learnt from labels, with a "loss"; null: nothing was')
    classes: tuple[ClassTable, ...]


class Strip(Frozen):
    """Pictures side by side in one file."""

    label: str
    file: str = Field(description="path inside the report's folder")
    columns: tuple[str, ...] = Field(description="what each picture is")


class ClipPictures(Part):
    """One clip through the teacher: where frame 0 looks, which objects it finds, where they go."""

    video: str
    times_s: tuple[float, ...] = Field(description="of the frames, in the video")
    grid: tuple[int, int] = Field(description="patches: rows, columns")
    heads: tuple[int, ...] = Field(description="the attention head that discovered each object")
    sheet: str = Field(description="file inside the report's folder with all of the following on one picture")
    over_time: tuple[Strip, ...] = Field(description="frames, then each object's tracking maps and masks")
    attention: Strip = Field(description="[CLS] attention of frame 0, a picture a head")
    unrefined: Strip = Field(description="frame 0's tracking maps without Sinkhorn-Knopp, a picture an object")
    refined: Strip = Field(description="the same with Sinkhorn-Knopp")
    unrefined_overlap: float = Field(description="mean IoU of two objects' masks in frame 0, 0 to 1")
    refined_overlap: float
    thing_ious: tuple[float, ...] | None = Field(
        default=None,
        description="for each object the IoU of its masks, over the clip, with the thing that they fit best, 0 to 1; "
        "null: what is there is not known",
    )


class BenchmarkPicture(Frozen):
    """A picture that a benchmark left."""

    benchmark: str
    name: str
    file: str = Field(description="path inside the report's folder")
    protocol: str = ""


class StageRow(Part):
    """One finished artifact: what it cost and where it came from."""

    stage: str
    name: str
    reused: bool = Field(description="served from the cache in the run that made this report")
    seconds: float = Field(description="that making it took, whenever that was")
    size_bytes: int
    host: str
    gpu: str | None
    created: str
    fingerprint: str
    digest: str
    version: int
    inputs: dict[str, str] = Field(description="name -> fingerprint")
    commit: str | None
    libraries: dict[str, str]


class VideoRow(Part):
    """The footage that everything was learnt from."""

    name: str
    duration_s: float
    n_frames: int
    fps: float
    width: int
    height: int
    size_bytes: int
    sha256: str
    source: str = Field(description="where the file came from, as far as that is known")
    faces_blurred: str
    n_bad_frames: int = Field(description="pictures that could not be decoded whole")


class ReportData(Part):
    """Everything that a report says."""

    schema_version: Literal[1] = 1
    title: str
    summary: str
    created: str
    run: RunFacts
    setting: dict[str, str] = Field(description="the encoder and its training in a few words")
    recipe: dict[str, Any] | None = Field(description="dora.config.Recipe; null: the checkpoint was given as a file")
    scores: tuple[ScoreRow, ...]
    failures: dict[str, str] = Field(description="benchmark -> why it has no score")
    training: Training | None = Field(description="null: there is no log")
    clips: tuple[ClipPictures, ...]
    pictures: tuple[BenchmarkPicture, ...]
    stages: tuple[StageRow, ...]
    videos: tuple[VideoRow, ...]
    measurements: tuple[Measurement, ...] = ()
