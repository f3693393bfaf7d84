"""predict: the labels that evaluation gives, in the order asked for, whatever is among them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dist_ft.config import Config
from dist_ft.data import sampler
from dist_ft.data.decoding import decode
from dist_ft.data.image_folder import scan
from dist_ft.data.transforms import center_crop
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.inference import predictor, trained_model, writers
from dist_ft.inference.inputs import Pictures, listed
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.train import fit
from dist_ft.training import checkpoint
from tests.conftest import run_command, run_job


@pytest.fixture(scope="module")
def world():
    solo = World(device="cpu", stall_timeout_s=600)
    yield solo
    solo.close()


@pytest.fixture(scope="module")
def run(tiny, world, tmp_path_factory):
    """The folder of a run that has learned something."""
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = {"epochs": 8, "batch_size": 8, "momentum": 0.9, "head_lr_mult": 1.0, "lr": 0.05}
    net = {"model": "mobilenet0.25", "weights": "none", "image_size": 32, "keep_ratio": True}
    fit(Config(data=str(tiny), out=str(out), num_workers=2, **net, **recipe), world)
    return out


def by_hand(run, path):
    """Logits of one image, with nothing of predict in between."""
    found = checkpoint.best(run)
    net = zoo.build("mobilenet0.25", 5, 32, 0)
    for name, parameter in parameters_by_path(net).items():
        parameter.set_data(found.net_arrays()[name])
    pixels = center_crop(decode(Path(path).read_bytes()), 32, 37, True)
    return zoo.with_normalization(net)(mx.nd.array(pixels[None], dtype="uint8")).asnumpy()[0]


def test_labels_are_those_of_the_network_by_hand(run, tiny, world):
    found = trained_model.load(run)
    paths = listed([str(tiny / "test")], ())
    parts = predictor.predict(found.network(world), found, paths, world, top=5)
    said = [row for part in parts for row in part]
    assert [row.path for row in said] == paths
    assert len({row.top[0][0] for row in said}) > 2
    for row in said[::7]:
        logits = by_hand(run, row.path)
        likely = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert [label for label, _ in row.top] == [found.classes[c] for c in np.argsort(-logits)]
        np.testing.assert_allclose([p for _, p in row.top], np.sort(likely)[::-1], atol=1e-5)


def test_as_many_are_right_as_in_the_best_epoch(run, tiny, world):
    found, split = trained_model.load(run), scan(str(tiny)).test
    paths = [str(split.root / path) for path in split.paths]
    parts = predictor.predict(found.network(world), found, paths, world)
    said = [row.top[0][0] for part in parts for row in part]
    right = sum(label == path.split("/")[0] for label, path in zip(said, split.paths))
    assert right / len(split) == checkpoint.best(run).accuracy


def test_what_a_gpu_trained_in_float16_a_cpu_predicts_in_float32(run, tiny, world):
    found = trained_model.load(run)
    paths = listed([str(tiny / "test")], ())
    ours, theirs = (
        [
            row
            for part in predictor.predict(each.network(world), found, paths, world)
            for row in part
        ]
        for each in (found, found._replace(dtype="float16"))
    )
    assert ours == theirs


def test_two_ranks_write_the_bytes_of_one(run, tiny, tmp_path):
    for size in (0, 2):
        words = ["-m", "dist_ft.predict", str(run), str(tiny / "test"), "--top", "3"]
        ended = run_job([*words, "--output", str(tmp_path / f"{size}.csv")], 60, num_ranks=size)
        assert ended.status == 0, ended.output
    one, two = ((tmp_path / f"{size}.csv").read_bytes() for size in (0, 2))
    assert one == two
    assert one.count(b"\n") == 1 + 101


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Files that are no pictures, and one that is, in the middle."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.png").write_text("no picture")
    Image.new("1", (30000, 30000)).save(root / "bomb.png")
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8))
    picture.save(root / "good.jpg")
    (root / "half.jpg").write_bytes((root / "good.jpg").read_bytes()[:600])
    os.mkfifo(root / "pipe.jpg")
    (root / "link.jpg").symlink_to("link.jpg")
    return root


@pytest.mark.parametrize("num_ranks", [0, 2])
def test_an_unreadable_file_has_its_error_in_its_row(run, hostile, num_ranks, tmp_path):
    words = ["-m", "dist_ft.predict", str(run), str(hostile), "nowhere.jpg"]
    ended = run_job([*words, "--output", str(tmp_path / "rows.csv")], 60, num_ranks=num_ranks)
    assert ended.status == 1
    assert "dist_ft: 7 of 8 images cannot be read" in ended.output
    with open(tmp_path / "rows.csv", newline="") as file:
        said = {os.path.basename(row["path"]): row for row in csv.DictReader(file)}
    assert [name for name, row in said.items() if row["label"]] == ["good.jpg"]
    assert said["empty.jpg"]["error"] == "the file is empty"
    assert "exceeds limit" in said["bomb.png"]["error"]
    assert said["pipe.jpg"]["error"] == "not a regular file"
    assert said["nowhere.jpg"]["error"] == "No such file or directory"
    assert all(row["error"] for name, row in said.items() if name != "good.jpg")


def test_a_list_on_the_standard_input_keeps_its_order(run, tiny, monkeypatch, capsys, tmp_path):
    names = [str(tiny / f"test/class_{c}/00{n}.jpg") for c, n in ("c1", "a0", "e2", "a0")]
    given = io.TextIOWrapper(io.BytesIO("\n".join(names).encode()), "utf-8")
    monkeypatch.setattr(sys, "stdin", given)
    words = ["predict", str(run), "-", "--output", str(tmp_path / "rows.jsonl")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        predictor.main()
    assert ended.value.code == 0
    said = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["path"] for row in said] == names
    assert said[1] == said[3]
    assert said[0]["label"] == said[0]["top"][0]["label"] and said[0]["error"] is None


def test_thumbnails_lie_under_their_labels(run, tiny, hostile, tmp_path):
    paths = [str(tiny / "test"), str(hostile / "empty.jpg")]
    flags = ["--out", str(tmp_path / "look"), "--format", "csv"]
    ended = run_job(["-m", "dist_ft.predict", str(run), *paths, *flags], 60)
    said = list(csv.DictReader(io.StringIO(ended.output[ended.output.index("path,label") :])))
    files = list((tmp_path / "look").glob("*/*.jpg"))
    labels = Counter(row["label"] for row in said if row["label"])
    assert Counter(file.parent.name for file in files) == labels
    assert sum(labels.values()) == 101
    assert decode(Path(files[0]).read_bytes()).shape == (32, 32, 3)
    again = run_job(["-m", "dist_ft.predict", str(run), *paths, *flags], 60)
    assert (again.status, "choose another" in again.output) == (1, True)


def test_a_checkpoint_alone_suffices_without_its_optimizer(run, tiny, world, tmp_path):
    best = checkpoint.best(run)
    for name in ("net.params", "state.json"):
        shutil.copy(best.path / name, tmp_path)
    found = trained_model.load(tmp_path)
    assert found._replace(path=best.path) == trained_model.load(run)
    data = (tmp_path / "net.params").read_bytes()
    (tmp_path / "net.params").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="net.params: damaged"):
        trained_model.load(tmp_path)


def test_a_damaged_best_checkpoint_is_named_where_another_one_takes_its_place(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    best = checkpoint.best(tmp_path / "run").path
    (best / "trainer.params").write_bytes(b"")  # which no prediction needs
    assert trained_model.load(tmp_path / "run").path == best
    (best / "net.params").write_bytes(b"")
    image = str(tmp_path / "nowhere.jpg")
    ended = run_job(["-m", "dist_ft.predict", str(tmp_path / "run"), image], 60)
    assert f"dist_ft: {best / 'net.params'}: damaged" in ended.output
    assert ended.output.count("; skipped") == 1


BAD_COMMANDS = {
    "neither a run with a whole checkpoint": ["nowhere", "x.jpg"],
    "knows 5 classes": ["RUN", "x.jpg", "--top", "6"],
    "no image is named there": ["RUN", "EMPTY"],
    "name a file for it with --output": ["RUN", "x.jpg", "--format", "parquet"],
    "--dtype float16: needs a GPU": ["RUN", "x.jpg", "--dtype", "float16"],
    "sees no GPU": ["RUN", "x.jpg", "--device", "gpu"],
}


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--num-workers", "0"], "--num-workers: '0' is no number from 1 on"),
        (["--top", "many"], "--top: 'many' is no number from 1 on"),
        (["--dtype", "float8"], "--dtype: invalid choice: 'float8'"),
    ],
)
def test_a_flag_that_cannot_be_is_told_at_once(run, flags, told):
    ended = run_job(["-m", "dist_ft.predict", str(run), "x.jpg", *flags], 60)
    assert ended.status == 2
    assert told in ended.output and "Traceback" not in ended.output


@pytest.mark.parametrize(
    "flag, told", [("--output", "is a folder: name a file"), ("--out", "is no empty folder")]
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(run, tiny, tmp_path, flag, told):
    (tmp_path / "place").write_text("mine")
    place = tmp_path / "place" if flag == "--out" else tmp_path
    ended = run_job(["-m", "dist_ft.predict", str(run), str(tiny / "test"), flag, str(place)], 60)
    assert ended.status == 1
    assert f"dist_ft: {flag} {place}: {told}" in ended.output
    assert "Traceback" not in ended.output and "class_a" not in ended.output
    assert (tmp_path / "place").read_text() == "mine"


@pytest.mark.parametrize("reader, status", [("head -1", 1), ("cat > /dev/full", 1)])
def test_a_reader_that_ends_ends_the_command_without_a_traceback(run, tiny, reader, status):
    predict_all = f"{sys.executable} -m dist_ft.predict {run} {tiny / 'test'}"
    line = f"{predict_all} > /dev/full" if "full" in reader else f"{predict_all} | {reader}"
    ended = run_command(["bash", "-o", "pipefail", "-c", line], 60)
    assert ended.status == status
    assert "Traceback" not in ended.output and "Exception" not in ended.output
    assert ("No space left" in ended.output) == ("full" in reader)


def test_long_names_have_thumbnails_too(run, tiny, tmp_path):
    for name in ("中" * 80, "x" * 250):
        shutil.copy(tiny / "test/class_a/000.jpg", tmp_path / f"{name}.jpg")
    flags = ["--out", str(tmp_path / "look"), "--output", str(tmp_path / f"{'y' * 250}.csv")]
    paths = sorted(map(str, tmp_path.glob("*.jpg")))
    ended = run_job(["-m", "dist_ft.predict", str(run), *paths, *flags], 60)
    assert ended.status == 0, ended.output
    assert len(list((tmp_path / "look").glob("*/*.jpg"))) == 2
    assert len((tmp_path / f"{'y' * 250}.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("words", BAD_COMMANDS)
def test_a_bad_command_gets_its_remedy_and_no_traceback(run, words, tmp_path):
    stands_for = {"RUN": str(run), "EMPTY": str(tmp_path)}
    flags = [stands_for.get(word, word) for word in BAD_COMMANDS[words]]
    ended = run_job(["-m", "dist_ft.predict", *flags], 60)
    assert ended.status == 1
    assert words in ended.output
    assert "Traceback" not in ended.output


def test_a_folder_is_searched_and_a_pattern_expanded(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a/x/3.webp", "a/notes.txt", ".hidden/4.jpg", "b/.5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    below = [str(tmp_path / name) for name in ("a/x/3.webp", "b/1.PNG", "b/2.jpg")]
    assert listed([str(tmp_path)], ()) == below
    assert listed([str(tmp_path / "**/*.jpg")], ()) == [below[2]]
    assert listed(["-", "[x].jpg"], [f"{tmp_path / 'b'}\n", "\n", "y.jpg"]) == [
        *(below[1], below[2], "y.jpg", "[x].jpg"),
    ]
    everything = [*below[:1], str(tmp_path / "a/notes.txt"), *below[1:]]
    assert sorted(listed([str(tmp_path / "**")], ())) == sorted(everything)  # each once


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/1.jpg").write_bytes(b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cats").symlink_to(tmp_path / "real")
    (tmp_path / "data/dogs").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path / "data")
    (tmp_path / "real/itself").symlink_to("itself")
    found = listed([str(tmp_path / "data")], ())
    assert found == [str(tmp_path / "data" / name / "1.jpg") for name in ("cats", "dogs")]


def test_a_name_that_no_file_can_have_is_unreadable():
    pictures = Pictures(["a\0b.jpg"], trained_model.InputSpec(8, 9, False))
    with pytest.raises(ValueError, match="null"):
        pictures.fill(0, np.empty((8, 8, 3), np.uint8))
    assert "null" in pictures.errors[0]


KINDS = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
names = st.text(KINDS, min_size=1, max_size=12)


@given(st.lists(st.tuples(names, names, st.floats(0, 1)), max_size=5))
@settings(deadline=None)
def test_csv_and_jsonl_give_any_names_back(triples):
    said = [writers.Row(path, ((label, p),)) for path, label, p in triples]
    csv_file, jsonl_file = io.StringIO(newline=""), io.StringIO(newline="")
    writers.Csv(csv_file, 1).write(said)
    writers.JsonLines(jsonl_file).write(said)
    csv_file.seek(0)
    header, *cells = list(csv.reader(csv_file))
    assert header == ["path", "label", "probability", "error"]
    assert [tuple(c[:2]) for c in cells] == [(path, label) for path, label, _ in triples]
    lines = [json.loads(line) for line in jsonl_file.getvalue().split("\n")[:-1]]
    assert [(w["path"], w["label"], w["probability"]) for w in lines] == triples


def test_a_table_hands_no_orders_to_the_terminal():
    file = io.StringIO()
    writers.Table(file, ["\x1b[2J.jpg"], ["cat"]).write(
        [writers.Row("\x1b[2J.jpg", (("cat", 0.5),))]
    )
    assert file.getvalue() == "?[2J.jpg  cat   50.0%\n"


def test_parquet_holds_the_same_columns(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    said = [writers.Row("a.jpg", (("x", 0.75), ("y", 0.25))), writers.Row("b\udcff.jpg", (), "bad")]
    writer = writers.Parquet(str(tmp_path / "rows.parquet"), 2)
    writer.write(said)
    writer.close()
    first, second = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert list(first) == writers.columns(2)
    assert (first["label"], first["probability_2"], first["error"]) == ("x", 0.25, None)
    assert (second["path"], second["label"], second["error"]) == ("b�.jpg", None, "bad")


def test_the_network_for_inference_is_the_network_until_a_parameter_changes():
    core = zoo.build("resnet18_v2", 5, 32, seed=0)
    fixed, plain = zoo.for_inference(core, mx.cpu()), zoo.with_normalization(core)
    assert isinstance(fixed, mx.gluon.SymbolBlock)
    chance = np.random.RandomState(0)
    x = mx.nd.array(chance.randint(0, 256, (50, 32, 32, 3)), dtype="uint8")
    before = plain(x).asnumpy()
    np.testing.assert_allclose(fixed(x).asnumpy(), before, rtol=0, atol=1e-5)
    assert (fixed(x).asnumpy().argmax(axis=1) == before.argmax(axis=1)).all()
    for parameter in core.collect_params(".*weight").values():
        parameter.set_data(parameter.data() * 1.1)
    after = plain(x).asnumpy()
    assert np.abs(after - before).max() > 0.01
    assert np.abs(fixed(x).asnumpy() - after).max() > 0.01


def test_a_network_that_is_not_for_a_cpu_in_float32_stays_as_it_is(run):
    core = trained_model.load(run).core(mx.cpu())
    for ctx, dtype in ((mx.cpu(), "bfloat16"), (mx.gpu(0), "float32")):
        assert isinstance(zoo.for_inference(core, ctx, dtype)[1], type(core))


@given(st.integers(1, 130), st.integers(1, 4))
def test_the_rows_of_all_ranks_lie_in_order_part_by_part(num_images, size):
    parts = zip(*(sampler.sequential_shares(num_images, 10, rank, size) for rank in range(size)))
    order = [sorted(i for indices, _ in part for i in indices if i >= 0) for part in parts]
    assert [i for part in order for i in part] == list(range(num_images))
