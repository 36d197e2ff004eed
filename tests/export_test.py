#!/usr/bin/env python3
"""The export path: every operation and network comes through and computes what the module computes,
and everything else is refused by name and path."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
try:
    import numpy
    import PIL.Image
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as missing:
    print(f"SKIPPED: {missing}; install python3-torch and python3-torchvision", file=sys.stderr)
    sys.exit(77)

import export_weights  # noqa: E402
import modelfile  # noqa: E402
import networks  # noqa: E402
from export_weights import ExportError  # noqa: E402
from torchgraph import TorchGraph, prepare  # noqa: E402


class Lambda(nn.Module):
    """A convolution to [N, 8, H, W], a function of the result, and a mean unless it made one."""

    def __init__(self, body, **parts):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = body
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        x = self.body(self, self.stem(x))
        return x.mean((2, 3)) if x.dim() == 4 else x


class ExportCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)  # more of them fight with other tests for the cores
        torch.manual_seed(7)
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.path = pathlib.Path(cls.folder.name) / "model.safetensors"

    def export(self, module, input_shape=(3, 16, 16), classes=8, randomise=True, **more):
        """Exports (which proves logits in float64) and returns the model."""
        if randomise:
            export_weights.randomise(module, seed=3)
        return export_weights.export(
            module,
            self.path,
            name="test",
            input_shape=input_shape,
            mean=[0.5] * 3,
            std=[0.2] * 3,
            classes=[f"class {n}" for n in range(classes)],
            **more,
        )

    def body(self, function, classes=8, **parts):
        """Ops of the layers that `function(module, x)` becomes; x is [N, 8, 16, 16]."""
        model = self.export(Lambda(function, **parts), classes=classes)
        return [layer["op"] for layer in model.graph if layer["name"] != "stem"]

    def operation(self, operation, after=lambda m, x: x, classes=8, **parts):
        """The same for a function of x or a module, and `after(module, x)` of its result."""
        if isinstance(operation, nn.Module):
            return self.body(lambda m, x: after(m, m.part(x)), classes, part=operation, **parts)
        return self.body(lambda m, x: after(m, operation(x)), classes, **parts)

    def refused(self, module, *words, **more):
        """Exporting fails with one line that has all the words, and leaves no file."""
        self.path.unlink(missing_ok=True)
        with self.assertRaises(ExportError) as caught:
            self.export(module, **more)
        message = str(caught.exception)
        self.assertNotIn("\n", message)
        for word in words:
            self.assertIn(word, message)
        self.assertEqual(list(self.path.parent.iterdir()), [])


class Operations(ExportCase):
    def test_relu_in_every_spelling(self):
        spellings = [
            functional.relu,
            torch.relu,
            torch.relu_,
            lambda x: x.relu(),
            lambda x: x.relu_(),
            lambda x: functional.relu(x, inplace=True),
            functional.relu_,
            nn.ReLU(),
            nn.ReLU(True),
        ]
        for spelling in spellings:
            self.assertEqual(self.operation(spelling), ["relu", "global_average_pool"])

    def test_in_place_operations_change_what_others_read(self):
        def relu(m, x):
            functional.relu(x, inplace=True)
            return x + m.conv(x)

        def add(m, x):
            y = x
            y += m.conv(x)
            return torch.cat([x, y], 1)

        conv = nn.Conv2d(8, 8, 1)
        self.assertEqual(
            self.body(relu, conv=conv), ["relu", "conv2d", "add", "global_average_pool"]
        )
        self.assertEqual(
            self.body(add, classes=16, conv=conv),
            ["conv2d", "add", "concat", "global_average_pool"],
        )

    def test_convolutions(self):
        for conv in (
            nn.Conv2d(8, 8, 3, padding="same"),
            nn.Conv2d(8, 8, (3, 5), padding="same", dilation=2),
            nn.Conv2d(8, 8, 3, padding="valid"),
            nn.Conv2d(8, 8, (2, 3), (2, 1), (1, 0), bias=False),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 16, 3, groups=4, dilation=(1, 2)),
            nn.Conv2d(8, 8, 3, padding_mode="reflect"),  # without padding the mode means nothing
        ):
            ops = self.operation(conv, classes=conv.out_channels)
            self.assertEqual(ops, ["conv2d", "global_average_pool"])

    def test_batch_norm(self):
        self.body(lambda m, x: m.bn(x), bn=nn.BatchNorm2d(8, eps=0.1))
        self.body(lambda m, x: m.bn(x), bn=nn.BatchNorm2d(8, affine=False))
        self.body(lambda m, x: m.bn(x.mean((2, 3))), bn=nn.BatchNorm1d(8))

    def test_pools(self):
        pools = [
            nn.MaxPool2d(3, 2, 1),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.MaxPool2d((2, 3)),
            nn.AvgPool2d(3, 2, 1),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            nn.AvgPool2d(5, 3, 2, ceil_mode=True),
            nn.AdaptiveAvgPool2d((4, 8)),
            lambda x: functional.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True),
            lambda x: functional.avg_pool2d(x, (2, 4), count_include_pad=False),
            lambda x: functional.avg_pool2d(x, x.size()[3] // 2),
            lambda x: functional.adaptive_avg_pool2d(x, (None, 2)),
        ]
        for pool in pools:
            ops = self.operation(pool)
            self.assertIn(ops[0], ("max_pool", "average_pool"))
            self.assertEqual(ops[1:], ["global_average_pool"])

    def test_means_over_the_picture(self):
        for mean in (
            lambda x: x.mean([2, 3]),
            lambda x: torch.mean(x, (-2, -1)),
            lambda x: x.mean(dim=(3, 2)),
            lambda x: x.mean((2, 3), keepdim=True).flatten(1),
            nn.AdaptiveAvgPool2d(1),
            lambda x: torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1),
            lambda x: functional.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1),
            lambda x: x.mean((2, 3))[:, :].unsqueeze(2).unsqueeze(3),
            lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(2),
        ):
            self.assertEqual(
                self.operation(mean, lambda m, x: x.flatten(1)), ["global_average_pool"]
            )

    def test_reshapes_that_mean_flatten(self):
        for reshape in (
            lambda x: torch.flatten(x, 1),
            lambda x: x.flatten(start_dim=1),
            lambda x: x.view(x.size(0), -1),
            lambda x: x.view(x.shape[0], 8 * 16 * 16),
            lambda x: x.reshape(-1, x.size(1) * x.size(2) * x.size(3)),
            nn.Flatten(),
            lambda x: x.contiguous().view((x.size()[0], -1)),
        ):
            ops = self.operation(reshape, lambda m, x: m.fc(x), fc=nn.Linear(8 * 256, 8))
            self.assertEqual(ops, ["flatten", "linear"])

    def test_what_disappears(self):
        def body(m, x):
            x = m.same(m.drop(functional.dropout(x, training=m.training)))
            x = functional.adaptive_avg_pool2d(x, 16)[:, :, ::1]
            return functional.pad(torch.cat([x], 1), (0, 0))

        self.assertEqual(
            self.body(body, same=nn.Identity(), drop=nn.Dropout(0.5)), ["global_average_pool"]
        )

    def test_slices_and_padded_channels(self):
        def body(m, x):
            x = functional.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 3, 5), "constant", 0)
            return x[..., ::2]

        model = self.export(Lambda(body), classes=16)
        self.assertEqual(model.graph[1]["stride"], [2, 3])
        self.assertEqual((model.graph[2]["before"], model.graph[2]["after"]), (3, 5))
        self.assertEqual(model.graph[3]["stride"], [1, 2])

    def test_a_module_that_is_called_again_gets_a_number(self):
        model = self.export(
            Lambda(
                lambda m, x: m.act(m.conv(m.act(m.conv(m.act(x))))),
                act=nn.ReLU(),
                conv=nn.Conv2d(8, 8, 1),
            )
        )
        self.assertEqual(
            [layer["name"] for layer in model.graph],
            ["stem", "act", "conv", "act:1", "conv:1", "act:2", "mean"],
        )
        self.assertEqual(
            set(model.tensors), {"stem.weight", "stem.bias", "conv.weight", "conv.bias"}
        )

    def test_layers_that_reach_no_exit_are_left_out(self):
        def body(m, x):
            m.aside(x)
            return x

        model = self.export(Lambda(body, aside=nn.Conv2d(8, 4, 1)))
        self.assertEqual([layer["name"] for layer in model.graph], ["stem", "mean"])

    def test_pictures_are_prepared_as_torchvision_does(self):
        try:
            from torchvision import transforms
        except ImportError as missing:
            self.skipTest(str(missing))
        how = {
            "shape": [3, 24, 24],
            "resize": "shorter",
            "resize_to": 29,
            "mean": [0.4, 0.5, 0.6],
            "std": [0.2, 0.3, 0.4],
        }
        pixels = numpy.random.RandomState(1).randint(0, 256, (47, 90, 3), numpy.uint8)
        for picture in (
            PIL.Image.fromarray(pixels),
            PIL.Image.fromarray(pixels.transpose(1, 0, 2)),
        ):
            wanted = transforms.Compose(
                [
                    transforms.Resize(29),
                    transforms.CenterCrop(24),
                    transforms.ToTensor(),
                    transforms.Normalize(how["mean"], how["std"]),
                ]
            )(picture)
            numpy.testing.assert_array_equal(prepare(picture, how), wanted.numpy())


class Refusals(ExportCase):
    def refused_body(self, function, *words, **parts):
        self.refused(Lambda(function, **parts), *words)

    def test_operations_by_name_and_path(self):
        deep = nn.Sequential(nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU()))
        self.refused_body(
            lambda m, x: m.stage(x), "stage.0.1: unsupported operation SiLU; supported", stage=deep
        )
        for name, function in (
            ("sigmoid", torch.sigmoid),
            ("silu", functional.silu),
            ("mul", lambda x: x * x),
            ("chunk", lambda x: x.chunk(2, 1)[0]),
            ("max", lambda x: torch.max(x)),
            ("permute", lambda x: x.permute(0, 1, 3, 2)),
            ("interpolate", functional.interpolate),
        ):
            self.refused_body(lambda m, x, f=function: f(x), "forward", name)

    def test_the_path_of_a_functional_call(self):
        class Gate(nn.Module):
            def forward(self, x):
                return torch.tanh(x)

        self.refused_body(
            lambda m, x: m.stage(x),
            "stage.0: unsupported operation tanh",
            stage=nn.Sequential(Gate()),
        )

    def test_arguments(self):
        for word, function in (
            ("alpha=2", lambda x: torch.add(x, x, alpha=2)),
            ("constant", lambda x: x + 1),
            ("equal shapes", lambda x: x + x.mean((2, 3), keepdim=True)),
            ("dim=1", lambda x: torch.cat([x, x], 2)),
            ("dim=(2, 3)", lambda x: x.mean(1)),
            ("dilation", lambda x: functional.max_pool2d(x, 3, dilation=2)),
            ("divisor_override", lambda x: functional.avg_pool2d(x, 2, divisor_override=3)),
            ("does not divide", lambda x: functional.adaptive_avg_pool2d(x, 5)),
            ("channels only", lambda x: functional.pad(x, (1, 1, 1, 1))),
            ("mode='reflect'", lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect")),
            ("value=1", lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1), value=1.0)),
            ("wanted x[", lambda x: x[:, :, 1::2]),
            ("wanted x[", lambda x: x[:, ::2]),
            ("training", lambda x: functional.dropout(x, 0.5)),
            ("wanted [batch", lambda x: x.view(2, -1)),
            ("wanted [batch", lambda x: x.view(-1, 512)),
            ("wanted [batch", lambda x: x.view(x.size(0), 16, -1)),
        ):
            with self.subTest(word):
                self.refused_body(lambda m, x, f=function: f(x), "forward", "unsupported", word)

    def test_modules(self):
        for word, part in (
            ("padding_mode='reflect'", nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")),
            ("even kernel", nn.Conv2d(8, 8, 4, padding="same")),
            ("track_running_stats", nn.BatchNorm2d(8, track_running_stats=False)),
            ("return_indices", nn.MaxPool2d(2, return_indices=True)),
            ("dimensions", nn.Linear(16, 8)),
            ("ConvTranspose2d", nn.ConvTranspose2d(8, 8, 3)),
            ("GroupNorm", nn.GroupNorm(2, 8)),
        ):
            with self.subTest(word):
                self.refused(
                    Lambda(lambda m, x: m.part(x), part=part),
                    "part: unsupported",
                    word,
                    randomise=False,
                )

    def test_shapes_that_do_not_fit(self):
        self.refused_body(
            lambda m, x: m.fc(x.flatten(1)),
            "fc",
            "wanted 8x2048, found 8x100",
            fc=nn.Linear(100, 8),
        )
        self.refused_body(lambda m, x: m.conv(x), "conv", "found 8x4x3x3", conv=nn.Conv2d(4, 8, 3))

    def test_control_flow_on_data(self):
        self.refused_body(lambda m, x: x if x.sum() > 0 else -x, "forward", "sum")

    def test_weights_that_are_not_finite(self):
        for value in (float("nan"), float("inf"), 1e300):
            module = Lambda(lambda m, x: m.conv(x), conv=nn.Conv2d(8, 8, 1).double())
            module.conv.weight.data[3, 2] = value
            self.refused(module, "conv.weight", "finite", randomise=False)

    def test_a_module_whose_trace_is_wrong_is_not_written(self):
        module = Lambda(lambda m, x: m.conv(x), conv=nn.Conv2d(8, 8, 1))
        module.conv.register_forward_hook(lambda m, inputs, output: output * 1.0001)
        self.refused(module, "exit1", "not proved")

    def test_results_and_descriptions(self):
        class Several(nn.Module):
            def __init__(self, pick):
                super().__init__()
                self.first, self.second, self.pick = nn.Linear(3, 8), nn.Linear(8, 8), pick

            def forward(self, x):
                a = self.first(x.mean((2, 3)))
                return self.pick(a, self.second(a))

        self.refused(Several(lambda a, b: (b, a)), "earliest exit first")
        self.refused(Several(lambda a, b: {"out": b}), "wanted a tensor, or a tuple or list")
        for words, more in (
            (["wanted 1 or 1, found 2"], {"thresholds": [0.1, 0.2]}),
            (["[0, 1]"], {"thresholds": [1.5]}),
            (["[0, 1]"], {"thresholds": [float("nan")]}),
            (["second", "9"], {"classes": 9}),
            (["resize_to"], {"resize": "shorter", "resize_to": 8}),
        ):
            self.refused(
                Several(lambda a, b: (a, b)), *(words if "classes" not in more else ["9"]), **more
            )


class Networks(ExportCase):
    def test_cifar_resnets(self):
        for name in networks.RESNET_DEPTHS:
            for heads, shortcut, exits in (
                ("pyramid", "conv", True),
                ("strong", "conv", True),
                ("classic", "pad", True),
                ("pyramid", "pad", False),
            ):
                with self.subTest(name, heads=heads, shortcut=shortcut, exits=exits):
                    module = networks.build(name, heads=heads, shortcut=shortcut, exits=exits)
                    model = self.export(module, (3, 32, 32), 10)
                    named = [exit["name"] for exit in model.exits]
                    self.assertEqual(named, ["exit1", "exit2", "exit3"] if exits else ["exit3"])
                    ops = {layer["op"] for layer in model.graph}
                    self.assertEqual("pad_channels" in ops, shortcut == "pad")

    def test_lenet_and_alexnet(self):
        for name in ("lenet", "alexnet"):
            for exits in (True, False):
                model = self.export(networks.build(name, exits=exits), (3, 32, 32), 10)
                self.assertEqual(len(model.exits), networks.exit_count(name, exits))

    def test_torchvision(self):
        try:
            import torchvision
        except ImportError as missing:
            self.skipTest(str(missing))
        for name, side in (
            ("resnet18", 64),
            ("resnet50", 64),
            ("vgg11_bn", 224),
            ("alexnet", 224),
            ("squeezenet1_1", 64),
            ("densenet121", 64),
        ):
            with self.subTest(name):
                module = getattr(torchvision.models, name)(weights=None, num_classes=10)
                if side == 224:  # 4,096 hidden units are a file of half a gigabyte
                    for part in module.classifier:
                        if isinstance(part, nn.Linear):
                            part.weight.data = part.weight.data[
                                : 64 if part.out_features > 10 else 10
                            ]
                            part.bias.data = part.bias.data[:64]
                            if part.in_features == 4096:
                                part.weight.data = part.weight.data[:, :64]
                            part.out_features = len(part.weight)
                self.export(module, (3, side, side), 10, resize="shorter", resize_to=256)

    def test_every_activation_is_the_modules(self):
        module = networks.build("resnet20", shortcut="pad")
        model = self.export(module, (3, 32, 32), 10)
        module = module.double().eval()
        wanted = {}
        for path, part in module.named_modules():
            if not list(part.children()) and not path.endswith("shortcut"):
                part.register_forward_hook(
                    lambda m, inputs, output, p=path: wanted.__setitem__(p, output)
                )
        x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        with torch.no_grad():
            module(x)
        _, found = TorchGraph(model).double()(x, activations=True)
        self.assertGreater(len(set(wanted) & set(found)), 45)
        for name in set(wanted) & set(found):
            torch.testing.assert_close(found[name].flatten(1), wanted[name].flatten(1))


class CommandLine(ExportCase):
    def call(self, *arguments):
        """(exit code, stdout, stderr) of main() with these arguments."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = export_weights.main([str(argument) for argument in arguments])
        return code, out.getvalue(), err.getvalue()

    def test_checkpoint_to_model_with_golden_file(self):
        folder = self.path.parent
        module = networks.build("resnet20", heads="classic", shortcut="pad")
        export_weights.randomise(module, seed=5)
        torch.save(
            {
                "state_dict": module.state_dict(),
                "mean": torch.tensor([0.5, 0.5, 0.5]),
                "std": torch.tensor([0.25, 0.25, 0.25]),
                "name": "resnet20",
                "heads": "classic",
                "shortcut": "pad",
                "exits": True,
                "classes": 10,
            },
            folder / "checkpoint.pt",
        )
        pixels = numpy.random.RandomState(2).randint(0, 256, (40, 50, 3), numpy.uint8)
        PIL.Image.fromarray(pixels).save(folder / "picture.png")
        program = [sys.executable, ROOT / "tools/export_weights.py"]
        done = subprocess.run(
            [
                *program,
                folder / "checkpoint.pt",
                "-o",
                self.path,
                "--thresholds",
                "0.1,0.3",
                "--golden",
                folder / "picture.png",
                folder / "picture.png",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("export proved", done.stdout)
        model = modelfile.read_model(self.path)
        self.assertEqual([exit["threshold"] for exit in model.exits], [0.1, 0.3, 1])
        tensors, metadata = modelfile.read_safetensors(folder / "model.golden.safetensors")
        self.assertEqual(metadata, {"offramp.hash": model.hash()})
        self.assertEqual(tensors["logits:exit2"].shape, (2, 10))
        with torch.no_grad():
            wanted = module.eval()(torch.from_numpy(numpy.array(tensors["input"])))
        for exit, logits in zip(model.exits, wanted):
            numpy.testing.assert_allclose(
                tensors[f"logits:{exit['name']}"],
                logits.numpy(),
                atol=1e-4 * float(logits.abs().max()),
            )
        code, _, said = self.call(folder / "checkpoint.pt", "-o", self.path, "--no-exits")
        self.assertEqual((code, said), (0, ""))
        self.assertEqual(len(modelfile.read_model(self.path).exits), 1)
        code, _, said = self.call(folder / "checkpoint.pt", "-o", self.path, "--heads", "strong")
        self.assertEqual(code, 65)
        self.assertIn("does not fit the network", said)

    def test_named_classes_of_random_weights(self):
        names = self.path.parent / "classes.txt"
        names.write_text("cat\ndog\nowl\n")
        options = ["--classes", names, "-o", self.path, "--thresholds", "0.5"]
        for network, shape in (("lenet", [3, 32, 32]), ("resnet50", [3, 224, 224])):
            code, _, said = self.call("--network", network, *options)
            self.assertEqual((code, said), (0, ""))
            model = modelfile.read_model(self.path)
            self.assertEqual((model.classes, model.input["shape"]), (["cat", "dog", "owl"], shape))
        self.assertEqual([exit["name"] for exit in model.exits], ["exit1", "exit2", "exit3"])

    def test_exit_codes(self):
        nothing, out = self.path.parent / "none.pt", self.path
        broken = self.path.parent / "broken.pt"
        broken.write_bytes(b"not a checkpoint")
        for code, words, arguments in (
            (64, "checkpoint", ["-o", out]),
            (64, "--network", ["x", "-o", out, "--network", "vgg"]),
            (64, ".safetensors", ["x", "-o", "model.pt"]),
            (66, "found none", [nothing, "-o", out]),
            (65, "something else", [broken, "-o", out]),
            (64, "--torchvision", ["-o", out, "--torchvision", "ResNet"]),
        ):
            found, _, said = self.call(*arguments)
            self.assertEqual(found, code, said)
            self.assertEqual(len(said.splitlines()), 1)
            self.assertIn(words, said)


if __name__ == "__main__":
    unittest.main(verbosity=2 if os.environ.get("VERBOSE") else 1)
