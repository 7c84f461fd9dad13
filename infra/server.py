"""Prefect's server, whose housekeeping looks for work every two seconds instead of four times a second.

infra/services.py starts it. On an idle server the looking is a fifth of all its work, and what it finds are labels
such as Late and NotReady: runs are started and ended without it.
"""

from datetime import timedelta

from docket import Docket, Worker
from prefect.server.api import background_workers
from prefect.server.api.server import create_app

__all__ = ["create_app"]

LOOKS_EVERY = timedelta(seconds=2)


class Housekeeper(Worker):
    """What `background_worker` makes for itself of the work list, with an interval that it has no setting for."""

    def __init__(self, docket: Docket) -> None:
        super().__init__(docket, minimum_check_interval=LOOKS_EVERY, scheduling_resolution=LOOKS_EVERY)


background_workers.Worker = Housekeeper
