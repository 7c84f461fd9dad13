"""What is our own about Prefect's server: how often its housekeeping looks for work."""

import asyncio
from datetime import timedelta

from docket import Docket
from prefect.server.api import background_workers

from infra import server


def test_housekeeping_looks_for_work_every_two_seconds():
    async def made() -> tuple[timedelta, timedelta]:
        async with Docket("house", url="memory://house") as docket, background_workers.Worker(docket) as worker:
            return worker.minimum_check_interval, worker.scheduling_resolution

    assert background_workers.Worker is server.Housekeeper  # what `background_worker` takes, by that name
    assert asyncio.run(made()) == (timedelta(seconds=2), timedelta(seconds=2))
