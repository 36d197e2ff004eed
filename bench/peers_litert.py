"""Writes a LiteRT (TensorFlow Lite) file: peers_litert.py LAYERS.npz OUT.tflite

LAYERS.npz comes from bench/peers_models.py: the graph of a model file and its tensors. LiteRT's own
converter wants a PyTorch that is too new for Debian's, so that the file is written with the schema
in its package instead, as the converter would: channels last, batch norms in the weights of the
convolutions, ReLU in the operation before, borders as PAD where SAME is not the same.
Graphs with operations that the measured networks do not have are refused (exit code 1).
"""

import json
import sys

import flatbuffers
import numpy
from ai_edge_litert import schema_py_generated as schema

OPERATORS = schema.BuiltinOperator
RELU = schema.ActivationFunctionType.RELU
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


def fused(layers, tensors, exits):
    """Layers whose batch norms and ReLUs have gone into the layer before; new keys: w, b, fused."""
    readers = [name for layer in layers for name in layer["inputs"]] + exits
    owner, result = {}, []
    for layer in layers:
        layer = dict(layer, fused=False)
        before = owner.get(layer["inputs"][0])
        alone = readers.count(layer["inputs"][0]) == 1
        if layer["op"] == "batch_norm" and alone and before["op"] == "conv2d":
            fold(before, layer, tensors)
            owner[layer["name"]] = before
            continue
        if layer["op"] == "relu" and alone and before["op"] in ("conv2d", "linear", "add"):
            before["fused"] = True
            owner[layer["name"]] = before
            continue
        if layer["op"] in ("conv2d", "linear"):
            layer["w"] = tensors[layer["weight"]].astype(numpy.float64)
            zeros = numpy.zeros(len(layer["w"]))
            layer["b"] = tensors[layer["bias"]] if layer["bias"] else zeros
        layer["inputs"] = [
            owner[name]["name"] if name in owner else name for name in layer["inputs"]
        ]
        owner[layer["name"]] = layer
        result.append(layer)
    return result, [owner[name]["name"] for name in exits]


def fold(conv, layer, tensors):
    weight, bias, mean, variance = (
        tensors[layer[key]] for key in ("weight", "bias", "mean", "variance")
    )
    scale = weight / numpy.sqrt(variance.astype(numpy.float64) + layer["epsilon"])
    conv["w"] = conv["w"] * scale[:, None, None, None]
    conv["b"] = (conv["b"] - mean) * scale + bias


class Writer:
    """Collects tensors, buffers and operators. Values: name -> (tensor, its shape or None)."""

    def __init__(self, input_shape):
        self.tensors, self.buffers, self.codes, self.operators = [], [schema.BufferT()], [], []
        channels, height, width = input_shape
        self.shapes = {"input": (1, height, width, channels)}
        self.index = {"input": self.tensor("input", self.shapes["input"])}
        self.positive = set()  # values of which none is below zero
        self.flattened = {}  # vector -> (height, width, channels) it was read from

    def tensor(self, name, shape, constant=None):
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name.encode(), numpy.array(shape, numpy.int32)
        if constant is not None:
            kinds = {numpy.dtype("f4"): schema.TensorType.FLOAT32}
            tensor.type = kinds.get(constant.dtype, schema.TensorType.INT32)
            buffer = schema.BufferT()
            buffer.data = numpy.frombuffer(constant.tobytes(), numpy.uint8)
            tensor.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, name, values, kind="f4"):
        values = numpy.ascontiguousarray(values, kind)
        return self.tensor(name, values.shape, values)

    def emit(self, code, inputs, name, shape, kind=None, **options):
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.inputs = numpy.array(inputs, numpy.int32)
        self.index[name], self.shapes[name] = self.tensor(name, shape), tuple(shape)
        operator.outputs = numpy.array([self.index[name]], numpy.int32)
        if kind is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for key, value in options.items():
                setattr(operator.builtinOptions, key, value)
        self.operators.append(operator)

    def window(self, layer, dilation=(1, 1)):
        """(value to read, padding, output height and width) of a convolution or a pool."""
        x, (height, width) = layer["inputs"][0], layer["padding"]
        kernel = [(k - 1) * d + 1 for k, d in zip(layer["kernel"], dilation)]
        _, rows, columns, channels = self.shapes[x]
        size = [
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip((rows, columns), layer["padding"], kernel, layer["stride"])
        ]
        if (height, width) == (0, 0):
            return x, VALID, size
        if list(layer["stride"]) == [1, 1] and kernel == [2 * height + 1, 2 * width + 1]:
            return x, SAME, size
        if layer["op"] == "max_pool" and x not in self.positive:
            raise ValueError(f"{layer['name']}: a padded pool of values below zero")
        name = layer["name"] + ":pad"
        borders = [[0, 0], [height, height], [width, width], [0, 0]]
        shape = (1, rows + 2 * height, columns + 2 * width, channels)
        inputs = [self.index[x], self.constant(name + "s", borders, "i4")]
        self.emit(OPERATORS.PAD, inputs, name, shape, "PadOptions")
        return name, VALID, size

    def conv2d(self, layer):
        if layer["groups"] != 1:
            raise ValueError(f"{layer['name']}: groups are not written")
        x, padding, size = self.window(layer, layer["dilation"])
        weight = self.constant(layer["weight"], layer["w"].transpose(0, 2, 3, 1))
        bias = self.constant(layer["name"] + ":bias", layer["b"])
        self.emit(
            OPERATORS.CONV_2D,
            [self.index[x], weight, bias],
            layer["name"],
            (1, *size, len(layer["b"])),
            "Conv2DOptions",
            padding=padding,
            strideH=layer["stride"][0],
            strideW=layer["stride"][1],
            dilationHFactor=layer["dilation"][0],
            dilationWFactor=layer["dilation"][1],
            fusedActivationFunction=RELU * layer["fused"],
        )

    def linear(self, layer):
        x, w = layer["inputs"][0], layer["w"]
        if x in self.flattened:  # PyTorch counts channel, row, column
            height, width, channels = self.flattened[x]
            w = w.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(w.shape)
        weight = self.constant(layer["weight"], w)
        bias = self.constant(layer["name"] + ":bias", layer["b"])
        self.emit(
            OPERATORS.FULLY_CONNECTED,
            [self.index[x], weight, bias],
            layer["name"],
            (1, len(w)),
            "FullyConnectedOptions",
            fusedActivationFunction=RELU * layer["fused"],
        )

    def add(self, layer):
        self.emit(
            OPERATORS.ADD,
            [self.index[name] for name in layer["inputs"]],
            layer["name"],
            self.shapes[layer["inputs"][0]],
            "AddOptions",
            fusedActivationFunction=RELU * layer["fused"],
        )

    def max_pool(self, layer):
        x, padding, size = self.window(layer)
        self.emit(
            OPERATORS.MAX_POOL_2D,
            [self.index[x]],
            layer["name"],
            (1, *size, self.shapes[x][3]),
            "Pool2DOptions",
            padding=padding,
            strideH=layer["stride"][0],
            strideW=layer["stride"][1],
            filterHeight=layer["kernel"][0],
            filterWidth=layer["kernel"][1],
        )

    def global_average_pool(self, layer):
        x = layer["inputs"][0]
        axes = self.constant(layer["name"] + ":axes", [1, 2], "i4")
        inputs = [self.index[x], axes]
        self.emit(OPERATORS.MEAN, inputs, layer["name"], (1, self.shapes[x][3]), "ReducerOptions")

    def flatten(self, layer):
        x = layer["inputs"][0]
        if len(self.shapes[x]) == 2:
            self.index[layer["name"]], self.shapes[layer["name"]] = self.index[x], self.shapes[x]
            return
        count = int(numpy.prod(self.shapes[x]))
        inputs = [self.index[x], self.constant(layer["name"] + ":shape", [-1, count], "i4")]
        self.flattened[layer["name"]] = self.shapes[x][1:]
        self.emit(OPERATORS.RESHAPE, inputs, layer["name"], (1, count))

    def write(self, layers, exits, path):
        known = ("conv2d", "linear", "add", "max_pool", "global_average_pool", "flatten")
        for layer in layers:
            if layer["op"] not in known:
                raise ValueError(f"{layer['name']}: {layer['op']} is not written")
            getattr(self, layer["op"])(layer)
            if layer["fused"]:
                self.positive.add(layer["name"])
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs = numpy.array([self.index["input"]], numpy.int32)
        graph.outputs = numpy.array([self.index[name] for name in exits], numpy.int32)
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.operatorCodes = [operator_code(code) for code in self.codes]
        builder = flatbuffers.Builder(sum(4 * t.shape.prod() for t in self.tensors).item())
        builder.Finish(model.Pack(builder), b"TFL3")
        with open(path, "wb") as file:
            file.write(builder.Output())


def operator_code(code):
    entry = schema.OperatorCodeT()
    entry.builtinCode = entry.deprecatedBuiltinCode = code
    return entry


def main(arguments):
    source, target = arguments
    data = numpy.load(source)
    graph = json.loads(str(data["graph"]))
    tensors = {name[2:]: data[name] for name in data.files if name.startswith("t:")}
    layers, exits = fused(graph["layers"], tensors, graph["exits"])
    Writer(graph["input"]).write(layers, exits, target)


if __name__ == "__main__":
    main(sys.argv[1:])
