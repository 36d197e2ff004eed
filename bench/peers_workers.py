"""One engine in one process, obeying lines on standard input as bench/network_bench.cpp describes.

    peers_workers.py ENGINE FILE --batch N --threads N --shape C,H,W --exits K --classes N

Each engine is set as its manual says for speed in float32 on N threads, with memory for input and
output bound beforehand where it can be. Imports stand in the classes, so that memory and start-up
of one engine do not include another's.
"""

import argparse
import os
import sys
import time

import numpy


class OnnxRuntime:
    def __init__(self, options):
        import onnxruntime

        self.version = onnxruntime.__version__
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.add_free_dimension_override_by_name("batch", options.batch)
        self.session = onnxruntime.InferenceSession(
            options.file, settings, providers=["CPUExecutionProvider"]
        )
        self.value = onnxruntime.OrtValue
        self.binding = self.session.io_binding()
        self.outputs = [
            numpy.empty((options.batch, options.classes), numpy.float32)
            for _ in range(options.exits)
        ]
        for number, output in enumerate(self.outputs):
            value = self.value.ortvalue_from_numpy(output)
            self.outputs[number] = value
            self.binding.bind_ortvalue_output(f"exit{number + 1}", value)

    def set_input(self, x):
        self.input = self.value.ortvalue_from_numpy(x)
        self.binding.bind_ortvalue_input("input", self.input)

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def logits(self):
        return [output.numpy() for output in self.outputs]


class OpenVino:
    def __init__(self, options):
        import openvino

        self.version = openvino.__version__.split("-")[0]
        core = openvino.Core()
        model = core.read_model(options.file)
        model.reshape([options.batch, *options.shape])
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": options.threads,
                "NUM_STREAMS": 1,
            },
        )
        self.request, self.exits, self.tensor = (
            compiled.create_infer_request(),
            options.exits,
            openvino.Tensor,
        )

    def set_input(self, x):
        self.input = x  # the tensor borrows it
        self.request.set_input_tensor(self.tensor(x, shared_memory=True))

    def run(self):
        self.request.start_async()
        self.request.wait()

    def logits(self):
        return [self.request.get_output_tensor(n).data for n in range(self.exits)]


class Ncnn:
    """Has no batches: runs the samples one after the other."""

    def __init__(self, options):
        import ncnn

        self.ncnn, self.version, self.exits = ncnn, ncnn.__version__, options.exits
        self.net = ncnn.Net()
        settings = self.net.opt
        settings.num_threads = options.threads
        settings.use_vulkan_compute = False
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(settings, f"use_{name}", False)
        if self.net.load_param(options.file) or self.net.load_model(
            options.file.removesuffix("param") + "bin"
        ):
            raise RuntimeError(f"{options.file}: ncnn cannot load it")

    def set_input(self, x):
        self.input = x
        self.mats = [self.ncnn.Mat(sample) for sample in x]

    def run(self):
        self.outputs = []
        for mat in self.mats:
            extractor = self.net.create_extractor()
            extractor.input("in0", mat)
            self.outputs.append([extractor.extract(f"out{n}")[1] for n in range(self.exits)])

    def logits(self):
        return [[numpy.array(sample[n]) for sample in self.outputs] for n in range(self.exits)]


class Mnn:
    def __init__(self, options):
        import MNN

        self.mnn, self.version, self.options = MNN, MNN.version(), options
        self.interpreter = MNN.Interpreter(options.file)
        self.session = self.interpreter.createSession(
            {"numThread": options.threads, "precision": "high", "backend": "CPU"}
        )
        self.input = self.interpreter.getSessionInput(self.session, "input")
        self.shape = (options.batch, *options.shape)
        self.interpreter.resizeTensor(self.input, self.shape)
        self.interpreter.resizeSession(self.session)

    def set_input(self, x):
        host = self.mnn.Tensor(
            self.shape, self.mnn.Halide_Type_Float, x, self.mnn.Tensor_DimensionType_Caffe
        )
        self.input.copyFrom(host)

    def run(self):
        self.interpreter.runSession(self.session)

    def logits(self):
        shape, found = (self.options.batch, self.options.classes), []
        for number in range(self.options.exits):
            output = self.interpreter.getSessionOutput(self.session, f"exit{number + 1}")
            host = self.mnn.Tensor(
                shape,
                self.mnn.Halide_Type_Float,
                numpy.zeros(shape, numpy.float32),
                self.mnn.Tensor_DimensionType_Caffe,
            )
            output.copyToHostTensor(host)
            found.append(numpy.array(host.getNumpyData()).reshape(shape))
        return found


class LiteRt:
    def __init__(self, options):
        import importlib.metadata

        from ai_edge_litert.interpreter import Interpreter

        self.version = importlib.metadata.version("ai-edge-litert")
        self.interpreter = Interpreter(options.file, num_threads=options.threads)
        index = self.interpreter.get_input_details()[0]["index"]
        channels, height, width = options.shape
        self.interpreter.resize_tensor_input(index, (options.batch, height, width, channels))
        self.interpreter.allocate_tensors()
        self.index = index

    def set_input(self, x):
        self.interpreter.set_tensor(self.index, numpy.ascontiguousarray(x.transpose(0, 2, 3, 1)))

    def run(self):
        self.interpreter.invoke()

    def logits(self):
        outputs = self.interpreter.get_output_details()
        return [self.interpreter.get_tensor(output["index"]) for output in outputs]


class Torch:
    def __init__(self, options):
        import torch

        self.torch, self.version = torch, torch.__version__
        torch.set_num_threads(options.threads)
        torch.set_num_interop_threads(1)
        self.module = torch.jit.optimize_for_inference(torch.jit.load(options.file))
        self.guard = torch.inference_mode()
        self.guard.__enter__()

    def set_input(self, x):
        self.input = self.torch.from_numpy(x)

    def run(self):
        self.outputs = self.module(self.input)

    def logits(self):
        return [output.numpy() for output in self.outputs]


class Nothing:
    """What Python and numpy alone need in memory and time."""

    def __init__(self, options):
        self.version = sys.version.split()[0]

    def set_input(self, x):
        pass

    def run(self):
        pass


ENGINES = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "ncnn": Ncnn,
    "mnn": Mnn,
    "litert": LiteRt,
    "torch": Torch,
    "python": Nothing,
}


def parse(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("file")
    for name in ("batch", "threads", "exits", "classes"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument(
        "--shape", type=lambda text: [int(n) for n in text.split(",")], required=True
    )
    return parser.parse_args(arguments)


def peak_kib():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def answer(engine, shape, verb, argument):
    if verb == "run":
        times = []
        for _ in range(int(argument)):
            start = time.perf_counter_ns()
            engine.run()
            times.append(time.perf_counter_ns() - start)
        return "ns " + " ".join(map(str, times))
    if verb == "input":
        engine.set_input(numpy.fromfile(argument, numpy.float32).reshape(shape))
        return "ok"
    if verb == "logits":
        engine.run()
        numpy.asarray(engine.logits(), numpy.float32).tofile(argument)
        return "ok"
    if verb == "memory":
        return f"kib {peak_kib()}"
    raise ValueError(f"wanted input, run, logits or memory, found {verb!r}")


def main(arguments):
    # Engines write what they like to standard output: the answers keep a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        options = parse(arguments)
        shape = (options.batch, *options.shape)
        engine = ENGINES[options.engine](options)
        engine.set_input(numpy.zeros(shape, numpy.float32))
        print(f"ready {options.engine} {engine.version}", file=answers, flush=True)
        for line in sys.stdin:
            verb, _, argument = line.strip().partition(" ")
            print(answer(engine, shape, verb, argument), file=answers, flush=True)
    except Exception as error:  # whatever another engine raises
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"error {reason}", file=answers, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
