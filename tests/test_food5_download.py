"""food5/prepare.py --download, against a real HTTP server on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import download
import prepare as script
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ranged_file
from parquet_files import NUM_FILES
from split import Request

from dist_ft.errors import Unavailable, UserError
from tests import test_prepare
from tests.images import read_tree
from tests.test_prepare import CLASSES, as_tar, command

NAMES = ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare", "pizza"]
TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HUB = "/datasets/ethz/food101/resolve"
BLOCK_BYTES = 256  # the images have 2 KB

food101 = test_prepare.food101  # a fixture


def rows_of(files: dict[str, bytes]) -> dict[str, list[tuple[int, str, bytes]]]:
    """Label, name and bytes of each image, by split; in blocks of one class, unordered within."""
    rows: dict[str, list[tuple[int, str, bytes]]] = {"train": [], "validation": []}
    for split, name in (("train", "train"), ("validation", "test")):
        listed = files[f"meta/{name}.txt"].decode().split()
        for image in sorted(listed, key=lambda i: (i.split("/")[0], i[::-1]), reverse=True):
            data = files[f"images/{image}.jpg"]
            rows[split].append((NAMES.index(image.split("/")[0]), image.split("/")[1], data))
    return rows


def parquet_file(
    rows, group_size=3, names=NAMES, has_paths=True, columns=("image", "label"), **options
) -> bytes:
    images = [
        {"bytes": data, "path": f"{name}.jpg" if has_paths else None} for _, name, data in rows
    ]
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    schema = pa.schema(zip(columns, (TYPE, pa.int64())), metadata)
    arrays = [pa.array(images, TYPE), pa.array([label for label, *_ in rows], pa.int64())]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=schema), buffer, row_group_size=group_size, **options)
    return buffer.getvalue()


def serve(server, rows, revision=download.REVISIONS[0], **options) -> None:
    """Puts the parquet files on the server, where the hub redirects to."""
    for split, count in NUM_FILES.items():
        size = -(-len(rows[split]) // count)
        for n in range(count):
            name = f"{split}-{n:05d}-of-{count:05d}.parquet"
            part = rows[split][n * size : (n + 1) * size]
            server.contents[f"{HUB}/{revision}/data/{name}"] = f"/cdn/{name}?signature=1"
            server.contents[f"/cdn/{name}?signature=1"] = parquet_file(part, **options)


@pytest.fixture
def hub(server, monkeypatch):
    """A server that is the hub and has the archive, and downloads that are retried at once."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("DIST_FT_FOOD101_URL", f"{server.url}/food-101.tar.gz")
    monkeypatch.setattr(ranged_file, "RETRY_DELAY_S", 0.001)
    monkeypatch.setattr(ranged_file, "BLOCK_BYTES", BLOCK_BYTES)
    return server


def prepare(out: Path, classes=CLASSES, source=None, overwrite=False, **limits) -> str:
    request = Request(list(classes), {"train": 5, "test": 4}, 0, False)
    return script.prepare(source, out, request, overwrite, **limits)


@pytest.fixture(scope="session")
def expected(food101, tmp_path_factory) -> dict[str, bytes]:
    """What prepare.py makes of the archive."""
    root = tmp_path_factory.mktemp("expected")
    prepare(root / "out", source=as_tar(food101, root))
    return read_tree(root / "out")


def options_of(layout: str) -> dict[str, object]:
    return {
        "groups of one class": {},
        "one group": {"group_size": 1000},
        "no statistics": {"write_statistics": False},
        "no class names": {"names": None},
        "uncompressed, plain, small pages": {
            **{"compression": "none", "use_dictionary": False, "data_page_size": 100},
            "group_size": 2,
        },
    }[layout]


@pytest.mark.parametrize(
    "layout",
    [
        "groups of one class",
        "one group",
        "no statistics",
        "no class names",
        "uncompressed, plain, small pages",
    ],
)
def test_parquet_files_of_any_layout_give_what_the_archive_gives(
    hub, food101, expected, tmp_path, layout, capsys
):
    serve(hub, rows_of(food101), **options_of(layout))
    done = prepare(tmp_path)
    assert done == f"built from {hub.url}{HUB}/{download.REVISIONS[0]}"
    assert read_tree(tmp_path) == expected
    printed = capsys.readouterr().out
    assert " MB of Food-101 (" in printed and "scientific fair use" in printed
    assert prepare(tmp_path).startswith("verified")


def test_rows_without_a_usable_name_are_named_by_their_digest(hub, food101, expected, tmp_path):
    """No names, and names that lead out of the folder or occur twice."""
    rows = rows_of(food101)
    bad = {s: [(label, "../../.x", data) for label, _, data in part] for s, part in rows.items()}
    same = {s: [(label, "1", data) for label, _, data in part] for s, part in rows.items()}
    trees = []
    for name, part, has_paths in (("none", rows, False), ("bad", bad, True), ("same", same, True)):
        serve(hub, part, has_paths=has_paths)
        prepare(tmp_path / name)
        trees.append(read_tree(tmp_path / name))
    for tree in trees:
        del tree["split.csv"]
        assert len(tree) == len(expected) - 1
        assert set(tree.values()) == {data for path, data in expected.items() if path[0] == "t"}
    assert trees[0] == trees[1]
    assert not list(tmp_path.rglob("*x.jpg"))


@pytest.fixture
def large(monkeypatch, hub, food101):
    """Serves images of 30 KB in three files, since pyarrow reads 64 KB for each footer."""
    monkeypatch.setitem(NUM_FILES, "train", 2)
    monkeypatch.setitem(NUM_FILES, "validation", 1)
    rng = random.Random(0)

    def serve_large(**options) -> None:
        def enlarged(jpeg: bytes) -> bytes:
            comment = rng.getrandbits(8 * 30_000).to_bytes(30_000, "little")
            return jpeg[:2] + b"\xff\xfe" + (30_002).to_bytes(2, "big") + comment + jpeg[2:]

        images = {name: enlarged(d) for name, d in food101.items() if name.endswith(".jpg")}
        serve(hub, rows_of({**food101, **images}), **options)

    return serve_large


def needed_bytes(hub) -> int:
    """The size of the row groups that hold images of CLASSES."""
    labels, num_bytes = {NAMES.index(name) for name in CLASSES}, 0
    for content in (c for path, c in hub.contents.items() if path.startswith("/cdn")):
        file = pq.ParquetFile(io.BytesIO(content))
        for n in range(file.num_row_groups):
            if labels & set(file.read_row_group(n)["label"].to_pylist()):
                group = file.metadata.row_group(n)
                num_bytes += sum(group.column(c).total_compressed_size for c in range(3))
    return num_bytes


# pyarrow's first read of each footer, and the blocks at both ends of a range.
OVERHEAD = 3 * 2**16 + 40 * BLOCK_BYTES


@pytest.mark.parametrize("has_statistics", [True, False])
def test_only_row_groups_with_the_classes_are_downloaded(hub, large, tmp_path, has_statistics):
    large(write_statistics=has_statistics)
    size = sum(len(content) for path, content in hub.contents.items() if path.startswith("/cdn"))
    needed = needed_bytes(hub)
    assert needed + OVERHEAD < size
    prepare(tmp_path)
    assert needed <= hub.num_bytes_sent <= needed + OVERHEAD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["split.csv", "test", "train"]


def test_dropped_connections_are_continued(hub, large, tmp_path):
    large()
    hub.cuts = [9_000] * 60
    prepare(tmp_path)
    assert hub.num_bytes_sent <= needed_bytes(hub) + OVERHEAD + 60 * BLOCK_BYTES
    assert len(hub.cuts) < 40


def test_an_interrupted_download_continues_in_the_next_run(hub, large, tmp_path):
    large()
    footers = [1, 2**17] * 3  # probe and read
    hub.cuts = [*footers, 100_000, 0, 0, 0, 0]
    with pytest.raises(UserError, match="run this again to continue") as caught:
        prepare(tmp_path)
    assert caught.value.exit_code == 75
    assert [path.name for path in tmp_path.iterdir()] == [".download"]
    first, hub.cuts = hub.num_bytes_sent, []
    assert first > 100_000
    prepare(tmp_path)
    assert hub.num_bytes_sent <= needed_bytes(hub) + OVERHEAD
    assert not (tmp_path / ".download").exists()


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_refusal_is_named_with_both_servers(hub, tmp_path, status):
    hub.status = status
    hub.contents = dict.fromkeys(
        [f"{HUB}/{r}/data/train-00000-of-00008.parquet" for r in download.REVISIONS], b""
    )
    with pytest.raises(Unavailable, match=rf"parquet: (404|{status}).*tar.gz: 404") as caught:
        prepare(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_main_revision_is_used_if_the_pinned_one_is_gone(hub, food101, expected, tmp_path):
    serve(hub, rows_of(food101), revision="main")
    assert prepare(tmp_path) == f"built from {hub.url}{HUB}/main"
    assert read_tree(tmp_path) == expected


@pytest.mark.parametrize("classes", [["apple_pie", "baklava"], []])
def test_other_classes_are_downloaded(hub, food101, tmp_path, classes):
    names = ["apple_pie", *CLASSES]  # of the images that there are
    rows = {
        split: [(names.index(NAMES[label]), *rest) for label, *rest in part]
        for split, part in rows_of(food101).items()
    }
    serve(hub, rows, names=names)
    prepare(tmp_path / "out", classes)
    prepare(tmp_path / "same", classes, source=as_tar(food101, tmp_path))
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "same")


def test_a_class_that_does_not_exist_or_has_no_images_is_named(hub, food101, tmp_path):
    serve(hub, rows_of(food101))
    with pytest.raises(UserError, match="has no images of soup; it has apple_pie, baby_back_ribs"):
        prepare(tmp_path, ["baklava", "soup"])
    with pytest.raises(UserError, match="pizza has 0 of 5 images for train"):
        prepare(tmp_path, ["baklava", "pizza"])


# The archive -------------------------------------------------------------------------------------


@pytest.fixture
def archive(hub, food101, tmp_path_factory, monkeypatch) -> bytes:
    """Served instead of the parquet files, which the hub does not have."""
    data = as_tar(food101, tmp_path_factory.mktemp("archive")).read_bytes()
    hub.contents["/food-101.tar.gz"] = data
    monkeypatch.setattr(download, "ARCHIVE_MD5", hashlib.md5(data).hexdigest())
    return data


def assert_from_archive(out, expected, capsys, reason):
    assert prepare(out).endswith("/food-101.tar.gz")
    assert read_tree(out) == expected
    assert f"{reason}" in capsys.readouterr().out


def test_the_archive_is_used_if_the_hub_has_no_such_files(hub, archive, expected, tmp_path, capsys):
    assert_from_archive(tmp_path, expected, capsys, "404 Not Found; the original archive is next")


def test_the_archive_is_used_if_the_server_does_not_support_ranges(
    hub, archive, food101, expected, tmp_path, capsys
):
    serve(hub, rows_of(food101))
    hub.supports_ranges = False
    hub.cuts = [2**20, 2**20, 20_000]  # probes of both revisions; the archive, which starts over
    assert_from_archive(tmp_path, expected, capsys, "the server does not support range requests")


def test_the_archive_is_used_without_pyarrow(hub, archive, expected, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "parquet_files", None)
    assert_from_archive(tmp_path, expected, capsys, "pip install 'dist-ft[parquet]'")
    assert hub.requests == ["/food-101.tar.gz"] * 3  # reachable, size, content


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"<html>sign in</html>" * 10,
        lambda content: content[:-8],
        lambda content: content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :],
        lambda content: parquet_file([(0, "1", b"")], columns=("picture", "label")),
        lambda content: parquet_file([(0, "1", b"")], columns=("image", "kind")),
        lambda content: parquet_file([(0, "1", b"")], names=["../baklava", *CLASSES]),
    ],
    ids=["html", "cut", "zeros", "no image", "no label", "wrong class name"],
)
def test_the_archive_is_used_if_a_parquet_file_is_damaged(
    hub, archive, food101, expected, tmp_path, capsys, damage
):
    serve(hub, rows_of(food101))
    path = "/cdn/train-00001-of-00008.parquet?signature=1"
    hub.contents[path] = damage(hub.contents[path])
    assert_from_archive(tmp_path, expected, capsys, "not a parquet file of Food-101")


def test_the_archive_is_used_if_a_class_cannot_be_told_without_names(
    hub, archive, food101, tmp_path, capsys
):
    serve(hub, rows_of(food101), names=None)
    prepare(tmp_path, classes=[])
    assert "does not name its classes; the original archive is next" in capsys.readouterr().out
    assert (tmp_path / "train" / "apple_pie").is_dir()


def test_a_download_beyond_the_limit_is_not_started(hub, archive, expected, tmp_path):
    size_mb = len(archive) / 1e6
    with pytest.raises(Unavailable, match="MB, more than --max-mb "):
        prepare(tmp_path, max_mb=0.9 * size_mb)
    assert hub.requests.count("/food-101.tar.gz") == 2  # whether it is reachable, and its size
    assert not (tmp_path / "train").exists()
    prepare(tmp_path, max_mb=1.1 * size_mb)
    assert read_tree(tmp_path) == expected


def test_a_wrong_archive_is_rejected_and_not_kept(hub, archive, expected, tmp_path):
    wrong = bytes([*archive[:-1], archive[-1] ^ 1])
    hub.contents["/food-101.tar.gz"] = wrong
    with pytest.raises(Unavailable, match="wrong digest, not md5"):
        prepare(tmp_path)
    hub.contents["/food-101.tar.gz"] = archive
    prepare(tmp_path)
    assert read_tree(tmp_path) == expected


def test_an_interrupted_archive_continues_unless_its_size_has_changed(
    hub, archive, expected, tmp_path
):
    start = len(archive) // 2
    for first in (archive, archive + b"longer"):
        hub.contents["/food-101.tar.gz"] = first
        hub.cuts = [1, 1, start, 0, 0, 0, 0]
        with pytest.raises(UserError, match="run this again to continue"):
            prepare(tmp_path)
        hub.cuts, hub.contents["/food-101.tar.gz"] = [], archive
        before = hub.num_bytes_sent
        prepare(tmp_path, overwrite=True)
        num_bytes = hub.num_bytes_sent - before
        assert read_tree(tmp_path) == expected
        if first == archive:
            assert num_bytes <= len(archive) - start + BLOCK_BYTES + 2
        else:
            assert num_bytes == len(archive) + 2
        shutil.rmtree(tmp_path / "train")


# Without a network, and beside another run -------------------------------------------------------


def run_script(out: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(Path("--download"), out),
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_a_network_the_command_ends_soon_with_one_line_and_status_69(tmp_path):
    with socket.socket() as bound:  # without listen(): connections are refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        job = run_script(tmp_path / "out", HF_ENDPOINT=url, DIST_FT_FOOD101_URL=f"{url}/a.tar.gz")
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 69
    assert errors.startswith("food5: Food-101 cannot be downloaded: ") and errors.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_silent_network_is_given_up_soon(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "NETWORK_TIMEOUT_S", 0.05)
    hub.may_respond.clear()
    with pytest.raises(Unavailable, match="no response|timed out"):
        prepare(tmp_path)
    assert len(hub.requests) <= 2


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_second_download_is_refused_while_one_runs(hub, food101, expected, tmp_path, is_stopped):
    serve(hub, rows_of(food101))
    hub.may_respond.clear()
    with run_script(tmp_path) as first:
        while not hub.requests and first.poll() is None:
            time.sleep(0.01)
        with pytest.raises(UserError, match="another run"):
            prepare(tmp_path)
        if is_stopped:
            first.send_signal(signal.SIGINT)
        else:
            hub.may_respond.set()
        _, errors = first.communicate(timeout=60)
    assert first.returncode == (130 if is_stopped else 0), errors
    assert read_tree(tmp_path) == ({} if is_stopped else expected)
