"""A long run through all faults at once: devices -> proxy -> edge -> proxy -> cloud, with keys.

A seeded schedule kills, freezes, cuts, resets, delays, slows and corrupts, and heals after each
fault. The checker then reads what every device noted.
"""

import argparse
import collections
import json
import pathlib
import platform
import random
import subprocess
import time

import history
from lab import Lab, now_us
from scene import Failed

HEAL_SECONDS = 4.0
RECOVER_MS = 2000
# Changed bytes may leave a connection on which one side waits for the rest of a frame that has
# none: what ends it are three pings or the time for handshakes, both 3 s.
RECOVER_FROM_CORRUPTION_MS = RECOVER_MS + 3000
# What a node may grow by while faults come and go.
MOST_GROWN_KIB = 32 << 10
MOST_DESCRIPTORS = 200


class Soak:
    def __init__(self, lab, seed, seconds, devices):
        self.lab, self.random, self.seconds = lab, random.Random(seed), seconds
        self.cloud = lab.node("cloud")
        self.far = lab.proxy(self.cloud.address, name="far", seed=seed)
        self.edge = lab.node("edge", self.far)
        self.near = lab.proxy(self.edge.address, name="near", seed=seed + 1)
        self.devices = [
            lab.device(self.near, seconds, name=f"device{number}", every="10ms", deadline_ms=250)
            for number in range(devices)
        ]
        self.counts = collections.Counter()
        self.healed = []
        self.faults = []  # name, begin, end

    def kill_edge(self):
        self.edge.kill()
        self.wait()
        self.edge = self.lab.again(self.edge)

    def kill_cloud(self):
        self.cloud.kill()
        self.wait()
        self.cloud = self.lab.again(self.cloud)

    def freeze(self):
        node = self.random.choice((self.edge, self.cloud))
        node.pause()
        self.wait(1.0, 4.5)
        node.resume()

    def at_proxy(self, *commands):
        proxy = self.random.choice((self.near, self.far))
        for command in commands:
            proxy(command)
        self.wait(1.0, 4.5)
        proxy("heal")

    def cut_both(self):
        self.at_proxy("blackhole on")

    def cut_one_way(self):
        self.at_proxy(f"blackhole on {self.random.choice(('up', 'down'))}")

    def hold(self):
        self.at_proxy("hold on")

    def reset(self):
        self.at_proxy("reset")

    def half_open(self):
        self.at_proxy("abandon")

    def delay(self):
        self.at_proxy("delay 50 30")

    def slow(self):
        self.at_proxy("rate 125000")

    def corrupt(self):
        self.at_proxy("corrupt 0.00002")

    def wait(self, least=0.2, most=1.5):
        time.sleep(self.random.uniform(least, most))

    def run(self):
        for device in self.devices:
            device.wait_connected()
        kinds = [self.kill_edge, self.kill_cloud, self.freeze, self.cut_both, self.cut_one_way,
                 self.hold, self.reset, self.half_open, self.delay, self.slow, self.corrupt]
        end = time.monotonic() + self.seconds
        pending = []
        time.sleep(1)
        # The last fault must have ended early enough to see that all is well again.
        while time.monotonic() < end - 6 - 2 * HEAL_SECONDS:
            if not pending:
                pending = self.random.sample(kinds, len(kinds))
            fault = pending.pop()
            begin = now_us()
            fault()
            self.counts[fault.__name__] += 1
            self.faults.append((fault.__name__, begin, now_us()))
            time.sleep(HEAL_SECONDS * (2 if fault == self.corrupt else 1))


def commit():
    done = subprocess.run(["git", "-C", str(pathlib.Path(__file__).parent), "describe", "--always",
                           "--dirty"], capture_output=True, text=True)
    return done.stdout.strip()


def judge(soak):
    """The JSON of a run; complaints are in it."""
    lab, complaints = soak.lab, []
    healed = [end for _, _, end in soak.faults]
    verdicts = []
    slow_to_recover = collections.Counter()
    for device in soak.devices:
        verdict = history.check(device.finish(), deadline_ms=device.deadline_ms,
                                threshold=lab.threshold, offline=lab.offline(),
                                lags=lab.watch.lags.of(device.pid), healed_us=healed,
                                recover_ms=[RECOVER_FROM_CORRUPTION_MS if name == "corrupt"
                                            else RECOVER_MS for name, _, _ in soak.faults])
        verdicts.append(verdict)
        complaints += [f"{device.name}: {complaint}" for complaint in verdict.complaints]
        for (name, _, _), took in zip(soak.faults, verdict.recovery_ms):
            if took is not None:
                slow_to_recover[name] = max(slow_to_recover[name], round(took))
    try:
        lab.only_injected_deaths()
    except Failed as failed:
        complaints.append(str(failed))
    for name, (first, most, descriptors) in lab.watch.peaks.items():
        if most - first > MOST_GROWN_KIB:
            complaints.append(f"{name} grew from {first} to {most} KiB")
        if descriptors > MOST_DESCRIPTORS:
            complaints.append(f"{name} had {descriptors} descriptors")
    outcomes = sum((collections.Counter(one.outcomes) for one in verdicts), collections.Counter())
    return {
        "requests": sum(one.requests for one in verdicts),
        "outcomes": dict(sorted(outcomes.items())),
        "handed_on": sum(one.handed_on for one in verdicts),
        "compared_with_one_process": sum(one.compared for one in verdicts),
        "deadline_ms": soak.devices[0].deadline_ms,
        "worst_overrun_ms": max(one.worst_overrun_ms for one in verdicts),
        "over_bound": sum(one.over_bound for one in verdicts),
        "over_bound_unexplained": sum(one.over_bound_unexplained for one in verdicts),
        "worst_recovery_ms": dict(slow_to_recover),
        "nodes": {name: {"first_kib": first, "most_kib": most, "most_descriptors": descriptors}
                  for name, (first, most, descriptors) in sorted(lab.watch.peaks.items())},
        "proxies": {proxy.name: proxy.statistics() for proxy in (soak.near, soak.far)},
        "complaints": complaints,
    }


def main(words):
    parser = argparse.ArgumentParser(prog="fault_tests.sh soak", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, help="a file for the figures as JSON")
    options = parser.parse_args(words)
    with Lab() as lab:
        soak = Soak(lab, options.seed, options.seconds, options.devices)
        soak.run()
        found = {"commit": commit(), "machine": platform.processor() or platform.machine(),
                 "seconds": options.seconds, "seed": options.seed, "devices": options.devices,
                 "faults": dict(sorted(soak.counts.items())), **judge(soak)}
        text = json.dumps(found, indent=2) + "\n"
        print(text, end="")
        if options.out:
            options.out.write_text(text)
        if found["complaints"]:
            print(f"FAIL  soak: {len(found['complaints'])} complaints, the first: "
                  f"{found['complaints'][0]}")
            return 1
        print(f"PASS  soak: {found['requests']} requests, {sum(soak.counts.values())} faults")
        return 0
