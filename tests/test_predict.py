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
from dist_ft.data import sampler
from dist_ft.data.decoding import decode
from dist_ft.data.image_folder import scan
from dist_ft.data.transforms import InputSpec, center_crop
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.inference import predictor, trained_model, writers
from dist_ft.inference.inputs import UnlabelledImages, list_images
from dist_ft.inference.writers import Row
from dist_ft.models import zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.training import checkpoint
from tests.conftest import run_command, run_job

# Of float32 sums over 256 channels in each of 28 layers.
TOLERANCE = 28 * 256 * float(np.finfo(np.float32).eps)

PROBABILITIES = ["probability", "probability_2", "probability_3"]


@pytest.fixture(scope="module")
def world():
    world = World(device="cpu", stall_timeout_s=600)
    yield world
    world.close()


@pytest.fixture(scope="module")
def model(trained_run):
    return trained_model.load(trained_run)


@pytest.fixture(scope="module")
def net(model, world):
    return model.network(world, fused=True)


@pytest.fixture
def predict(trained_run, monkeypatch, capfd):
    """Runs the command in this process; returns its exit status, output and error output."""

    def run(*arguments, run=trained_run):
        monkeypatch.setattr(sys, "argv", ["predict", str(run), *map(str, arguments)])
        status = 0
        try:
            command.main()
        except SystemExit as exit:
            status = exit.code
            if isinstance(status, str):
                print(status, file=sys.stderr)
                status = 1
        sys.stdout.flush()
        return (status, *capfd.readouterr())

    return run


def rows_of(parts):
    return [row for part in parts for row in part]


def probabilities_of(run, paths):
    """One image at a time, by the unfused network with the checkpoint's arrays."""
    arrays = checkpoint.best(run).net_arrays()
    net = zoo.build("mobilenet0.25", 5, 32, 0)
    for name, parameter in parameters_by_path(net).items():
        parameter.set_data(arrays[name])
    whole = zoo.with_normalization(net)
    images = (center_crop(decode(Path(path).read_bytes()), 32, 37, True) for path in paths)
    return [
        whole(mx.nd.array(image[None], dtype="uint8")).softmax().asnumpy()[0] for image in images
    ]


def test_rows_are_the_networks_probabilities_in_the_order_of_the_paths(
    trained_run, model, net, tiny, world
):
    paths = list_images([str(tiny / "test")], sys.stdin)
    rows = rows_of(predictor.predict(net, model, paths, world, top=5, num_workers=2))
    assert [row.path for row in rows] == paths
    for row, probabilities in zip(rows[::7], probabilities_of(trained_run, paths[::7])):
        expected = dict(zip(model.classes, probabilities))
        assert row.top == tuple(sorted(row.top, key=lambda pair: -pair[1]))
        for label, probability in row.top:
            assert probability == pytest.approx(expected[label], abs=TOLERANCE)


def test_as_many_labels_are_correct_as_in_the_best_epoch(trained_run, model, tiny, world):
    split = scan(str(tiny)).test
    paths = [str(split.root / path) for path in split.paths]
    rows = rows_of(predictor.predict(model.network(world), model, paths, world, num_workers=2))
    correct = sum(row.top[0][0] == path.split("/")[0] for row, path in zip(rows, split.paths))
    assert correct / len(split) == checkpoint.best(trained_run).accuracy


def test_a_float16_checkpoint_is_computed_in_float32_where_that_is_missing(model, net, tiny, world):
    paths = [str(tiny / "test/class_a/000.jpg")]
    float16 = model._replace(dtype="float16").network(world, fused=True)
    rows = [rows_of(predictor.predict(each, model, paths, world)) for each in (net, float16)]
    assert rows[0] == rows[1]


@pytest.mark.jobs
def test_two_processes_write_the_rows_of_one(trained_run, model, net, tiny, world, tmp_path):
    out = tmp_path / "rows.csv"
    arguments = [str(trained_run), str(tiny / "test"), "--top", "3", "--output", str(out)]
    ended = run_job(["-m", "dist_ft.predict", *arguments], 60, num_ranks=2)
    assert ended.status == 0, ended.output
    with open(out, newline="") as file:
        two = list(csv.DictReader(file))
    paths = list_images([str(tiny / "test")], sys.stdin)
    one = rows_of(predictor.predict(net, model, paths, world, top=3, num_workers=2))
    assert [row["path"] for row in two] == [row.path for row in one] == paths
    for row, expected in zip(two, one):
        # An image's row in its batch differs, and with it the order of float32 sums.
        for name, (_, probability) in zip(PROBABILITIES, expected.top):
            assert float(row[name]) == pytest.approx(probability, abs=TOLERANCE + 1e-6)


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
    assert "dist_ft: 7 of 8 images cannot be read" in errors
    with open(out, newline="") as file:
        rows = {os.path.basename(row["path"]): row for row in csv.DictReader(file)}
    assert [name for name, row in rows.items() if row["label"]] == ["good.jpg"]
    assert rows["empty.jpg"]["error"] == "the file is empty"
    assert "exceeds limit" in rows["bomb.png"]["error"]
    assert rows["pipe.jpg"]["error"] == "not a regular file"
    assert rows["nowhere.jpg"]["error"] == "No such file or directory"
    assert all(row["error"] for name, row in rows.items() if name != "good.jpg")


def test_a_list_on_standard_input_keeps_its_order(predict, tiny, monkeypatch, tmp_path):
    names = [str(tiny / f"test/class_{c}/00{n}.jpg") for c, n in ("c1", "a0", "e2", "a0")]
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(names).encode()), "utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    status, _, _ = predict("-", "--output", tmp_path / "rows.jsonl")
    assert status == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == names
    assert rows[1]["label"] == rows[3]["label"]
    assert rows[0]["label"] == rows[0]["top"][0]["label"] and rows[0]["error"] is None


def test_thumbnails_are_sorted_into_folders_by_label(predict, tiny, hostile, tmp_path):
    arguments = [tiny / "test", hostile / "empty.jpg", "--out", tmp_path / "out", "--format", "csv"]
    status, output, _ = predict(*arguments)
    assert status == 1  # for the empty file
    labels = Counter(row["label"] for row in csv.DictReader(io.StringIO(output)) if row["label"])
    files = list((tmp_path / "out").glob("*/*.jpg"))
    assert Counter(file.parent.name for file in files) == labels
    assert sum(labels.values()) == 101
    assert decode(files[0].read_bytes()).shape == (32, 32, 3)
    status, _, errors = predict(*arguments)
    assert status == 1 and "not an empty folder; choose another" in errors


def test_long_names_have_thumbnails_and_outputs_too(predict, tiny, tmp_path):
    for name in ("中" * 80, "x" * 250):
        shutil.copy(tiny / "test/class_a/000.jpg", tmp_path / f"{name}.jpg")
    out = tmp_path / f"{'y' * 250}.csv"
    status, _, _ = predict(tmp_path, "--out", tmp_path / "out", "--output", out)
    assert status == 0
    assert len(list((tmp_path / "out").glob("*/*.jpg"))) == 2
    assert len(out.read_text().splitlines()) == 3


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
    (best / "trainer.params").write_bytes(b"")  # which no prediction needs
    assert trained_model.load(tmp_path / "run").path == best
    (best / "net.params").write_bytes(b"")
    status, output, errors = predict("nowhere.jpg", run=tmp_path / "run")
    assert status == 1 and "nowhere.jpg" in output
    assert errors.count(str(best / "net.params")) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["x.jpg", "--top", "6"], "has 5 classes"),
        (["EMPTY"], "no images there"),
        (["x.jpg", "--format", "parquet"], "needs a file, --output FILE"),
        (["x.jpg", "--dtype", "float16"], "float16"),
        (["x.jpg", "--device", "gpu"], "sees no GPU"),
        (["x.jpg", "--output", "EMPTY"], "is a folder; name a file"),
        (["x.jpg", "--out", "FILE"], "not an empty folder"),
    ],
)
def test_a_command_that_is_bound_to_fail_says_so_at_once(predict, arguments, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    paths = {"EMPTY": tmp_path / "empty", "FILE": tmp_path / "file"}
    status, output, errors = predict(*(paths.get(word, word) for word in arguments))
    assert status == 1
    assert message in errors and "Traceback" not in errors
    assert "x.jpg," not in output
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_checkpoints_is_named(predict, tmp_path):
    status, _, errors = predict("x.jpg", run=tmp_path)
    assert status == 1
    assert f"dist_ft: {tmp_path}: neither a run with an intact checkpoint nor" in errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num-workers", "0"], "--num-workers: '0'"),
        (["--top", "many"], "--top: 'many'"),
        (["--dtype", "float8"], "--dtype: invalid choice: 'float8'"),
    ],
)
def test_an_invalid_flag_is_refused(predict, arguments, message):
    status, _, errors = predict("x.jpg", *arguments)
    assert status == 2 and message in errors


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
    (tmp_path / "real").mkdir()
    (tmp_path / "real/1.jpg").write_bytes(b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cats").symlink_to(tmp_path / "real")
    (tmp_path / "data/dogs").symlink_to(tmp_path / "real")
    (tmp_path / "real/back").symlink_to(tmp_path / "data")
    (tmp_path / "real/itself").symlink_to("itself")
    expected = [str(tmp_path / "data" / name / "1.jpg") for name in ("cats", "dogs")]
    assert names_of([tmp_path / "data"]) == expected


def test_a_path_that_no_file_can_have_is_unreadable():
    images = UnlabelledImages(["a\0b.jpg"], InputSpec(8, 9, False))
    with pytest.raises(ValueError, match="null"):
        images.fill(0, np.empty((8, 8, 3), np.uint8))
    assert "null" in images.errors[0]


characters = st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")
names = st.text(characters, min_size=1, max_size=12)


@given(st.lists(st.tuples(names, names, st.floats(0, 1)), max_size=5))
@settings(deadline=None)
def test_csv_and_jsonl_preserve_any_names(triples):
    rows = [Row(path, ((label, p),)) for path, label, p in triples]
    csv_file, jsonl_file = io.StringIO(newline=""), io.StringIO(newline="")
    writers.CsvWriter(csv_file, 1).write(rows)
    writers.JsonLinesWriter(jsonl_file).write(rows)
    csv_file.seek(0)
    header, *cells = list(csv.reader(csv_file))
    assert header == ["path", "label", "probability", "error"]
    assert [tuple(c[:2]) for c in cells] == [(path, label) for path, label, _ in triples]
    lines = [json.loads(line) for line in jsonl_file.getvalue().split("\n")[:-1]]
    assert [(w["path"], w["label"], w["probability"]) for w in lines] == triples


def test_a_table_contains_no_control_characters():
    file = io.StringIO()
    row = Row("\x1b[2J.jpg", (("cat", 0.5),))
    writers.TableWriter(file, [row.path], ["cat"]).write([row])
    assert file.getvalue() == "?[2J.jpg  cat   50.0%\n"


def test_parquet_has_the_columns_of_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [Row("a.jpg", (("x", 0.75), ("y", 0.25))), Row("b\udcff.jpg", (), "bad")]
    out = tmp_path / "rows.parquet"
    with writers.open_writer("parquet", out, 2, ["a.jpg", "b\udcff.jpg"], ["x", "y"]) as writer:
        writer.write(rows)
    first, second = parquet.read_table(out).to_pylist()
    assert list(first) == writers.columns(2)
    assert (first["label"], first["probability_2"], first["error"]) == ("x", 0.25, None)
    assert (second["path"], second["label"], second["error"]) == ("b�.jpg", None, "bad")


def test_the_format_follows_from_the_output():
    assert writers.format_of(None, Path("rows.jsonl")) == "jsonl"
    assert writers.format_of(None, Path("rows.txt")) == "csv"
    assert writers.format_of("table", Path("rows.csv")) == "table"


def test_the_fused_network_computes_the_same_until_a_parameter_changes():
    core = zoo.build("resnet18_v2", 5, 32, seed=0)
    fused, plain = zoo.for_inference(core, mx.cpu()), zoo.with_normalization(core)
    assert isinstance(fused, mx.gluon.SymbolBlock)
    random = np.random.RandomState(0)
    x = mx.nd.array(random.randint(0, 256, (10, 32, 32, 3)), dtype="uint8")
    before = plain(x).asnumpy()
    # Sums over up to 9 * 512 inputs in each of 18 layers.
    tolerance = 18 * 9 * 512 * float(np.finfo(np.float32).eps) * np.abs(before).max()
    np.testing.assert_allclose(fused(x).asnumpy(), before, rtol=0, atol=tolerance)
    for parameter in core.collect_params(".*weight").values():
        parameter.set_data(parameter.data() * 1.1)
    assert np.abs(plain(x).asnumpy() - before).max() > tolerance
    assert np.abs(fused(x).asnumpy() - plain(x).asnumpy()).max() > tolerance


def test_only_float32_on_a_cpu_is_fused(model):
    core = model.core(mx.cpu())
    for ctx, dtype in ((mx.cpu(), "bfloat16"), (mx.gpu(0), "float32")):
        assert isinstance(zoo.for_inference(core, ctx, dtype)[1], type(core))


@given(st.integers(1, 130), st.integers(1, 4))
def test_the_rows_of_all_ranks_are_in_order_part_by_part(num_images, size):
    shares = (sampler.sequential_shares(num_images, 10, rank, size) for rank in range(size))
    order = [sorted(i for indices, _ in part for i in indices if i >= 0) for part in zip(*shares)]
    assert [i for part in order for i in part] == list(range(num_images))
