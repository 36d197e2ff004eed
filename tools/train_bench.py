"""What train.py --bench measures: a training step and an inference step, on the CPU and on a GPU
where there is one."""

import json
import statistics
import sys
import time

import torch
from torch.nn import functional

import networks

WARM_UP, STEPS, SECONDS = 2, 5, 10.0  # at least so many steps, and for so long
CLASSES = {True: 10, False: 1000}


def wait_for(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def step_ms(step, device):
    """Median of steps, each waited for."""
    for _ in range(WARM_UP):
        step()
    wait_for(device)
    times, began = [], time.monotonic()
    while len(times) < STEPS or time.monotonic() - began < SECONDS:
        start = time.monotonic()
        step()
        wait_for(device)
        times.append(1e3 * (time.monotonic() - start))
    return round(statistics.median(times), 3)


def measure(options, device):
    """Milliseconds of {"train", "infer"} for one batch of random pictures."""
    torch.manual_seed(options.seed)
    classes = CLASSES[options.network in networks.SMALL]
    model = networks.build(
        options.network, heads=options.heads, shortcut=options.shortcut, classes=classes
    ).to(device, memory_format=torch.channels_last)
    shape = (options.batch, *networks.input_shape(options.network))
    pictures = torch.randn(shape).to(device, memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (options.batch,)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def forward():
        with torch.autocast(device.type, enabled=options.amp):
            return model(pictures)

    def train():
        loss = sum(functional.cross_entropy(logits.float(), labels) for logits in forward())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def infer():
        forward()

    model.train()
    found = {"train": step_ms(train, device)}
    model.eval()
    found["infer"] = step_ms(infer, device)
    return found


def bench(options):
    """Prints what was found, and how many times as fast the GPU is; JSON to standard output."""
    devices = ["cpu"] if options.device == "cpu" else ["cpu", "cuda"]
    report = {
        "network": options.network,
        "batch": options.batch,
        "half_precision": options.amp,
        "torch": torch.__version__,
        "cpu_threads": torch.get_num_threads(),
        "ms": {},
    }
    for name in devices:
        device = torch.device(name)
        shown = f"{report['cpu_threads']} CPU threads"
        if name == "cuda":
            shown = report["gpu"] = torch.cuda.get_device_name()
        times = report["ms"][name] = measure(options, device)
        for what in ("train", "infer"):
            each = 1e3 * options.batch / times[what]
            print(
                f"{options.network}, batch {options.batch}, {shown}, {what}: "
                f"{times[what]:.1f} ms a step, {each:.1f} pictures a second",
                file=sys.stderr,
            )
    if "cuda" in report["ms"]:
        cpu, gpu = report["ms"]["cpu"], report["ms"]["cuda"]
        report["gpu_times_as_fast"] = {what: round(cpu[what] / gpu[what], 2) for what in cpu}
        for what, ratio in report["gpu_times_as_fast"].items():
            print(f"{what}: the GPU is {ratio} times as fast", file=sys.stderr)
    else:
        print("no GPU here: nothing to compare with", file=sys.stderr)
    print(json.dumps(report))
    return 0
