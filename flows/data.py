"""Videos and their shards: what is made where, and how much of it at once."""

import math
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.callables import get_call_parameters

from dora.artifacts import Machine, Shards, Video
from dora.config import ShardsConfig
from dora.data import shards as sharding
from flows import cluster, stages
from flows.cluster import Place
from flows.ends import Future
from flows.launch import stop_stages
from flows.order import Order

HELPERS_A_WORKER = 2  # Dask's workers have so many tasks to choose from when only few videos are left


def prepare(order: Order) -> tuple[list[Future], list[Future]]:
    """The recipe's videos and, if the run goes as far, their shards: futures that have all ended, well or not.

    In the flow's process one video is acquired while the one before is sharded. On a Dask cluster each video is a
    task, and so is each share that another worker takes in its sharding.

    Raises:
        ConnectionError, ValueError: if there is no such cluster.
    """
    recipe, machine = order.recipe, order.machine
    with ExitStack() as stack:
        on_dask = stack.enter_context(cluster.workers(machine)) if machine.dask else None
        there = machine.dask.stages if machine.dask else ()
        acquiring = (
            on_dask
            if on_dask and "acquire" in there
            else stack.enter_context(_here(_sharing_the_net(machine), machine.network.n_at_once))
        )
        # One sharding at a time: each uses all cores.
        sharding_at = on_dask if on_dask and "shard" in there else stack.enter_context(_here(machine, 1))
        videos = [
            _submit(acquiring, stages.acquire, one, acquiring.machine, index=index, rerun=order.again("acquire"))
            for index, one in enumerate(recipe.videos)
        ]
        shards: list[Future] = []
        if order.includes("shard"):
            shards = _submit_sharding(order, videos, sharding_at, is_elsewhere=sharding_at is on_dask is not acquiring)
        cluster.settle([*videos, *shards])
    return videos, shards


def _submit_sharding(order: Order, videos: list[Future], at: Place, *, is_elsewhere: bool) -> list[Future]:
    """The shards of each video, and tasks that help with them: first all videos, then a helper for each, and so on."""
    config, rerun = order.recipe.shards, order.again("shard")
    again_since = time.time() if rerun else None
    given: list[Any] = []
    shards: list[Future] = []
    for video in videos:
        if is_elsewhere:  # what is only to come here cannot travel
            video.wait()
        given.append(video.state if is_elsewhere else video)
        shards.append(_submit(at, stages.shard, given[-1], config, at.machine, rerun=rerun))
    n_shares = min(at.n_workers, max(2, math.ceil(HELPERS_A_WORKER * at.n_workers / len(videos))))
    helpers = [
        _submit(at, help_shard, video, config, at.machine, share=f"{number} of {n_shares}", again_since=again_since)
        for number in range(2, n_shares + 1)
        for video in given
    ]
    cluster.settle(helpers)
    return shards


@task(task_run_name="shard {video.name} ({share})", cache_policy=NO_CACHE, persist_result=False)
def help_shard(
    video: Video, config: ShardsConfig, machine: Machine, *, share: str, again_since: float | None
) -> State[Shards]:
    """Write some of a video's tars beside another worker, or go on for it if that has died."""
    return stages.finish(
        f"shard {video.name} ({share})",
        lambda told: sharding.take_part(video, config, machine, again_since=again_since, progress=told),
    )


def _submit(place: Place, work: Any, *arguments: Any, **named: Any) -> Future:
    return place.runner.submit(work, get_call_parameters(work.fn, arguments, named))


@contextmanager
def _here(machine: Machine, at_once: int) -> Generator[Place]:
    """Threads of the flow's process."""
    with ThreadPoolTaskRunner(max_workers=at_once) as runner:
        try:
            yield Place(runner, machine)
        except BaseException:
            stop_stages()  # leaving waits for their end
            raise


def _sharing_the_net(machine: Machine) -> Machine:
    """Each of several downloads has its part of the rate limit."""
    network = machine.network
    if network.rate_limit is None:
        return machine
    part = network.model_copy(update={"rate_limit": network.rate_limit / network.n_at_once})
    return machine.model_copy(update={"network": part})
