"""The launchers: the commands that they run, their checks of the arguments, and restarts."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

from tests.conftest import BIN, ENVIRONMENT, REPO, TINY

LAUNCH = REPO / "launch"
SETTINGS = re.compile(r"(OMP_|MXNET_|HOROVOD_|NCCL_|DIST_FT_|SLURM_|LD_LIBRARY_PATH|CUDA_).*")
PLAIN = {name: value for name, value in ENVIRONMENT.items() if not SETTINGS.match(name)}
PYTHON, HOROVODRUN = BIN / "python", BIN / "horovodrun"


def run(script, *arguments, cwd=REPO, timeout_s=60, **env):
    return subprocess.run(
        [LAUNCH / script, *arguments],
        cwd=cwd,
        env={**PLAIN, "VENV": str(BIN.parent), **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


HOSTS = f"env PATH={LAUNCH}/ssh:$PATH {HOROVODRUN} --disable-cache"
DRY_RUNS = {
    "local.sh --dry-run 1 --data d": f"{PYTHON} -m dist_ft.train --data d",
    "local.sh --dry-run 4 --data d": (
        f"{HOROVODRUN} --disable-cache -np 4 -H 127.0.0.1:4 --gloo"
        f" {PYTHON} -m dist_ft.train --data d"
    ),
    "hosts.sh --mpi --interface ib0 --port 2222 --key k --dry-run a:1,b:1": (
        f"{HOSTS} -np 2 -H a:1,b:1 --mpi -p 2222 -i k --network-interface ib0"
    ),
    "mpirun.sh --dry-run --interface ib0 --port 2222 --key k a:4,b:2 --data d": (
        "mpirun -np 6 -H a:4,b:2 "
    ),
    "elastic.sh --dry-run --min 2 --max 4 a:4,b:2 --data d": (
        f"{LAUNCH}/restart.sh --times 3 --pause 5 {HOSTS} --gloo"
    ),
    "restart.sh --times 3 --dry-run launch/local.sh --data d": "launch/local.sh --data d",
}


@pytest.mark.parametrize("arguments", DRY_RUNS)
def test_a_dry_run_prints_the_command_without_running_it(arguments):
    done = run(*arguments.split())
    assert done.stdout.startswith(DRY_RUNS[arguments])
    assert done.stdout.count("\n") == 1
    assert (done.returncode, done.stderr) == (0, "")


def test_mpirun_exports_the_settings_of_the_environment():
    line = run("mpirun.sh", "--dry-run", "a:1", OMP_NUM_THREADS="2", SECRET="x").stdout
    assert "-x OMP_NUM_THREADS " in line and "SECRET" not in line


def test_the_output_of_a_dry_run_can_be_pasted_into_a_shell():
    flags = ["--data", "a folder", "--out", "it's $HOME", "--freeze", "a|b;*"]
    line = run("local.sh", "--dry-run", "1", *flags).stdout
    printed = subprocess.run(
        ["bash", "-c", line.replace(str(PYTHON), "printf '%s\\n'")], capture_output=True, text=True
    )
    assert printed.stdout.splitlines() == ["-m", "dist_ft.train", *flags]


@pytest.mark.parametrize(
    "devices, processes", [("", 0), ("3", 0), ("0,1", 2), ("GPU-8f,GPU-9a,GPU-10", 3)]
)
def test_local_starts_one_process_for_each_visible_gpu(devices, processes):
    line = run("local.sh", "--dry-run", CUDA_VISIBLE_DEVICES=devices).stdout
    assert line.startswith(
        f"{HOROVODRUN} --disable-cache -np {processes} "
        if processes
        else f"{PYTHON} -m dist_ft.train\n"
    )


def test_hosts_can_be_read_from_a_file(tmp_path):
    file = tmp_path / "hosts.txt"
    file.write_text("# the cluster\nhost-1.lan slots=4\n\nhost-2.lan   slots = 2 # old\n10.0.0.3\n")
    line = run("hosts.sh", "--dry-run", str(file)).stdout
    assert " -np 7 -H host-1.lan:4,host-2.lan:2,10.0.0.3:1 " in line


USAGE_ERRORS = {
    "hosts.sh": "no hosts given",
    "hosts.sh host1": "invalid hosts 'host1': use host1:4,host2:4",
    "hosts.sh a:0": "invalid hosts 'a:0'",
    "hosts.sh a:1,$(id):1": "invalid hosts",
    "hosts.sh --data d a:1": "unknown option --data; flags of dist_ft.train must follow the hosts",
    "mpirun.sh --port": "--port needs a value",
    "elastic.sh --min few a:1": "--min needs a number",
    "local.sh 4x": "invalid number of processes '4x'",
    "sshd.sh ssh": "invalid port 'ssh'",
    "hosts.sh a:1,b:1 --bathc-size 3": "unrecognized arguments: --bathc-size",
    "restart.sh": "no command given",
    "restart.sh --times many true": "--times needs a number",
    "restart.sh true --resume never": "--resume never would start over at each restart",
}


@pytest.mark.parametrize("arguments", USAGE_ERRORS)
def test_a_usage_error_is_reported_once_with_exit_status_2(arguments):
    done = run(*arguments.split())
    assert done.returncode == 2
    assert done.stderr.count(USAGE_ERRORS[arguments]) == 1, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("script", ["local", "hosts", "mpirun", "elastic", "restart", "sshd"])
def test_help_prints_the_comment_at_the_top_of_the_script(script):
    done = run(f"{script}.sh", "--help")
    assert done.returncode == 0
    assert f"launch/{script}.sh" in done.stdout
    assert "#" not in done.stdout and "set -" not in done.stdout


def test_the_help_of_the_settings_is_printed_once():
    done = run("local.sh", "3", "--help")
    assert done.returncode == 0
    assert done.stdout.count("--stall-timeout") == 1


def command(tmp_path, statuses):
    """A command that exits with each of these statuses in turn, and records each start."""
    script = tmp_path / "command"
    script.write_text(
        f"#!/bin/bash\necho x >>{tmp_path}/starts\n"
        f"all=({' '.join(map(str, statuses))})\n"
        f"exit ${{all[$(wc -l <{tmp_path}/starts) - 1]}}\n"
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    "statuses, starts",
    [
        ([0], 1),
        ([1, 143, 137, 0], 4),
        ([1, 1, 1, 1, 1], 4),
        ([1, 2], 2),
        ([130], 1),
    ],
)
def test_a_failed_command_is_restarted_a_limited_number_of_times(tmp_path, statuses, starts):
    done = run("restart.sh", "--times", "3", "--pause", "0", command(tmp_path, statuses))
    assert (tmp_path / "starts").read_text() == "x\n" * starts
    assert done.returncode == statuses[starts - 1]
    assert done.stderr.count("restarting in 0 s") == starts - 1


def test_the_pause_between_restarts_doubles(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sleep").symlink_to("/bin/true")
    words = ["--times", "3", "--pause", "1", command(tmp_path, [1, 1, 0])]
    done = run("restart.sh", *words, PATH=f"{tmp_path}/bin:{PLAIN['PATH']}")
    assert re.findall(r"restarting in (\d+) s \((\d) of 3\)", done.stderr) == [
        ("1", "1"),
        ("2", "2"),
    ]


def test_a_command_that_does_not_exist_is_not_restarted():
    done = run("restart.sh", "--pause", "0", "launch/no-such.sh")
    assert done.returncode == 127
    assert "restarting" not in done.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_forwarded_and_prevents_a_restart(signum):
    code = f"trap 'exit {128 + signum}' TERM INT; echo up; while sleep 0.1; do :; done"
    restart = subprocess.Popen(
        [LAUNCH / "restart.sh", "--pause", "0", "bash", "-c", code],
        env=PLAIN,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert restart.stdout.readline() == "up\n"
    restart.send_signal(signum)
    _, messages = restart.communicate(timeout=20)
    assert restart.returncode == 128 + signum
    assert "restarting" not in messages


def test_a_launcher_under_nohup_ignores_a_hangup():
    code = "echo up; read -r _; exit 0"
    restart = subprocess.Popen(
        ["nohup", LAUNCH / "restart.sh", "bash", "-c", code],
        env=PLAIN,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert restart.stdout.readline() == "up\n"
    restart.send_signal(signal.SIGHUP)
    restart.communicate("continue\n", timeout=20)
    assert restart.returncode == 0


@pytest.mark.jobs
def test_a_killed_run_resumes_under_restart(tiny, tmp_path):
    """The first process is killed at step 4; the second resumes from the checkpoint of step 3."""
    script = tmp_path / "run"
    flags = ["--data", str(tiny), "--out", str(tmp_path / "out"), *TINY, "--epochs", "2"]
    script.write_text(
        f"#!/bin/bash\nif mkdir {tmp_path}/first 2>/dev/null\n"
        f"then exec {PYTHON} tests/workers/fault.py kill 0 4 {' '.join(flags)}\n"
        f"else exec launch/local.sh 1 {' '.join(flags)}; fi\n"
    )
    script.chmod(0o755)
    done = run("restart.sh", "--pause", "0", script, timeout_s=90)
    assert done.returncode == 0, done.stderr
    assert "exit status 137; restarting" in done.stderr
    assert "resuming from" in done.stdout
    assert len((tmp_path / "out/scores.jsonl").read_text().splitlines()) == 2
