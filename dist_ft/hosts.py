"""Are hosts ready for a job? `python -m dist_ft.doctor --hosts`, on the one that starts it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Awaitable, Dict, Iterator, Mapping

from dist_ft import census, clock, network
from dist_ft.config import Config
from dist_ft.errors import UserError
from dist_ft.finding import FAIL, OK, Finding
from dist_ft.link import Link
from dist_ft.remote import Lost, Remote, words_for

STARTS_S = 30.0  # ssh gives up after 10
LOOKS_S = 180.0  # a large data set on a slow disk
MEASURES_S = 30.0
NUM_READINGS = 5  # of a clock; the one of the shortest way counts
FORM = re.compile(r"[\w.-]+:[1-9]\d*(,[\w.-]+:[1-9]\d*)*", re.ASCII)

Ranks = Dict[str, int]  # by host


def read(text: str) -> Ranks:
    """host1:4,host2:4, or a file with a line 'host1 slots=4' for each, as the launchers take it.

    Raises UserError for any other.
    """
    words = text
    with suppress(OSError):
        lines = Path(text).read_text().splitlines()
        words = ",".join(filter(None, map(_place, lines)))
    if not FORM.fullmatch(words):
        raise UserError(f"--hosts {text}: neither a file of hosts nor of the form host1:4,host2:4")
    ranks: Ranks = {}
    for word in words.split(","):
        name, slots = word.rsplit(":", 1)
        ranks[name] = ranks.get(name, 0) + int(slots)
    return ranks


def _place(line: str) -> str:
    """A line of the file as NAME:SLOTS; '' for a line without a host."""
    words = re.sub(r"\s+slots *= *", ":", re.sub("#.*", "", line)).split()
    if not words:
        return ""
    return words[0] if ":" in words[0] else f"{words[0]}:1"


def examine(ranks: Ranks, config: Config, interface: str, port: str, key: str) -> list[Finding]:
    """interface: between the hosts, '' for that by which this one reaches the others; port, key: of
    ssh, '' for its own."""
    try:
        chosen = interface or network.interface_towards(ranks)
    except UserError as error:
        return [Finding(FAIL, "interface", "more than one", str(error))]
    hosts = {name: words_for(name, port, key) for name in ranks}
    return asyncio.run(_Visit(hosts).findings(ranks, config, chosen, bool(interface)))


class _Visit:
    """All hosts are asked at once; one that is lost is told of, and the others are asked on."""

    def __init__(self, words: Mapping[str, list[str]]):
        self._words = words
        self._lost: dict[str, str] = {}
        self._remotes: dict[str, Remote] = {}

    async def findings(
        self, ranks: Ranks, config: Config, chosen: str, is_given: bool
    ) -> list[Finding]:
        start = time.monotonic()
        try:
            clocks = await self._meet()
            found = [*self._reached(time.monotonic() - start)]
            request = {"data": config.data, "out": str(config.folder), "names": list(ranks)}
            answers = await self._ask("facts", LOOKS_S, dict.fromkeys(self._remotes, request))
            if answers:
                found += census.examine_versions(answers)
                found += census.examine_code(answers)
                found += census.examine_images(answers, config.data)
                found += census.examine_clocks(clocks)
                found += census.examine_ranks(answers, ranks)
                found += census.examine_space(answers)
            if len(answers) > 1:
                found += census.examine_names(answers)
            if chosen and len(answers) > 1:
                found += census.examine_interfaces(answers, chosen, is_given)
                links = await self._ring(answers, chosen)
                found += census.examine_links(links, len(answers))
            return [*self._told(), *found]
        finally:
            await asyncio.gather(*(remote.close() for remote in self._remotes.values()))

    async def _meet(self) -> dict[str, clock.Clock]:
        for name, words in self._words.items():
            self._remotes[name] = await Remote.start(words)
        first = {name: remote.ask(STARTS_S, ask="clock") for name, remote in self._remotes.items()}
        await self._everyones(first)
        return await self._everyones({name: _clock_of(r) for name, r in self._remotes.items()})

    def _reached(self, elapsed_s: float) -> Iterator[Finding]:
        if self._remotes:
            found = f"{', '.join(self._remotes)}: ready to answer within {elapsed_s:.1f} s"
            yield Finding(OK, "hosts", found)

    def _told(self) -> Iterator[Finding]:
        for name, why in self._lost.items():
            *ssh, _ = self._words[name]
            tried = f", and try {' '.join(ssh)} true" if ssh[0] == "ssh" else ""
            yield Finding(FAIL, "hosts", f"{name}: {why}", f"see launch/README.md{tried}")

    async def _ring(self, answers: census.Answers, interface: str) -> dict[str, Link | str]:
        """Each host sends to the next, all at once."""
        names = [name for name in answers if interface in answers[name]["interfaces"]]
        tokens = {name: secrets.token_hex(16) for name in names}
        places = await self._ask(
            "listen",
            MEASURES_S,
            {name: {"interface": interface, "token": tokens[name]} for name in names},
        )
        names = list(places)
        nexts = dict(zip(names, [*names[1:], *names[:1]])) if len(names) > 1 else {}
        requests = {
            name: {**places[there], "token": tokens[there]} for name, there in nexts.items()
        }
        measured = await self._ask("measure", MEASURES_S, requests)
        return {
            f"{name} -> {nexts[name]}": answer.get("error") or Link(**answer)
            for name, answer in measured.items()
        }

    async def _ask(
        self, what: str, allowed_s: float, requests: Mapping[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """The answers of those that still answer."""
        return await self._everyones(
            {
                name: self._remotes[name].ask(allowed_s, ask=what, **request)
                for name, request in requests.items()
                if name in self._remotes
            }
        )

    async def _everyones(self, asked: Mapping[str, Awaitable]) -> dict[str, Any]:
        answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        for name, answer in zip(asked, answers):
            if isinstance(answer, Lost):
                self._lost[name] = str(answer)
                await self._remotes.pop(name).close()
            elif isinstance(answer, BaseException):
                raise answer
        return {name: a for name, a in zip(asked, answers) if not isinstance(a, Lost)}


async def _clock_of(remote: Remote) -> clock.Clock:
    readings = []
    for _ in range(NUM_READINGS):
        sent = time.time()
        there = await remote.ask(STARTS_S, ask="clock")
        readings.append(clock.compare(sent, there["received"], there["replied"], time.time()))
    return min(readings, key=lambda reading: reading.round_trip_s)
