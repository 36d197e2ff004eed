"""A model whose first tier costs next to nothing and whose second, the last, costs milliseconds."""

from lab import Skip

SIDE, CHANNELS, KERNEL, CLASSES = 32, 16, 7, 10


def write_lopsided(path):
    """Writes the model; returns its number of exits."""
    try:
        import numpy
    except ImportError as error:
        raise Skip(f"wanted numpy (Debian: python3-numpy), found: {error}")
    import modelfile

    rng = numpy.random.default_rng(14)

    def layer(name, op, source, **attributes):
        return {"name": name, "op": op, "inputs": [source], **attributes}

    def floats(*shape):
        return rng.uniform(-0.3, 0.3, shape).astype("float32")

    graph = [
        layer("pool1", "global_average_pool", "input"),
        layer("fc1", "linear", "pool1", weight="fc1.weight", bias=None),
        layer("conv", "conv2d", "input", kernel=[KERNEL, KERNEL], stride=[1, 1],
              padding=[KERNEL // 2, KERNEL // 2], dilation=[1, 1], groups=1, weight="conv.weight",
              bias=None),
        layer("pool2", "global_average_pool", "conv"),
        layer("fc2", "linear", "pool2", weight="fc2.weight", bias=None),
    ]
    model = modelfile.Model(
        name="lopsided",
        input={"shape": [3, SIDE, SIDE], "resize": "stretch", "mean": [0.5] * 3, "std": [0.25] * 3},
        classes=[f"class {number}" for number in range(CLASSES)],
        graph=graph,
        exits=[{"name": "first", "logits": "fc1", "threshold": 0.0},
               {"name": "last", "logits": "fc2", "threshold": 0.0}],
        tensors={"fc1.weight": floats(CLASSES, 3), "fc2.weight": floats(CLASSES, CHANNELS),
                 "conv.weight": floats(CHANNELS, 3, KERNEL, KERNEL)},
    )
    modelfile.write_model(path, model)
    return len(model.exits)
