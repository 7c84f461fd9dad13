"""The nouns on disk: Video -> Shards -> Checkpoint (-> Score -> Report, in eval).

Each is a finished folder under the machine's root, its fingerprint and a few facts: small frozen values that
travel between stages as JSON. No tensor does. Machine is where things run; it never changes a number.
"""

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from dora.config import Frozen
from dora.data.walking_tours import tour


class Artifact(Frozen):
    """A finished folder of the cache."""

    folder: Path = Field(description="absolute")
    fingerprint: str = Field(description="sha256 of stage, version, config and inputs: what was asked for")
    digest: str = Field(
        description="sha256 over the files: what came out; two runs of one fingerprint may differ in it"
    )
    reused: bool = Field(default=False, description="served from the cache in this run")


class Video(Artifact):
    """One playable video file."""

    name: str
    path: Path
    duration_s: float
    fps: float
    width: int
    height: int
    n_frames: int
    sha256: str
    source: str = Field(default="", description="where it came from, and its licence if that is known")


class Shards(Artifact):
    """JPEG frames of one video in WebDataset tars with an index (dora/data/shards.py)."""

    name: str
    n_frames: int
    n_tars: int
    size_bytes: int
    fps: float
    width: int
    height: int
    n_source_frames: int = Field(description="pictures of the video")
    n_bad_frames: int = Field(description="of them that could not be decoded whole")
    faces: str = Field(description='whose detector found the faces that were blurred, or "none"')
    n_faces: int = Field(description="over all stored frames")
    store: str | None = Field(description="URL of the folder that keeps the tars; null: this one")


class Checkpoint(Artifact):
    """A pretrained student and teacher in one safetensors file (dora/training/checkpoint.py)."""

    path: Path
    n_steps: int
    n_clips: int = Field(description="clips seen in all")
    loss: float | None = Field(description="mean of the last epoch")


class Network(Frozen):
    """How this machine reaches the internet."""

    proxy: SecretStr | None = Field(default=None, description="http://user:password@host:port; never logged")
    cookies: Path | None = Field(default=None, description="Netscape cookies.txt for yt-dlp; read, never written")
    rate_limit: float | None = Field(default=None, gt=0, description="bytes a second")
    timeout_s: float = Field(default=30, gt=0, description="without a single byte")
    retries: int = Field(default=10, ge=0, description="in a row without progress, at growing intervals")
    first_wait_s: float = Field(default=1, ge=0, description="before the first retry; doubles up to a minute")
    n_at_once: int = Field(default=1, ge=1, description="videos that are acquired at once; they share rate_limit")


class Slurm(Frozen):
    """How this machine asks Slurm for the GPUs of a training or an evaluation; docs/slurm.md has an example.

    What is null or empty is left to the cluster's own defaults. Folders must be the same on all its hosts.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = Field(default=None, description="limit as sbatch takes it, e.g. 1-00:00:00")
    nodes: int = Field(default=1, ge=1, description="for pretraining; a benchmark takes one")
    gres: str | None = Field(default=None, description="a node, e.g. gpu:8; jobs of one process ask for one of these")
    cpus_per_node: int | None = Field(default=None, ge=1)
    memory: str | None = Field(default=None, description="a node, e.g. 400G")
    options: tuple[str, ...] = Field(default=(), description="more of sbatch's, e.g. --exclusive, --constraint=h100")
    srun_options: tuple[str, ...] = Field(
        default=(), description="more of srun's, e.g. --container-image=/img/dora.sqsh"
    )
    setup: tuple[str, ...] = Field(default=(), description="lines of shell on the first node, e.g. module load cuda/13")
    environment: dict[str, str] = Field(default_factory=dict, description="of the job, e.g. NCCL_SOCKET_IFNAME = ib0")
    within: tuple[str, ...] = Field(
        default=(), description="before the command: apptainer exec --nv dora.sif, as words"
    )
    python: str | None = Field(default=None, description="the interpreter there; null: the one that runs the flow")
    warn_s: int = Field(default=120, ge=1, le=65535, description="warning before the time limit, to save the training")
    requeue: bool = Field(
        default=True, description="let a stopped, pre-empted or broken down job wait for another turn"
    )
    stop_s: float = Field(
        default=20, ge=0, description="of a cancelled run's job, to save; Prefect's workers kill after 30"
    )
    ask_every_s: float = Field(default=10, gt=0, description="seconds between questions to the controller")


class Dask(Frozen):
    """Where videos are acquired and sharded, if not in the flow's own process; docs/hosts.md has examples.

    What one worker sees at a path, the flow and all others must see there too.
    """

    cluster: str = Field(
        default="local",
        pattern=r"^(local|slurm|(tcp|tls)://\S+)$",
        description="tcp:// or tls:// and the address of a scheduler that runs; slurm: workers are jobs; "
        "local: they are processes on this host, to try it",
    )
    n_workers: int = Field(default=2, ge=1, description="of a local or Slurm cluster; each does one thing at a time")
    stages: tuple[Literal["acquire", "shard"], ...] = Field(
        default=("acquire", "shard"), description="the others stay here: acquire, if the hosts have no internet"
    )
    # Of a worker in Slurm; all else is as [slurm] says, but for its GPUs.
    partition: str | None = Field(default=None, description="of Slurm; null: that of [slurm]")
    time: str | None = Field(default=None, description="of Slurm; null: that of [slurm]")
    cpus: int = Field(default=8, ge=1, description="cores of a worker in Slurm")
    memory: str = Field(default="16G", description="of a worker in Slurm")
    interface: str | None = Field(
        default=None, description="network of this host that Slurm's nodes reach, e.g. ib0; null: all"
    )


class Hosts(Frozen):
    """Several hosts, without a scheduler, that pretrain together; on the others runs `dora pretrain join`."""

    n: int = Field(default=1, ge=1, description="with this one")
    address: str | None = Field(default=None, description="of this one, as the others reach it")
    port: int = Field(default=29500, ge=1024, le=65535, description="free on this one")

    @model_validator(mode="after")
    def _can_meet(self) -> "Hosts":
        if self.n > 1 and not self.address:
            raise ValueError("several hosts need the address of this one, as the others reach it, e.g. 10.0.0.1")
        return self


class Machine(BaseSettings):
    """What does not change the numbers: folders, devices, processes. From arguments, DORA_* variables, machine.toml.

    Example of a machine.toml:
        root = "/scratch/me/dora"
        n_processes = 8
        [datasets]
        davis = "/data/DAVIS"
        [videos]
        venice = "/data/walking_tours/venice.mp4"
    """

    model_config = SettingsConfigDict(
        env_prefix="DORA_", env_nested_delimiter="__", toml_file="machine.toml", extra="forbid", frozen=True
    )

    root: Path = Field(default=Path("artifacts"), description="every artifact of every stage lives below")
    datasets: dict[str, Path] = Field(default_factory=dict, description="data set name -> its folder")
    videos: dict[str, Path] = Field(default_factory=dict, description="Walking Tours city -> video file")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    launcher: Literal["local", "slurm"] = Field(
        default="local", description="where the long jobs run: here, or as slurm says"
    )
    slurm: Slurm = Slurm()
    hosts: Hosts = Field(default=Hosts(), description="that pretrain together, started by hand; not for slurm")
    dask: Dask | None = Field(default=None, description="acquire and shard on a Dask cluster; null: in the flow")
    n_processes: int = Field(
        default=0, ge=0, description="training processes on a host, if a batch has so many parts; 0: one a GPU, or one"
    )
    threads: int = Field(default=0, ge=0, description="CPU threads a process; 0: all cores, training: as torch does")
    cells_at_once: int = Field(
        default=1, ge=1, description="of a study: each has its share of cores and GPUs, or its own jobs in Slurm"
    )
    n_workers: int = Field(default=0, ge=0, description="loader processes a training process; 0: load in the process")
    augment: Literal["auto", "device", "workers"] = Field(
        default="auto",
        description="clips on the device, or by who reads them, on the CPU; auto: by loader processes if no GPU trains",
    )
    micro_batch: int = Field(default=0, ge=0, description="clips a process takes at once; 0: its whole share")
    parallel: Literal["ddp", "fsdp"] = Field(
        default="ddp", description="several processes: each has the whole networks, or a share (for large models)"
    )
    recompute: bool = Field(default=False, description="activations, to save memory: about a third more work")
    compile: bool = Field(default=False, description="the blocks, with torch.compile")
    save_every_s: float = Field(default=300, gt=0, description="seconds between training states")
    keep_last: int = Field(default=2, ge=1, description="training states; an older one serves if the newest is damaged")
    peer_timeout_s: float = Field(default=300, gt=0, description="a training process that is silent so long is dead")
    log_every_steps: int = Field(default=10, ge=1)
    watch_every_steps: int = Field(default=500, ge=0, description="pictures and k-NN of the training; 0: never")
    network: Network = Network()
    n_decoders: int = Field(default=0, ge=0, description="stretches of a video decoded at once; 0: one for 8 cores")
    hardware_decode: Literal["auto", "off"] = Field(default="auto", description="auto: if it gives the same pictures")
    store: str | None = Field(default=None, description="fsspec URL that keeps the tars, e.g. s3://bucket/dora")
    store_cache: Path | None = Field(default=None, description="tars of a store on this node; null: root/.tars")
    store_cache_gb: float = Field(default=100, ge=0, description="store_cache's bound; the rest is read by range")
    lease_timeout_s: float = Field(default=120, gt=0, description="after this, another host's silent lease is dead")

    @property
    def n_cores(self) -> int:
        """CPU cores for one process: `threads`, or all that this process may use."""
        if self.threads:
            return self.threads
        # Containers and batch systems allow fewer than there are; only Linux says so.
        return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: Path) -> Path:
        return root.expanduser().absolute()

    @field_validator("videos")
    @classmethod
    def _of_known_cities(cls, videos: dict[str, Path]) -> dict[str, Path]:
        for city in videos:
            tour(city)  # raises, naming those that there are
        return videos

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Arguments win over the environment, the environment over machine.toml in the working directory."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)
