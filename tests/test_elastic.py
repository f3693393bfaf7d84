"""An elastic run that loses ranks and gets others equals a run without faults."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import psutil
import pytest

from tests import elastic_jobs
from tests.conftest import REPO, run_command
from tests.elastic_jobs import COMMIT_EVERY, HOSTS, RECIPE, STEPS_PER_EPOCH, train_elastic
from tests.hosts.cluster import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(len(HOSTS) < 2, reason="this machine has only one name"),
]


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    return elastic_jobs.train_undisturbed(tmp_path_factory.mktemp("undisturbed"), tiny)


def group_sizes(root: Path) -> list[int]:
    return [group.size for group in elastic_jobs.rank_groups(root / "log")]


def test_a_rank_is_killed_and_its_host_returns(tiny, tmp_path, undisturbed):
    fault = ["--fault", "kill", f"{HOSTS[1]}:0", "9", "--wait-at", "21"]
    train_elastic(tmp_path, HOSTS, tiny, *fault)
    assert group_sizes(tmp_path) == [2, 1, 2]
    after_loss, after_addition = elastic_jobs.repeated_steps(tmp_path / "log")
    assert 0 <= after_loss <= COMMIT_EVERY
    assert after_addition == 0
    # None on a single rank; on two, one for all gradients, so that only one fails.
    assert elastic_jobs.reductions_per_step(tmp_path / "log") == {0, 1}
    elastic_jobs.assert_same_run(tmp_path, undisturbed)


def test_a_host_is_added_and_one_of_two_ranks_is_asked_to_stop(tiny, tmp_path, undisturbed):
    add = threading.Thread(target=add_host, args=(tmp_path / "log", tmp_path / "hosts"))
    add.start()
    fault = ["--fault", "terminate", f"{HOSTS[1]}:0", "16", "--wait-at", "9"]
    ended = train_elastic(tmp_path, HOSTS[:1], tiny, *fault)
    add.join()
    assert group_sizes(tmp_path)[:3] == [1, 2, 1]
    assert elastic_jobs.repeated_steps(tmp_path / "log")[:2] == [0, 0]
    assert re.search(rf"stopped by SIGTERM before step \d+; saved as {tmp_path}/\S+", ended.output)
    elastic_jobs.assert_same_run(tmp_path, undisturbed)


def add_host(log: Path, hosts: Path) -> None:
    wait_until(lambda: log.exists() and elastic_jobs.applied_images(log), 60)
    elastic_jobs.write_hosts(hosts, HOSTS)


def test_a_frozen_rank_is_killed_and_the_others_continue(tiny, tmp_path, undisturbed):
    flags = ["--fault", "stop", f"{HOSTS[1]}:0", "9", "--stall-timeout", "8"]
    # The host stays excluded: a new process would not start within this timeout of Gloo's.
    ended = train_elastic(tmp_path, HOSTS, tiny, *flags, gloo_timeout_s=5, cooldown_s=600)
    assert group_sizes(tmp_path) == [2, 1]
    assert "exit with status code 137" in ended.output
    elastic_jobs.assert_same_run(tmp_path, undisturbed)


def test_without_a_remaining_host_the_run_restarts_from_the_last_commit(
    tiny, tmp_path, undisturbed
):
    """Horovod excludes a host on which a process has failed, here the only one."""
    launcher = [str(REPO / "launch" / "elastic.sh"), f"{HOSTS[0]}:2", "--data", str(tiny)]
    flags = ["--out", str(tmp_path / "run"), *RECIPE, "--commit-every", str(COMMIT_EVERY)]
    killer = threading.Thread(target=kill_rank_1, args=(tmp_path / "run",))
    killer.start()
    ended = run_command([*launcher, *flags], 150)
    killer.join()
    assert ended.status == 0, ended.output
    assert "restart: exit status" in ended.output
    (step,) = re.findall(r"resuming from \S+ at step (\d+) of", ended.output)
    assert int(step) > 0 and int(step) % STEPS_PER_EPOCH % COMMIT_EVERY == 0
    elastic_jobs.assert_same_scores(tmp_path, undisturbed)


def kill_rank_1(run: Path) -> None:
    """In the second epoch."""
    scores = run / "scores.jsonl"
    wait_until(lambda: scores.exists() and scores.read_text(), 60)
    for process in psutil.process_iter(["cmdline"]):
        is_ours = str(run) in (process.info["cmdline"] or [])
        if is_ours and process.environ().get("HOROVOD_LOCAL_RANK") == "1":
            process.kill()
