"""The failure table, a function a row: what happens, and what must come of it.

Each function gets `quick` (less time, not less strict), returns its figures as text, and raises
Failed, Gap or Skip. The figures of what did happen go first.
"""

import contextlib
import pathlib
import random
import signal
import socket
import subprocess
import threading
import time

import attack
import history
import models
from lab import Lab, Skip, cpp_tests, free_port, now_us
from machine import MemoryLimit, Namespaces, need, need_root
from scene import BINARY, MODEL, Failed, tail, want

TABLE = {}  # number -> (title, function)


class Gap(Failed):
    """What is there today holds; a part of the requirement is not built yet."""


def row(number, title):
    def enter(function):
        TABLE[number] = (title, function)
        return function

    return enter


def or_skipped(part):
    """The figures of a part of a row; where the machine does not allow that part, why."""
    try:
        return part()
    except Skip as skip:
        return f"skipped: {skip}"


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
    with Lab() as lab:
        _, edge = lab.tiers()
        device = lab.device(edge, 11, deadline_ms=60)
        device.wait_connected()
        time.sleep(1)
        with Throttle(edge, 0.05):
            slow = now_us()
            time.sleep(6)
        verdict = lab.judge(device, healed_us=[now_us()])
        pictures = history.read(device.history).pictures
        # The first two seconds are for finding out.
        late = [one for one in between(pictures, slow + 2_000_000, slow + 6_000_000)
                if one.tier != "device" or not one.ok]
        # Those that the device did not hand on are late at once.
        waited = [one for one in late if one.took_us > device.deadline_ms * 500]
        in_vain = sum(one.status == "degraded(late)" for one in waited) / max(1, len(late))
        text = f"{in_vain:.0%} handed on in vain to an edge with 5 % of a CPU; {verdict.text()}"
        if in_vain > 0.2:
            raise Gap(f"handed on whatever time the edge takes; {text}")
        return text


@row(4, "partition, one or both ways")
def partition(quick):
    seconds = 8
    with Lab() as lab:
        spaces = Namespaces(lab, "device", "edge", "cloud")
        cloud = lab.node("cloud", **spaces.inside("cloud"))
        edge = lab.node("edge", cloud, **spaces.inside("edge"))
        far = spaces.address("device")
        up, down = ("INPUT", "-s", far, "-j", "DROP"), ("OUTPUT", "-d", far, "-j", "DROP")
        to_cloud = ("OUTPUT", "-d", spaces.address("cloud"), "-j", "DROP")
        cuts = [("both", (up, down))]
        if not quick:
            cuts += [("up", (up,)), ("down", (down,)), ("to the cloud", (to_cloud,))]
        device = lab.device(edge, len(cuts) * (seconds + 6) + 3, prefix=spaces.prefix("device"))
        device.wait_connected()
        windows, healed = [], []
        for name, rules in cuts:
            time.sleep(1)
            begin = now_us()
            for rule in rules:
                spaces.iptables("edge", "-A", *rule)
            time.sleep(seconds)
            for rule in rules:
                spaces.iptables("edge", "-D", *rule)
            healed.append(now_us())
            windows.append((name, begin, healed[-1]))
            time.sleep(5)
        verdict = lab.judge(device, healed_us=healed)
        edge.stop()
        stale = stale_requests(edge, history.read(device.history).pictures, windows)
        want(stale <= 0, f"the edge computed {stale} requests that had waited out a partition")
        return f"{', '.join(name for name, _ in cuts)} for {seconds} s, 0 stale; {verdict.text()}"


def stale_requests(edge, pictures, windows):
    """Requests that reached the edge only after a partition that kept them from it: those that it
    got, less those answered, less those whose answers may have been lost or late."""
    answered = sum(one.tier != "device" for one in pictures)

    def kept_away(one):
        return any(begin <= one.begun_us < end and name in ("up", "both")
                   for name, begin, end in windows)

    lost = sum(one.tier == "device" and not one.ok and not kept_away(one) and
               one.status in ("degraded(late)", "degraded(peer lost)", "degraded(expired)")
               for one in pictures)
    return edge.counters()["requests"] - answered - lost


@row(5, "delay, loss, low rate")
def slow_link(quick):
    told = []
    with Lab() as lab:
        _, edge = lab.tiers()
        proxy = lab.proxy(edge.address)
        device = lab.device(proxy, 6, every="20ms", deadline_ms=400)
        proxy("delay 40 20")
        device.wait_connected()
        verdict = lab.judge(device)
        want(verdict.handed_on > 0, "nothing was answered over a link with 40 to 60 ms of delay")
        want("next tier lost" not in device.said(), "a delay was taken for a loss")
        told.append(f"delay: {verdict.text()}")
        proxy("heal")
        device = lab.device(proxy, 12, name="outrun", every="20ms", deadline_ms=100)
        device.wait_connected()
        time.sleep(1)
        proxy("delay 150")
        time.sleep(5)
        proxy("heal")
        verdict = lab.judge(device, healed_us=[now_us()])
        told.append(f"delay beyond the deadline for 5 s: {verdict.text()}")
        proxy("rate 125000")
        device = lab.device(proxy, 10 if quick else 30, name="slow", every="100ms",
                            deadline_ms=3000)
        device.wait_connected()
        verdict = lab.judge(device)
        want(verdict.handed_on > 0, "nothing was answered over a link with 1 Mbit/s")
        want("next tier lost" not in device.said(),
             f"a link of 1 Mbit/s was taken for dead: {tail(device.said())}")
        told.append(f"1 Mbit/s: {verdict.text()}")
    return "; ".join([*told, f"loss of 2 %: {or_skipped(lossy_link)}"])


def lossy_link():
    with Lab() as lab:
        spaces = Namespaces(lab, "device", "edge", "cloud")
        cloud = lab.node("cloud", **spaces.inside("cloud"))
        edge = lab.node("edge", cloud, **spaces.inside("edge"))
        for chain in ("INPUT", "OUTPUT"):
            spaces.iptables("edge", "-A", chain, "-m", "statistic", "--mode", "random",
                            "--probability", "0.02", "-j", "DROP")
        device = lab.device(edge, 5, every="10ms", prefix=spaces.prefix("device"))
        device.wait_connected()
        return lab.judge(device).text()


@row(6, "late, duplicate, reordered replies")
def replies(quick):
    return cpp_tests("hostile peer: a node that repeats*invents and garbles answers",
                     "device: a late edge is not waited for beyond the deadline",
                     "node: a late cloud is not waited for beyond the deadline")


@row(7, "malformed frame")
def malformed(quick):
    tests = cpp_tests("hostile peer: garbage is dropped and counted*",
                      "hostile peer: each request that cannot be served is told why",
                      "gate: bytes that are no handshake end with the connection*",
                      "message: every truncation is refused", "message: refusals and their reasons")
    told = []
    for plain in (False, True):
        more = ("--insecure",) if plain else ()
        with Lab() as lab:
            edge = lab.node("edge", lab.node("cloud", more=more), more=more)
            proxy = lab.proxy(edge.address)
            honest = lab.device(edge, 6, name="honest", more=more, deadline_ms=1000)
            bent = lab.device(proxy, 6, name="bent", more=more)
            bent.wait_connected()
            proxy("corrupt 0.00001 up")
            time.sleep(3)
            proxy("heal")
            good, bad = lab.judge(honest), lab.judge(bent)
            want(set(good.outcomes) == {"ok"}, f"an honest device noticed: {good.text()}")
            changed = proxy.statistics()["corrupted"]
            want(changed > 0, "wanted changed bytes, found none")
            want(edge.alive(), "the edge died")
            told.append(f"{'plain' if plain else 'CURVE'}: {changed} bytes changed, "
                        f"honest device {good.text()}, bent one {bad.text()}")
    return "; ".join([*told, tests])


@row(8, "oversize, multipart, decompression bomb")
def bombs(quick):
    tests = cpp_tests("hostile peer: a packed tensor that is a bomb*",
                      "hostile peer: when there is no room, a tensor is not even looked at",
                      "tensor codec: damaged LZ4 is refused*",
                      "gate: floods of strangers and of garbage*")
    with Lab() as lab:
        _, edge = lab.tiers()
        device = lab.device(edge, 8, deadline_ms=1000)
        device.wait_connected()
        before = edge.rss_kib()
        with attack.Strangers(edge.address, 100) as strangers:
            strangers.announce_huge_frames()
            time.sleep(2)
            keyless = edge.rss_kib() - before
        verdict = lab.judge(device)
        want(set(verdict.outcomes) == {"ok"}, f"an honest device noticed: {verdict.text()}")
        want(keyless < 64 << 10, f"{keyless >> 10} MiB for strangers without a key")
        text = f"{keyless} KiB for 100 strangers; {verdict.text()}; {tests}"
        before = edge.rss_kib()
        grown = 0
        with attack.Dealer(lab, edge.address) as dealer:
            want(dealer.send(3000, 64_000), "a peer with a key was not let in")
            end = time.monotonic() + 5
            while time.monotonic() < end and edge.alive():
                grown = max(grown, edge.rss_kib() - before)
                time.sleep(0.005)
        text = f"a multipart bomb with a key: {grown >> 10} MiB; {text}"
        want(edge.alive(), f"the edge died of it; {text}")
        if grown > 64 << 10:
            raise Gap(f"parts of one message are kept without bound; {text}")
        return text


@row(9, "other version; other model, cut or shape")
def other_model(quick):
    return cpp_tests("hostile peer: each request that cannot be served is told why",
                     "device: a next tier with another model is an error that names both",
                     "node: an edge whose cloud has another model serves on*",
                     "different models on two tiers end with 78 and name both",
                     "message: golden bytes of net/WIRE.md",
                     "message: other minor versions are read*",
                     "message: unknown items are skipped*")


@row(10, "NaN or Inf")
def not_finite(quick):
    return cpp_tests("weights that are not finite are refused*",
                     "tensor codec: NaN and Inf are refused wherever they are*",
                     "activations that f16 does not reach are told, not changed",
                     "hostile peer: each request that cannot be served is told why",
                     "a rule is not sure of a NaN*", "entropy: certain, uniform, not a number")


@row(11, "no key, wrong key, wrong role")
def keys(quick):
    return cpp_tests("gate: who is not allowed is told of on both sides*",
                     "gate: of those who are not allowed, no message is delivered",
                     "gate: a new list lets keys in and shuts keys out*",
                     "gate: nobody takes the place of another by choosing its routing id",
                     "without a fitting key the device answers alone*",
                     "SIGHUP reads the allow-list again*")


@row(12, "flood of connections, idle sockets")
def flood(quick):
    need("prlimit", "util-linux")
    told = []
    for files, sockets in ((64, 900), (0, 1500 if quick else 5000)):
        with Lab() as lab:
            prefix = ("prlimit", f"--nofile={files}:{files}") if files else ()
            _, edge = lab.tiers(prefix=prefix)
            early = lab.device(edge, 9, name="early", every="10ms", deadline_ms=1000)
            early.wait_connected()
            with attack.Strangers(edge.address, sockets) as strangers:
                begin, used = time.monotonic(), edge.cpu_seconds()
                while time.monotonic() < begin + 5:
                    strangers.come_again()
                    time.sleep(0.1)
                used = (edge.cpu_seconds() - used) / (time.monotonic() - begin)
            gone = time.monotonic()
            new = lab.device(edge, 2, name="new", wait="20s", deadline_ms=20_000)
            new.wait_connected()
            waited = time.monotonic() - gone
            first, second = lab.judge(early), lab.judge(new)
            text = (f"{files or 'many'} descriptors, {strangers.opened} sockets: edge at "
                    f"{used:.0%} CPU, early device {first.text()}, a new one let in after "
                    f"{waited:.1f} s")
            want(first.outcomes.get("ok", 0) > 0.95 * first.requests, text)
            want(second.outcomes.get("ok", 0) > 0, text)
            want(waited < 8, text)
            told.append(text)
    return "; ".join(told)


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


@row(15, "clock skew")
def clock_skew(quick):
    libraries = list(pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        raise Skip("wanted libfaketime (Debian: faketime), found none")
    with Lab() as lab:
        shift = lab.folder / "shift"
        shift.write_text("+0\n")

        def skewed(by):
            return {"LD_PRELOAD": str(libraries[0]), "DONT_FAKE_MONOTONIC": "1",
                    **({"FAKETIME": by} if by else {"FAKETIME_TIMESTAMP_FILE": str(shift),
                                                    "FAKETIME_NO_CACHE": "1"})}

        cloud = lab.node("cloud", environment=skewed("-1h"))
        edge = lab.node("edge", cloud, environment=skewed("+1h"))
        device = lab.device(edge, 6, deadline_ms=1000, environment=skewed(None))
        device.wait_connected()
        for by in ("+3600", "-3600", "+86400"):
            time.sleep(1)
            shift.write_text(by + "\n")
        verdict = lab.judge(device)
        want(set(verdict.outcomes) == {"ok"}, f"clocks were noticed: {verdict.text()}")
        return f"cloud -1 h, edge +1 h, device jumps three times; {verdict.text()}"


@row(16, "memory limit hit")
def memory_limit(quick):
    with Lab() as lab:
        limit = 64 << 20
        group = MemoryLimit(lab, limit)
        cloud, edge = lab.tiers(prefix=group.prefix())
        device = lab.device(edge, 8)
        device.wait_connected()
        time.sleep(1)
        edge.injected = True
        hog = attack.hog(group.folder, limit, edge.pid)
        lab.at_end(hog.wait)
        lab.at_end(hog.kill)
        died = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            edge.process.wait(10)
        hog.kill()
        hog.wait()
        want(edge.process.returncode == -signal.SIGKILL,
             f"wanted the edge killed for memory, found {edge.process.returncode}")
        died = time.monotonic() - died
        time.sleep(0.5)
        edge = lab.again(edge)
        verdict = lab.judge(device, healed_us=[now_us()])
        want(cloud.alive(), "the cloud died with it")
        return f"killed after {died:.1f} s at 64 MiB, the cloud lives; {verdict.text()}"


@row(17, "SIGTERM")
def terminated(quick):
    tests = cpp_tests("SIGTERM under load: exit code 0*", "node: stopping under load loses nothing")
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


@row(19, "corrupt weights")
def corrupt_weights(quick):
    tests = cpp_tests("every truncation and every bit flip of a model is refused",
                      "every truncation is refused", "a wrong hash is called so*")
    rng = random.Random(19)
    whole = MODEL.read_bytes()
    count = 20 if quick else 60
    with Lab() as lab:
        for number in range(count):
            bent = bytearray(whole)
            if number % 2:
                bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
            else:
                del bent[rng.randrange(len(bent)):]
            path = lab.folder / "bent.safetensors"
            path.write_bytes(bent)
            done = subprocess.run([BINARY, "node", "--tier", "cloud", "--listen", "127.0.0.1:0",
                                   "--keys", lab.keys / "cloud", "--model", path],
                                  capture_output=True, text=True, timeout=20)
            want(done.returncode == 78 and len(done.stderr.splitlines()) == 1,
                 f"wanted 78 and one line, found {done.returncode}: {tail(done.stderr)}")
    return f"{count} damaged copies of the default model: 78 and one line each; {tests}"


@row(20, "hostile picture")
def hostile_picture(quick):
    tests = cpp_tests("huge pictures are refused before memory is taken",
                      "a stream that inflates to more than its picture stays within the budget",
                      "JPEG files that point stb_image out of its tables are refused",
                      "every truncation of every kind of picture is refused",
                      "every bit flip of a PNG is refused*",
                      "a bad picture ends with 65 or 66 and one line that names it")
    with Lab() as lab:
        usual = attack.peak_kib([BINARY, "classify", attack.SAMPLE])[1]
        most = 0
        pictures = attack.hostile_pictures(lab.folder)
        for path in pictures:
            code, peak, said = attack.peak_kib([BINARY, "classify", path])
            want(code == 65 and len(said.splitlines()) == 1,
                 f"{path.name}: wanted 65 and one line, found {code}: {tail(said)}")
            most = max(most, peak - usual)
        want(most < 64 << 10, f"{most >> 10} MiB for a picture")
        return f"{len(pictures)} pictures: 65 and one line each, {most} KiB at most; {tests}"


@row(21, "disk full, hung metrics reader")
def disk_full(quick):
    need_root()
    with Lab() as lab:
        small = lab.folder / "small"
        small.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", small],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise Skip(f"wanted a tmpfs, found: {tail(done.stderr)}")
        lab.at_end(lambda: subprocess.run(["umount", "-l", small]))
        cloud = lab.node("cloud")
        log = small / "edge.log"
        log.touch()
        full = small / "rest"
        with contextlib.suppress(OSError), open(full, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        want(log.stat().st_size == 0, "the log was not empty")
        edge = lab.node("edge", cloud,
                        prefix=("sh", "-c", f'exec "$0" "$@" 2>{log}'))
        device = lab.device(edge, 5, deadline_ms=1000)
        device.wait_connected()
        for _ in range(20):
            edge.signal(signal.SIGHUP)  # a line of the log each
            time.sleep(0.1)
        verdict = lab.judge(device)
        want(set(verdict.outcomes) == {"ok"}, f"inference was touched: {verdict.text()}")
    tests = cpp_tests("a port file on a full disk does not keep a node from serving")
    return f"log on a full disk: {verdict.text()}; {hung_readers(quick)}; {tests}"


def hung_readers(quick):
    """Clients of an edge's metrics that ask and never read, or never finish to ask."""
    with Lab() as lab:
        cloud = lab.node("cloud")
        where = lab.folder / "metrics"
        edge = lab.node("edge", cloud, more=("--metrics", "127.0.0.1:0",
                                             "--metrics-port-file", where))
        host, port = where.read_text().strip().rsplit(":", 1)
        device = lab.device(edge, 4 if quick else 20, deadline_ms=1000)
        device.wait_connected()
        asking = [socket.create_connection((host, int(port)), 2) for _ in range(50)]
        for number, client in enumerate(asking):
            client.sendall(b"GET /metrics HTTP/1.1\r\n" + (b"\r\n" if number % 2 else b"X: "))
        verdict = lab.judge(device)
        for client in asking:
            client.close()
        want(set(verdict.outcomes) == {"ok"}, f"inference was touched: {verdict.text()}")
        return f"50 hung readers: {verdict.text()}"
