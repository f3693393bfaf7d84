"""The original recipe, as Gluon's tutorials write fine-tuning: ImageFolderDataset, Gluon's
transforms, DataLoader, Trainer and mx.metric.

Written like gluon-cv's scripts/classification/finetune/finetune_minc.py, including its `asscalar`
per step; augmentation, optimizer and workers are those of the recipe.
"""

from __future__ import annotations

import os

from benchmarks.contestants import clock

args = clock.parse(__doc__, ("loader", "train", "frozen", "evaluate"))

import mxnet as mx  # noqa: E402
from mxnet import autograd, gluon, init  # noqa: E402
from mxnet.gluon import nn  # noqa: E402
from mxnet.gluon.data.vision import transforms  # noqa: E402
from mxnet.gluon.model_zoo import vision  # noqa: E402

ctx = [mx.cpu()]

normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

transform_train = transforms.Compose(
    [
        transforms.RandomResizedCrop(224),
        transforms.RandomFlipLeftRight(),
        transforms.ToTensor(),
        normalize,
    ]
)

transform_test = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize]
)


def pictures(split, transform, shuffle):
    dataset = gluon.data.vision.ImageFolderDataset(os.path.join(args.data, split))
    return gluon.data.DataLoader(
        dataset.transform_first(transform),
        batch_size=args.batch_size,
        shuffle=shuffle,
        num_workers=args.num_workers,
    )


def build(num_classes):
    # Random weights: pretrained ones would not be faster.
    finetune_net = vision.resnet34_v2()
    with finetune_net.name_scope():
        finetune_net.output = nn.Dense(num_classes)
    finetune_net.initialize(init.Xavier(), ctx=ctx)
    finetune_net.hybridize()
    return finetune_net


def test(net, val_data):
    metric = mx.metric.Accuracy()
    for batch in val_data:
        data = gluon.utils.split_and_load(batch[0], ctx_list=ctx, batch_axis=0, even_split=False)
        label = gluon.utils.split_and_load(batch[1], ctx_list=ctx, batch_axis=0, even_split=False)
        outputs = [net(X) for X in data]
        metric.update(label, outputs)
    return metric.get()


def epochs(net, train_data, after_step):
    """Yields the loss and accuracy of each epoch, until after_step(number of images) is true."""
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01, "wd": 0.001})
    loss_fn = gluon.loss.SoftmaxCrossEntropyLoss()
    metric = mx.metric.Accuracy()
    while True:
        train_loss = 0
        metric.reset()
        for batch in train_data:
            data = gluon.utils.split_and_load(
                batch[0], ctx_list=ctx, batch_axis=0, even_split=False
            )
            label = gluon.utils.split_and_load(
                batch[1], ctx_list=ctx, batch_axis=0, even_split=False
            )
            with autograd.record():
                outputs = [net(X) for X in data]
                losses = [loss_fn(yhat, y) for yhat, y in zip(outputs, label)]
            for loss in losses:
                loss.backward()
            trainer.step(args.batch_size)
            train_loss += sum(loss.mean().asscalar() for loss in losses) / len(losses)
            metric.update(label, outputs)
            if after_step(len(batch[1])):
                return
        yield train_loss / len(train_data), metric.get()


def main():
    watch = clock.Clock(args.warmup, args.steps, mx.nd.waitall)
    train_data = pictures("train", transform_train, shuffle=True)
    val_data = pictures("test", transform_test, shuffle=False)
    if args.part == "loader":
        while True:
            for batch in train_data:
                if watch.step(len(batch[1])):
                    return
    net = build(len(os.listdir(os.path.join(args.data, "train"))))
    if args.part == "evaluate":
        num_tested = len(val_data._dataset)
        while True:
            test(net, val_data)
            if watch.step(num_tested):
                return
    if args.part == "frozen":
        num_images = len(train_data._dataset)
        net.features.collect_params().setattr("grad_req", "null")
        for _ in epochs(net, train_data, lambda _: False):
            test(net, val_data)
            if watch.step(num_images):
                return
    for _ in epochs(net, train_data, watch.step):
        pass


if __name__ == "__main__":
    main()
