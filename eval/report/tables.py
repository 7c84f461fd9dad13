"""ReportData -> tables of text, which the page and the Markdown show alike."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dora.cache import human_size, span
from eval.paper import IMAGENET, ONE_TOUR, PaperNumber
from eval.report.charts import short
from eval.report.data import (
    ClassTable,
    ClipPictures,
    Measurement,
    MeasuringCost,
    ReportData,
    ScoreRow,
    StageRow,
    VideoRow,
)

METRICS = {
    "J_and_F_mean": "J&F mean", "J_mean": "J mean", "J_recall": "J recall", "J_decay": "J decay", "F_mean": "F mean",
    "F_recall": "F recall", "F_decay": "F decay", "top1": "top-1 accuracy", "top5": "top-5 accuracy",
    "top1_last": "top-1 after the last epoch", "top5_last": "top-5 after the last epoch",
    "top1_best": "top-1 of the best look",
    "mIoU": "mIoU", "mAcc": "mean accuracy", "aAcc": "pixel accuracy", "AO": "AO", "SR_0.50": "SR at IoU 0.50",
    "SR_0.75": "SR at IoU 0.75", "AO_still_box": "AO of the first box, unmoved", "jaccard": "Jaccard index",
    "delta1": "depths within 25 %", "RMSE_m": "RMSE, metres",
}  # fmt: skip
# COCO's, of boxes (box_AP50) and masks (mask_AP50); its small is below 32 x 32 px, its large above 96 x 96 px.
KINDS = ("box", "mask")
DETECTION = {
    "AP": "AP", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75", "AP_small": "AP, small objects",
    "AP_medium": "AP, medium objects", "AP_large": "AP, large objects", "AR1": "AR, 1 detection an image",
    "AR10": "AR, 10 detections an image", "AR100": "AR, 100 detections an image", "AR_small": "AR, small objects",
    "AR_medium": "AR, medium objects", "AR_large": "AR, large objects",
}  # fmt: skip
FINE = {"RMSE_m", "log10"}  # in metres and powers of ten, of which a tenth is much
MANY_METRICS = 12  # a score with more is shown by the few that are quoted; all of them stand in a table of their own
# Curves in no table of curves.
TOLD_ELSEWHERE = {"epoch", "seconds", "clips_per_s", "data_wait_share", "memory_bytes", "energy_j"}
UNVERIFIED, IN_DOUBT = "†", "‡"
NOTHING = "–"
PAPER_COLUMNS = ("Paper, same protocol", "Paper, another or one in doubt")
# What a row is, in the files of a score's folder that have numbers for parts of a data set.
PARTS = {
    "classes.json": "class", "categories.json": "class", "objects.json": "object", "sequences.json": "sequence",
}  # fmt: skip


class Cell(NamedTuple):
    """Text of one place in a table; `note` is smaller print below it."""

    text: str
    note: str = ""
    strong: bool = False
    muted: bool = False
    code: bool = False


class Table(NamedTuple):
    """The first cell of a row names it; `numeric` says which columns are aligned as numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[int, ...] = ()
    title: str = ""  # what a reader sees of a table that is folded


def score_table(data: ReportData) -> Table:
    """Our numbers beside the paper's. Each protocol has a column of its own, of ours and of the paper's."""
    variants = list(dict.fromkeys(map(_variant, data.scores)))
    measured = {one.protocol: one for one in data.measurements}
    quoted = [row for row in data.scores if _is_quoted(row, data.scores)]
    return Table(
        "Scores of this encoder and of the paper. Numbers of different protocols cannot be compared: each stands in a "
        "column of its own, the paper's in the first of its columns only if ours were measured by its protocol. "
        f"{UNVERIFIED} unverified, {IN_DOUBT} by a protocol in doubt: see the next table.",
        ("Benchmark", "Metric", *(f"This encoder, {variant}" for variant in variants), *PAPER_COLUMNS),
        tuple(_score_row(row, variants, measured.get(row.protocol)) for row in quoted),
        numeric=tuple(range(2, 2 + len(variants))),
    )


def breakdown_tables(data: ReportData) -> tuple[Table, ...]:
    """All metrics of each score that has many, those of boxes and masks beside each other."""
    protocols = dict.fromkeys(row.protocol for row in data.scores if not _is_quoted(row, data.scores))
    return tuple(_breakdown([row for row in data.scores if row.protocol == protocol]) for protocol in protocols)


def class_tables(data: ReportData) -> tuple[Table, ...]:
    """The numbers of each class, for the benchmarks that have classes."""
    return tuple(_class_table(one, classes) for one in data.measurements for classes in one.classes)


def measuring_cost_table(data: ReportData) -> Table:
    """What each score took, for those that say."""
    return Table(
        "What measuring took, training on labels included, over all interruptions.",
        ("Benchmark", "Device", "Devices", "Wall clock", "Device-hours", "Peak memory of a process"),
        tuple(
            (Cell(one.benchmark, note=one.protocol), Cell(one.cost.device), Cell(f"{one.cost.n_devices:,}"),
             Cell(span(one.cost.seconds)), Cell(short(one.cost.device_hours), note=_energy(one.cost)),
             Cell(human_size(one.cost.memory_bytes)))
            for one in data.measurements if one.cost
        ),
        numeric=(2, 3, 4, 5),
    )  # fmt: skip


def _energy(cost: MeasuringCost) -> str:
    return "" if cost.energy_kwh is None else f"{short(cost.energy_kwh)} kWh"


def learning_table(data: ReportData) -> Table:
    """Where the loss of each benchmark that learns from labels begins and ends."""
    return Table(
        "Loss of what was learnt from labels, in numbers.",
        ("Benchmark", "Iterations", "First", "Last"),
        tuple(
            (Cell(one.benchmark, note=one.protocol), Cell(f"{one.training.steps[-1]:,}"),
             Cell(short(one.training.curves["loss"][0])), Cell(short(one.training.curves["loss"][-1])))
            for one in data.measurements if one.training
        ),
        numeric=(1, 2, 3),
    )  # fmt: skip


def paper_table(data: ReportData) -> Table:
    """Every published number of the metrics that were measured, and where it was found."""
    found = list(dict.fromkeys(published for row in data.scores for published in row.paper))
    cautions = "".join(f" {IN_DOUBT} {caution}" for caution in dict.fromkeys(n.caution for n in found) if caution)
    return Table(
        "Published numbers of these metrics, all ViT-S/16. Unverified: only one source, or only read off a chart."
        f"{cautions}",
        ("Benchmark", "Metric", "Method", "Pretraining", "Value", "Verified", "Found in"),
        tuple(
            (Cell(n.benchmark), Cell(label(n.metric)), Cell(n.method), Cell(n.pretraining),
             Cell(_marked(n, verified=True)), Cell("yes" if n.verified else "no"), Cell(n.provenance))
            for n in found
        ),
        numeric=(4,),
    )  # fmt: skip


def failure_table(data: ReportData) -> Table:
    """The benchmarks without a score."""
    rows = tuple((Cell(name), Cell(reason)) for name, reason in data.failures.items())
    return Table("Benchmarks that failed; the others are not affected.", ("Benchmark", "Why"), rows)


def setting_table(data: ReportData) -> Table:
    """The recipe in a few words."""
    rows = tuple((Cell(name), Cell(value)) for name, value in data.setting.items())
    return Table("The encoder and its training. The complete recipe is in report.json.", ("Part", "Value"), rows)


def cost_table(data: ReportData) -> Table:
    """What each artifact took, and whether this run made it."""
    made = sum(row.seconds for row in data.stages if not row.reused)
    reused = sum(row.seconds for row in data.stages if row.reused)
    took = f"; the run took {span(data.run.seconds)} in all" if data.run.seconds is not None else ""
    return Table(
        f"Time and space of each stage. {span(made)} spent in this run, {span(reused)} reused from earlier ones{took}.",
        ("Stage", "What", "Time", "On disk", "Machine", "In this run"),
        tuple(
            (Cell(row.stage), Cell(row.name), Cell(span(row.seconds)), Cell(human_size(row.size_bytes)),
             Cell(row.gpu or "CPU", note=row.host), Cell("reused" if row.reused else "made"))
            for row in data.stages
        ),
        numeric=(2, 3),
    )  # fmt: skip


def curve_table(data: ReportData) -> Table:
    """Where each curve begins and ends; empty without a log."""
    training = data.training
    rows = tuple(
        (
            Cell("learning rate" if name == "lr" else name.replace("_", " ")),
            Cell(short(values[0])),
            Cell(short(values[-1])),
        )
        for name, values in (training.curves.items() if training else ())
        if name not in TOLD_ELSEWHERE
    )
    return Table("The curves in numbers.", ("Curve", "First", "Last"), rows, numeric=(1, 2))


def throughput_table(data: ReportData) -> Table:
    """How fast training went and whether it waited for data; empty without a log."""
    training, facts = data.training, dict[str, str]()
    if training and training.clips_per_s is not None:
        facts["clips a second"] = f"{training.clips_per_s:.1f}"
    if training and training.data_wait_share is not None:
        facts["time spent waiting for data"] = f"{training.data_wait_share:.1%}"
    if training and training.memory_bytes is not None:
        facts["peak memory of a process"] = human_size(training.memory_bytes)
    if training and training.energy_kwh is not None:
        facts["energy of the GPUs"] = f"{short(training.energy_kwh)} kWh"
    rows = tuple((Cell(name), Cell(value)) for name, value in facts.items())
    return Table("Speed of the pretraining.", ("Measure", "Value"), rows, numeric=(1,))


def video_table(data: ReportData) -> Table:
    """The footage."""
    return Table(
        "The footage that the encoder learnt from.",
        ("Video", "Length", "Frames", "Picture", "File", "Faces blurred", "sha256"),
        tuple(
            (Cell(row.name, note=row.source), Cell(span(row.duration_s)),
             Cell(f"{row.n_frames:,}", note=_frames_note(row)), Cell(f"{row.width} × {row.height}"),
             Cell(human_size(row.size_bytes)), Cell(row.faces_blurred), Cell(row.sha256, code=True))
            for row in data.videos
        ),
        numeric=(1, 2, 3, 4),
    )  # fmt: skip


def _frames_note(row: VideoRow) -> str:
    damaged = f", {row.n_bad_frames:,} damaged" if row.n_bad_frames else ""
    return f"{row.fps:g} a second{damaged}"


def lineage_table(data: ReportData) -> Table:
    """Which artifact was made from which, by which code."""
    names = {row.fingerprint: row.stage for row in data.stages}
    return Table(
        "Lineage. The fingerprint says what was asked for (16 digits name the folder), the digest what came out.",
        ("Stage", "Fingerprint", "Digest", "Made from", "Code", "When (UTC)"),
        tuple(
            (Cell(row.stage, note=row.name), Cell(row.fingerprint[:16], code=True), Cell(row.digest[:16], code=True),
             Cell(_made_from(row, names)), Cell(row.commit or "not recorded", note=f"stage version {row.version}"),
             Cell(row.created[:16].replace("T", " ")))
            for row in data.stages
        ),
    )  # fmt: skip


def library_table(data: ReportData) -> Table:
    """Versions in use when the artifacts were made; more than one if they differ between stages."""
    versions: dict[str, set[str]] = {}
    for row in data.stages:
        for name, version in row.libraries.items():
            versions.setdefault(name, set()).add(version)
    rows = tuple((Cell(name), Cell(", ".join(sorted(found)))) for name, found in sorted(versions.items()))
    return Table("Library versions.", ("Library", "Version"), rows)


def clip_caption(clip: ClipPictures) -> str:
    """What the pictures of a clip show, in two or three sentences."""
    first, last = clip.times_s[0], clip.times_s[-1]
    heads = ", ".join(str(head) for head in clip.heads)
    return (
        f"{clip.video}, {first:.1f} s to {last:.1f} s, {clip.grid[0]} × {clip.grid[1]} patches a frame; objects 1 to "
        f"{len(clip.heads)} were found by heads {heads}. In the first frame the masks of two objects overlap by "
        f"{clip.refined_overlap:.0%} (mean IoU) with Sinkhorn-Knopp, by {clip.unrefined_overlap:.0%} without."
        f"{_fit(clip)}"
    )


def _fit(clip: ClipPictures) -> str:
    if clip.thing_ious is None:
        return ""
    ious = ", ".join(f"{iou:.0%}" for iou in clip.thing_ious)
    return f" Over the clip, each object's masks and the one thing that they fit best have an IoU of {ious}."


def what_masks_are(data: ReportData) -> str:
    """What the masks that are drawn mean to the training: a student of DINO, say, never sees any."""
    pretrain = data.recipe["pretrain"] if data.recipe else None
    if pretrain is None or (pretrain["objective"], pretrain["tracking"]["mask"]) == ("dora", "tracked"):
        return "Masks are what the student gets to see; the rest, dark here, is gone."
    return "The student of this training was not shown these masks: they say what this encoder would find."


def label(metric: str) -> str:
    """A metric's name for people: "top1_k10" is "top-1 accuracy, k = 10", "mIoU_lr_8e-4" is "mIoU, lr 8e-4"."""
    kind, part = _kind(metric)
    if kind:
        return f"{kind} {DETECTION[part]}"
    name, _, rate = metric.rpartition("_lr_")
    if name in METRICS:
        return f"{METRICS[name]}, lr {rate}"
    name, _, k = metric.rpartition("_k")
    return f"{METRICS.get(name, name)}, k = {k}" if k.isdigit() else METRICS.get(metric, metric.replace("_", " "))


def number(value: float, metric: str = "") -> str:
    """One digit after the point: finer differences are noise where one counts in percent. Of FINE, three."""
    return f"{value:.{_n_digits(metric)}f}"


def difference(value: float, metric: str) -> str:
    """The same with its sign."""
    return f"{value:+.{_n_digits(metric)}f}"


def _n_digits(metric: str) -> int:
    return 3 if metric in FINE else 1


def markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table, its caption above. A first cell that repeats the one above it stays empty."""
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    lines = [table.columns, rule]
    above = None
    for row in table.rows:
        lines.append(["" if row[0] == above else _markdown_cell(row[0]), *map(_markdown_cell, row[1:])])
        above = row[0]
    return "\n".join([table.caption, "", *(f"| {' | '.join(cells)} |" for cells in lines)])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = re.sub(r"&(?=#?\w+;)", "&amp;", text).replace("<", "&lt;").replace("`", "'")
    text = re.sub(r"[\\*~\[\]|]", r"\\\g<0>", text)
    at_edges = r"(?<![^\W_])_+|_+(?![^\W_])"  # of words; inside of one underscores mean nothing
    return " ".join(re.sub(at_edges, lambda found: r"\_" * len(found[0]), text).split())


def _variant(row: ScoreRow) -> str:
    """The protocol without its benchmark: numbers of different variants never share a column."""
    if row.paper_protocol:
        return "paper's protocol"
    return "standard protocol" if row.variant == "" else f"{row.variant or 'another'} protocol"


def _is_quoted(row: ScoreRow, rows: Sequence[ScoreRow]) -> bool:
    """Whether a metric stands in the table of scores, or among too many to stand there."""
    of_score = [other for other in rows if other.protocol == row.protocol]
    headline = next((other.metric for other in of_score if other.headline), "")
    is_sibling = _kind(row.metric)[1] == _kind(headline)[1]  # mask AP, where box AP is the headline
    return len(of_score) <= MANY_METRICS or row.headline or bool(row.paper) or is_sibling


def _kind(metric: str) -> tuple[str, str]:
    """What a detection metric is of, and which it is: "box", "AP50". Of another: "", and its name."""
    kind, _, part = metric.partition("_")
    return (kind, part) if kind in KINDS and part in DETECTION else ("", metric)


def _breakdown(rows: Sequence[ScoreRow]) -> Table:
    values = {_kind(row.metric): row.value for row in rows}
    kinds, parts = (list(dict.fromkeys(names)) for names in zip(*values, strict=True))

    def cell(kind: str, part: str) -> Cell:
        return Cell(number(values[kind, part], part)) if (kind, part) in values else Cell(NOTHING, muted=True)

    return Table(
        f"Every metric of {rows[0].benchmark} by {rows[0].protocol}.",
        ("Metric", *(kind.capitalize() or "Value" for kind in kinds)),
        tuple((Cell(DETECTION.get(part) or label(part)), *(cell(kind, part) for kind in kinds)) for part in parts),
        numeric=tuple(range(1, 1 + len(kinds))),
        title=f"{rows[0].benchmark}: all {len(rows)} metrics",
    )


def _class_table(one: Measurement, classes: ClassTable) -> Table:
    part = PARTS[classes.file]
    left_out = f" Left out, for there is no number: {classes.n_left_out:,} more." if classes.n_left_out else ""
    of_numbers = [
        column for column in range(1, len(classes.columns))
        if not any(isinstance(row[column], str) for row in classes.rows)
    ]  # fmt: skip
    return Table(
        f"Each {part} of {one.benchmark} by {one.protocol}.{left_out}",
        (part.capitalize(), *map(label, classes.columns[1:])),
        tuple(tuple(map(_value, row, classes.columns)) for row in classes.rows),
        numeric=tuple(of_numbers),
        title=f"{one.benchmark}: each {part}",
    )


def _value(value: str | int | float | None, metric: str) -> Cell:
    if value is None:
        return Cell(NOTHING, muted=True)
    if isinstance(value, float):
        return Cell(number(value, metric))
    return Cell(value if isinstance(value, str) else f"{value:,}")


def _score_row(row: ScoreRow, variants: Sequence[str], measured: Measurement | None) -> tuple[Cell, ...]:
    chosen = [n for n in row.paper if (n.method, n.pretraining) in (("DoRA", ONE_TOUR), ("DINO", IMAGENET))]
    # A number whose protocol is in doubt is not beside ours, whatever ours is.
    same = [n for n in chosen if row.paper_protocol and not n.caution]
    other = [n for n in chosen if n not in same]
    notes = "".join(f" {note.rstrip('.')}." for note in measured.notes) if measured else ""
    return (
        Cell(row.benchmark, note=f"{row.protocol}, {row.n_samples:,} samples{notes and '.'}{notes}"),
        Cell(label(row.metric)),
        *(
            Cell(number(row.value, row.metric), strong=row.headline)
            if variant == _variant(row)
            else Cell(NOTHING, muted=True)
            for variant in variants
        ),
        _published(same),
        _published(other, muted=True),
    )


def _published(found: Sequence[PaperNumber], *, muted: bool = False) -> Cell:
    text = ", ".join(f"{n.method} {_marked(n, verified=n.verified)}" for n in found)
    return Cell(text or NOTHING, muted=muted or not text)


def _marked(published: PaperNumber, *, verified: bool) -> str:
    return number(published.value) + (UNVERIFIED if not verified else "") + (IN_DOUBT if published.caution else "")


def _made_from(row: StageRow, names: dict[str, str]) -> str:
    parts = [f"{names.get(made_from, name)} {made_from[:8]}" for name, made_from in row.inputs.items()]
    return ", ".join(parts) or NOTHING


def _markdown_cell(cell: Cell) -> str:
    text, note = escape_markdown(cell.text), escape_markdown(cell.note)
    text = f"**{text}**" if cell.strong else f"`{cell.text}`" if cell.code else text
    return f"{text} ({note})" if note else text
