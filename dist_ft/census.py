"""What the hosts of a job answered, and what follows from it: findings of the doctor's."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import Any, Dict, Iterator, Mapping

from dist_ft.clock import Clock
from dist_ft.finding import FAIL, NOTE, OK, Finding
from dist_ft.link import Link

Answers = Mapping[str, Dict[str, Any]]  # of `probe.facts`, by host

REDUCED_MB = 85  # the gradients of a ResNet34
NEEDED_DISK_MB = 500  # three checkpoints of a ResNet34 and what is written beside them
NEEDED_SHM_MB = 256  # NCCL's rings, and MPI's between the ranks of a host
FAST_GB_PER_S = 0.125  # 1 Gbit/s
FAR_S = 1.0  # where times of files and of logs begin to mislead
COPIES = "the hosts share one folder, or have copies of it"


def spread(values: Mapping[str, Any]) -> str:
    """Each value with the hosts that have it, as 'x on a, c; y on b'; a value of all by itself."""
    told = {str(value) for value in values.values()}
    return told.pop() if len(told) == 1 else _named(values)


def _named(values: Mapping[str, Any]) -> str:
    hosts = defaultdict(list)
    for name, value in values.items():
        hosts[str(value)].append(name)
    return "; ".join(f"{value} on {', '.join(names)}" for value, names in hosts.items())


def examine_versions(answers: Answers) -> Iterator[Finding]:
    versions = {name: answer["versions"] for name, answer in answers.items()}
    agreed, bad = [], []
    for part in next(iter(versions.values())):
        values = {name: theirs.get(part, "missing") for name, theirs in versions.items()}
        is_well = len(set(values.values())) == 1 and not _is_missing(*values.values())
        (agreed if is_well else bad).append(f"{part} {spread(values)}")
    if bad:
        remedy = f"install the same on all: launch/install.sh; {COPIES}"
        yield Finding(FAIL, "versions", "; ".join(bad), remedy)
    else:
        yield Finding(OK, "versions", ", ".join(agreed))


def _is_missing(*versions: str) -> bool:
    return any(version.startswith("missing") for version in versions)


def examine_code(answers: Answers) -> Iterator[Finding]:
    code = {name: answer["code"] for name, answer in answers.items()}
    if len(set(code.values())) > 1:
        yield Finding(FAIL, "code", f"dist_ft is {spread(code)}", f"copy it anew: {COPIES}")
    else:
        yield Finding(OK, "code", f"dist_ft is {spread(code)} on all")


def examine_images(answers: Answers, data: str) -> Iterator[Finding]:
    images = {name: answer["images"] for name, answer in answers.items()}
    broken = {name: theirs["error"] for name, theirs in images.items() if "error" in theirs}
    whole = {name: theirs for name, theirs in images.items() if "error" not in theirs}
    if broken:
        yield Finding(FAIL, "images", _named(broken), f"--data is to be the same on all: {COPIES}")
    if not whole:
        return
    parts = {
        part: {name: theirs[part] for name, theirs in whole.items()}
        for part in next(iter(whole.values()))
    }
    bad = [f"{part}: {spread(v)}" for part, v in parts.items() if len(set(v.values())) > 1]
    if bad:
        yield Finding(FAIL, "images", "; ".join(bad), f"copy {data} anew: {COPIES}")
    else:
        told = ", ".join(f"{part}: {spread(values)}" for part, values in parts.items())
        yield Finding(OK, "images", f"{told} in {data}, on all")


def examine_clocks(clocks: Mapping[str, Clock]) -> Iterator[Finding]:
    far = {name: clock for name, clock in clocks.items() if clock.surely_off_s > FAR_S}
    for name, clock in far.items():
        found = f"{name} is {clock.offset_s:+.1f} s from here, known to {_half(clock):.3f} s"
        remedy = "times of files and in logs will mislead: timedatectl set-ntp true on it"
        yield Finding(NOTE, "clock", found, remedy)
    if not far:
        most_s = max(abs(clock.offset_s) for clock in clocks.values())
        known_s = max(map(_half, clocks.values()))
        found = f"within {most_s:.3f} s of this host's, known to {known_s:.3f} s"
        yield Finding(OK, "clocks", found)


def _half(clock: Clock) -> float:
    return clock.round_trip_s / 2


def examine_names(answers: Answers) -> Iterator[Finding]:
    """A name is told from what it is on the other hosts, and on its own."""
    well = True
    for name in next(iter(answers.values()))["addresses"]:
        here = {host: answer["addresses"][name] for host, answer in answers.items()}
        remedy = f"give {name} one address in /etc/hosts of each host, or in the DNS"
        wrong = {host: a for host, a in here.items() if host != name and _is_loopback(a)}
        if wrong:
            found = f"{name} is {_named(wrong)}, where it is another host"
            yield Finding(FAIL, "names", found, remedy)
        elif _is_loopback(here.get(name, "")) and not _is_loopback(name):
            yield Finding(NOTE, "names", f"{name} is {here[name]} on itself", remedy)
        elif len(set(here.values())) > 1:
            shown = {host: address or "unknown" for host, address in here.items()}
            yield Finding(NOTE, "names", f"{name} is {spread(shown)}", remedy)
        else:
            continue
        well = False
    if well:
        yield Finding(OK, "names", "each has the same address on all hosts")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name, or none
        return False


def examine_interfaces(answers: Answers, chosen: str, is_given: bool) -> Iterator[Finding]:
    """chosen: the interface between the hosts; is_given: whether the user said so."""
    theirs = {name: answer["interfaces"] for name, answer in answers.items()}
    lacking = {n: ", ".join(sorted(has)) for n, has in theirs.items() if chosen not in has}
    if lacking:
        found = f"{chosen} has no address on {', '.join(lacking)}; there are {_named(lacking)}"
        yield Finding(FAIL, "interface", found, "name one that all hosts have: --interface")
    else:
        found = ", ".join(has[chosen] for has in theirs.values())
        yield Finding(OK, "interface", f"{chosen} on all: {found}")
    twice = sorted(set(_twice(theirs)) - {chosen, "lo"})
    if twice and not is_given:
        found = f"{', '.join(twice)}: the same address on several hosts, which does not join them"
        yield Finding(NOTE, "interface", found, f"pass --interface {chosen} to the launcher")


def _twice(interfaces: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Interfaces whose address other hosts have too."""
    hosts = defaultdict(set)
    for host, has in interfaces.items():
        for name, address in has.items():
            hosts[address].add((host, name))
    for those in hosts.values():
        if len({host for host, _ in those}) > 1:
            yield from (name for _, name in those)


def examine_links(links: Mapping[str, Link | str], num_hosts: int) -> Iterator[Finding]:
    """links: each host to the next, all at once, as a ring's sums use them; a str is an error."""
    broken = {name: error for name, error in links.items() if isinstance(error, str)}
    if broken:
        told = "; ".join(f"{name}: {error}" for name, error in broken.items())
        remedy = "let the hosts connect to each other's free ports there: is it a firewall?"
        yield Finding(FAIL, "network", told, remedy)
    measured = {name: link for name, link in links.items() if not isinstance(link, str)}
    if not measured:
        return
    slowest = min(measured, key=lambda name: measured[name].gb_per_s)
    gb_per_s = measured[slowest].gb_per_s
    latency_ms = max(link.latency_s for link in measured.values()) * 1e3
    found = (
        f"{gb_per_s:.3f} GB/s and {latency_ms:.2f} ms at worst ({slowest}): {REDUCED_MB} MB of"
        f" gradients take {ring_s(REDUCED_MB / 1e3, num_hosts, gb_per_s):.2f} s"
    )
    if gb_per_s < FAST_GB_PER_S:
        remedy = "below 1 Gbit/s: another --interface? --compression fp16 sends half of it"
        yield Finding(NOTE, "network", found, remedy)
    else:
        yield Finding(OK, "network", found)


def ring_s(size_gb: float, num_hosts: int, gb_per_s: float) -> float:
    """Seconds that a sum over a ring takes: 2 (n - 1) / n of it go over each link (Patarasuk and
    Yuan, 2009)."""
    return 2 * (num_hosts - 1) / num_hosts * size_gb / gb_per_s


def examine_ranks(answers: Answers, ranks: Mapping[str, int]) -> Iterator[Finding]:
    """ranks: how many are asked for on each host."""
    well = True
    for name, answer in answers.items():
        found = f"{ranks[name]} ranks on {name}, of {answer['cores']} cores, {answer['gpus']} GPUs"
        if 0 < answer["gpus"] < ranks[name]:
            yield Finding(FAIL, "ranks", found, "at most one rank for each GPU, or --device cpu")
        elif answer["gpus"] > ranks[name]:
            yield Finding(NOTE, "ranks", found, f"{name}:{answer['gpus']} uses all GPUs")
        elif answer["cores"] < ranks[name]:
            yield Finding(NOTE, "ranks", found, "they take turns: fewer ranks are quicker")
        else:
            continue
        well = False
    parts = {
        name: f"{ranks[name]} of {answer['cores']} cores and {answer['gpus']} GPUs"
        for name, answer in answers.items()
    }
    if well:
        yield Finding(OK, "ranks", f"{sum(ranks.values())}: {spread(parts)}")


def examine_space(answers: Answers) -> Iterator[Finding]:
    """The first host writes the run."""
    for i, (name, answer) in enumerate(answers.items()):
        if answer["disk_mb"] < NEEDED_DISK_MB:
            found = f"{answer['disk_mb']:,.0f} MB to be written in {answer['folder']} on {name}"
            remedy = f"a run takes up to {NEEDED_DISK_MB} MB: make room, or choose another --out"
            yield Finding(NOTE if i else FAIL, "disk", found, remedy)
        if answer["shared_mb"] < NEEDED_SHM_MB:
            found = f"{answer['shared_mb']:,.0f} MB free in /dev/shm on {name}"
            remedy = "NCCL and MPI want more: docker run --shm-size 1g"
            yield Finding(NOTE, "shared", found, remedy)
    least_mb = {
        kind: min(answer[kind] for answer in answers.values()) for kind in ("disk_mb", "shared_mb")
    }
    if least_mb["disk_mb"] >= NEEDED_DISK_MB and least_mb["shared_mb"] >= NEEDED_SHM_MB:
        found = "{disk_mb:,.0f} MB for --out, {shared_mb:,.0f} MB in /dev/shm at least"
        yield Finding(OK, "space", found.format(**least_mb))
