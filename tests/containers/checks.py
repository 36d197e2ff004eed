"""What is to hold of the image and of its containers, a function each.

A function returns its figures as text or raises Failed. They are in the order in which they run.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request

from fleet import (EXITS, IMAGE, LEDGER, MODEL, THRESHOLD, Fleet, docker, history, inspect,
                   now_us, tail, wait_until, want)

TABLE = {}  # name -> (title, function)
MIB = 1 << 20
BASE = os.environ.get("OFFRAMP_BASE", "debian:bookworm-slim")
LARGEST = 60e6  # bytes of the image above its base
GRACE_SECONDS = 15  # stop_grace_period of compose.yaml
# From the answer of a node's health check to all being well for devices. A container that has gone
# refuses nothing: who calls it waits for net/'s two seconds, and then for its next attempt.
RECOVER_MS = 6000


def check(name, title):
    def enter(function):
        TABLE[name] = (title, function)
        return function

    return enter


def between(pictures, begin_us, end_us):
    return [one for one in pictures if begin_us <= one.begun_us < end_us]


def handed_on(pictures):
    """Those that the device did not decide itself."""
    return [one for one in pictures if one.tier != "device" or not one.ok]


@check("image", "the image is small, not root's, and starts the program")
def image(_):
    seen, base = inspect(IMAGE), inspect(BASE)
    more = seen["Size"] - base["Size"]
    want(more <= LARGEST, f"{more / 1e6:.1f} MB above {BASE}, wanted {LARGEST / 1e6:.0f} at most")
    want(seen["RootFS"]["Layers"][:len(base["RootFS"]["Layers"])] == base["RootFS"]["Layers"],
         f"{IMAGE} is not built on this {BASE}")
    config = seen["Config"]
    want(config["User"] not in ("", "0", "root", "0:0"), f"user {config['User']!r}")
    want(config["Entrypoint"] == ["/usr/bin/offramp"], f"entry point {config['Entrypoint']}")
    said = docker("run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none", IMAGE,
                  "classify", "--json", "/usr/share/offramp/samples")
    classes = [json.loads(line)["class"] for line in said.splitlines()]
    return (f"{more / 1e6:.1f} MB above the base, user {config['User']}, read-only; {len(classes)} "
            "pictures classified in it")


LIMITS = {"edge": (256 * MIB, 0.5), "cloud": (1024 * MIB, 1.0)}  # of compose.small.yaml


@check("limits", "limits and confinement are in force inside")
def limits(_):
    told = []
    with Fleet("compose.small.yaml") as fleet:
        fleet.up("cloud", "edge")
        for tier, (memory, cpus) in LIMITS.items():
            node = fleet.node(tier)
            found = node.limit("memory.max", "memory/memory.limit_in_bytes")
            want(int(found) == memory, f"{tier}: {found} bytes of memory, wanted {memory}")
            quota, period = cpu_limit(node)
            want(abs(quota / period - cpus) < 1e-6, f"{tier}: {quota}/{period} CPU, wanted {cpus}")
            pids = node.limit("pids.max", "pids/pids.max")
            want(pids == "128", f"{tier}: {pids} processes at most, wanted 128")
            confined(tier, node)
            told.append(f"{tier} {memory // MIB} MiB, {cpus:g} CPU")
        told.append(throttled_to(fleet.node("edge"), 0.5))
        health = wait_healthy(fleet)
    return f"{', '.join(told)}; no capabilities, read-only, no new privileges; {health}"


def cpu_limit(node):
    words = node.limit("cpu.max", "cpu/cpu.cfs_quota_us").split()
    if len(words) == 1:
        words.append(node.limit("cpu/cpu.cfs_period_us"))
    return int(words[0]), int(words[1])


def confined(tier, node):
    status = dict(line.split(":", 1) for line in node.exec("cat", "/proc/1/status").splitlines())
    got = {name: status[name].split()[0] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs")}
    want(got == {"Uid": "65532", "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"},
         f"{tier}: {got}")
    files = node.exec("cat", "/proc/1/limits")
    line = next(line for line in files.splitlines() if line.startswith("Max open files"))
    want(line.split()[3:5] == ["16384", "16384"], f"{tier}: {line}")
    for path in ("/written", "/tmp/written", f"/keys/{tier}/written"):
        done = subprocess.run(["docker", "exec", node.name, "touch", path], capture_output=True)
        want(done.returncode != 0, f"{tier}: {path} could be written")


def throttled_to(node, cpus):
    """Two busy loops in a container get its share and no more."""
    loops = [subprocess.Popen(["docker", "exec", node.name, "timeout", "4", "sha256sum",
                               "/dev/zero"]) for _ in range(2)]
    time.sleep(1)
    begin, used = time.monotonic(), cpu_seconds(node)
    time.sleep(2.5)
    share = (cpu_seconds(node) - used) / (time.monotonic() - begin)
    for loop in loops:
        loop.wait()
    want(share < cpus * 1.15, f"two busy loops got {share:.2f} of a CPU, wanted {cpus} at most")
    return f"two busy loops get {share:.2f} CPU"


def cpu_seconds(node):
    text = node.limit("cpu.stat", "cpuacct/cpuacct.usage")
    if text.startswith("usage_usec"):
        return int(text.split()[1]) / 1e6
    return int(text if text.isdigit() else node.limit("cpuacct/cpuacct.usage")) / 1e9


def wait_healthy(fleet):
    begin = time.monotonic()
    for tier in ("edge", "cloud"):
        node = fleet.node(tier)
        wait_until(lambda: node.state()["Health"]["Status"] == "healthy", 30, f"{tier} healthy")
    return f"healthy after {time.monotonic() - begin:.0f} s more"


@check("answers", "answers are the offline cascade's, bit for bit")
def answers(_):
    with Fleet() as fleet:
        fleet.up("cloud", "edge")
        patient = ["--deadline", "300s", "--window", "8", "--decisions", f"{LEDGER}/net.csv"]
        said = fleet.compose(*fleet.device_command(f"{fleet.project}-device", "edge:5555",
                                                   patient)[len(fleet.command):])
        fleet.offramp("eval", "--model", MODEL, "--data", fleet.data, "--thresholds",
                      str(THRESHOLD), "--json", "--decisions", fleet.out / "one.csv")
        networked = (fleet.out / "net.csv").read_text()
        want(networked == (fleet.out / "one.csv").read_text(), "decisions differ")
        rows = [line.split(",") for line in networked.splitlines()]
        header, rows = rows[0], rows[1:]
        statuses = {row[header.index("status")] for row in rows}
        exits = [row[header.index("exit")] for row in rows]
        want(statuses == {"ok"}, f"statuses {statuses}: {tail(said)}")
        counts = [exits.count(str(exit)) for exit in range(EXITS)]
        want(all(counts), f"exits taken: {counts}")
        return f"{len(rows)} decisions equal, exits taken {counts}"


@check("killed", "kill and restart of edge and cloud under load: each request has an outcome")
def killed(quick):
    turns = 1 if quick else 3
    with Fleet() as fleet:
        fleet.up("cloud", "edge")
        device = fleet.device(14 * turns + 4, deadline_ms=500)
        healed = []
        for _ in range(turns):
            for tier in ("edge", "cloud"):
                node = fleet.node(tier)
                time.sleep(2)
                docker("kill", node.name)
                want(not node.state()["Running"], f"{tier} lives on")
                docker("start", node.name)
                healed.append(node.await_ready())
        # Without docker's help: what the restart policy is for.
        edge = fleet.node("edge")
        time.sleep(2)
        os.kill(edge.pid(), signal.SIGKILL)
        wait_until(lambda: edge.inspect()["RestartCount"] == 1, 20, "the edge was not restarted")
        healed.append(edge.await_ready())
        verdict = fleet.judge(device, healed_us=healed, recover_ms=RECOVER_MS)
        want(verdict.outcomes.keys() - {"ok"}, "no request noticed: there was no load")
        return f"{len(healed)} kills, 0 without an outcome; {verdict.text()}"


@check("address", "containers made anew with other addresses are found by their names")
def address(_):
    with Fleet() as fleet:
        fleet.up("cloud", "edge")
        device = fleet.device(26)
        told, healed = [], []
        for tier in ("edge", "cloud"):
            time.sleep(2)
            node = fleet.node(tier)
            before = node.address()
            docker("rm", "-f", node.name)
            squat(fleet, before)
            fleet.up("--no-deps", tier)
            healed.append(now_us())
            after = fleet.node(tier).address()
            want(after != before, f"{tier} came back to {before}")
            told.append(f"{tier} {before} -> {after}")
        verdict = fleet.judge(device, healed_us=healed, recover_ms=RECOVER_MS)
        return f"{', '.join(told)}; {verdict.text()}"


def squat(fleet, wanted):
    """Something else has the address now."""
    docker("run", "-d", "--rm", "--name", f"{fleet.project}-squatter-{wanted}",
           "--network", f"{fleet.project}_tiers", "--entrypoint", "sleep", IMAGE, "60")
    found = inspect(f"{fleet.project}-squatter-{wanted}")["NetworkSettings"]["Networks"]
    got = found[f"{fleet.project}_tiers"]["IPAddress"]
    want(got == wanted, f"wanted {wanted} to be taken, found {got}")


@check("memory", "memory limit hit: one container dies and comes back, devices degrade meanwhile")
def memory(_):
    limit = 16 * MIB  # idle, an edge has 9
    with Fleet() as fleet:
        fleet.up("cloud", "edge")
        cloud, edge = fleet.node("cloud"), fleet.node("edge")
        device = fleet.device(20)
        time.sleep(2)
        events = Events(fleet)
        docker("update", "--memory", limit, "--memory-swap", limit, edge.name)
        flood = fleet.flood()
        wait_until(lambda: edge.inspect()["RestartCount"] >= 1, 20,
                   "the edge was not killed for its memory")
        docker("kill", f"{fleet.project}-flood")
        flood.wait()
        docker("update", "--memory", 256 * MIB, "--memory-swap", 256 * MIB, edge.name)
        healed = edge.await_ready()
        kills = events.end()
        want(kills, "the edge died, but not by the kernel for its memory")
        verdict = fleet.judge(device, healed_us=[healed], recover_ms=RECOVER_MS)
        want(cloud.inspect()["RestartCount"] == 0, "the cloud died with it")
        want(verdict.outcomes.keys() - {"ok"}, "no request noticed")
        return (f"killed by the kernel at {limit // MIB} MiB, {edge.inspect()['RestartCount']} "
                f"restarts, the cloud lives; {verdict.text()}")


class Events:
    """Kills for memory that the engine tells of."""

    def __init__(self, fleet):
        self._begin = time.time()
        self._project = fleet.project

    def end(self):
        said = docker("events", "--since", f"{self._begin:.3f}", "--until", f"{time.time():.3f}",
                      "--filter", "event=oom", "--format", "{{.Actor.Attributes.name}}")
        return [name for name in said.splitlines() if name.startswith(self._project)]


@check("drain", "docker stop under load: exit code 0 within its grace, 0 lost")
def drain(_):
    with Fleet() as fleet:
        fleet.up("cloud", "edge")
        device = fleet.device(24, deadline_ms=2000)
        took, healed = [], []
        for tier in ("edge", "cloud"):
            node = fleet.node(tier)
            time.sleep(2)
            begin = time.monotonic()
            docker("stop", "--time", GRACE_SECONDS, node.name)
            took.append(time.monotonic() - begin)
            code = node.state()["ExitCode"]
            want(code == 0, f"{tier} ended with {code}: {tail(node.logs())}")
            want(took[-1] < GRACE_SECONDS, f"{tier} took {took[-1]:.1f} s")
            docker("start", node.name)
            healed.append(node.await_ready())
        verdict = fleet.judge(device, healed_us=healed, recover_ms=RECOVER_MS)
        lost = {kind: count for kind, count in verdict.outcomes.items()
                if kind not in ("ok", "degraded(draining)", "degraded(disconnected)")}
        want(not lost, f"requests were lost: {verdict.text()}")
        return f"2 stops in at most {max(took):.1f} s, code 0; {verdict.text()}"


@check("slow", "an edge with 5 % of a CPU: little is handed on in vain")
def slow(_):
    with Fleet() as fleet:
        fleet.up("cloud", "edge")
        edge = fleet.node("edge")
        device = fleet.device(18, deadline_ms=60)
        time.sleep(2)
        docker("update", "--cpus", "0.05", edge.name)
        begin = now_us()
        time.sleep(8)
        docker("update", "--cpus", "1", edge.name)
        end = now_us()
        verdict = fleet.judge(device, healed_us=[end], recover_ms=RECOVER_MS)
        pictures = history.read(device.history).pictures
        # The first two seconds are for finding out.
        seen = handed_on(between(pictures, begin + 2_000_000, end))
        vain = [one for one in seen if one.status == "degraded(late)"
                and one.took_us > device.deadline_ms * 500]
        want(seen, "nothing was asked of it")
        share = len(vain) / len(seen)
        text = f"{share:.0%} of {len(seen)} in vain; {verdict.text()}"
        want(share <= 0.2, f"handed on whatever time the edge takes: {text}")
        return text


@check("scaled", "three edges and two clouds share the work")
def scaled(_):
    with Fleet() as fleet:
        fleet.up("--scale", "edge=3", "--scale", "cloud=2", "cloud", "edge")
        count = {tier: len(fleet.nodes(tier)) for tier in ("edge", "cloud")}
        want(count == {"edge": 3, "cloud": 2}, f"found {count}")
        nodes = {tier: fleet.nodes(tier) for tier in count}

        def asked():
            return {tier: [node.metrics()["offramp_requests_total"] for node in nodes[tier]]
                    for tier in nodes}

        # So much that several requests are under way: what little there is goes to the node that is warm.
        # Names are resolved anew now and then: not at once is every replica known.
        devices = [fleet.device(30, name=f"device{number}", every="1ms") for number in range(2)]
        wait_until(lambda: all(map(all, asked().values())), 20, f"all asked, found {asked()}")
        before = asked()
        verdicts = [fleet.judge(device) for device in devices]
        told = []
        for tier, after in asked().items():
            seen = [b - a for a, b in zip(before[tier], after)]
            shares = [part / sum(seen) for part in seen]
            want(min(shares) > 0.5 / len(seen), f"{tier}s were asked {seen} times")
            told.append(f"{tier} " + " / ".join(f"{share:.0%}" for share in shares))
        return f"requests: {', '.join(told)}; {verdicts[0].text()}"


@check("links", "shaped links delay and pace, and nothing is taken for lost")
def links(_):
    with Fleet("compose.links.yaml") as fleet:
        fleet.up("cloud", "cloud-link", "edge", "device-link")
        device = fleet.device(10, every="1us", deadline_ms=5000, following="device-link:5555",
                              more=("--window", "1"))
        verdict = fleet.judge(device)
        want(verdict.outcomes.keys() == {"ok"}, f"not all is well: {verdict.text()}")
        pictures = history.read(device.history).pictures
        told = []
        # 20 ms each way and a tensor of 65,632 bytes at 1.25 MB/s, 52 ms, of which the proxy lets 20 ms
        # through at once after a pause; then 40 ms each way more.
        for tier, least in (("edge", 40 + 32), ("cloud", 120 + 32)):
            took = [one.took_us / 1000 for one in pictures if one.tier == tier]
            want(took, f"{tier}: answered nothing")
            want(min(took) > least, f"{tier}: answered after {min(took):.0f} ms")
            told.append(f"{tier} answers after {min(took):.0f} ms at best")
        return f"{', '.join(told)}; {verdict.text()}"


PROMETHEUS = os.environ.get("OFFRAMP_PROMETHEUS_IMAGE", "offramp-prometheus")


@check("monitoring", "Prometheus reads every node")
def monitoring(_):
    with Fleet(environment={"OFFRAMP_PROMETHEUS_IMAGE": PROMETHEUS}) as fleet:
        fleet.up("--scale", "edge=2", "cloud", "edge", "prometheus")
        device = fleet.device(12)
        port = fleet.environment["OFFRAMP_PROMETHEUS_PORT"]

        def ask(query):
            with contextlib.suppress(OSError), urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=2) as page:
                found = json.load(page)["data"]["result"]
                return {(one["metric"]["tier"], one["metric"]["instance"]): float(one["value"][1])
                        for one in found}
            return {}

        wait_until(lambda: sum(ask("up").values()) == 3, 40, f"three targets, found {ask('up')}")
        verdict = fleet.judge(device)
        wait_until(lambda: all(ask("offramp_requests_total").values()), 20,
                   "requests of every node")
        tiers = sorted(tier for tier, _ in ask("offramp_requests_total"))
        want(tiers == ["cloud", "edge", "edge"], f"found {tiers}")
        return f"3 targets up, offramp_requests_total of {', '.join(tiers)}; {verdict.text()}"
