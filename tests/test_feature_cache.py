"""training.feature_cache: training on cached features equals training that computes them."""

import json
import os

import mxnet as mx
import numpy as np
import pytest

from dist_ft.data.augmentation import DEFAULT
from dist_ft.data.image_folder import scan
from dist_ft.data.rank_batches import RankBatches
from dist_ft.data.transforms import InputSpec
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.models import zoo
from dist_ft.training.feature_cache import FeatureBatches, load_or_compute
from tests.conftest import TINY, train
from tests.images import make_folder
from tests.networks import small_network
from tests.rounding import assert_close


@pytest.fixture
def dataset(tmp_path):
    return scan(str(make_folder(tmp_path / "data", train=[33, 30], test=[4, 3], side=32)))


@pytest.fixture(scope="module")
def world():
    world = World("cpu", 300)
    yield world
    world.close()


def extractor(seed=0):
    return zoo.feature_extractor(small_network(num_classes=2, seed=seed))


def rank_batches(dataset, rank=0, size=1, augmentation=DEFAULT):
    spec = InputSpec(32, 36, False)
    return RankBatches(dataset, spec, 0, rank, size, 2, 8, augmentation=augmentation)


@pytest.fixture
def load(dataset, world, tmp_path):
    def load(net, num_views=2, settings=("resnet",), cache_dir=tmp_path / "cache", **batches):
        batches = rank_batches(dataset, **batches)
        features = load_or_compute(net, batches, num_views, settings, cache_dir, world)
        batches.close()
        return features

    return load


def test_each_view_contains_the_features_of_its_epoch(dataset, load):
    net, batches = extractor(), rank_batches(dataset)
    features = load(net)
    assert [len(view) for view in (*features.views, features.held_out["test"])] == [63, 63, 7]
    for view, part in (
        (features.views[0], batches.train_in_order(0)),
        (features.views[1], batches.train_in_order(1)),
        (features.held_out["test"], batches.test()),
    ):
        for batch in part:
            real = batch.indices >= 0
            expected = net(batch.x_on(mx.cpu())).asnumpy()[real]
            np.testing.assert_array_equal(view["x"][batch.indices[real]], expected)
        assert view["mask"].all()
    assert (features.views[0]["x"] != features.views[1]["x"]).any()
    batches.close()


@pytest.mark.parametrize("rank", range(3))
def test_batches_of_features_have_the_labels_and_masks_of_batches_of_pixels(dataset, load, rank):
    batches = rank_batches(dataset, rank, 3)
    of_features = FeatureBatches(batches, load(extractor()))
    steps = [slice(0, 25), slice(25, 50), slice(50, 63)]
    for cached, expected in (
        *zip(of_features.train(5, steps), batches.train(5, steps)),
        *zip(of_features.in_order("test"), batches.test()),
    ):
        real = expected.mask > 0
        np.testing.assert_array_equal(cached.mask, expected.mask)
        np.testing.assert_array_equal(cached.indices, expected.indices)
        np.testing.assert_array_equal(cached.labels[real], expected.labels[real])
        assert len(cached.x) == len(expected.x)
    of_features.close()


def test_only_a_change_of_what_features_depend_on_computes_them_again(dataset, load, tmp_path):
    net = extractor()
    first = load(net)
    (path,) = (tmp_path / "cache").glob("*.npy")
    inode = path.stat().st_ino
    np.testing.assert_array_equal(load(net).views[1], first.views[1])
    assert path.stat().st_ino == inode
    load(net, num_views=1)
    load(net, settings=("other",))
    load(net, augmentation=DEFAULT._replace(jitter=0.1))
    load(extractor(seed=1))
    image = dataset.train.root / dataset.train.paths[0]
    os.utime(image, ns=(1, image.stat().st_mtime_ns + 1))
    load(net)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 6


def test_a_failed_computation_leaves_nothing_in_the_cache(load, tmp_path, monkeypatch):
    net, inputs = extractor(), []
    forward = net.forward

    def fail_later(x):
        inputs.append(x)
        return forward(x) if len(inputs) < 3 else 1 / 0

    monkeypatch.setattr(net, "forward", fail_later)
    with pytest.raises(ZeroDivisionError):
        load(net)
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_of_killed_runs_are_removed_after_a_day(load, tmp_path):
    (tmp_path / "cache").mkdir()
    old, new = (tmp_path / "cache" / f".features-{i}.npy.{i}.writing" for i in (1, 2))
    for path in (old, new):
        path.write_text("")
    os.utime(old, (0, 0))
    load(extractor())
    assert new.exists() and not old.exists()


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(load, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/folder: cannot store features .*another --cache-dir"):
        load(extractor(), cache_dir=tmp_path / "file" / "folder")


def test_an_unreadable_image_is_masked_out_and_named(dataset, load):
    path = dataset.train.paths[7]
    (dataset.train.root / path).write_bytes(b"not an image")
    features = load(extractor())
    for view in features.views:
        assert np.flatnonzero(view["mask"] == 0).tolist() == [7]
    for rank, expected in ((0, [path]), (1, [])):  # counted once for all ranks
        of_features = FeatureBatches(rank_batches(dataset, rank, 2), features)
        assert list(of_features.train_loader.unreadable) == expected
        assert of_features.loaders["test"].unreadable == {}
        of_features.close()


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
    plain, *others = (
        [json.loads(line) for line in (tmp_path / name / "scores.jsonl").read_text().splitlines()]
        for name in ("plain", "first", "second")
    )
    for rows in others:
        for row, expected in zip(rows, plain):
            assert row["confusion"] == expected["confusion"]
            for key in ("train_loss", "train_accuracy", "test_loss"):
                # 6 steps of 24 images, each with 512 features
                assert_close(row[key], expected[key], num_terms=6 * (24 + 512))
