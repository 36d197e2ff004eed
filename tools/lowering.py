"""From a PyTorch module to the layers of a model file: torch.fx tracing, one operation at a time.

    lowering = Lowering(input_shape=(3, 32, 32))
    logits = lowering.run(module)      one Value for each output of forward
    lowering.layers, lowering.tensors  `offramp.graph` and the weights (weights/FORMAT.md)

An operation that the engine does not have raises ExportError with its name and module path.
"""

import inspect
import math
import operator

import modelfile
import torch
from torch import nn
from torch.fx.node import map_arg

SUPPORTED = (
    "Conv2d, Linear, BatchNorm, ReLU, add, cat, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, mean over "
    "height and width, flatten, view, reshape, squeeze, unsqueeze, strided slices, zero padding of "
    "channels, Dropout, Identity"
)

# Stands for the number of samples while tracing. A prime larger than any dimension: a reshape that
# mixes samples, or that has a batch size written into it, cannot look right by chance.
BATCH = 1_000_003


class ExportError(Exception):
    """A network that cannot be written as a model file. One line, with the module's path."""


class Value:
    """An activation: the layer that makes it, and PyTorch's shape of one sample."""

    def __init__(self, layer, shape):
        self.layer, self.shape = layer, tuple(shape)


class Constant:
    """A parameter, a buffer or a literal tensor where an activation could stand."""


class TracedTensor(torch.fx.Proxy):
    """A proxy that knows its shape, so that arithmetic with sizes is done while tracing."""

    @property
    def shape(self):
        value = self.tracer.values[self.node]
        if not isinstance(value, Value):
            raise ExportError(
                f"{self.tracer.where()}: unsupported: computes with the shape of a parameter"
            )
        return torch.Size((BATCH, *value.shape))

    @property
    def ndim(self):
        return len(self.shape)

    def size(self, dim=None):
        return self.shape if dim is None else self.shape[dim]

    def dim(self):
        return len(self.shape)

    def __len__(self):
        return self.shape[0]

    def __iadd__(self, other):
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class Lowering(torch.fx.Tracer):
    """Traces a module and writes layers as it goes.

    Every method below `operations` lowers one operation: its parameters are those of the PyTorch
    function, with Values for tensors, and it returns a Value.
    """

    def __init__(self, input_shape):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.layers, self.weights, self.tensors = [], {}, {}
        self.shapes = {"input": self.input_shape}
        self.values, self.names = {}, {"input"}
        self.path = []  # modules we are inside of
        self.layer_name = ""  # of the layer that the current operation may make
        self.what = ""  # the current operation, for errors

    def run(self, module):
        """(logits, one Value per exit) of `module`; layers and tensors are in self."""
        # Collected before tracing, which makes proxies of parameters.
        self.weights = {
            f"{path}.{key}": getattr(part, key, None)
            for path, part in module.named_modules()
            for key in ("weight", "bias", "running_mean", "running_var")
        }
        graph = self.trace(module)
        output = next(node for node in graph.nodes if node.op == "output").args[0]
        outputs = output if isinstance(output, (tuple, list)) else [output]
        logits = [
            self.values.get(node) if isinstance(node, torch.fx.Node) else None for node in outputs
        ]
        if not logits or not all(isinstance(value, Value) for value in logits):
            raise ExportError(
                "forward: wanted a tensor, or a tuple or list of tensors, as its result"
            )
        return logits

    # -- torch.fx calls these --

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        # One input; further parameters of forward keep their defaults.
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]

    def proxy(self, node):
        return TracedTensor(node, self)

    def call_module(self, m, forward, args, kwargs):
        self.path.append(self.path_of_module(m))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.path.pop()

    def create_proxy(self, kind, target, args, kwargs, *rest, **named):
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        if kind == "placeholder":
            self.values[node] = Value("input", self.input_shape)
        elif kind == "get_attr":
            self.values[node] = Constant()
        else:
            self.values[node] = self.lower(node)
        return proxy

    # -- from a node to a layer --

    def where(self):
        return self.path[-1] if self.path else "forward"

    def refuse(self, reason):
        raise ExportError(f"{self.where()}: unsupported {self.what}: {reason}")

    def unsupported(self):
        raise ExportError(
            f"{self.where()}: unsupported operation {self.what}; supported are {SUPPORTED}"
        )

    def lower(self, node):
        args = map_arg(node.args, lambda n: self.values[n])
        kwargs = map_arg(node.kwargs, lambda n: self.values[n])
        if node.op == "call_module":
            module = self.root.get_submodule(node.target)
            self.layer_name, self.what = node.target, type(module).__name__
            lower = MODULES.get(type(module))
            if lower is None:
                self.unsupported()
            return self.call(lambda *a, **k: lower(self, module, *a, **k), args, kwargs)
        name = node.target if isinstance(node.target, str) else node.target.__name__
        self.layer_name, self.what = node.name, name
        method = FUNCTIONS.get(name)
        if method is None or not _is_torch(node):
            self.unsupported()
        try:
            inspect.signature(method).bind(self, *args, **kwargs)
        except TypeError as error:
            self.refuse(error)
        return self.call(lambda *a, **k: method(self, *a, **k), args, kwargs)

    def call(self, lower, args, kwargs):
        try:
            return lower(*args, **kwargs)
        except modelfile.ModelError as error:
            raise ExportError(str(error)) from None

    def tensor(self, value, rank=None):
        """`value` if it is an activation, of that rank."""
        if not isinstance(value, Value):
            self.refuse("wanted an activation, found a constant")
        if rank is not None and len(value.shape) + 1 != rank:
            self.refuse(f"wanted a tensor of {rank} dimensions, found {len(value.shape) + 1}")
        return value

    def emit(self, op, inputs, shape=None, **attributes):
        """Appends a layer. `shape` is PyTorch's where that is not (channels, height, width)."""
        name, count = self.layer_name, 0
        while name in self.names:
            count += 1
            name = f"{self.layer_name}:{count}"
        self.names.add(name)
        layer = {
            "name": name,
            "op": op,
            "inputs": [self.tensor(v).layer for v in inputs],
            **attributes,
        }
        found = modelfile.output_shape(
            layer, [self.shapes[n] for n in layer["inputs"]], self.tensors, name
        )
        self.layers.append(layer)
        self.shapes[name] = found
        return Value(name, found if shape is None else shape)

    def weight(self, key):
        """Name in the file of a parameter or buffer of the current module, or None."""
        name = f"{self.layer_name}.{key}"
        tensor = self.weights[name]
        if tensor is None:
            return None
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{name}: wanted finite weights, found a NaN or an infinity")
        self.tensors[name] = tensor.detach().numpy()
        return name

    def in_place(self, old, new):
        """`old` now reads as `new`, under every name that it had."""
        for value in self.values.values():
            if isinstance(value, Value) and value.layer == old.layer:
                value.layer = new.layer
        return new

    # -- operations --

    def conv2d(self, module, input):
        if module.padding_mode != "zeros" and module.padding not in (0, (0, 0), "valid"):
            self.refuse(f"padding_mode={module.padding_mode!r}")
        padding = module.padding
        if padding == "valid":
            padding = (0, 0)
        elif padding == "same":
            both = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
            if any(n % 2 for n in both):
                self.refuse("padding='same' with an even kernel pads unevenly")
            padding = [n // 2 for n in both]
        return self.emit(
            "conv2d",
            [self.tensor(input, 4)],
            kernel=_pair(module.kernel_size),
            stride=_pair(module.stride),
            padding=_pair(padding),
            dilation=_pair(module.dilation),
            groups=module.groups,
            weight=self.weight("weight"),
            bias=self.weight("bias"),
        )

    def linear(self, module, input):
        self.tensor(input, 2)
        return self.emit(
            "linear",
            [input],
            (module.out_features,),
            weight=self.weight("weight"),
            bias=self.weight("bias"),
        )

    def batch_norm(self, module, input, rank):
        if self.weights[f"{self.layer_name}.running_mean"] is None:
            self.refuse("track_running_stats=False")
        self.tensor(input, rank)
        return self.emit(
            "batch_norm",
            [input],
            input.shape,
            weight=self.weight("weight"),
            bias=self.weight("bias"),
            mean=self.weight("running_mean"),
            variance=self.weight("running_var"),
            epsilon=float(module.eps),
        )

    def relu(self, input, inplace=False):
        output = self.emit("relu", [input], self.tensor(input).shape)
        return self.in_place(input, output) if inplace else output

    def relu_(self, input):
        return self.relu(input, inplace=True)

    def add(self, input, other, alpha=1):
        if alpha != 1:
            self.refuse(f"alpha={alpha}")
        if self.tensor(input).shape != self.tensor(other).shape:
            self.refuse(f"wanted equal shapes, found {list(input.shape)} and {list(other.shape)}")
        return self.emit("add", [input, other], input.shape)

    def iadd(self, input, other, alpha=1):
        return self.in_place(input, self.add(input, other, alpha))

    def cat(self, tensors, dim=0):
        rank = len(self.tensor(tensors[0]).shape) + 1
        if dim not in (1, 1 - rank):
            self.refuse(f"wanted dim=1, found {dim}")
        for value in tensors:
            self.tensor(value, rank)
        if len(tensors) == 1:
            return tensors[0]
        output = self.emit("concat", tensors)
        return Value(output.layer, self.shapes[output.layer][: rank - 1])

    def max_pool2d(
        self,
        input,
        kernel_size,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=False,
    ):
        if _pair(dilation) != [1, 1]:
            self.refuse(f"dilation={dilation}")
        if return_indices:
            self.refuse("return_indices=True")
        return self.emit(
            "max_pool",
            [self.tensor(input, 4)],
            **_window(kernel_size, stride, padding),
            ceil_mode=bool(ceil_mode),
        )

    def avg_pool2d(
        self,
        input,
        kernel_size,
        stride=None,
        padding=0,
        ceil_mode=False,
        count_include_pad=True,
        divisor_override=None,
    ):
        if divisor_override is not None:
            self.refuse(f"divisor_override={divisor_override}")
        return self.emit(
            "average_pool",
            [self.tensor(input, 4)],
            **_window(kernel_size, stride, padding),
            ceil_mode=bool(ceil_mode),
            count_include_pad=bool(count_include_pad),
        )

    def adaptive_avg_pool2d(self, input, output_size):
        channels, *size = self.tensor(input, 4).shape
        wanted = (
            output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        )
        wanted = [n if w is None else w for n, w in zip(size, wanted)]
        if wanted == size:
            return input
        if wanted == [1, 1]:
            return self.emit("global_average_pool", [input])
        if any(w < 1 or n % w for n, w in zip(size, wanted)):
            self.refuse(f"output {wanted} does not divide input {size}")
        kernel = [n // w for n, w in zip(size, wanted)]
        return self.emit(
            "average_pool",
            [input],
            **_window(kernel, None, 0),
            ceil_mode=False,
            count_include_pad=True,
        )

    def mean(self, input, dim=None, keepdim=False):
        channels = self.tensor(input, 4).shape[0]
        axes = sorted(axis % 4 for axis in dim) if isinstance(dim, (tuple, list)) else dim
        if axes != [2, 3]:
            self.refuse(f"wanted dim=(2, 3), found {dim}")
        return self.emit("global_average_pool", [input], None if keepdim else (channels,))

    def flatten(self, input, start_dim=0, end_dim=-1):
        sizes = (BATCH, *self.tensor(input).shape)
        first, last = start_dim % len(sizes), end_dim % len(sizes)
        return self.reshape(
            input, *sizes[:first], math.prod(sizes[first : last + 1]), *sizes[last + 1 :]
        )

    def reshape(self, input, *shape):
        sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
        total = BATCH * math.prod(self.tensor(input).shape)
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = total // -math.prod(sizes)
        if math.prod(sizes) != total or sizes[0] != BATCH:
            self.refuse(f"wanted [batch, {math.prod(input.shape)}] as after flatten(1)")
        sizes = tuple(sizes[1:])
        vector = math.prod(input.shape[1:]) == 1
        if sizes == input.shape or (vector and sizes[:1] == input.shape[:1]):
            return Value(input.layer, sizes)  # the file knows one kind of vector
        if len(sizes) != 1:
            self.refuse(f"wanted [batch, {math.prod(input.shape)}] as after flatten(1)")
        return self.emit("flatten", [input], sizes)

    def squeeze(self, input, dim=None):
        sizes = [BATCH, *self.tensor(input).shape]
        axes = (
            range(len(sizes)) if dim is None else dim if isinstance(dim, (tuple, list)) else [dim]
        )
        drop = {axis % len(sizes) for axis in axes if sizes[axis] == 1}
        return self.reshape(input, *(n for axis, n in enumerate(sizes) if axis not in drop))

    def unsqueeze(self, input, dim):
        sizes = [BATCH, *self.tensor(input).shape]
        sizes.insert(dim % (len(sizes) + 1), 1)
        return self.reshape(input, *sizes)

    def dropout(self, input, p=0.5, training=True, inplace=False):
        if training:
            self.refuse("training=True; pass training=self.training")
        return self.identity(input)

    def identity(self, input):
        return self.tensor(input)

    def getitem(self, input, index):
        rank = len(self.tensor(input).shape) + 1
        index = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in index:
            at = index.index(Ellipsis)
            index[at : at + 1] = [slice(None)] * (rank - len(index) + 1)
        index += [slice(None)] * (rank - len(index))
        if not all(isinstance(i, slice) and i.start in (None, 0) and i.stop is None for i in index):
            self.refuse("wanted x[:, :, ::rows, ::columns]")
        steps = [1 if i.step is None else i.step for i in index]
        if len(steps) != rank or steps[:2] != [1, 1] or min(steps) < 1:
            self.refuse("wanted x[:, :, ::rows, ::columns]")
        if max(steps) == 1:
            return input
        return self.emit("subsample", [input], stride=steps[2:])

    def pad(self, input, pad, mode="constant", value=None):
        rank = len(self.tensor(input).shape) + 1
        pad = list(pad) + [0] * (2 * rank - len(pad))
        channels = 2 * (rank - 2)  # pads go from the last axis to the first, two to an axis
        before, after = pad[channels : channels + 2]
        if mode != "constant" or value not in (None, 0):
            self.refuse(f"mode={mode!r}, value={value}; wanted zeros")
        if any(pad[:channels] + pad[channels + 2 :]) or min(before, after) < 0:
            self.refuse("wanted zero channels only")
        if before == after == 0:
            return input
        shape = (input.shape[0] + before + after, *input.shape[1:])
        return self.emit("pad_channels", [input], shape, before=before, after=after)


FUNCTIONS = {
    "relu": Lowering.relu,
    "relu_": Lowering.relu_,
    "add": Lowering.add,
    "iadd": Lowering.iadd,
    "add_": Lowering.iadd,
    "cat": Lowering.cat,
    "concat": Lowering.cat,
    "concatenate": Lowering.cat,
    "max_pool2d": Lowering.max_pool2d,
    "avg_pool2d": Lowering.avg_pool2d,
    "adaptive_avg_pool2d": Lowering.adaptive_avg_pool2d,
    "mean": Lowering.mean,
    "flatten": Lowering.flatten,
    "view": Lowering.reshape,
    "reshape": Lowering.reshape,
    "squeeze": Lowering.squeeze,
    "unsqueeze": Lowering.unsqueeze,
    "dropout": Lowering.dropout,
    "dropout1d": Lowering.dropout,
    "dropout2d": Lowering.dropout,
    "dropout3d": Lowering.dropout,
    "feature_dropout": Lowering.dropout,
    "getitem": Lowering.getitem,
    "pad": Lowering.pad,
    "contiguous": Lowering.identity,
}

MODULES = {
    nn.Conv2d: Lowering.conv2d,
    nn.Linear: Lowering.linear,
    nn.BatchNorm1d: lambda self, m, x: self.batch_norm(m, x, rank=2),
    nn.BatchNorm2d: lambda self, m, x: self.batch_norm(m, x, rank=4),
    nn.ReLU: lambda self, m, x: self.relu(x, m.inplace),
    nn.MaxPool2d: lambda self, m, x: self.max_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    ),
    nn.AvgPool2d: lambda self, m, x: self.avg_pool2d(
        x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override
    ),
    nn.AdaptiveAvgPool2d: lambda self, m, x: self.adaptive_avg_pool2d(x, m.output_size),
    nn.Flatten: lambda self, m, x: self.flatten(x, m.start_dim, m.end_dim),
    **{
        kind: lambda self, m, x: self.identity(x)
        for kind in (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
    },
}


def _is_torch(node):
    """True for a method, and a function of PyTorch or of Python's operators (not a namesake)."""
    module = getattr(node.target, "__module__", None)
    return (
        node.op == "call_method" or module is None or module.split(".")[0] in ("torch", "_operator")
    )


def _pair(value):
    return [int(n) for n in value] if isinstance(value, (tuple, list)) else [int(value)] * 2


def _window(kernel, stride, padding):
    return {
        "kernel": _pair(kernel),
        "stride": _pair(kernel if stride in (None, ()) else stride),
        "padding": _pair(padding),
    }
