"""training.feature_cache: training on cached features equals training that computes them."""

import json
import logging
import os
import shutil

import mxnet as mx
import numpy as np
import pytest

from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import backbone, parameters
from dist_ft.training import feature_cache
from tests.conftest import TINY, train
from tests.images import make_folder
from tests.networks import small_network
from tests.rounding import assert_close

SPEC = InputSpec(32, 36, False)
NUM_TRAIN = 63


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("features"), train=[33, 30], test=[4, 3])


@pytest.fixture
def dataset(images, tmp_path):
    shutil.copytree(images, tmp_path / "data")
    return scan(str(tmp_path / "data"))


@pytest.fixture(scope="module")
def world():
    world = World("cpu", 300)
    yield world
    world.close()


def frozen_extractor(seed=0):
    net = small_network(num_classes=2, seed=seed)
    parameters.set_lr_multipliers(net, 10.0, backbone_lr_mult=0.0)
    return backbone.frozen_feature_extractor(net)


def rank_batches(dataset, rank=0, size=1):
    return RankBatches(dataset, SPEC, 0, rank, size, 2, 8)


@pytest.fixture
def load(dataset, world, tmp_path, caplog):
    """Loads or computes features; returns them, and whether they were computed."""

    def load(extractor, num_views=2, settings=("resnet",), cache_dir=tmp_path / "cache"):
        batches = rank_batches(dataset)
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="dist_ft"):
            features = feature_cache.load_or_compute(
                extractor, batches, num_views, settings, cache_dir, world
            )
        batches.close()
        return features, "computing features" in caplog.text

    return load


@pytest.fixture(autouse=True)
def propagating_logger(monkeypatch):
    monkeypatch.setattr(logging.getLogger("dist_ft"), "propagate", True)  # caplog needs it


def test_each_view_contains_the_features_of_its_epoch(dataset, load):
    extractor = frozen_extractor()
    features, _ = load(extractor)
    batches = rank_batches(dataset)
    assert [len(view) for view in (*features.views, features.test)] == [63, 63, 7]
    for view, part in (
        (features.views[0], batches.train_in_order(0)),
        (features.views[1], batches.train_in_order(1)),
        (features.test, batches.test()),
    ):
        for batch in part:
            is_image = batch.indices >= 0
            expected = extractor(batch.on(mx.cpu())[0]).asnumpy()[is_image]
            np.testing.assert_array_equal(view["x"][batch.indices[is_image]], expected)
        assert view["mask"].all()
    assert (features.views[0]["x"] != features.views[1]["x"]).any()
    batches.close()


@pytest.mark.parametrize("rank", range(3))
def test_batches_of_features_have_the_labels_and_masks_of_batches_of_pixels(dataset, load, rank):
    features, _ = load(frozen_extractor())
    batches = rank_batches(dataset, rank, 3)
    of_features = feature_cache.FeatureBatches(batches, features)
    steps = [slice(0, 25), slice(25, 50), slice(50, 63)]
    for cached, expected in (
        *zip(of_features.train(5, steps), batches.train(5, steps)),
        *zip(of_features.test(), batches.test()),
    ):
        is_image = expected.mask > 0
        np.testing.assert_array_equal(cached.mask, expected.mask)
        np.testing.assert_array_equal(cached.indices, expected.indices)
        np.testing.assert_array_equal(cached.labels[is_image], expected.labels[is_image])
        assert len(cached.x) == len(expected.x)
    of_features.close()


def test_features_are_computed_again_only_if_something_they_depend_on_changes(dataset, load):
    extractor = frozen_extractor()
    first, is_computed = load(extractor)
    assert is_computed
    again, is_computed = load(extractor)
    assert not is_computed
    np.testing.assert_array_equal(again.views[1], first.views[1])
    assert load(extractor, num_views=1)[1]
    assert load(extractor, settings=("other",))[1]
    assert load(frozen_extractor(seed=1))[1]
    path = dataset.train.root / dataset.train.paths[0]
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert load(extractor)[1]


def test_a_failed_computation_leaves_nothing_in_the_cache(load, tmp_path):
    extractor = frozen_extractor()
    forward, num_calls = extractor.forward, 0

    def fail_later(x):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            raise ZeroDivisionError
        return forward(x)

    extractor.forward = fail_later
    with pytest.raises(ZeroDivisionError):
        load(extractor)
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_runs_may_compute_the_same_features_at_once(load, tmp_path):
    extractor = frozen_extractor()
    forward, others = extractor.forward, []

    def other_run_first(x):
        extractor.forward = forward
        if x.shape[0] > 1:
            others.append(load(extractor))
        return forward(x)

    batch_of_one = extractor(mx.nd.zeros((1, 32, 32, 3), dtype="uint8"))
    assert batch_of_one.shape == (1, 8)
    extractor.forward = other_run_first
    features, _ = load(extractor)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1
    assert [len(view) for view in features.views] == [NUM_TRAIN, NUM_TRAIN]
    for other, is_computed in others:
        assert is_computed
        np.testing.assert_array_equal(other.test, features.test)


def test_files_of_killed_runs_are_removed_after_a_day(load, tmp_path):
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / f".features-{i}.npy.{i}.writing" for i in (1, 2))
    for path in (old, new):
        path.write_text("")
    os.utime(old, (0, 0))
    load(frozen_extractor())
    assert new.exists() and not old.exists()


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/folder: cannot store features .*another --cache-dir"):
        load(frozen_extractor(), cache_dir=tmp_path / "file" / "folder")


def test_an_unreadable_image_is_masked_out_and_named(dataset, load):
    path = dataset.train.paths[7]
    (dataset.train.root / path).write_bytes(b"not an image")
    features, _ = load(frozen_extractor())
    assert [view["mask"][7] for view in features.views] == [0, 0]
    assert [view["mask"].sum() for view in features.views] == [NUM_TRAIN - 1] * 2
    assert list(features.unreadable["train"]) == [path]
    assert features.unreadable["test"] == {}
    for rank, expected in ((0, [path]), (1, [])):  # counted once for all ranks
        of_features = feature_cache.FeatureBatches(rank_batches(dataset, rank, 2), features)
        assert list(of_features.train_loader.unreadable) == expected
        of_features.close()


def scores(run):
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    sums = [[row["train_loss"], row["train_accuracy"], row["test_loss"]] for row in rows]
    return sums, [row["confusion"] for row in rows]


@pytest.mark.jobs
def test_a_run_with_cached_features_equals_a_run_without(tiny, tmp_path):
    """Two ranks compute the features, and one process uses them."""
    # A random, frozen mobilenet gives 0 for every image, so the network is a ResNet.
    flags = ["--data", str(tiny), *TINY, "--model", "resnet18_v2", "--backbone-lr-mult", "0"]
    flags += ["--epochs", "2", "--cache-dir", str(tmp_path / "cache")]
    train(*flags, "--views", "0", "--out", str(tmp_path / "plain"))
    first = train(*flags, "--views", "2", "--out", str(tmp_path / "first"), num_ranks=2)
    assert "computing features" in first.output
    second = train(*flags, "--views", "2", "--out", str(tmp_path / "second"))
    assert "computing features" not in second.output
    expected_sums, expected_confusion = scores(tmp_path / "plain")
    for name in ("first", "second"):
        sums, confusion = scores(tmp_path / name)
        # 6 steps of 24 images, each with 512 features
        assert_close(sums, expected_sums, num_terms=6 * (24 + 512))
        assert confusion == expected_confusion
