"""Rows of the failure table: a peer dies, freezes, slows down, stops, returns or asks too much."""

import threading
import time

import history
import models
from lab import Lab, Skip, cpp_tests, free_port, now_us
from machine import Namespaces
from scene import want
from table import Gap, or_skipped, row


def between(pictures, begin_us, end_us):
    return [one for one in pictures if begin_us <= one.begun_us < end_us]


@row(1, "peer killed mid-request")
def killed(quick):
    with Lab() as lab:
        cloud, edge = lab.tiers()
        kills, healed = (2 if quick else 8), []
        device = lab.device(edge, 2.5 * kills + 3)
        device.wait_connected()
        for number in range(kills):
            time.sleep(2)
            if number % 2:
                cloud.kill()
                cloud = lab.again(cloud)
            else:
                edge.kill()
                edge = lab.again(edge)
            healed.append(now_us())
        return f"{kills} kills; {lab.judge(device, healed_us=healed).text()}"


@row(2, "peer frozen or stuck")
def frozen(quick):
    stuck = cpp_tests("device: a stuck edge is noticed by its silence",
                      "a worker that does not return does not keep its node from ending")
    with Lab() as lab:
        _, edge = lab.tiers()
        device = lab.device(edge, 13)
        device.wait_connected()
        time.sleep(1)
        edge.pause()
        paused = now_us()
        device.wait_for("next tier lost", 6)
        noticed = now_us()
        time.sleep(2)
        edge.resume()
        resumed = now_us()
        verdict = lab.judge(device, healed_us=[resumed])
        asleep = between(history.read(device.history).pictures, noticed + 100_000, resumed)
        waits = sorted(one.took_us for one in asleep if not one.ok)
        want(waits, "wanted requests that met a frozen edge, found none")
        slow = waits[len(waits) * 9 // 10] / 1000
        want(slow < device.deadline_ms / 2,
             f"{slow:.0f} ms of waiting for an edge that is known to be frozen")
        return (f"noticed in {(noticed - paused) / 1e6:.1f} s, then answered locally in "
                f"{slow:.1f} ms; {verdict.text()}; {stuck}")


class Throttle:
    """Lets a process run for `share` of the time, in slices of 100 ms."""

    def __init__(self, child, share):
        self._child, self._share = child, share
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()
        self._child.resume()

    def _run(self):
        while not self._over.is_set():
            self._child.resume()
            time.sleep(0.1 * self._share)
            self._child.pause()
            self._over.wait(0.1 * (1 - self._share))


@row(3, "slow peer")
def slow_peer(quick):
    slow_s = 20  # in four seconds the share is 6 to 21 % by chance
    with Lab() as lab:
        _, edge = lab.tiers()
        device = lab.device(edge, slow_s + 5, deadline_ms=60)
        device.wait_connected()
        time.sleep(1)
        with Throttle(edge, 0.05):
            slow = now_us()
            time.sleep(slow_s)
        verdict = lab.judge(device, healed_us=[now_us()])
        pictures = history.read(device.history).pictures
        # The first two seconds are for finding out.
        late = [one for one in between(pictures, slow + 2_000_000, slow + slow_s * 1_000_000)
                if one.tier != "device" or not one.ok]
        # Those that the device did not hand on are late at once.
        waited = [one for one in late if one.took_us > device.deadline_ms * 500]
        in_vain = sum(one.status == "degraded(late)" for one in waited) / max(1, len(late))
        text = f"{in_vain:.0%} handed on in vain to an edge with 5 % of a CPU; {verdict.text()}"
        if in_vain > 0.2:
            raise Gap(f"handed on whatever time the edge takes; {text}")
        return text


@row(13, "one greedy device")
def greedy(quick):
    others, seconds = (6 if quick else 20), 5

    def goodput(with_greedy):
        with Lab(threshold=0) as lab:
            edge = lab.node("edge", lab.node("cloud"))
            if with_greedy:
                # As many processes as a key may have sessions would not fit on the machine.
                for number in range(4):
                    lab.device(edge, seconds + 2, name=f"greedy{number}", every="1us",
                               deadline_ms=1000, more=("--window", "1024"))
                time.sleep(1)
            devices = [lab.device(edge, seconds, name=f"polite{number}", every="50ms")
                       for number in range(others)]
            verdicts = [lab.judge(device) for device in devices]
            return sum(one.outcomes.get("ok", 0) for one in verdicts), verdicts[0].text()

    alone, _ = goodput(False)
    beside, sample = goodput(True)
    text = (f"{others} devices: {alone} ok alone, {beside} beside a greedy one "
            f"({beside / alone:.0%}); one of them: {sample}")
    if beside < 0.9 * alone:
        raise Gap(f"no fair queue; {text}")
    return text


@row(14, "overload, half the workers lost")
def overload(quick):
    tests = cpp_tests("hostile peer: a full queue and expired work are told*",
                      "hostile peer: when there is no room, a tensor is not even looked at")
    with Lab(threshold=0, environment={"OFFRAMP_ISA": "scalar", "OFFRAMP_CONV": "direct"}) as lab:
        lab.model = lab.folder / "lopsided.safetensors"
        lab.exits = models.write_lopsided(lab.model)
        edge = lab.node("edge")
        closed = lab.device(edge, 4, name="closed", every="1us", deadline_ms=2000)
        capacity = lab.judge(closed).outcomes.get("ok", 0) / 4
        want(capacity > 0, "nothing was answered")
        count, seconds = 6, 6
        every = f"{count / (3 * capacity) * 1e6:.0f}us"
        devices = [lab.device(edge, seconds, name=f"open{number}", every=every, deadline_ms=500,
                              more=("--window", "64")) for number in range(count)]
        verdicts = [lab.judge(device) for device in devices]
        ok = sum(one.outcomes.get("ok", 0) for one in verdicts) / seconds
        offered = sum(one.requests for one in verdicts) / seconds
        text = (f"capacity {capacity:.0f}/s, offered {offered:.0f}/s, answered {ok:.0f}/s; one "
                f"device: {verdicts[0].text()}; {tests}")
        if offered < 2 * capacity:
            raise Skip(f"this machine cannot offer three times the capacity; {text}")
        if ok < 0.7 * capacity:
            raise Gap(f"goodput falls under overload; {text}")
        return text


@row(17, "SIGTERM")
def terminated(quick):
    tests = cpp_tests("SIGTERM under load: exit code 0*", "drain: stopping under load loses nothing")
    with Lab() as lab:
        cloud, edge = lab.tiers()
        device = lab.device(edge, 10, deadline_ms=2000)
        device.wait_connected()
        took, healed = [], []
        for turn in range(2):
            time.sleep(1.5)
            took.append(edge.stop(10))
            edge = lab.again(edge)
            healed.append(now_us())
            time.sleep(1.5)
            took.append(cloud.stop(10))
            cloud = lab.again(cloud)
            healed.append(now_us())
        verdict = lab.judge(device, healed_us=healed)
        lost = {kind: count for kind, count in verdict.outcomes.items()
                if kind not in ("ok", "degraded(draining)", "degraded(disconnected)")}
        want(not lost, f"requests were lost: {verdict.text()}")
        return f"4 stops in at most {max(took):.2f} s, code 0; {verdict.text()}; {tests}"


@row(18, "restart, address change, any start order")
def restarts(quick):
    told = [cpp_tests("a device may be started before its edge",
                      "node: a cloud that goes away mid-run costs no answer, and is found again")]
    with Lab() as lab:
        port = free_port()
        device = lab.device(f"127.0.0.1:{port}", 14 if quick else 30)
        time.sleep(0.5)
        cloud_port = free_port()
        edge = lab.node("edge", f"127.0.0.1:{cloud_port}", listen=f"127.0.0.1:{port}")
        device.wait_connected()
        cloud = lab.node("cloud", listen=f"127.0.0.1:{cloud_port}")
        healed = [now_us()]
        for turn in range(2 if quick else 5):
            time.sleep(2.5)
            for node in (edge, cloud) if turn % 2 else (cloud, edge):
                node.stop(12)
            edge, cloud = lab.again(edge), lab.again(cloud)
            healed.append(now_us())
        told.append(f"device first, {len(healed) - 1} restarts: "
                    f"{lab.judge(device, healed_us=healed).text()}")
    return "; ".join([*told, f"another address: {or_skipped(moved)}"])


def moved():
    """The edge's name leads to another address."""
    with Lab() as lab:
        spaces = Namespaces(lab, "device", "one", "two")
        hosts = spaces.hosts("device")
        hosts.write_text(f"{spaces.address('one')} edge.example\n")
        port = free_port()
        edge = lab.node("edge", **spaces.inside("one", port))
        device = lab.device(f"edge.example:{port}", 14, prefix=spaces.prefix("device"))
        device.wait_connected()
        time.sleep(1)
        edge.kill()
        hosts.write_text(f"{spaces.address('two')} edge.example\n")
        moved = lab.node("edge", name="moved", **spaces.inside("two", port))
        healed = now_us()
        device.join(device.seconds + 30, codes=(0, 69))
        handed = [one for one in history.read(device.history).pictures
                  if one.begun_us > healed and one.tier != "device"]
        moved.stop()
        want(handed and moved.counters()["requests"] >= len(handed),
             "the edge was not found at its new address")
        return f"found {(handed[0].begun_us - healed) / 1e6:.2f} s after it listened"
