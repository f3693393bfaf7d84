"""The doctor finds what would stop a run, on any rank, before the run does."""

from __future__ import annotations

import re
import shutil

import pytest

from dist_ft.config import Config
from dist_ft.data.image_folder import scan
from dist_ft.diagnostics import machine_checks, run_checks
from dist_ft.diagnostics.finding import FAIL, NOTE, OK
from dist_ft.distributed.world import World
from dist_ft.models import zoo
from tests.conftest import run_job
from tests.images import make_folder

COMMAND = ["-m", "dist_ft.doctor", "--model", "mobilenet0.25", "--image-size", "32"]


@pytest.fixture(scope="module")
def world():
    world = World("cpu", 300)
    yield world
    world.close()


def config(**settings) -> Config:
    return Config(**{"model": "mobilenet0.25", "weights": "none", "image_size": 32, **settings})


def test_a_machine_that_can_train_gets_status_0_and_no_failure(tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path / "run"), "--weights", "none"]
    ended = run_job([*COMMAND, *flags], 60)
    assert ended.status == 0, ended.output
    assert "FAIL" not in ended.output
    for line in (
        r"ok +packages +Python 3\.\d+\.\d+, MXNet 1\.9\.1",
        r"ok +images +5 classes, 53 \+ 101 images",
        r"ok +leaks +no image is in two splits",
        r"ok +network +mobilenet0\.25 takes images of 32 px",
        r"ok +weights +none: random initialization",
        r"ok +loader +[\d,]+ images/s",
    ):
        assert re.search(line, ended.output), (line, ended.output)
    assert not (tmp_path / "run").exists()


def test_failures_have_remedies_and_give_status_1(tmp_path):
    flags = ["--data", str(tmp_path / "nowhere"), "--weights", "absent.params"]
    ended = run_job([*COMMAND, *flags], 60)
    assert ended.status == 1
    assert re.search(r"FAIL +images .*\n +-> .*no such folder; name one with --data", ended.output)
    assert re.search(r"FAIL +weights .*\n +-> .*absent\.params: no such file", ended.output)
    assert "Traceback" not in ended.output


def test_invalid_settings_give_status_2():
    ended = run_job(["-m", "dist_ft.doctor", "--image-size", "1"], 60)
    assert ended.status == 2
    assert "--image-size 1: must be at least 8" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    "settings, remedy",
    [
        ({"model": "nonsense"}, "--model nonsense: unknown network"),
        ({"model": "alexnet", "image_size": 32}, "--image-size 32: "),
    ],
)
def test_a_network_that_cannot_be_built_fails(world, settings, remedy):
    network, weights = run_checks.check_network(config(**settings), world)
    assert network.severity == FAIL and remedy in network.remedy
    assert weights.severity == OK


def test_weights_must_be_readable_and_fit_the_network(world, tmp_path):
    good, page = str(tmp_path / "small.params"), tmp_path / "page.params"
    zoo.build("mobilenet0.25", 3, 32, 0).save_parameters(good)
    page.write_text("<html>Not found</html>")
    _, weights = run_checks.check_network(config(weights=good), world)
    assert (weights.severity, weights.detail) == (OK, good)
    for settings, remedy in (
        ({"weights": good, "model": "mobilenet0.5"}, "--model"),
        ({"weights": str(page)}, "web page"),
    ):
        _, weights = run_checks.check_network(config(**settings), world)
        assert weights.severity == FAIL and remedy in weights.remedy


def test_leaks_fail_unless_they_are_allowed_and_unreadable_images_are_named(tmp_path):
    data = make_folder(tmp_path / "data", train=(3, 3), test=(2, 2))
    copy, bad = data / "test/class_a/copy.jpg", data / "train/class_a/000.jpg"
    shutil.copy(data / "train/class_a/001.jpg", copy)
    bad.write_bytes(b"not an image")
    dataset = scan(str(data))
    leaks = run_checks.check_leaks(dataset, str(data), allow_leak=False)
    assert leaks.severity == FAIL
    assert str(copy) in leaks.remedy and "--allow-leak trains on them" in leaks.remedy
    assert run_checks.check_leaks(dataset, str(data), allow_leak=True).severity == OK
    loader = run_checks.check_loader(config(), dataset, num_threads=1)
    assert loader.severity == NOTE
    assert str(bad) in loader.as_text(num_examples=3)


@pytest.mark.parametrize("is_required, severity", [(False, NOTE), (True, FAIL)])
def test_a_missing_data_set_fails_only_if_it_was_named(world, tmp_path, is_required, severity):
    """The health check of a container does not know the data set of the run."""
    settings = config(data=str(tmp_path / "nowhere"))
    (images,) = run_checks.check_images(settings, is_required, 1, world)
    assert images.severity == severity
    assert "no such folder" in images.remedy


def test_a_folder_without_splits_passes_if_validation_images_are_taken_from_it(tiny, world):
    for val_share, severity in ((0.1, OK), (0.0, FAIL)):
        settings = config(data=str(tiny / "train"), val_share=val_share)
        images, *others = run_checks.check_images(settings, True, 1, world)
        assert images.severity == severity
        assert all(finding.severity == OK for finding in others)
    assert "--val-share 0.2 takes validation images" in images.remedy


def test_unwritable_folders_and_too_little_shared_memory_have_remedies(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    disk = machine_checks.check_disk(tmp_path / "not" / "yet")
    assert disk.severity == FAIL
    assert str(tmp_path) in disk.detail and "--out" in disk.remedy
    shm = machine_checks.check_shared_memory(tmp_path / "missing")
    assert shm.severity == NOTE and "docker run --shm-size" in shm.remedy


@pytest.mark.jobs
def test_ranks_compare_images_and_show_their_failures_by_name(tiny, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    arguments = ["--data", str(tiny), "--out", str(tmp_path), "--weights", "none", *COMMAND[2:]]
    ended = run_job([*COMMAND[:2], *arguments], 60, num_ranks=2)
    assert ended.status == 0, ended.output
    assert re.search(r"ok +allreduce +85 MB over 2 ranks in \d+ ms", ended.output)
    assert "the same on 2 ranks" in ended.output
    odd = ["tests/workers/odd_one.py", "doctor", "1", "--data", nowhere]
    ended = run_job([*odd, *arguments], 60, num_ranks=2)
    assert ended.status == 1
    assert re.search(r"on rank 1 of 2 on \S+:\nFAIL +images", ended.output), ended.output
