"""food5/sample.py: the same bytes for a seed, whole or absent, a label only structure gives."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from PIL import Image

SAMPLE = Path(__file__).resolve().parents[1] / "food5" / "sample.py"
CLASSES = ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio", "beef_tartare"]


def sample(out, *flags):
    command = [sys.executable, str(SAMPLE), "--out", str(out), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def digests(out):
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """100 train and 40 test images a class, up to 96 px."""
    out = tmp_path_factory.mktemp("small")
    made = sample(out, "--train", 100, "--test", 40, "--side", 96)
    assert made.returncode == 0, made.stderr
    return out


def test_a_seed_gives_the_same_bytes_whatever_the_number_of_processes_and_images(small, tmp_path):
    flags = ("--train", 4, "--test", 2, "--side", 96)
    sample(tmp_path / "one", "--num-workers", 1, *flags)
    sample(tmp_path / "three", "--num-workers", 3, *flags)
    sample(tmp_path / "other", "--seed", 1, *flags)
    one, three, other = (digests(tmp_path / name) for name in ("one", "three", "other"))
    assert one == three
    assert len(one) == 30
    assert one.items() <= digests(small).items()
    assert not set(one.values()) & set(other.values())


def test_the_pictures_look_like_a_folder_of_photographs(tmp_path):
    sample(tmp_path, "--train", 12, "--test", 1)
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == CLASSES
    files = list((tmp_path / "train").rglob("*.jpg"))
    pictures = [Image.open(path) for path in files]
    sizes = [picture.size for picture in pictures]
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert max(max(size) for size in sizes) == 512
    assert len(set(sizes)) > 8
    assert any(w > h for w, h in sizes) and any(w < h for w, h in sizes)
    assert any(picture.getexif() for picture in pictures)
    assert not all(picture.getexif() for picture in pictures)
    assert 25_000 < np.mean([path.stat().st_size for path in files]) < 60_000


def test_existing_images_are_replaced_only_when_asked(tmp_path):
    mine = tmp_path / "train" / "cats" / "mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    flags = ("--train", 1, "--test", 1, "--side", 64)
    refused = sample(tmp_path, *flags)
    assert refused.returncode == 1
    assert str(mine) in refused.stderr and "--overwrite" in refused.stderr
    assert digests(tmp_path).keys() == {"train/cats/mine.jpg"}
    assert sample(tmp_path, "--overwrite", *flags).returncode == 0
    assert not mine.exists()
    assert len(digests(tmp_path)) == 10


def test_an_interrupted_run_leaves_nothing(tmp_path):
    command = [sys.executable, str(SAMPLE), "--out", str(tmp_path), "--train", "500"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.rglob("*.jpg")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--train", "0"), ("--side", "5"), ("--seed", "-1")])
def test_a_number_out_of_range_is_named(tmp_path, flags):
    refused = sample(tmp_path / "out", *flags)
    assert refused.returncode == 2
    assert flags[0] in refused.stderr and flags[1] in refused.stderr
    assert not (tmp_path / "out").exists()


def read(folder, side_px):
    """The middle squares of the images: (N, side_px, side_px, 3) float32 about 0; labels (N,)."""
    pixels, labels = [], []
    for label, name in enumerate(CLASSES):
        for path in sorted((folder / name).iterdir()):
            picture = Image.open(str(path))
            left, top = ((edge - min(picture.size)) // 2 for edge in picture.size)
            box = (left, top, left + min(picture.size), top + min(picture.size))
            pixels.append(np.asarray(picture.resize((side_px, side_px), Image.BILINEAR, box)))
            labels.append(label)
    return np.stack(pixels).astype(np.float32) / 128 - 1, np.array(labels)


def train_small_net(x, labels, num_epochs):
    mx.random.seed(0)
    rng = np.random.default_rng(0)
    net = nn.HybridSequential()
    for channels in (16, 32, 64):
        net.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm())
        net.add(nn.Activation("relu"), nn.MaxPool2D(2))
    net.add(nn.GlobalAvgPool2D(), nn.Dense(len(CLASSES)))
    net.initialize(mx.init.Xavier())
    net.hybridize()
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"momentum": 0.9})
    loss_of = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    for epoch in range(num_epochs):
        trainer.set_learning_rate(0.05 * (1 - epoch / num_epochs))
        for batch in np.array_split(rng.permutation(len(x)), len(x) // 20):
            views = x[batch] if rng.random() < 0.5 else x[batch, :, ::-1]
            views = views if rng.random() < 0.5 else views.transpose(0, 2, 1, 3)
            with mx.autograd.record():
                loss = loss_of(
                    net(mx.nd.array(views.transpose(0, 3, 1, 2))), mx.nd.array(labels[batch])
                )
            loss.backward()
            trainer.step(len(batch))
    return net


def test_a_small_net_learns_what_mean_colour_does_not_tell(small):
    x, labels = read(small / "train", 48)
    test_x, test_labels = read(small / "test", 48)
    mean_of = np.stack([x[labels == c].mean(axis=(0, 1, 2)) for c in range(len(CLASSES))])
    distance = ((test_x.mean(axis=(1, 2))[:, None] - mean_of) ** 2).sum(-1)
    by_colour = (distance.argmin(1) == test_labels).mean()
    net = train_small_net(x, labels, num_epochs=12)
    logits = net(mx.nd.array(test_x.transpose(0, 3, 1, 2))).asnumpy()
    by_net = (logits.argmax(1) == test_labels).mean()
    print(f"accuracy by mean colour {by_colour:.2f}, by a small net {by_net:.2f}")
    assert by_colour < 0.45
    assert by_net > 0.7
