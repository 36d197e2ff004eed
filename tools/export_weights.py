#!/usr/bin/env python3
"""Exports a PyTorch network as a model file (weights/FORMAT.md), and proves that nothing was lost.

    export_weights.py runs/resnet20/checkpoint.pt -o resnet20b.safetensors --thresholds 0.1,0.2
    export_weights.py checkpoint.pt --network resnet56 --heads classic -o resnet56b.safetensors
    export_weights.py --torchvision resnet18 --seed 1 -o resnet18.safetensors

For a network of your own, from Python:

    export(module, "mine.safetensors", name="mine", input_shape=(3, 64, 64), mean=mean, std=std,
           classes=["cat", "dog"], thresholds=[0.2])

`module` is any torch.nn.Module made of the operations that lowering.py lists. Its forward takes one
tensor and returns logits, or a tuple or list of them, earliest exit first. After tracing, file and
module run on the same random input in float64: the file stays only if they agree.
Exit codes: 0 done, 64 option, 65 network or checkpoint that cannot be exported, 66 missing file,
73 cannot write.
"""

import copy
import inspect
import math
import pathlib
import sys

import PIL.Image
import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import modelfile  # noqa: E402
import networks  # noqa: E402
from commandline import Parser, Stop  # noqa: E402
from lowering import ExportError, Lowering  # noqa: E402
from torchgraph import TorchGraph, prepare  # noqa: E402

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGENET_RESIZE = {"resize": "shorter", "resize_to": 256}
DEFAULT_THRESHOLD = 0.1
PROOF_TOLERANCE = 1e-9  # float64 leaves about 1e-15 per operation; a wrong graph is off by far more
PROOF_BATCH = 2

# ---- export --------------------------------------------------------------------------------------


def trace(module, input_shape):
    """(layers, tensors, logits) of `module`: what reaches an exit, and one Value per exit."""
    module = copy.deepcopy(module).cpu().float().eval()
    lowering = Lowering(input_shape)
    try:
        logits = lowering.run(module)
    except ExportError:
        raise
    except Exception as error:  # whatever a user's forward does with a tensor that has no values
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{lowering.where()}: forward cannot be traced: {reason[0]}") from error
    layers = _reachable(lowering.layers, [value.layer for value in logits])
    position = {layer["name"]: number for number, layer in enumerate(layers)}
    order = [position.get(value.layer, -1) for value in logits]
    if order != sorted(set(order)):
        raise ExportError("forward: wanted distinct logits, earliest exit first")
    used = {layer.get(key) for layer in layers for key in ("weight", "bias", "mean", "variance")}
    tensors = {name: tensor for name, tensor in lowering.tensors.items() if name in used}
    return layers, tensors, logits


def prove(model, module):
    """Raises ExportError unless file and module agree in float64 on random input."""
    module = copy.deepcopy(module).cpu().float().eval().double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(PROOF_BATCH, *model.input["shape"], dtype=torch.float64, generator=generator)
    found = TorchGraph(model).double()(x)
    with torch.no_grad():
        wanted = module(x.clone())  # a module may write into its input
    wanted = wanted if isinstance(wanted, (tuple, list)) else [wanted]
    for exit, a, b in zip(model.exits, found, wanted):
        scale = b.abs().max().item()
        error = (a - b).abs().max().item()
        if not (math.isfinite(scale) and error <= PROOF_TOLERANCE * scale):
            raise ExportError(
                f"exit {exit['name']}: not proved: the module's logits and the file's "
                f"differ by {error:.3g} of {scale:.3g}"
            )


def export(
    module,
    path,
    *,
    name,
    input_shape,
    mean,
    std,
    classes,
    thresholds=None,
    resize="stretch",
    resize_to=None,
    source=None,
):
    """Writes `module` as a model file and proves it; returns the modelfile.Model.

    input_shape  (3, height, width)
    mean, std    per channel, of pictures scaled to 0..1
    classes      names in the order of the logits
    thresholds   normalised entropy in [0, 1]: one for each exit but the last, or one for all
    resize       "stretch", or "shorter": shorter side to resize_to pixels, centre cropped
    source       a sentence about where the weights come from, kept in the file

    Raises ExportError, or OSError when the file cannot be written; then there is no file.
    """
    classes = list(classes)
    layers, tensors, logits = trace(module, input_shape)
    for value in logits:
        if value.shape != (len(classes),):
            raise ExportError(
                f"{value.layer}: wanted logits [batch, {len(classes)}], one for each class, "
                f"found [batch, {', '.join(map(str, value.shape))}]"
            )
    described = {"shape": list(input_shape), "resize": resize}
    if resize_to is not None:
        described["resize_to"] = resize_to
    described["mean"], described["std"] = [float(n) for n in mean], [float(n) for n in std]
    exits = [
        {"name": exit, "logits": value.layer, "threshold": threshold}
        for exit, value, threshold in zip(
            _exit_names(logits), logits, _thresholds(thresholds, len(logits))
        )
    ]
    extra = {} if source is None else {"offramp.source": source}
    model = modelfile.Model(name, described, classes, layers, exits, tensors, extra)
    path = pathlib.Path(path)
    candidate = path.with_name(path.name + ".unproved")
    try:
        modelfile.write_model(candidate, model)
        model = modelfile.read_model(candidate)
        prove(model, module)
        candidate.replace(path)
    except modelfile.ModelError as error:
        raise ExportError(str(error)) from None
    finally:
        candidate.unlink(missing_ok=True)
    return model


def write_golden(path, model, pictures):
    """Writes what PyTorch computes for `pictures`, float32 [N, 3, H, W], for the engine's tests."""
    logits, activations = TorchGraph(model).double()(torch.from_numpy(pictures).double(), True)
    tensors = {"input": pictures}
    for name in observable(model):
        tensors[f"layer:{name}"] = activations[name][:1].float().numpy()
    for exit, values in zip(model.exits, logits):
        tensors[f"logits:{exit['name']}"] = values.float().numpy()
    modelfile.write_safetensors(path, tensors, {"offramp.hash": model.hash()})


def observable(model):
    """Names of layers whose output exists in an engine that fuses.

    All but those whose only reader is a batch norm, an addition or a ReLU.
    """
    readers = {layer["name"]: [] for layer in model.graph}
    for layer in model.graph:
        for name in layer["inputs"]:
            readers.get(name, []).append(layer["op"])
    logits = {exit["logits"] for exit in model.exits}
    return [
        name
        for name, ops in readers.items()
        if name in logits or len(ops) != 1 or ops[0] not in ("batch_norm", "add", "relu")
    ]


def _reachable(layers, wanted):
    wanted, kept = set(wanted), []
    for layer in reversed(layers):
        if layer["name"] in wanted:
            wanted.update(layer["inputs"])
            kept.append(layer)
    return kept[::-1]


def _exit_names(logits):
    """exit1.fc -> exit1; numbers when that does not name every exit."""
    paths = [value.layer.split(":")[0].split(".") for value in logits]
    tops = [path[0] for path in paths]
    if len(set(tops)) == len(tops) and all(len(path) > 1 for path in paths):
        return tops
    return [f"exit{number}" for number in range(1, len(logits) + 1)]


def _thresholds(thresholds, exits):
    """One for each exit; the last one is not read, 1 says that it always answers."""
    given = [DEFAULT_THRESHOLD] if thresholds is None else [float(n) for n in thresholds]
    if len(given) == 1:
        given *= exits - 1
    if len(given) != exits - 1:
        raise ExportError(f"thresholds: wanted 1 or {exits - 1}, found {len(given)}")
    if not all(0 <= n <= 1 for n in given):
        raise ExportError(f"thresholds: wanted numbers in [0, 1], found {given}")
    return [*given, 1.0]


# ---- command line --------------------------------------------------------------------------------


def parse(arguments):
    parser = Parser(
        prog="export_weights.py",
        description=__doc__,
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", help="written by train.py, or a plain state_dict")
    add("-o", "--output", required=True, metavar="OUT", help="model file to write (.safetensors)")
    add(
        "--network",
        choices=networks.NAMES,
        help="default: what the checkpoint says; without one, random weights",
    )
    add(
        "--heads",
        choices=networks.HEADS,
        help="default: what the checkpoint says, else strong; for random weights pyramid",
    )
    add(
        "--shortcut",
        choices=networks.SHORTCUTS,
        help="default: what the checkpoint says, else conv",
    )
    add("--no-exits", action="store_true", help="the last exit alone")
    add(
        "--torchvision",
        metavar="NAME",
        help="a network of torchvision, 224x224; random weights unless there is a checkpoint",
    )
    add("--seed", type=int, metavar="N", default=1, help="of random weights (default 1)")
    add(
        "--name",
        help="name of the model (default: the network's, with a b when it has early exits)",
    )
    add(
        "--classes",
        metavar="FILE",
        help="names of the classes, one a line, in the order of the logits",
    )
    add(
        "--thresholds",
        metavar="T1,T2",
        help="normalised entropy below which an exit answers, "
        f"for each exit but the last or one for all (default {DEFAULT_THRESHOLD})",
    )
    add("--source", metavar="TEXT", help="a sentence on the weights' origin, kept in the file")
    add(
        "--golden",
        nargs="+",
        metavar="PICTURE",
        help="also write OUT's .golden.safetensors: PyTorch's results for these pictures",
    )
    options = parser.parse_args(arguments)
    if options.torchvision and (options.network or options.heads or options.shortcut):
        parser.error("--torchvision goes with none of --network, --heads, --shortcut")
    if not options.torchvision and not options.checkpoint and not options.network:
        parser.error("wanted a checkpoint; or --network or --torchvision NAME for random weights")
    if not options.output.endswith(".safetensors"):
        parser.error(f"-o: wanted a name that ends in .safetensors, found {options.output}")
    return options


def load_checkpoint(path):
    """A dict with state_dict and perhaps mean, std, name, heads, shortcut, exits, classes."""
    if not pathlib.Path(path).is_file():
        raise Stop(66, f"{path}: wanted a checkpoint, found none")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # no code from a pickle
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise Stop(65, f"{path}: wanted a checkpoint, found something else: {reason}") from None
    if not isinstance(loaded, dict):
        raise Stop(65, f"{path}: wanted a dict, found {type(loaded).__name__}")
    return loaded if "state_dict" in loaded else {"state_dict": loaded}


def load_weights(module, checkpoint, path):
    state = {
        key[7:] if key.startswith("module.") else key: value
        for key, value in checkpoint["state_dict"].items()
    }
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    surplus = [key for key in state if key not in wanted]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    for what, keys in (
        ("lacks", missing),
        ("has no place for", surplus),
        ("has other shape:", wrong),
    ):
        if keys:
            raise Stop(
                65,
                f"{path}: does not fit the network: {what} {keys[0]}"
                + (f" and {len(keys) - 1} more" if len(keys) > 1 else ""),
            )
    module.load_state_dict(state)


def randomise(module, seed):
    """Random weights that keep activations in range, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            fan_in = part.weight[0].numel()
            part.weight.data.normal_(0, math.sqrt(2 / fan_in), generator=generator)
            if part.bias is not None:
                part.bias.data.normal_(0, 0.1, generator=generator)
        elif isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.2, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.affine:
                part.weight.data.uniform_(0.3, 0.9, generator=generator)
                part.bias.data.normal_(0, 0.2, generator=generator)


def read_classes(path):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(66, f"{path}: wanted names of classes: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def imagenet_classes():
    import torchvision

    names = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    return [name if name not in names[:at] else f"{name} (2)" for at, name in enumerate(names)]


def torchvision_network(options):
    """(module, arguments of export()) of a torchvision classifier."""
    import torchvision

    builder = getattr(torchvision.models, options.torchvision, None)
    if not options.torchvision.islower() or not inspect.isfunction(builder):
        raise Stop(
            64,
            f"--torchvision: wanted a network of torchvision.models such as resnet18, "
            f"found {options.torchvision}",
        )
    classes = read_classes(options.classes) if options.classes else imagenet_classes()
    module = builder(weights=None, num_classes=len(classes))
    if options.checkpoint:
        load_weights(module, load_checkpoint(options.checkpoint), options.checkpoint)
    else:
        randomise(module, options.seed)
    return module, {
        "name": options.torchvision,
        "input_shape": (3, 224, 224),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "classes": classes,
        **IMAGENET_RESIZE,
    }


def own_network(options):
    """(module, arguments of export()) of one of tools/networks.py, from a checkpoint or random."""
    checkpoint = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    if options.checkpoint:
        checkpoint = load_checkpoint(options.checkpoint)
    network = options.network or checkpoint.get("name")
    if network not in networks.NAMES:
        raise Stop(
            64, f"{options.checkpoint}: does not say which network it is for: --network wanted"
        )
    for key in ("mean", "std"):
        if key not in checkpoint:
            raise Stop(
                65, f"{options.checkpoint}: wanted {key} of the training pictures, found none"
            )
    exits = checkpoint.get("exits", True) and not options.no_exits
    small = network in networks.SMALL
    classes = checkpoint.get("classes") or (CIFAR10 if small else imagenet_classes())
    if options.classes and not options.checkpoint:
        classes = read_classes(options.classes)
    classes = CIFAR10 if classes == len(CIFAR10) else classes
    if isinstance(classes, int):
        classes = [f"class {number}" for number in range(classes)]
    module = networks.build(
        network,
        heads=options.heads or checkpoint.get("heads", "strong" if options.checkpoint else "pyramid"),
        shortcut=options.shortcut or checkpoint.get("shortcut", "conv"),
        exits=exits,
        classes=len(classes),
    )
    if options.no_exits and options.checkpoint:  # the same network with fewer heads: their weights stay behind
        known = module.state_dict()
        checkpoint["state_dict"] = {
            key: value
            for key, value in checkpoint["state_dict"].items()
            if key in known or not key.startswith("exit")
        }
    if options.checkpoint:
        load_weights(module, checkpoint, options.checkpoint)
    else:
        randomise(module, options.seed)
    return module, {
        "name": network + ("b" if exits else ""),
        "input_shape": networks.input_shape(network),
        "mean": [float(n) for n in checkpoint["mean"]],
        "std": [float(n) for n in checkpoint["std"]],
        "classes": classes,
        **({} if small else IMAGENET_RESIZE),
    }


def read_pictures(paths, how):
    pictures = []
    for path in paths:
        try:
            with PIL.Image.open(path) as picture:
                pictures.append(torch.from_numpy(prepare(picture, how)))
        except OSError as error:
            found = (
                "something else"
                if isinstance(error, PIL.UnidentifiedImageError)
                else error.strerror
            )
            raise Stop(66, f"{path}: wanted a picture, found {found}") from None
    return torch.stack(pictures).numpy()


def read_options(options, arguments):
    """Lays what the command line says over the network's own."""
    if options.name:
        arguments["name"] = options.name
    if options.classes:
        arguments["classes"] = read_classes(options.classes)
    if options.thresholds:
        try:
            arguments["thresholds"] = [float(n) for n in options.thresholds.split(",")]
        except ValueError:
            raise Stop(
                64, f"--thresholds: wanted numbers with commas between, found {options.thresholds}"
            ) from None
    if options.source:
        arguments["source"] = options.source
    return arguments


def run(arguments):
    options = parse(arguments)
    module, described = (torchvision_network if options.torchvision else own_network)(options)
    described = read_options(options, described)
    try:
        model = export(module, options.output, **described)
        print(
            f"{options.output}: {model.name}, {len(model.graph)} layers, {len(model.exits)} exits, "
            f"{sum(modelfile.macs(model).values()) / 1e6:.1f} M MACs, hash {model.hash()[:16]}, "
            "export proved"
        )
        if options.golden:
            golden = options.output.removesuffix(".safetensors") + ".golden.safetensors"
            write_golden(golden, model, read_pictures(options.golden, model.input))
            print(f"{golden}: {len(options.golden)} pictures")
    except OSError as error:
        raise Stop(73, f"{options.output}: cannot be written: {error.strerror}") from None


def main(arguments):
    try:
        run(arguments)
    except ExportError as error:
        print(f"export_weights: {error}", file=sys.stderr)
        return 65
    except Stop as error:
        print(f"export_weights: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
