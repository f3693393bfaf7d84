"""The doctor finds what would stop a run, on any rank, before the run does."""

from __future__ import annotations

import re
import shutil

import pytest

from dist_ft.models import zoo
from tests.conftest import run_job
from tests.images import make_folder

HEALTHY = ["--weights", "none", "--model", "mobilenet0.25"]


def test_a_machine_that_can_train_gets_no_failure_and_status_0(tiny, tmp_path):
    out = ["--data", str(tiny), "--out", str(tmp_path / "run")]
    ended = run_job(["-m", "dist_ft.doctor", *out, *HEALTHY], 60)
    assert ended.status == 0, ended.output
    assert "FAIL" not in ended.output
    assert re.search(r"ok +packages +Python 3\.\d+\.\d+, MXNet 1\.9\.1", ended.output)
    assert re.search(r"ok +images +5 classes, 53 \+ 101 images", ended.output)
    assert re.search(r"ok +leaks +no test image is a training image", ended.output)
    assert re.search(r"ok +network +mobilenet0\.25 takes images of 224 px", ended.output)
    assert re.search(r"ok +weights +none: random numbers", ended.output)
    assert re.search(r"ok +loader +[\d,]+ images/s", ended.output)
    assert not (tmp_path / "run").exists()


def test_what_would_stop_a_run_fails_with_its_remedy(tmp_path):
    wrong = ["--data", str(tmp_path / "nowhere"), "--weights", "absent.params"]
    ended = run_job(["-m", "dist_ft.doctor", *wrong], 60)
    assert ended.status == 1
    assert re.search(r"FAIL +images .*\n +-> .*no such folder; name one with --data", ended.output)
    assert re.search(r"FAIL +weights .*\n +-> .*absent\.params: no such file", ended.output)
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    "flags, remedy",
    [
        (["--model", "nonsense"], "--model nonsense: unknown network; similar names: "),
        (
            ["--model", "alexnet", "--image-size", "32"],
            "--image-size 32: the network does not accept this size",
        ),
    ],
)
def test_a_network_that_cannot_be_built_fails(tiny, tmp_path, flags, remedy):
    words = ["--data", str(tiny), "--out", str(tmp_path), "--weights", "none", *flags]
    ended = run_job(["-m", "dist_ft.doctor", *words], 60)
    assert ended.status == 1, ended.output
    assert re.search(rf"FAIL +network .*\n +-> .*{re.escape(remedy)}", ended.output), ended.output
    assert ended.output.count("FAIL") == 1


def test_weights_are_tried_in_the_network(tiny, tmp_path):
    file = str(tmp_path / "small.params")
    zoo.build("mobilenet0.25", 3, 32, 0).save_parameters(file)
    words = ["-m", "dist_ft.doctor", "--data", str(tiny), "--out", str(tmp_path), "--weights", file]
    ended = run_job([*words, "--model", "mobilenet0.25"], 60)
    assert ended.status == 0, ended.output
    assert re.search(rf"ok +weights +{re.escape(file)}\n", ended.output)
    ended = run_job([*words, "--model", "mobilenet0.5"], 60)
    assert ended.status == 1, ended.output
    assert re.search(r"FAIL +weights .*\n +-> the weights do not fit the network", ended.output)
    assert re.search(r"\n {20,}choose the --model of the file", ended.output)
    assert ended.output.count("FAIL") == 1


def test_weights_that_are_none_fail(tiny, tmp_path):
    file = tmp_path / "page.params"
    file.write_text("<html>Not found</html>")
    words = ["--data", str(tiny), "--out", str(tmp_path), *HEALTHY, "--weights", str(file)]
    ended = run_job(["-m", "dist_ft.doctor", *words], 60)
    assert ended.status == 1, ended.output
    assert re.search(r"FAIL +weights .*\n +-> .*it is a web page", ended.output)


def test_test_images_that_are_training_images_fail_unless_they_are_allowed(tmp_path):
    data = make_folder(tmp_path / "data", train=(3, 3), test=(2, 2))
    copy = data / "test" / "class_a" / "copy.jpg"
    shutil.copy(str(data / "train" / "class_a" / "001.jpg"), str(copy))
    words = ["-m", "dist_ft.doctor", "--data", str(data), "--out", str(tmp_path), *HEALTHY]
    ended = run_job(words, 60)
    assert ended.status == 1, ended.output
    assert re.search(r"FAIL +leaks .*\n +-> 1 of the test images are training", ended.output)
    assert str(copy) in ended.output and "--allow-leak trains on them" in ended.output
    ended = run_job([*words, "--allow-leak"], 60)
    assert ended.status == 0, ended.output


def test_settings_that_no_run_takes_are_told_without_a_traceback():
    ended = run_job(["-m", "dist_ft.doctor", "--image-size", "1"], 60)
    assert ended.status == 2
    assert "--image-size 1: must be at least 8" in ended.output
    assert "Traceback" not in ended.output


def test_a_machine_is_ready_without_images_where_none_are_named(tmp_path):
    """As the health of a container is asked for, whose data came from the command line."""
    ended = run_job(["-m", "dist_ft.doctor", *HEALTHY, "--out", str(tmp_path)], 60, cwd=tmp_path)
    assert ended.status == 0, ended.output
    assert re.search(r"note +images +food5\n +-> .*no such folder; name one with", ended.output)


def test_ranks_measure_what_lies_between_them_and_compare_their_images(tiny, tmp_path):
    words = ["-m", "dist_ft.doctor", "--data", str(tiny), "--out", str(tmp_path), *HEALTHY]
    ended = run_job(words, 60, num_ranks=2)
    assert ended.status == 0, ended.output
    assert re.search(r"ok +allreduce +85 MB over 2 ranks in \d+ ms", ended.output)
    assert "the same on 2 ranks" in ended.output


def test_a_rank_without_the_images_is_named(tiny, tmp_path):
    flags = ["--data", str(tiny), "--out", str(tmp_path), *HEALTHY]
    odd = ["tests/workers/odd_one.py", "doctor", "1", "--data", str(tmp_path / "nowhere")]
    ended = run_job([*odd, *flags], 60, num_ranks=2)
    assert ended.status != 0
    assert re.search(r"on rank 1 of 2 on \S+:\nFAIL +images", ended.output), ended.output
