"""Flags win over the file and the file over defaults; every problem is reported."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest

from dist_ft import settings_file, settings_flags
from dist_ft.config import Config
from dist_ft.settings import flag_of


def parse_file(tmp_path, text, *flags):
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    return settings_flags.parse(["--config", str(tmp_path / "run.yaml"), *flags])


def error_of(capsys, *argv):
    """The error message of an unusable command line."""
    with pytest.raises(SystemExit) as exit:
        settings_flags.parse(argv)
    assert exit.value.code == 2
    return capsys.readouterr().err


def test_without_flags_the_defaults_hold():
    assert settings_flags.parse([]) == Config()


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    config = parse_file(tmp_path, "lr: 0.5\nbatch-size: 10\nwd: 0\n", "--lr", "0.25")
    assert config == Config(lr=0.25, batch_size=10, wd=0)


def test_a_flag_can_undo_a_setting_of_the_file(tmp_path):
    text = "keep-ratio: true\nfreeze: [conv0]\nmomentum: 0.9\n"
    flags = ["--keep-ratio", "no", "--freeze", "conv1", "--momentum", "0"]
    config = parse_file(tmp_path, text, *flags)
    assert (config.keep_ratio, config.freeze, config.momentum) == (False, ("conv1",), 0.0)


def test_flags_of_every_type_are_parsed():
    flags = (
        "--keep-ratio --scale-batch yes --freeze a --freeze b --lr-mult c=2 --schedule step"
        " --step-epochs 3 --step-epochs 4.5 --warmup-epochs 0.5 --seed 7"
    )
    config = settings_flags.parse(flags.split())
    assert (config.keep_ratio, config.scale_batch, config.seed) == (True, True, 7)
    assert (config.freeze, config.lr_mult) == (("a", "b"), ("c=2",))
    assert (config.step_epochs, config.warmup_epochs) == ((3.0, 4.5), 0.5)


def test_a_file_names_settings_with_dashes_or_underscores(tmp_path):
    config = parse_file(tmp_path, "batch_size: 3\nhead-lr-mult: 1\n")
    assert (config.batch_size, config.head_lr_mult) == (3, 1)


def test_lists_and_single_values_of_a_file_become_tuples(tmp_path):
    text = "freeze: conv0\nlr-mult: [a=1, b=2]\nschedule: step\nstep-epochs: [5, 1e1]\n"
    config = parse_file(tmp_path, text)
    assert (config.freeze, config.lr_mult) == (("conv0",), ("a=1", "b=2"))
    assert config.step_epochs == (5, 10.0)


def test_a_number_without_a_dot_is_not_read_as_a_string(tmp_path):
    assert parse_file(tmp_path, "lr: 1e-3\nwarmup-epochs: 1e0\n").lr == 0.001


@pytest.mark.parametrize("word", ["off", "Off", "OFF", "'off'"])
def test_off_is_the_choice_off_and_not_a_boolean(tmp_path, word):
    assert parse_file(tmp_path, f"cache: {word}\n", "--lr", "0.5") == Config(cache="off", lr=0.5)
    assert parse_file(tmp_path, f"cache: {word}\nkeep-ratio: off\n").keep_ratio is False


def test_every_choice_can_be_written_unquoted_in_a_file(tmp_path):
    for field in fields(Config):
        for choice in field.metadata["choices"] or ():
            (tmp_path / "run.yaml").write_text(f"{field.name}: {choice}\n")
            read = settings_file.read_settings(str(tmp_path / "run.yaml"))
            assert read == {field.name: choice}


def test_an_empty_file_changes_nothing(tmp_path):
    assert parse_file(tmp_path, "# nothing yet\n") == Config()


@pytest.mark.parametrize(
    "text, words",
    [
        ("learning_rate: 1\nlr_: 2", "no setting 'lr_'; did you mean lr"),
        ("batchsize: 3", "no setting 'batchsize'; did you mean batch_size"),
        ("zzzz: 3", "no setting 'zzzz'; the settings are data, val_share"),
        ("- lr", "must map settings to values"),
        ("lr: [", "cannot be read"),
        ("batch-size: many", "--batch-size 'many': must be of type int"),
        ("epochs: 2.5", "--epochs 2.5: must be of type int"),
        ("lr: fast", "--lr 'fast': must be of type float"),
        ("keep-ratio: 1", "--keep-ratio 1: must be of type bool"),
        ("freeze: [1]", "--freeze (1,): must be of type tuple"),
        ("model:", "--model None: must be of type str"),
        ("cache: on", "--cache True: must be of type str"),
        ("bn: off", "--bn False: must be of type str"),
        ("model: no", "--model False: must be of type str"),
        ("epochs: off", "--epochs False: must be of type int"),
        ("freeze: off", "--freeze (False,): must be of type tuple"),
        ("optimizer: sdg", "--optimizer sdg: choose one of sgd"),
    ],
)
def test_an_unusable_file_is_rejected_with_the_reason(tmp_path, capsys, text, words):
    (tmp_path / "run.yaml").write_text(text)
    assert words in error_of(capsys, "--config", str(tmp_path / "run.yaml"))


def test_an_unreadable_file_is_named(tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for name in ("nowhere.yaml", "photo.jpg"):
        assert f"{name}: cannot be read" in error_of(capsys, "--config", str(tmp_path / name))


def test_all_problems_of_a_command_line_are_reported(capsys):
    message = error_of(capsys, "--lr", "-1", "--bn", "never", "--keep", "0")
    assert "cannot be used" in message
    assert all(flag in message for flag in ("--lr -1.0", "--bn never", "--keep 0"))


@pytest.mark.parametrize("flags", [["--learning-rate", "1"], ["--epoch", "3"], ["--lr", "fast"]])
def test_unknown_and_abbreviated_flags_are_rejected(capsys, flags):
    assert flags[0] in error_of(capsys, *flags)


def test_help_lists_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit):
        settings_flags.parse(["--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for name, field in ((f.name, f) for f in fields(Config)):
        assert f"{flag_of(name)} " in text
        if isinstance(field.default, (int, float)) and field.type != "bool":
            part = text[text.index(f" {flag_of(name)} ") :]
            shown = re.search(r"\(default: (\S+)\)", part[:300])[1]
            assert float(shown) == pytest.approx(field.default, rel=1e-5), name


def test_dist_ft_without_a_command_lists_them():
    code = "import sys; from dist_ft.cli import main; main()"
    made = subprocess.run([sys.executable, "-c", code, "tarin"], capture_output=True, text=True)
    assert made.returncode == 1
    assert "usage: dist-ft {train" in made.stderr
    made = subprocess.run(
        [sys.executable, "-c", code, "train", "--lr", "-1"], capture_output=True, text=True
    )
    assert (made.returncode, made.stdout) == (2, "")
    assert "--lr -1.0: must be at least 0" in made.stderr
