"""Gluon's resnet34_v2 in PyTorch: the pre-activation network of He et al. 2016, "Identity Mappings
in Deep Residual Networks". torchvision does not have it."""

from __future__ import annotations

from torch import nn

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, channels, first stride


class Block(nn.Module):
    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if in_channels != channels:
            self.downsample = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x):
        activated = self.relu(self.bn1(x))
        identity = self.downsample(activated) if self.downsample else x
        x = self.conv1(activated)
        x = self.conv2(self.relu(self.bn2(x)))
        return x + identity


def resnet34_v2(num_classes):
    layers = [
        nn.BatchNorm2d(3, affine=False),
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    width = 64
    for num_blocks, channels, stride in STAGES:
        for number in range(num_blocks):
            layers.append(Block(width, channels, stride if number == 0 else 1))
            width = channels
    layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)]
    return nn.Sequential(*layers)
