"""dist_ft.predict gives the network's labels, in order, and reports what it cannot read."""

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

from dist_ft import predict as command
from dist_ft.data.decoding import decode
from dist_ft.data.transforms import InputSpec, center_crop
from dist_ft.errors import UserError
from dist_ft.inference import feature_file, predictor, trained_model, tta, writers
from dist_ft.inference.inputs import UnlabeledImages, list_images
from dist_ft.inference.outputs import Outputs
from dist_ft.inference.writers import Row
from dist_ft.models import zoo
from dist_ft.training import checkpoint
from tests.conftest import run_command, run_job
from tests.rounding import EPSILON, assert_close

TOLERANCE = 28 * 256 * EPSILON  # of float32 sums over 256 channels in each of 28 layers


@pytest.fixture(scope="module")
def model(trained_run):
    return trained_model.load(trained_run)


@pytest.fixture(scope="module")
def net(model, world):
    return model.network(world, fused=True)


@pytest.fixture
def predict(trained_run, call):
    """Runs the command in this process; returns its exit status, output and error output."""
    return lambda *arguments, run=trained_run: call(command, run, *arguments)


def rows_of(parts):
    return [row for part in parts for row in part]


def csv_rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_the_networks_probabilities_in_the_order_of_the_paths(model, net, tiny, world):
    """As the network that is not fused gives them for one image at a time."""
    paths = list_images([str(tiny / "test")], sys.stdin)
    rows = rows_of(predictor.predict(net, model, paths, world, top=5, num_workers=2))
    assert [row.path for row in rows] == paths
    plain = model.network(world)
    for row in rows[::7]:
        pixels = center_crop(decode(Path(row.path).read_bytes()), *model.spec)
        probabilities = plain(mx.nd.array(pixels[None], dtype="uint8")).softmax().asnumpy()[0]
        expected = dict(zip(model.classes, probabilities))
        assert dict(row.top) == pytest.approx(expected, rel=0, abs=TOLERANCE)
        assert row.top == tuple(sorted(row.top, key=lambda pair: -pair[1]))


def test_a_float16_checkpoint_is_computed_in_float32_where_that_is_missing(model, net, tiny, world):
    paths = [str(tiny / "test/class_a/000.jpg")]
    float16 = model._replace(dtype="float16").network(world, fused=True)
    rows = [rows_of(predictor.predict(each, model, paths, world)) for each in (net, float16)]
    assert rows[0] == rows[1]


@pytest.mark.jobs
def test_two_processes_write_what_one_writes(trained_run, model, tiny, world, tmp_path):
    out, features = tmp_path / "rows.csv", tmp_path / "features.npy"
    arguments = [str(trained_run), str(tiny / "test"), "--top", "3", "--output", str(out)]
    arguments += ["--features", str(features), "--tta", "flip"]
    ended = run_job(["-m", "dist_ft.predict", *arguments], 60, num_ranks=2)
    assert ended.status == 0, ended.output
    assert "means for an image and its mirror image" in ended.output
    paths = list_images([str(tiny / "test")], sys.stdin)
    outputs = Outputs(model, features=True)
    net = tta.augmented(model.network(world, fused=True, outputs=outputs.graph), "flip", 5)
    one = rows_of(predictor.predict(net, model, paths, world, 3, 2, outputs=outputs))
    two = csv_rows(out)
    assert [row["path"] for row in two] == [row.path for row in one] == paths
    assert_close(np.load(features), [row.features for row in one], 28 * 256)
    for row, expected in zip(two, one):
        # An image's row in its batch differs, and with it the order of float32 sums.
        for name, (_, p) in zip(("probability", "probability_2", "probability_3"), expected.top):
            assert float(row[name]) == pytest.approx(p, rel=0, abs=TOLERANCE + 1e-6)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """One image among files that are none."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.png").write_text("not an image")
    Image.new("1", (30000, 30000)).save(root / "bomb.png")
    pixels = np.random.RandomState(0).randint(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(root / "good.jpg")
    (root / "half.jpg").write_bytes((root / "good.jpg").read_bytes()[:600])
    os.mkfifo(root / "pipe.jpg")
    (root / "link.jpg").symlink_to("link.jpg")
    return root


def test_an_unreadable_file_has_its_error_in_its_row(predict, hostile, tmp_path):
    out = tmp_path / "rows.csv"
    status, _, errors = predict(hostile, "nowhere.jpg", "--output", out)
    assert status == 1
    assert "dist_ft: 7 of 8 images have an error instead of a label" in errors
    rows = {os.path.basename(row["path"]): row for row in csv_rows(out)}
    assert [name for name, row in rows.items() if row["label"]] == ["good.jpg"]
    assert [name for name, row in rows.items() if not row["error"]] == ["good.jpg"]
    assert rows["empty.jpg"]["error"] == "the file is empty"
    assert "exceeds limit" in rows["bomb.png"]["error"]
    assert rows["pipe.jpg"]["error"] == "not a regular file"
    assert rows["nowhere.jpg"]["error"] == "No such file or directory"


def test_features_are_of_the_rows_without_an_error(predict, model, tiny, hostile, tmp_path):
    images = [tiny / f"test/class_{name}/000.jpg" for name in "abcd"]
    mixed = [images[0], hostile / "empty.jpg", images[1], images[2], "nowhere.jpg", images[3]]
    out, path = tmp_path / "rows.csv", tmp_path / "features.npy"
    status, _, _ = predict(*mixed, "--output", out, "--features", path)
    assert status == 1
    rows, features = csv_rows(out), np.load(path)
    assert [row["path"] for row in rows if not row["error"]] == list(map(str, images))
    pixels = np.stack([center_crop(decode(image.read_bytes()), *model.spec) for image in images])
    extractor = zoo.feature_extractor(model.core(mx.cpu()))
    expected = extractor(mx.nd.array(pixels, dtype="uint8")).asnumpy()
    assert features.dtype == np.float32 and features.shape == (4, 256)
    assert_close(features, expected, 28 * 256)


def test_the_header_of_features_has_one_length_for_any_number(tmp_path):
    for num_rows, num_features in ((0, 1), (3, 2), (200, 100_000)):
        path = tmp_path / f"{num_rows}.npy"
        row = Row("a", (), features=np.full(num_features, num_rows, np.float32))
        with feature_file.copied([[row]] * num_rows, path, num_features) as parts:
            assert not path.exists() and len(list(parts)) == num_rows
        assert np.load(path).shape == (num_rows, num_features)
        assert (np.load(path) == num_rows).all()


def test_features_are_complete_or_missing(tmp_path):
    row = Row("a", (), features=np.zeros(3, np.float32))
    path = tmp_path / "features.npy"
    with pytest.raises(KeyError), feature_file.copied([[row]], path, 3) as parts:
        next(iter(parts))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_explained_thumbnails_show_the_image_and_its_map(predict, model, tiny, tmp_path):
    status, _, _ = predict(tiny / "test/class_a", "--out", tmp_path / "out", "--explain")
    assert status == 0
    files = list((tmp_path / "out").glob("*/*.jpg"))
    assert len(files) == 21
    predict(tiny / "test/class_a", "--out", tmp_path / "plain")
    for file in files:
        plain = decode((tmp_path / "plain" / file.relative_to(tmp_path / "out")).read_bytes())
        left, right = np.split(decode(file.read_bytes()), 2, axis=1)
        assert left.shape == right.shape == (model.spec.side, model.spec.side, 3)
        # A JPEG's colors are interpolated across the border of the two halves.
        assert (left[:, :-2] == plain[:, :-2]).all()
        red, green, blue = right.mean(axis=(0, 1))
        assert blue > red > green  # the color of the lowest score: the map is a single place


def test_a_list_on_standard_input_keeps_its_order(predict, tiny, monkeypatch, tmp_path):
    names = [str(tiny / f"test/class_{c}/00{n}.jpg") for c, n in ("c1", "a0", "e2", "a0")]
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(names).encode()), "utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    status, _, errors = predict("-", "--output", tmp_path / "rows.jsonl", "--tta", "flip")
    assert status == 0
    assert "probabilities are means for an image and its mirror image" in errors
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == names
    assert rows[1]["label"] == rows[3]["label"] and rows[1]["tta"] == "flip"
    assert rows[0]["label"] == rows[0]["top"][0]["label"] and rows[0]["error"] is None


def test_thumbnails_are_sorted_into_folders_by_label(predict, tiny, hostile, tmp_path):
    for name in ("中" * 80, "x" * 250):
        shutil.copy(tiny / "test/class_a/000.jpg", tmp_path / f"{name}.jpg")
    rows_file = tmp_path / f"{'y' * 250}.csv"
    arguments = [tiny / "test", tmp_path, hostile / "empty.jpg", "--out", tmp_path / "out"]
    status, _, _ = predict(*arguments, "--output", rows_file)
    assert status == 1  # for the empty file
    labels = Counter(row["label"] for row in csv_rows(rows_file) if row["label"])
    files = list((tmp_path / "out").glob("*/*.jpg"))
    assert Counter(file.parent.name for file in files) == labels
    assert sum(labels.values()) == 103
    assert decode(files[0].read_bytes()).shape == (32, 32, 3)


def test_two_files_of_a_checkpoint_suffice_and_damage_is_named(trained_run, tmp_path):
    best = checkpoint.best(trained_run)
    for name in ("net.params", "state.json"):
        shutil.copy(best.path / name, tmp_path)
    model = trained_model.load(tmp_path)
    assert model._replace(path=best.path) == trained_model.load(trained_run)
    data = (tmp_path / "net.params").read_bytes()
    (tmp_path / "net.params").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="net.params"):
        trained_model.load(tmp_path)


def test_a_damaged_best_checkpoint_is_named_and_another_one_used(predict, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    best = checkpoint.best(tmp_path / "run").path
    (best / "net.params").write_bytes(b"")
    status, output, errors = predict("nowhere.jpg", run=tmp_path / "run")
    assert status == 1 and "nowhere.jpg" in output
    assert errors.count(str(best / "net.params")) == 1


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["x.jpg", "--top", "6"], 1, "has 5 classes"),
        (["EMPTY"], 1, "no images there"),
        (["x.jpg", "--format", "parquet"], 1, "needs a file, --output FILE"),
        (["x.jpg", "--dtype", "float16"], 1, "float16"),
        (["x.jpg", "--device", "gpu"], 1, "sees no GPU"),
        (["x.jpg", "--output", "EMPTY"], 1, "is a folder; name a file"),
        (["x.jpg", "--out", "FILE"], 1, "not an empty folder; choose another"),
        (["x.jpg", "--explain"], 1, "add --out DIR"),
        (["x.jpg", "--features", "EMPTY"], 1, "is a folder; name a file"),
        (["x.jpg", "--num-workers", "0"], 2, "--num-workers: '0'"),
        (["x.jpg", "--top", "many"], 2, "--top: 'many'"),
    ],
)
def test_an_invalid_command_is_refused_at_once(predict, arguments, status, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    paths = {"EMPTY": tmp_path / "empty", "FILE": tmp_path / "file"}
    actual, output, errors = predict(*(paths.get(word, word) for word in arguments))
    assert actual == status
    assert message in errors and "Traceback" not in errors
    assert "x.jpg," not in output
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_checkpoints_is_named(predict, tmp_path):
    status, _, errors = predict("x.jpg", run=tmp_path)
    assert status == 1
    assert f"dist_ft: {tmp_path}: neither a run with an intact checkpoint nor" in errors


@pytest.mark.jobs
@pytest.mark.parametrize("reader", ["| head -1", "> /dev/full"])
def test_output_that_cannot_be_written_ends_the_command_without_a_traceback(
    trained_run, tiny, reader
):
    line = f"{sys.executable} -m dist_ft.predict {trained_run} {tiny / 'test'} {reader}"
    ended = run_command(["bash", "-o", "pipefail", "-c", line], 60)
    assert ended.status == 1
    assert "Traceback" not in ended.output and "Exception" not in ended.output
    assert ("No space left" in ended.output) == ("full" in reader)


def names_of(arguments, lines=()):
    return list_images(list(map(str, arguments)), io.StringIO("".join(lines)))


def test_folders_and_patterns_are_expanded(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a/x/3.webp", "a/notes.txt", ".hidden/4.jpg", "b/.5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    a3, b1, b2 = (str(tmp_path / name) for name in ("a/x/3.webp", "b/1.PNG", "b/2.jpg"))
    assert names_of([tmp_path]) == [a3, b1, b2]
    assert names_of([tmp_path / "**/*.jpg"]) == [b2]
    lines = [f"{tmp_path / 'b'}\n", "\n", "y.jpg"]
    assert names_of(["-", "[x].jpg"], lines) == [b1, b2, "y.jpg", "[x].jpg"]
    each_once = [a3, str(tmp_path / "a/notes.txt"), b1, b2]
    assert sorted(names_of([tmp_path / "**"])) == sorted(each_once)


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    real, data = tmp_path / "real", tmp_path / "data"
    real.mkdir()
    data.mkdir()
    (real / "1.jpg").write_bytes(b"")
    for link, target in (("cats", real), ("dogs", real), ("itself", "itself")):
        (data / link).symlink_to(target)
    (real / "back").symlink_to(data)
    assert names_of([data]) == [str(data / name / "1.jpg") for name in ("cats", "dogs")]


def test_a_path_that_no_file_can_have_is_unreadable():
    images = UnlabeledImages(["a\0b.jpg"], InputSpec(8, 9, False))
    with pytest.raises(ValueError, match="null"):
        images.fill(0, np.empty((8, 8, 3), np.uint8))
    assert "null" in images.errors[0]


characters = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
names = st.text(characters, min_size=1, max_size=12)


@given(st.lists(st.tuples(names, names, st.floats(0, 1)), max_size=5))
@settings(deadline=None)
def test_csv_and_jsonl_preserve_any_names(triples):
    rows = [Row(path, ((label, p),)) for path, label, p in triples]
    text = io.StringIO("".join(writers.csv_line(row, 1) for row in rows), newline="")
    assert [tuple(c[:2]) for c in csv.reader(text)] == [(path, label) for path, label, _ in triples]
    lines = "".join(map(writers.json_line, rows)).split("\n")[:-1]
    parsed = map(json.loads, lines)
    assert [(row["path"], row["label"], row["probability"]) for row in parsed] == triples


def test_a_table_contains_no_control_characters(tmp_path):
    row = Row("\x1b[2J.jpg", (("cat", 0.5),))
    writers.write([[row]], "table", tmp_path / "table", 1, [row.path], ["cat"])
    assert (tmp_path / "table").read_text() == "?[2J.jpg  cat   50.0%\n"


def test_parquet_has_the_columns_of_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [Row("a.jpg", (("x", 0.75), ("y", 0.25))), Row("b\udcff.jpg", (), "bad")]
    for kind in ("parquet", "csv"):
        assert writers.write([rows], kind, tmp_path / kind, 2, [], ["x", "y"]) == 1
    first, second = parquet.read_table(tmp_path / "parquet").to_pylist()
    header = (tmp_path / "csv").read_bytes().partition(b"\n")[0].decode()
    assert ",".join(first) == header == "path,label,probability,label_2,probability_2,error"
    assert list(first.values()) == ["a.jpg", "x", 0.75, "y", 0.25, None]
    assert list(second.values()) == ["b�.jpg", None, None, None, None, "bad"]


def test_the_format_follows_from_the_output():
    assert writers.format_of(None, Path("rows.jsonl")) == "jsonl"
    assert writers.format_of(None, Path("rows.txt")) == "csv"
    assert writers.format_of("table", Path("rows.csv")) == "table"


def test_only_float32_on_a_cpu_is_fused(model):
    core = model.core(mx.cpu())
    for ctx, dtype in ((mx.cpu(), "bfloat16"), (mx.gpu(0), "float32")):
        assert isinstance(zoo.for_inference(core, ctx, dtype)[1], type(core))
