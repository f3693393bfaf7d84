"""A training run in which one rank was started otherwise: `odd_one.py RANK FLAG VALUE [flags]`."""

import os
import sys

rank, flag, value = sys.argv[1:4]
sys.argv[1:4] = []
if rank == os.environ.get("HOROVOD_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")):
    sys.argv += [flag, value]

from dist_ft import cli, train  # noqa: E402

train.main(cli.parse())
