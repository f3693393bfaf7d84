"""What rank 0 tells the others before Horovod runs: all must start it with the same settings."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, Callable

from dist_ft.distributed import launcher
from dist_ft.errors import UserError

WAITS_S = 60.0  # for rank 0 to tell; what it does before takes it milliseconds
ASKS_EVERY_S = 0.05
PLACE = "dist_ft/told"  # among what horovodrun's server keeps for its processes


def share_from_rank_0(make: Callable[[], Any]) -> Any:
    """What `make` gives rank 0, on all ranks; as JSON keeps it. A UserError of it is raised on all.

    Ranks that MPI started hear it by MPI, others from the server that horovodrun has for Gloo.
    """
    if launcher.started_by_mpi():
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        told = comm.bcast(_made(make) if comm.Get_rank() == 0 else None)
    else:
        told = _by_server(make)
    word = json.loads(told)
    if "error" in word:
        raise UserError(word["error"])
    return word["value"]


def _made(make: Callable[[], Any]) -> str:
    try:
        return json.dumps({"value": make()})
    except UserError as error:
        return json.dumps({"error": str(error)})


def _by_server(make: Callable[[], Any]) -> str:
    names = "HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"
    address, port = (os.environ[name] for name in names)
    url = f"http://{address}:{port}/{PLACE}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    if launcher.rank() == 0:
        told = _made(make)
        direct.open(urllib.request.Request(url, told.encode(), method="PUT"), timeout=WAITS_S)
        return told
    end = time.monotonic() + WAITS_S
    while time.monotonic() < end:
        try:
            return direct.open(url, timeout=WAITS_S).read().decode()
        except urllib.error.HTTPError:  # not told yet
            time.sleep(ASKS_EVERY_S)
    raise UserError(
        f"rank 0 has not told its settings in {WAITS_S:g} s: start all ranks with the same flags"
    )
