"""The process of one flow run: Prefect's engine, which does not outlive the worker that started it."""

import runpy
import signal

from dora.launch import die_with_parent

# Left alone it would wait for a server that is gone. Its own children are told by SIGTERM (dora/launch.py) and save.
die_with_parent(signal.SIGKILL)
runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
