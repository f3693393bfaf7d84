"""Paths may have any bytes: MXNet, pyarrow and onnxruntime are given names that they can open."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import mxnet as mx
import pytest

from dist_ft import evaluate as evaluate_command
from dist_ft import export as export_command
from dist_ft import predict as predict_command
from dist_ft.config import Config
from dist_ft.files import library_path
from dist_ft.models import weight_file
from dist_ft.settings import ConfigError
from dist_ft.text import canonical
from dist_ft.training import checkpoint
from dist_ft.training.state import TrainingState
from tests.conftest import ENVIRONMENT, TINY, run_job

LATIN_1 = os.fsdecode("caf\u00e9".encode("latin-1"))  # not valid UTF-8
# A process whose file names are ASCII: not even UTF-8 mode or a coerced locale.
WITHOUT_LOCALE = {
    **{name: value for name, value in ENVIRONMENT.items() if name not in ("LANG", "LC_CTYPE")},
    **{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture(params=["two words", "caf\u00e9", LATIN_1], ids=ascii)
def folder(request, tmp_path):
    (tmp_path / request.param).mkdir()
    return tmp_path / request.param


def test_a_library_path_names_the_same_files(folder):
    for name in ("new", "existing"):
        (folder / "existing").write_text("old")
        with library_path(folder / name) as path:
            path.encode()  # as a C++ library gets it
            Path(path).write_text("content")
        assert (folder / name).read_text() == "content"
    with library_path(folder) as path:
        assert sorted(os.listdir(path)) == ["existing", "new"]


def test_checkpoints_and_weights_are_saved_and_read(folder):
    arrays = {"features.0.weight": mx.nd.arange(5)}
    path = checkpoint.save(folder / "run", TrainingState(), arrays, {}, keep=1)
    assert checkpoint.latest(folder / "run").net_arrays().keys() == arrays.keys()
    weights = path / f"{folder.name}.params"
    shutil.copy(path / "net.params", weights)
    assert weight_file.read(weights)["features.0.weight"].asnumpy().tolist() == [0, 1, 2, 3, 4]


def test_a_run_is_used_and_exported(trained_run, tiny, tmp_path, call):
    folder = tmp_path / LATIN_1
    run = shutil.copytree(trained_run, folder / "run")
    assert call(evaluate_command, run, tiny, "--png", folder / f"{folder.name}.png")[0] == 0
    for format in ("csv", "parquet"):
        output = folder / f"{folder.name}.{format}"
        status, _, errors = call(predict_command, run, tiny / "test/class_a", "--output", output)
        assert status == 0 and output.stat().st_size, errors
    for to in ("gluon", "onnx"):
        out = folder / f"{folder.name}-{to}"
        status, _, errors = call(export_command, run, "--to", to, "--out", out)
        assert status == 0 and out.exists(), errors


@pytest.mark.parametrize("flag", ["data", "cache_dir", "weights", "out", "resume"])
def test_a_path_that_the_process_cannot_encode_is_rejected(flag, monkeypatch):
    def fsencode(path):
        return str(path).encode("ascii", "surrogateescape")

    monkeypatch.setattr(os, "fsencode", fsencode)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ConfigError, match=r"'caf\\xe9': .* in ascii, .*; set LC_ALL=C.UTF-8"):
        Config(**{flag: "caf\u00e9"})
    Config(**{flag: os.fsdecode("caf\u00e9".encode("latin-1"))})  # as a command line has it


def test_a_null_character_is_rejected():
    with pytest.raises(ConfigError, match=r"--out 'a\\x00b': contains a null character"):
        Config(out="a\0b")


def test_a_name_is_the_same_in_every_locale():
    in_ascii = "caf\u00e9".encode().decode("ascii", "surrogateescape")
    assert canonical(in_ascii) == canonical("cafe\u0301") == "caf\u00e9"
    assert canonical(LATIN_1) == LATIN_1


@pytest.mark.jobs
def test_a_job_without_a_locale_uses_the_same_names_as_one_with_it(tiny, tmp_path):
    data, run = tmp_path / "caf\u00e9/data", tmp_path / "caf\u00e9/run"
    shutil.copytree(tiny, data)
    for split in ("train", "test"):
        (data / split / "class_a").rename(data / split / "th\u00e9")
        (data / split / "class_b/000.jpg").rename(data / split / "class_b/br\u00fbl\u00e9e.jpg")
    flags = ["-m", "dist_ft.train", *TINY, "--data", str(data), "--out", str(run)]
    for epochs, environment in (("1", WITHOUT_LOCALE), ("2", ENVIRONMENT), ("3", WITHOUT_LOCALE)):
        ended = run_job([*flags, "--epochs", epochs], 60, environment=environment)
        assert ended.status == 0, ended.output
        assert checkpoint.latest(run).state.classes[-1] == "th\u00e9"
    assert checkpoint.latest(run).step == 9
    results = []
    for name, environment in (("with", ENVIRONMENT), ("without", WITHOUT_LOCALE)):
        thumbnails = ["--out", str(tmp_path / name), "--format", "jsonl"]
        words = ["-m", "dist_ft.predict", str(run), str(data / "test"), *thumbnails]
        ended = run_job(words, 60, environment=environment)
        assert ended.status == 0, ended.output
        rows = [json.loads(line) for line in ended.output.splitlines() if line.startswith("{")]
        results.append([row["label"] for row in rows])
        assert {path.name for path in (tmp_path / name).iterdir()} == set(results[-1])
        assert len([*(tmp_path / name).glob("*/*-br\u00fbl\u00e9e.jpg")]) == 1
    assert len(results[0]) == 101 and results[0] == results[1]
