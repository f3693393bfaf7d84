"""A job in which one rank gets an additional flag: `odd_one.py COMMAND RANK FLAG VALUE ARGS...`."""

import os
import runpy
import sys

command, rank, flag, value = sys.argv[1:5]
sys.argv[1:5] = []
if rank == os.environ.get("HOROVOD_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")):
    sys.argv += [flag, value]
runpy.run_module(f"dist_ft.{command}", run_name="__main__", alter_sys=True)
