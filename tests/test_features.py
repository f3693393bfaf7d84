"""features: where the head alone learns, what is kept gives the run that it saves computing."""

import json
import os
import shutil
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.startup import World
from dist_ft.errors import UserError
from dist_ft.models import backbone, parameters, zoo
from dist_ft.models.mxnet_internals import parameters_by_path
from dist_ft.training import feature_cache
from tests.conftest import ENVIRONMENT, TINY, train
from tests.images import make_folder

VIEWS = InputSpec(32, 36, False)
# Not a mobilenet: drawn at random and frozen, it says zero of every image.
FROZEN = [*TINY, "--model", "resnet18_v2", "--backbone-lr-mult", "0"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("features"), train=[33, 30], test=[4, 3])


@pytest.fixture
def folder(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "data")
    return scan(str(tmp_path / "data"))


@pytest.fixture(scope="module")
def world():
    world = World("cpu", 300)
    yield world
    world.close()


def build(seed=0, name="resnet18_v2"):
    return zoo.build(name, 2, 32, seed)


def frozen(net, **settings):
    parameters.set_lr_multipliers(net, 10.0, 0.0, **settings)
    return backbone.frozen_feature_extractor(net)


@pytest.fixture
def obtain(folder, world, tmp_path):
    """Features of the folder, and what was said of them."""

    def obtain(net, num_views=2, seed=0, made_of="it", folder=folder, kept_in=tmp_path / "kept"):
        feed, said = RankBatches(folder, VIEWS, seed, 0, 1, 2, 8), []
        kept = feature_cache.obtain(net, feed, num_views, made_of, kept_in, world, said.append)
        feed.close()
        return kept, sum(words.startswith("computing") for words in said)

    return obtain


@pytest.mark.parametrize("name", ["resnet18_v2", "resnet18_v1"])
def test_features_and_head_are_the_network(name):
    net = build(name=name)
    x = mx.nd.array(np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3)), dtype="uint8")
    expected = zoo.with_normalization(net)(x).asnumpy()
    found = backbone.head(net)(frozen(net)(x)).asnumpy()
    assert np.ptp(expected) > 1e-3
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_features_follow_the_networks_parameters():
    net = build()
    part = frozen(net)
    x = mx.nd.array(np.random.RandomState(0).randint(0, 256, (2, 32, 32, 3)), dtype="uint8")
    before = part(x).asnumpy()
    for name, parameter in parameters_by_path(net).items():
        if not name.startswith("output"):
            parameter.set_data(parameter.data() * 1.1)
    after = part(x).asnumpy()
    assert abs(after - before).max() > 1e-3
    head = backbone.head(net)(mx.nd.array(after)).asnumpy()
    assert np.allclose(head, zoo.with_normalization(net)(x).asnumpy(), atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"lr_mult": ["features.1.weight=1"]}, {"lr_mult": ["features.5.0.bn2.running_mean=1"]}],
)
def test_where_more_than_the_head_learns_nothing_is_kept(settings):
    assert frozen(build(), **settings) is None


def test_a_head_that_is_no_dense_layer_keeps_nothing():
    assert frozen(zoo.build("squeezenet1.1", 2, 224, 0)) is None


def test_each_view_holds_the_features_of_its_epochs_pixels(folder, obtain):
    part = frozen(build())
    kept, _ = obtain(part)
    feed = RankBatches(folder, VIEWS, 0, 0, 1, 2, 8)
    for epoch in (0, 1):
        row = 0
        for batch in feed.train_in_order(epoch):
            expected = part(batch.on(mx.cpu())[0]).asnumpy()[batch.mask > 0]
            assert (kept.views[epoch]["x"][row : row + len(expected)] == expected).all()
            row += len(expected)
        assert row == len(folder.train)
    feed.close()


def test_batches_of_features_have_the_labels_and_masks_of_those_of_pixels(folder, obtain):
    kept, _ = obtain(frozen(build()))
    for rank in range(3):
        feed = RankBatches(folder, VIEWS, 0, rank, 3, 2, 8)
        of_features = feature_cache.FeatureBatches(feed, kept)
        parts = [slice(0, 25), slice(25, 50), slice(50, 63)]
        for found, expected in (
            *zip(of_features.train(5, parts), feed.train(5, parts)),
            *zip(of_features.test(), feed.test()),
        ):
            real = expected.mask > 0
            assert (found.mask == expected.mask).all()
            assert (found.labels[real] == expected.labels[real]).all()
            assert found.x.shape[0] == expected.x.shape[0]
        feed.close()


def test_what_was_computed_is_taken_again_and_anything_else_is_not(folder, obtain):
    net = build()
    part = frozen(net)
    first, computed = obtain(part)
    assert computed
    again, computed = obtain(part)
    assert not computed
    assert (again.views[1] == first.views[1]).all()
    assert obtain(part, num_views=1)[1]
    assert obtain(part, made_of="else")[1]
    assert obtain(frozen(build(seed=1)))[1]
    path = folder.train.root / folder.train.paths[0]
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert obtain(part)[1]


def test_an_error_on_the_way_leaves_nothing_behind(folder, obtain, tmp_path):
    def broken(x):
        raise ZeroDivisionError

    part = frozen(build())
    part.forward = broken
    with pytest.raises(ZeroDivisionError):
        obtain(part)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_run_ends_well_where_another_has_kept_the_same_features_meanwhile(obtain, tmp_path):
    """One of the same process number, as in another container."""
    part = frozen(build())
    forward, others = part.forward, []

    def first_the_other(x):
        part.forward = forward
        others.append(obtain(part))
        return forward(x)

    part.forward = first_the_other
    mine, computed = obtain(part)
    ((theirs, also_computed),) = others
    assert computed and also_computed
    for view, their_view in zip([*mine.views, mine.test], [*theirs.views, theirs.test]):
        assert (view == their_view).all()
    assert [len(list(place.iterdir())) for place in (tmp_path / "kept").iterdir()] == [4]


KILLED = """
import os, sys
from pathlib import Path
from dist_ft.data import pixel_file

beside, _ = pixel_file.create_locked(Path(sys.argv[1]), Path.mkdir)
(beside / "0.npy").write_text("half")
print("begun", flush=True)
sys.stdin.readline()
"""


def test_a_folder_of_a_writer_that_was_killed_is_removed_and_one_of_a_living_is_not(
    obtain, tmp_path
):
    (tmp_path / "kept").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "kept" / "features-of-others")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": ENVIRONMENT}
    with subprocess.Popen(command, **pipes) as job:
        assert job.stdout.readline() == b"begun\n"
        (beside,) = (tmp_path / "kept").iterdir()
        obtain(frozen(build()))
        assert [file.name for file in beside.iterdir()] == ["0.npy"]
        job.kill()
    obtain(frozen(build()), made_of="else")
    assert not beside.exists()
    assert len(list((tmp_path / "kept").glob("features-*"))) == 2


def test_a_place_that_cannot_be_written_is_told_with_the_remedy(obtain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory.*--cache-dir"):
        obtain(frozen(build()), kept_in=tmp_path / "file")


def test_an_unreadable_image_is_masked_out_and_named(folder, obtain):
    path = folder.train.paths[7]
    (folder.train.root / path).write_bytes(b"no image")
    kept, _ = obtain(frozen(build()))
    assert [view["mask"][7] for view in kept.views] == [0, 0]
    assert sum(view["mask"].sum() for view in kept.views) == 2 * 62
    assert [list(bad) for bad in kept.bad] == [[path], []]
    of_features = feature_cache.FeatureBatches(RankBatches(folder, VIEWS, 0, 1, 2, 2, 8), kept)
    assert of_features.train_loader.unreadable == {}  # named by rank 0, and so counted once
    of_features.close()


def scores(out):
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    names = "train_loss", "train_accuracy", "test_loss", "test_correct", "test_images", "confusion"
    return [[row[name] for name in names] for row in rows]


def test_a_run_from_kept_features_is_the_run_that_computes_them(tiny, tmp_path):
    """Also of two ranks, and of features that one process kept."""
    flags = ["--data", str(tiny), *FROZEN, "--epochs", "2", "--views", "2"]
    shared = ["--cache-dir", str(tmp_path / "kept")]
    outs = {name: ["--out", str(tmp_path / name)] for name in ("none", "one", "two", "three")}
    train(*flags, "--views", "0", *outs["none"])
    computed = train(*flags, *shared, *outs["one"])
    assert "computing features" in computed.output
    taken = train(*flags, *shared, *outs["two"], num_ranks=2)
    assert "computing features" not in taken.output
    apart = ["--cache-dir", str(tmp_path / "apart")]
    assert "computing features" in train(*flags, *apart, *outs["three"], num_ranks=2).output
    plain = scores(tmp_path / "none")
    for name in ("one", "two", "three"):
        for found, expected in zip(scores(tmp_path / name), plain):
            assert found[:3] == pytest.approx(expected[:3], rel=1e-5)
            assert found[3:] == expected[3:]
    (one,), (three,) = ((tmp_path / n).glob("features-*") for n in ("kept", "apart"))
    for file in ("0.npy", "1.npy", "2.npy"):
        a, b = np.load(one / file), np.load(three / file)
        assert np.allclose(a["x"], b["x"], rtol=1e-5, atol=1e-6)
        assert (a["mask"] == b["mask"]).all()
