"""What PyTorch makes of a model file: the oracle for the engine and the exporter.

graph = TorchGraph(read_model(path))             float32; .double() for float64
logits = graph(x)                                tuple, one [N, classes] for each exit
logits, activations = graph(x, activations=True) and {layer name: [N, C, H, W]}

prepare(picture, model.input)                    Pillow image -> float32 [3, H, W], as in training
"""

import numpy
import PIL.Image
import torch
from torch.nn import functional


class TorchGraph(torch.nn.Module):
    """Executes a model's graph with torch.nn.functional. A vector of F is [N, F, 1, 1]."""

    def __init__(self, model):
        super().__init__()
        self.layers, self.exits, self.names = model.graph, model.exits, {}
        self.last_reader = {
            name: layer["name"] for layer in model.graph for name in layer["inputs"]
        }
        for number, (name, tensor) in enumerate(model.tensors.items()):
            self.names[name] = f"tensor{number}"  # PyTorch allows no dots in names of buffers
            self.register_buffer(self.names[name], torch.from_numpy(numpy.array(tensor)))

    @torch.no_grad()
    def forward(self, x, activations=False):
        values, logits = {"input": x}, {}
        wanted = {exit["logits"] for exit in self.exits}
        for layer in self.layers:
            inputs = [values[name] for name in layer["inputs"]]
            values[layer["name"]] = self.execute(layer, inputs)
            if layer["name"] in wanted:
                logits[layer["name"]] = values[layer["name"]].flatten(1)
            if not activations:  # a large network's would not fit into memory
                for name in set(layer["inputs"]):
                    if self.last_reader[name] == layer["name"]:
                        del values[name]
        logits = tuple(logits[exit["logits"]] for exit in self.exits)
        values.pop("input", None)
        return (logits, values) if activations else logits

    def weight(self, name):
        return None if name is None else getattr(self, self.names[name])

    def execute(self, layer, inputs):
        x, op = inputs[0], layer["op"]
        if op == "conv2d":
            return functional.conv2d(
                x,
                self.weight(layer["weight"]),
                self.weight(layer["bias"]),
                layer["stride"],
                layer["padding"],
                layer["dilation"],
                layer["groups"],
            )
        if op == "linear":
            y = functional.linear(
                x.flatten(1), self.weight(layer["weight"]), self.weight(layer["bias"])
            )
            return y[:, :, None, None]
        if op == "batch_norm":
            return functional.batch_norm(
                x,
                *(self.weight(layer[key]) for key in ("mean", "variance", "weight", "bias")),
                eps=layer["epsilon"],
            )
        if op == "relu":
            return functional.relu(x)
        if op == "add":
            return x + inputs[1]
        if op == "concat":
            return torch.cat(inputs, 1)
        if op == "max_pool":
            return functional.max_pool2d(
                x, layer["kernel"], layer["stride"], layer["padding"], ceil_mode=layer["ceil_mode"]
            )
        if op == "average_pool":
            return functional.avg_pool2d(
                x,
                layer["kernel"],
                layer["stride"],
                layer["padding"],
                layer["ceil_mode"],
                layer["count_include_pad"],
            )
        if op == "global_average_pool":
            return x.mean((2, 3), keepdim=True)
        if op == "flatten":
            return x.flatten(1)[:, :, None, None]
        if op == "subsample":
            return x[:, :, :: layer["stride"][0], :: layer["stride"][1]]
        if op == "pad_channels":
            return functional.pad(x, (0, 0, 0, 0, layer["before"], layer["after"]))
        raise ValueError(f"{layer['name']}: unknown op {op}")


def prepare(picture, how):
    """Resizes, crops and normalises a Pillow image as `how` (`offramp.input`) says."""
    picture = picture.convert("RGB")
    _, height, width = how["shape"]
    if how["resize"] == "shorter":
        shorter = min(picture.size)
        picture = _resize(picture, [how["resize_to"] * side // shorter for side in picture.size])
        left, top = (
            round((found - wanted) / 2) for found, wanted in zip(picture.size, (width, height))
        )
        picture = picture.crop((left, top, left + width, top + height))
    else:
        picture = _resize(picture, (width, height))
    return normalise(numpy.asarray(picture).transpose(2, 0, 1), how)


def normalise(pixels, how):
    """uint8 [..., 3, H, W] -> float32 of the same shape."""
    mean, std = (numpy.array(how[key], numpy.float32)[:, None, None] for key in ("mean", "std"))
    return (pixels.astype(numpy.float32) / numpy.float32(255) - mean) / std


def _resize(picture, size):
    if picture.size == tuple(size):
        return picture
    return picture.resize(size, PIL.Image.BILINEAR)
