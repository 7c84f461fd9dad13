"""How long a stage will take and how much it will leave, going by the same stage's earlier artifacts."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

from dora.artifacts import Machine
from dora.cache import Manifest, plain, size_bytes, span
from dora.config import MiniatureVideo, PretrainConfig, Recipe, VideoConfig
from dora.inventory import entries
from dora.planning.amounts import BYTES_PER_PIXEL, Amounts, amounts

# What decides the work of one clip and how fast it is done, and what a checkpoint holds.
SAME_WORK = ("objective", "clip", "augment", "backbone", "head", "tracking", "precision")
SAME_SPEED = ("backbone", "precision")  # decide, nearly, how many operations there are in a second


class Estimate(NamedTuple):
    """What something will take; None: not known."""

    seconds: float | None = None
    size_bytes: float | None = None
    source: str = "not known"  # of the seconds, in words


class Earlier:
    """What is finished below a root, as a guide to what is not."""

    def __init__(self, recipe: Recipe, machine: Machine) -> None:
        self._recipe, self._machine = recipe, machine
        self._manifests: dict[str, list[Manifest]] = {}

    def of(self, stage: str) -> list[Manifest]:
        """The stage's finished artifacts, the newest first."""
        if stage not in self._manifests:
            found = [entry.manifest for entry in entries(self._machine.root, stage) if entry.manifest]
            self._manifests[stage] = sorted(found, key=lambda made: made.created, reverse=True)
        return self._manifests[stage]

    def video(self, config: VideoConfig) -> Estimate:
        """Of acquiring and verifying; how long a download takes is not known."""
        if not isinstance(config, MiniatureVideo):
            return Estimate(source="not known: it depends on the network, or on the disk")
        work = _pixels(config)
        return scaled(
            self.of("video"),
            work,
            lambda made: _pixels(MiniatureVideo.model_validate(_without(made.config, "renderer"))),
            fits=lambda made: made.config.get("kind") == "miniature",
        )

    def shards(self, name: str) -> Estimate:
        """Of one video's frames: the time by decoded pictures, the space by stored pixels."""
        video = next((one for one in self.amounts.videos if one.known.name == name), None) if self.amounts else None
        if video is None:
            return Estimate()
        decoded = video.known.duration_s * video.known.fps
        found = scaled(self.of("shards"), decoded, lambda made: made.facts["n_source_frames"])
        per_pixel = [made.facts["size_bytes"] / _stored_pixels(made) for made in self.of("shards")[:1]]
        size = video.n_frames * video.width * video.height * (per_pixel or [BYTES_PER_PIXEL])[0]
        return found._replace(size_bytes=size)

    def checkpoint(self, config: PretrainConfig) -> Estimate:
        """Of the training: by an earlier one's clips, or by its operations if these differ; else by arithmetic."""
        if self.amounts is None:
            return Estimate()
        asked, n_clips = plain(config), self.amounts.n_clips
        like = [made for made in self.of("checkpoint") if all(made.config.get(k) == asked[k] for k in SAME_WORK)]
        if like:
            found = scaled(like, n_clips, lambda made: made.facts["n_clips"], of=lambda made: made.total_s)
            return found._replace(size_bytes=size_bytes(like[0]))
        near = [made for made in self.of("checkpoint") if all(made.config.get(k) == asked[k] for k in SAME_SPEED)]
        found = (
            scaled(near, n_clips * _flops(config), _operations, of=lambda made: made.total_s) if near else Estimate()
        )
        if found.seconds is not None:
            return found._replace(size_bytes=size_bytes(near[0]), source=f"by operations {found.source}")
        return Estimate(source=_by_arithmetic(config, self.amounts))

    def score(self, stage: str, config: Mapping[str, Any], otherwise: str) -> Estimate:
        """Of a benchmark, by the same protocol's earlier scores; `otherwise` is what its file says."""
        found = again(next((made for made in self.of(stage) if made.config["config"] == config), None))
        return found if found.seconds is not None else Estimate(source=otherwise)

    def last(self, stage: str) -> Estimate:
        """As the stage's newest artifact."""
        return again(next(iter(self.of(stage)), None))

    @cached_property
    def amounts(self) -> Amounts | None:
        """What can be counted; None if a video is not what the recipe needs, which its own stage will say."""
        try:
            return amounts(self._recipe, self._machine)
        except (ValueError, OSError):
            return None


def again(made: Manifest | None) -> Estimate:
    """As long as that took."""
    return Estimate(made.seconds, size_bytes(made), f"as {_told(made)}") if made else Estimate()


def scaled(
    manifests: Sequence[Manifest], work: float, work_of: Callable[[Manifest], float], *,
    fits: Callable[[Manifest], bool] = lambda made: True, of: Callable[[Manifest], float] = lambda made: made.seconds,
) -> Estimate:  # fmt: skip
    """By the newest that fits: in proportion to the work that there is."""
    made = next((made for made in manifests if fits(made) and work_of(made)), None)
    if made is None:
        return Estimate()
    ratio = work / work_of(made)
    times = f"{ratio:.3g} times {_told(made)}" if abs(ratio - 1) > 1e-3 else f"as {_told(made)}"
    return Estimate(of(made) * ratio, size_bytes(made) * ratio, times)


def _told(made: Manifest) -> str:
    where = f"{made.host}, {made.gpu}" if made.gpu else made.host
    return f"{made.stage}/{made.fingerprint[:8]} ({span(made.total_s)} on {where}, {made.created[:10]})"


def _by_arithmetic(config: PretrainConfig, found: Amounts) -> str:
    from dora.planning.table import GPUS, SUSTAINED, gpu_hours

    hours = gpu_hours(found, _flops(config))
    told = ", ".join(f"{name} {span(3600 * hours[name])}" for name in GPUS)
    return f"not measured; by arithmetic one {told} at {100 * SUSTAINED:.0f} % of its peak (`dora plan` measures)"


def _operations(made: Manifest) -> float:
    try:
        return made.facts["n_clips"] * _flops(PretrainConfig.model_validate(made.config))
    except ValueError:  # of an older version
        return 0.0


def _flops(config: PretrainConfig) -> float:
    return _flops_per_clip(config.model_copy(update={"seed": 0}).model_dump_json())


@cache
def _flops_per_clip(config: str) -> float:
    from dora.training.flops import flops_per_clip

    return flops_per_clip(PretrainConfig.model_validate_json(config))


def _pixels(config: MiniatureVideo) -> float:
    return config.duration_s * config.fps * config.width * config.height


def _stored_pixels(made: Manifest) -> float:
    return made.facts["n_frames"] * made.facts["width"] * made.facts["height"]


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}
