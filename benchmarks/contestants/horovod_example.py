"""A plain Horovod loop in Gluon.

Written like Horovod's own examples/mxnet/mxnet_imagenet_resnet50.py (`train_gluon`) and
mxnet_mnist.py. Images are read as in gluon-cv's Horovod scripts, by a DataLoader whose sampler
gives each rank a part.
"""

from __future__ import annotations

import os

from benchmarks.contestants import clock

args = clock.parse(__doc__, ("train",))

import horovod.mxnet as hvd  # noqa: E402
import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
from mxnet import autograd, gluon  # noqa: E402
from mxnet.gluon.data.vision import transforms  # noqa: E402
from mxnet.gluon.model_zoo import vision  # noqa: E402


class SplitSampler(gluon.data.Sampler):
    """Shuffles the images of this rank."""

    def __init__(self, length, num_parts, part_index):
        self.part_len = length // num_parts
        self.start = self.part_len * part_index

    def __iter__(self):
        indices = np.arange(self.start, self.start + self.part_len)
        np.random.shuffle(indices)
        return iter(indices.tolist())

    def __len__(self):
        return self.part_len


def get_train_data():
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomFlipLeftRight(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = gluon.data.vision.ImageFolderDataset(os.path.join(args.data, "train"))
    return gluon.data.DataLoader(
        dataset.transform_first(transform),
        batch_size=args.batch_size,
        sampler=SplitSampler(len(dataset), hvd.size(), hvd.rank()),
        num_workers=args.num_workers,
    )


def main():
    hvd.init()
    context = mx.cpu(hvd.local_rank())
    train_data = get_train_data()

    net = vision.resnet34_v2(classes=len(os.listdir(os.path.join(args.data, "train"))))
    net.hybridize()
    initializer = mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2)
    net.initialize(initializer, ctx=context)
    # Horovod does not broadcast parameters whose shape is unknown, so initialize them first.
    net(mx.nd.zeros((1, 3, 224, 224), ctx=context))

    params = net.collect_params()
    hvd.broadcast_parameters(params, root_rank=0)
    opt = mx.optimizer.create("sgd", wd=0.001, learning_rate=0.01 * hvd.size())
    trainer = hvd.DistributedTrainer(params, opt)
    loss_fn = gluon.loss.SoftmaxCrossEntropyLoss()
    metric = mx.metric.Accuracy()

    watch = clock.Clock(args.warmup, args.steps, mx.nd.waitall)
    while True:
        metric.reset()
        for batch in train_data:
            data = batch[0].as_in_context(context)
            label = batch[1].as_in_context(context)
            with autograd.record():
                output = net(data)
                loss = loss_fn(output, label)
            loss.backward()
            trainer.step(args.batch_size)
            metric.update([label], [output])
            if watch.step(len(label) * hvd.size()):
                return


if __name__ == "__main__":
    main()
