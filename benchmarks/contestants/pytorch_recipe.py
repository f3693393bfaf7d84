"""PyTorch: fine-tuning from the same weights on the same images, by torchvision's recipe.

`reference` is the recipe of torchvision's references/classification with its newer options:
Nesterov momentum, cosine schedule, warm-up, label smoothing, TrivialAugment, random erasing, mixup
or CutMix, and no weight decay of biases and BatchNorm. Without its averaged weights, whose interval
of 32 steps is made for hundreds of epochs; with a head that learns ten times faster, as all
contestants have. `light` is the same without the four augmentations, which are also made for long
training. On a GPU if PyTorch finds one.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import statistics
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.optim import lr_scheduler
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks.contestants import clock
from benchmarks.contestants.pytorch_resnet import resnet34_v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHT_DECAY, WARMUP_EPOCHS, LABEL_SMOOTHING = 1e-4, 1, 0.1
HEAD = 25  # position in the network
RESIZE = 256 / 224  # of a test image, before the crop
TOLERANCE = 1e-4  # of logits
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class ImageList(torch.utils.data.Dataset):
    """The images of a list with the columns path and label."""

    def __init__(self, data, file, classes, transform):
        with open(file, newline="") as rows:
            self.images = [(row["path"], row["label"]) for row in csv.DictReader(rows)]
        self.classes = classes or sorted({label for _, label in self.images})
        self.data, self.transform = data, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        path, label = self.images[index]
        with Image.open(os.path.join(self.data, path)) as image:
            return self.transform(image.convert("RGB")), self.classes.index(label)


def transform_of(side, part, is_train):
    if not is_train:
        steps = [transforms.Resize(round(side * RESIZE)), transforms.CenterCrop(side)]
    else:
        steps = [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip()]
        steps += [transforms.TrivialAugmentWide()] if part == "reference" else []
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if is_train and part == "reference":
        steps.append(transforms.RandomErasing(0.1))
    return transforms.Compose(steps)


def pretrained(file, num_classes):
    """The network of the converted weights with a new head, after its outputs were compared."""
    arrays = dict(np.load(file))
    pixels, logits = arrays.pop("pixels"), arrays.pop("logits")
    net = resnet34_v2(logits.shape[1])
    net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    x = transforms.functional.normalize(x, MEAN, STD)
    with torch.inference_mode():
        difference = (net.eval()(x) - torch.from_numpy(logits)).abs().max().item()
    assert difference < TOLERANCE * max(1, np.abs(logits).max()), f"outputs differ by {difference}"
    net[HEAD] = nn.Linear(net[HEAD].in_features, num_classes)
    return net.to(DEVICE, memory_format=torch.channels_last)


def optimizer_of(net, lr, head_lr_mult):
    """SGD whose head learns faster, and that decays neither biases nor BatchNorm's parameters."""
    groups = [
        {
            "params": [parameter],
            "lr": lr * (head_lr_mult if name.startswith(f"{HEAD}.") else 1),
            "weight_decay": WEIGHT_DECAY if parameter.ndim > 1 else 0,
        }
        for name, parameter in net.named_parameters()
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def schedule_of(optimizer, steps_per_epoch, epochs):
    """Linear warm-up, then cosine; per step, since epochs are few."""
    warmup = WARMUP_EPOCHS * steps_per_epoch
    rest = max(1, epochs * steps_per_epoch - warmup)
    parts = [
        lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup),
        lr_scheduler.CosineAnnealingLR(optimizer, rest),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [warmup])


def logits_of(net, x):
    return net(x.to(DEVICE, memory_format=torch.channels_last))


def train_epoch(net, batches, mix, optimizer, schedule, max_steps):
    """Returns the number of images per second."""
    criterion = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    net.train()
    start, num_images = time.perf_counter(), 0
    for step, (x, labels) in enumerate(batches):
        if step == max_steps:
            break
        x, targets = mix(x, labels)
        loss = criterion(logits_of(net, x), targets.to(DEVICE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        num_images += len(labels)
    return num_images / (time.perf_counter() - start)


def confusion_of(net, batches, num_classes):
    """(C, C): images of class [row] that were predicted as [column]."""
    net.eval()
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with torch.inference_mode():
        for x, labels in batches:
            predicted = logits_of(net, x).argmax(1).cpu()
            cells = labels * num_classes + predicted
            confusion += cells.bincount(minlength=num_classes**2).view(num_classes, num_classes)
    return confusion


def accuracy_of(confusion):
    return (confusion.trace() / confusion.sum()).item()


def fit(net, train, val, settings):
    """Trains the network, and leaves it with the parameters of the best epoch by validation.

    Returns the accuracy and the training speed of each epoch."""
    num_classes = len(train.dataset.classes)
    mix = v2.Identity()
    if settings["part"] == "reference":
        mix = v2.RandomChoice(
            [v2.MixUp(alpha=0.2, num_classes=num_classes), v2.CutMix(num_classes=num_classes)]
        )
    optimizer = optimizer_of(net, settings["lr"], settings["head_lr_mult"])
    schedule = schedule_of(optimizer, len(train), settings["epochs"])
    max_steps = settings.get("max_steps")
    accuracies, speeds, best = [], [], None
    for _ in range(settings["epochs"]):
        speeds.append(train_epoch(net, train, mix, optimizer, schedule, max_steps))
        accuracy = accuracy_of(confusion_of(net, val, num_classes))
        if accuracy > max(accuracies, default=-1):
            best = copy.deepcopy(net.state_dict())
        accuracies.append(accuracy)
    net.load_state_dict(best)
    return accuracies, speeds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON file of settings as in dist_ft.train")
    with open(parser.parse_args().config) as file:
        settings = json.load(file)
    torch.manual_seed(settings["seed"])
    torch.backends.cudnn.allow_tf32 = False  # float32, as dist_ft computes
    part, classes, batches = settings["part"], None, {}
    for split in ("train", "val", "test"):
        is_train = split == "train"
        transform = transform_of(settings["image_size"], part, is_train)
        images = ImageList(settings["data"], settings[f"{split}_list"], classes, transform)
        num_workers = len(os.sched_getaffinity(0))
        batches[split] = torch.utils.data.DataLoader(
            images, settings["batch_size"], shuffle=is_train, num_workers=num_workers
        )
        classes = images.classes
    net = pretrained(settings["weights"], len(classes))
    start = time.perf_counter()
    accuracies, speeds = fit(net, batches["train"], batches["val"], settings)
    elapsed_s = time.perf_counter() - start
    confusion = confusion_of(net, batches["test"], len(classes))
    result = {
        "val_accuracy": max(accuracies),
        "last_val_accuracy": accuracies[-1],
        "best_epoch": 1 + accuracies.index(max(accuracies)),
        "images_per_s": statistics.median(speeds),
        "elapsed_s": elapsed_s,
        "peak_mb": clock.peak_memory_mb(),
        "test_accuracy": accuracy_of(confusion),
        "confusion": confusion.tolist(),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
