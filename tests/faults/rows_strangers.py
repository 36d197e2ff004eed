"""Rows of the failure table: bytes, keys, models and pictures that are not to be trusted."""

import time

import attack
from lab import Lab, cpp_tests
from machine import need
from scene import BINARY, tail, want
from table import Gap, row


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
