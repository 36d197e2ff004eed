"""Networks with early exits, as plain PyTorch modules.

    build("resnet20")                     ResNet-20 with three exits (resnet20, 32, 44, 56, 110)
    build("resnet56", exits=False)        the same network with its last exit alone
    build("alexnet"), build("lenet")      with their branches; exits=False leaves the main path
    build("resnet50", classes=1000)       for 224x224, with exits after stages 2 and 3

Every network takes [N, *input_shape(name)] and returns a tuple of logits [N, classes], one per
exit, earliest first; with `exits=False` that is a tuple of one. All of them are traceable with torch.fx.
A network without early exits has the names of the one with exits, less those of the early heads,
so that weights can be carried over.

ResNets: He et al., "Deep Residual Learning for Image Recognition", section 4.2 for 32x32; ResNet-50
with its strides in the 3x3 convolutions, as is usual since. Exits in general, and the branches of
LeNet and AlexNet: Teerapittayanon et al., "BranchyNet".
"""

import torch
from torch import nn
from torch.nn import functional

RESNET_DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56, "resnet110": 110}
SMALL = (*RESNET_DEPTHS, "lenet", "alexnet")  # for pictures of 32x32
NAMES = (*SMALL, "resnet50")
HEADS = ("pyramid", "strong", "classic")
SHORTCUTS = ("conv", "pad")


def conv_bn_relu(inputs, outputs, stride=1, kernel=3):
    """Convolution that keeps the size (divided by the stride), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class PadShortcut(nn.Module):
    """Every second pixel, and zero channels on both sides, without parameters:
    [N,C,H,W] -> [N,C+2*each,H/2,W/2]."""

    def __init__(self, each):
        super().__init__()
        self.each = each

    def forward(self, x):
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.each, self.each))


class Block(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride == 1:
            self.shortcut = None
        elif shortcut == "pad":
            self.shortcut = PadShortcut((outputs - inputs) // 2)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        skip = x if self.shortcut is None else self.shortcut(x)
        return functional.relu(y + skip)


class PooledExit(nn.Module):
    """Stride-2 convolutions through `widths`, mean over the picture, linear. With one width there
    are no convolutions."""

    def __init__(self, widths, classes):
        super().__init__()
        self.body = nn.Sequential(
            *(
                conv_bn_relu(inputs, outputs, stride=2)
                for inputs, outputs in zip(widths, widths[1:])
            )
        )
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x):
        if len(self.body) > 0:
            x = self.body(x)
        return self.fc(x.mean((2, 3)))


class ClassicExit1(nn.Module):
    """3x3 valid convolution 16->16 with bias, ReLU, flatten (16x30x30 = 14,400), linear. Without
    batch norm, as in the early prototypes of such heads."""

    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3)
        self.fc = nn.Linear(16 * 30 * 30, classes)

    def forward(self, x):
        return self.fc(torch.flatten(functional.relu(self.conv(x)), 1))


class FlatExit(nn.Module):
    """Flatten, linear."""

    def __init__(self, features, classes):
        super().__init__()
        self.fc = nn.Linear(features, classes)

    def forward(self, x):
        return self.fc(torch.flatten(x, 1))


class ResNet(nn.Module):
    """Stem, three stages of (depth - 2) / 6 blocks with 16, 32 and 64 channels, one exit behind
    each stage."""

    def __init__(self, depth, heads, shortcut, exits, classes):
        super().__init__()
        blocks = (depth - 2) // 6

        def stage(inputs, outputs):
            first = Block(inputs, outputs, 1 if inputs == outputs else 2, shortcut)
            return nn.Sequential(
                first, *(Block(outputs, outputs, 1, shortcut) for _ in range(1, blocks))
            )

        self.early_exits = exits
        self.stem = conv_bn_relu(3, 16)
        self.stage1 = stage(16, 16)
        self.stage2 = stage(16, 32)
        self.stage3 = stage(32, 64)
        if exits and heads == "pyramid":
            self.exit1 = PooledExit([16, 32, 64, 128], classes)
            self.exit2 = PooledExit([32, 64, 128], classes)
        elif exits and heads == "strong":
            self.exit1 = PooledExit([16, 32, 64], classes)
            self.exit2 = PooledExit([32, 64], classes)
        elif exits:
            self.exit1 = ClassicExit1(classes)
            self.exit2 = FlatExit(32 * 16 * 16, classes)
        self.exit3 = PooledExit([64], classes)

    def forward(self, x):
        x1 = self.stage1(self.stem(x))
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        if self.early_exits:
            return self.exit1(x1), self.exit2(x2), self.exit3(x3)
        return (self.exit3(x3),)


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling; one branch behind the first pooling."""

    def __init__(self, exits, classes):
        super().__init__()
        self.early_exits = exits
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        if exits:
            self.exit1 = nn.Sequential(
                nn.Conv2d(6, 12, 3),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(12 * 6 * 6, classes),
            )
        self.exit2 = nn.Linear(84, classes)

    def forward(self, x):
        x1 = self.stage1(x)
        x2 = self.stage2(x1)
        return (self.exit1(x1), self.exit2(x2)) if self.early_exits else (self.exit2(x2),)


class AlexNet(nn.Module):
    """BranchyNet's AlexNet for 32x32, with batch norm for local response normalisation; branches
    behind the first two poolings."""

    def __init__(self, exits, classes):
        super().__init__()

        def branch(inputs, side):
            pooled = (side - 1) // 2
            return nn.Sequential(
                conv_bn_relu(inputs, 32),
                nn.MaxPool2d(3, 2),
                nn.Flatten(),
                nn.Linear(32 * pooled * pooled, classes),
            )

        self.early_exits = exits
        self.stage1 = nn.Sequential(conv_bn_relu(3, 32, kernel=5), nn.MaxPool2d(3, 2))
        self.stage2 = nn.Sequential(conv_bn_relu(32, 64, kernel=5), nn.MaxPool2d(3, 2))
        self.stage3 = nn.Sequential(
            conv_bn_relu(64, 96),
            conv_bn_relu(96, 96),
            conv_bn_relu(96, 64),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
            nn.Linear(64 * 3 * 3, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
        )
        if exits:
            self.exit1 = branch(32, side=15)
            self.exit2 = branch(64, side=7)
        self.exit3 = nn.Linear(128, classes)

    def forward(self, x):
        x1 = self.stage1(x)
        x2 = self.stage2(x1)
        x3 = self.stage3(x2)
        if self.early_exits:
            return self.exit1(x1), self.exit2(x2), self.exit3(x3)
        return (self.exit3(x3),)


class Bottleneck(nn.Module):
    """relu(body(x) + shortcut(x)): 1x1 to `width`, 3x3 with the stride, 1x1 to `outputs`."""

    def __init__(self, inputs, width, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(inputs, width, kernel=1),
            *conv_bn_relu(width, width, stride),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        skip = x if self.shortcut is None else self.shortcut(x)
        return functional.relu(self.body(x) + skip)


class NarrowedExit(nn.Module):
    """1x1 convolution to a narrow tensor, then a PooledExit: a head costs a few hundredths of the
    network."""

    def __init__(self, inputs, classes):
        super().__init__()
        self.body = nn.Sequential(conv_bn_relu(inputs, 128, kernel=1), conv_bn_relu(128, 256, 2))
        self.fc = nn.Linear(256, classes)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class ResNet50(nn.Module):
    """Stem, stages of 3, 4, 6 and 3 bottlenecks with 256, 512, 1024 and 2048 channels."""

    def __init__(self, exits, classes):
        super().__init__()

        def stage(inputs, width, count, stride):
            first = Bottleneck(inputs, width, 4 * width, stride)
            others = (Bottleneck(4 * width, width, 4 * width, 1) for _ in range(1, count))
            return nn.Sequential(first, *others)

        self.early_exits = exits
        self.stem = nn.Sequential(conv_bn_relu(3, 64, 2, kernel=7), nn.MaxPool2d(3, 2, padding=1))
        self.stage1 = stage(64, 64, 3, 1)
        self.stage2 = stage(256, 128, 4, 2)
        self.stage3 = stage(512, 256, 6, 2)
        self.stage4 = stage(1024, 512, 3, 2)
        if exits:
            self.exit1 = NarrowedExit(512, classes)
            self.exit2 = NarrowedExit(1024, classes)
        self.exit3 = PooledExit([2048], classes)

    def forward(self, x):
        x2 = self.stage2(self.stage1(self.stem(x)))
        x3 = self.stage3(x2)
        x4 = self.stage4(x3)
        if self.early_exits:
            return self.exit1(x2), self.exit2(x3), self.exit3(x4)
        return (self.exit3(x4),)


def input_shape(name):
    """(channels, height, width) of what a network takes."""
    return (3, 32, 32) if name in SMALL else (3, 224, 224)


def exit_count(name, exits=True):
    """Number of logits that build(name, exits=exits) returns."""
    if not exits:
        return 1
    return 2 if name == "lenet" else 3


def build(name, *, heads="pyramid", shortcut="conv", exits=True, classes=10):
    """A network of NAMES with fresh weights. `heads` and `shortcut` matter to the ResNets for 32x32
    alone.

    heads     "pyramid": stride-2 convolutions down to 4x4 (exit 1: 16->32->64->128, exit 2:
              32->64->128), mean, linear; "strong": the same down to 8x8 (16->32->64, 32->64);
              "classic": valid convolution + ReLU + FC 14,400 (exit 1), FC 8,192 (exit 2)
    shortcut  where a stage halves the picture: "conv": 1x1 convolution + batch norm;
              "pad": slice + zero channels
    exits     False leaves the last exit alone

    Raises ValueError for a value that is not among those.
    """
    for what, value, known in (
        ("network", name, NAMES),
        ("heads", heads, HEADS),
        ("shortcut", shortcut, SHORTCUTS),
    ):
        if value not in known:
            raise ValueError(f"{what}: wanted one of {', '.join(known)}, found {value!r}")
    if name in RESNET_DEPTHS:
        return ResNet(RESNET_DEPTHS[name], heads, shortcut, exits, classes)
    if name == "resnet50":
        return ResNet50(exits, classes)
    return LeNet(exits, classes) if name == "lenet" else AlexNet(exits, classes)
