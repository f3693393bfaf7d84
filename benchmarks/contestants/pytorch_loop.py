"""PyTorch's usual fine-tuning loop on the same network, in channels-last format.

Written like PyTorch's tutorial "Transfer Learning for Computer Vision"
(beginner/transfer_learning_tutorial): ImageFolder, torchvision's transforms, DataLoader, and a sum
of losses by `item()`; bfloat16 by `torch.autocast`, as in its "Automatic Mixed Precision" recipe.
"""

from __future__ import annotations

import os

from benchmarks.contestants import clock

args = clock.parse(__doc__, ("float32", "bfloat16"))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torchvision import datasets, transforms  # noqa: E402

from benchmarks.contestants.pytorch_resnet import resnet34_v2  # noqa: E402


def main():
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = datasets.ImageFolder(os.path.join(args.data, "train"), transform)
    dataloader = torch.utils.data.DataLoader(
        dataset, batch_size=args.batch_size, shuffle=True, num_workers=args.num_workers
    )
    model = resnet34_v2(len(dataset.classes)).to(memory_format=torch.channels_last)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.001)
    model.train()

    watch = clock.Clock(args.warmup, args.steps)
    while True:
        running_loss, running_corrects = 0.0, 0
        for inputs, labels in dataloader:
            inputs = inputs.to(memory_format=torch.channels_last)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=args.part == "bfloat16"):
                outputs = model(inputs)
                loss = criterion(outputs, labels)
            _, preds = torch.max(outputs, 1)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * inputs.size(0)
            running_corrects += torch.sum(preds == labels.data)
            if watch.step(len(labels)):
                return


if __name__ == "__main__":
    main()
