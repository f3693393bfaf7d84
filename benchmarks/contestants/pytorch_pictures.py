"""The images as PyTorch's tutorials read them. If torchvision does not work with the installed
PyTorch, Pillow makes the same calls as torchvision's transforms."""

from __future__ import annotations

import math
import os
import random

import numpy as np
import torch
from PIL import Image

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

try:
    from torchvision import datasets, transforms

    NOTE = "torchvision"
except (ImportError, RuntimeError):
    NOTE = "Pillow"


def train_set(root):
    """(image, label) of root/CLASS/*, augmented."""
    if NOTE == "Pillow":
        return PillowFolder(root)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return datasets.ImageFolder(root, transform)


class PillowFolder(torch.utils.data.Dataset):
    def __init__(self, root):
        self.classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        self.samples = [
            (entry.path, label)
            for label, name in enumerate(self.classes)
            for entry in sorted(os.scandir(os.path.join(root, name)), key=lambda entry: entry.path)
        ]
        self.mean, self.std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        path, label = self.samples[index]
        with open(path, "rb") as file:
            picture = Image.open(file).convert("RGB")
        picture = picture.crop(random_box(*picture.size)).resize((224, 224), Image.BILINEAR)
        if random.random() < 0.5:
            picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return pixels.float().div(255).sub_(self.mean).div_(self.std), label


def random_box(width, height):
    """(left, top, right, bottom) of a random resized crop: 0.08 to 1 of the area, 3/4 to 4/3."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2
