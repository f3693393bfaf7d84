"""What an allreduce costs, and what it leaves of many GPUs' speed: arithmetic only.

A ring allreduce over n ranks takes 2 (n - 1) steps, each of which moves an n-th of the bytes
(Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
"""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import numpy as np
from scipy.optimize import nnls


class Sample(NamedTuple):
    """A measured allreduce."""

    num_ranks: int
    num_bytes: int
    elapsed_s: float


class Cost(NamedTuple):
    """Of one allreduce: what each of its four terms takes."""

    call_s: float  # whatever the ranks and the bytes: Horovod's cycle, its negotiation
    latency_s: float  # a step of the ring
    copy_bytes_s: float  # into the fusion buffer and out of it, on one rank too
    ring_bytes_s: float  # through the slowest link of the ring

    def of(self, num_ranks: int, num_bytes: float) -> float:
        """Seconds of an allreduce."""
        ring = ring_s(num_ranks, num_bytes, self.latency_s, self.ring_bytes_s)
        return self.call_s + num_bytes / self.copy_bytes_s + ring


class Cluster(NamedTuple):
    """Hosts of GPUs: the links within a host, and its one network card."""

    gpus_a_host: int
    intra_bytes_s: float
    intra_latency_s: float
    network_bytes_s: float
    network_latency_s: float


def ring_s(num_ranks: int, num_bytes: float, latency_s: float, bytes_s: float) -> float:
    """Seconds of a ring allreduce over links of one kind."""
    return 2 * (num_ranks - 1) * (latency_s + num_bytes / num_ranks / bytes_s)


def fit(samples: Sequence[Sample]) -> Cost:
    """The cost with the smallest squares of relative errors; no term is negative, and a rate is
    infinite where the samples show no cost of its bytes. Raises ValueError for no samples."""
    if not samples:
        raise ValueError("no allreduce was measured")
    ranks, num_bytes, elapsed_s = (np.array(column, float) for column in zip(*samples))
    hops = 2 * (ranks - 1)
    terms = np.stack([np.ones_like(ranks), hops, num_bytes, hops / ranks * num_bytes], axis=1)
    weighted = terms / elapsed_s[:, None]
    scale = np.linalg.norm(weighted, axis=0)  # bytes and seconds are ten powers of ten apart
    scale[scale == 0] = 1  # one rank has no hops
    call_s, latency_s, copy, ring = nnls(weighted / scale, np.ones_like(ranks))[0] / scale
    return Cost(call_s, latency_s, _inverse(copy), _inverse(ring))


def _inverse(seconds_a_byte: float) -> float:
    return 1 / seconds_a_byte if seconds_a_byte > 0 else math.inf


def flat_s(num_gpus: int, num_bytes: float, cluster: Cluster) -> float:
    """Seconds of one ring over all GPUs: it is as slow as its slowest link."""
    if num_gpus <= cluster.gpus_a_host:
        return ring_s(num_gpus, num_bytes, cluster.intra_latency_s, cluster.intra_bytes_s)
    slowest = min(cluster.intra_bytes_s, cluster.network_bytes_s)
    latency_s = max(cluster.intra_latency_s, cluster.network_latency_s)
    return ring_s(num_gpus, num_bytes, latency_s, slowest)


def hierarchical_s(num_gpus: int, num_bytes: float, cluster: Cluster) -> float:
    """Seconds of a reduce-scatter within each host, a ring between the hosts, and an allgather
    within each host, as HOROVOD_HIERARCHICAL_ALLREDUCE=1 has it.

    The two parts within a host take what a ring within it would. Between the hosts each GPU has
    its share of the bytes on the way, all of them through the host's one network card.
    """
    local = min(num_gpus, cluster.gpus_a_host)
    num_hosts = math.ceil(num_gpus / cluster.gpus_a_host)
    within = ring_s(local, num_bytes, cluster.intra_latency_s, cluster.intra_bytes_s)
    between = ring_s(num_hosts, num_bytes, cluster.network_latency_s, cluster.network_bytes_s)
    return within + between


def efficiency(step_s: float, allreduce_s: float, overlap_share: float) -> float:
    """Speed a GPU among many over that of one alone.

    step_s: of one GPU alone; overlap_share: of that step, in which gradients can travel already,
    0..1: the backward pass is about two thirds of it.
    """
    return step_s / (step_s + max(0.0, allreduce_s - overlap_share * step_s))
