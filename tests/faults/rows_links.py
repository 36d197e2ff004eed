"""Rows of the failure table: what is between two peers cuts, delays, loses, or answers twice."""

import time

import history
from lab import Lab, cpp_tests, now_us
from machine import Namespaces
from scene import tail, want
from table import or_skipped, row


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
