#!/usr/bin/env python3
"""The tables of README.md and of the cards in weights/, made of what bench/results keeps.

    tables.py           writes them anew, between the marks that name them
    tables.py --check   only says which differ

Exit codes: 0 done, or none differs; 1 some differ; 64 option; 65 a mark or a figure is missing.
"""

import functools
import json
import pathlib
import sys

import peers_report
import study

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import modelfile  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- bench/tables.py: {} -->", "<!-- end -->"
# Where two have the same network, the later one holds.
PEERS = ("peers-cifar", "peers-imagenet", "peers-vgg16", "peers-vgg16-2threads", "peers-resnet20b")
TIERS = ("device", "edge", "cloud")
MODELS = ("resnet20b",)  # those of weights/, each with a card
# Of the sweeps, what is worth a line.
THRESHOLDS_OF_TIME = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 1)
THRESHOLDS_OF_CARD = (0, 0.1, 0.2, 0.3, 0.5, 0.7, 1)


class Missing(Exception):
    """A figure or a mark that is not there."""


def load(name):
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())


def checked(model, name, found):
    """`found` of NAME.json, which must be of the model file as it now is."""
    path = ROOT / "weights" / f"{model}.safetensors"
    wanted = modelfile.read_safetensors(path)[1]["offramp.hash"][:16]
    if found["id"] != wanted:
        raise Missing(f"{name}.json: wanted figures of {path.name} ({wanted}), found {found['id']}'s")
    return found


def of_model(model, name):
    """What NAME.json keeps of a model of weights/."""
    return checked(model, name, load(name))


def of_default(name):
    return of_model("resnet20b", name)


def table(head, rows):
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def percent(share, digits=2):
    return f"{100 * share:.{digits}f} %"


def shares(values, digits=0):
    return " / ".join(f"{100 * share:.{digits}f}" for share in values)


def millions(macs, digits=2):
    return f"{macs / 1e6:.{digits}f}"


def of_threshold(sweep, threshold):
    for point in sweep:
        if abs(point["threshold"] - threshold) < 1e-6:
            return point
    raise Missing(f"wanted a point of the sweep at T = {threshold:g}, found none")


def thresholds(values):
    return ", ".join(f"{value:.3g}" for value in values)


# ---- README.md -----------------------------------------------------------------------------------


def default_model():
    found = of_default("eval-resnet20b")
    rows = [
        [f"{number + 1}, {tier}", percent(one["accuracy"]), percent(one["share"]),
         percent(one["accuracy_taken"]), f"{millions(one['macs'])} M"]
        for number, (tier, one) in enumerate(zip(TIERS, found["exits"]))
    ]
    rows.append(["cascade", "", "", percent(found["accuracy"]),
                 f"{millions(found['mean_macs'])} M on average"])
    answers = f"answers at thresholds {thresholds(found['thresholds'])}"
    return table(["exit", "accuracy on all", answers, "accuracy of these", "MACs up to here"], rows)


def time_and_work():
    one, many = of_default("eval-resnet20b"), of_default("eval-resnet20b-batch32")
    rows = []
    for threshold in THRESHOLDS_OF_TIME:
        alone, packed = (of_threshold(each["sweep"], threshold) for each in (one, many))
        times = [f"{percent(each['time_share'], 0)} ({1000 * each['mean_ms']:.0f} us)"
                 for each in (alone, packed)]
        rows.append([f"{threshold:g}", percent(alone["accuracy"]), f"{shares(alone['shares'])} %",
                     percent(alone["macs_share"], 0), *times])
    head = ["threshold", "accuracy", "answered by exit 1, 2, 3", "MACs", "time, batch 1"]
    return table([*head, f"time, batch {many['batch']}"], rows)


def published():
    def number(value, digits=4):
        return "-" if value is None else f"{value:.{digits}g} %"

    rows = [
        [one["name"], f"{' / '.join(f'{each:.1f}' for each in one['exits'])} %" if one["exits"] else "-",
         number(one["right"]), number(one["whole"]), number(one["cascade"]),
         number(one["time"], 2)]
        for one in study.PUBLISHED
    ]
    prototype = study.PROTOTYPE
    at = prototype["threshold"].index(1e-10)
    stayed = 100 - prototype["left_device"][at]
    rows.append(["the prototype, T = 1e-10 nats", f"{stayed:.1f} / - / - %", "-",
                 number(prototype["accuracy"][0]), number(prototype["accuracy"][at]),
                 number(100 * prototype["ms"][at] / prototype["ms"][0], 2)])
    ours = of_default("eval-resnet20b")
    exits = ours["exits"]
    rows.append(["offramp, the default model", f"{shares([one['share'] for one in exits], 1)} %",
                 percent(exits[0]["accuracy_taken"], 1), percent(exits[-1]["accuracy"]),
                 percent(ours["accuracy"]),
                 percent(ours["mean_compute_ms"] / of_threshold(ours["sweep"], 0)["mean_ms"], 0)])
    return table(["", "first / second / last exit answers", "right at the first", "whole network",
                  "cascade", "time of the whole"], rows)


def model_zoo(report):
    """A row for each network, those with fewer MACs first."""
    rows = []
    for name, one in sorted(report.items(), key=lambda item: item[1]["exits"][-1]["macs"]):
        if (ROOT / "weights" / f"{name}.safetensors").exists():
            checked(name, "model-zoo", one)
        exits, whole = one["exits"], one["exits"][-1]["macs"]
        cells = [name, f"{one['training']['epochs']}", f"{one['parameters']:,}", f"{millions(whole, 1)} M",
                 f"{shares([exit['accuracy'] for exit in exits], 2)} %"]
        if len(exits) > 1:
            cells += [percent(one["accuracy"]), f"{shares([exit['share'] for exit in exits])} %",
                      percent(one["mean_macs"] / whole, 0), percent(one["time_share"], 0)]
        else:
            cells += ["-"] * 4
        rows.append([*cells, f"{one['pytorch']['difference']:.1e}"])
    head = ["network", "epochs", "parameters", "MACs", "exits are right", "cascade",
            "first / second / last answers", "of all MACs", "of the time", "off PyTorch"]
    return table(head, rows)


def codecs():
    found = {one["codec"]: one for one in of_default("codecs-resnet20b")["codecs"]}
    rows = []
    for name in ("f32", "f16", "u8", "u8c"):
        plain, packed = found[name], found[f"{name} + lz4"]
        sizes = [f"{cut['mean_bytes']:,.0f}" for one in (plain, packed) for cut in one["cuts"]]
        rows.append([name, *sizes, percent(plain["accuracy"])])
    first, second = (f"{cut['cut']}, {cut['shape']}" for cut in found["f32"]["cuts"])
    head = ["codec", f"bytes at cut {first}", f"at cut {second}", "with LZ4, cut 1", "cut 2"]
    return table([*head, "accuracy"], rows)


def links():
    points = {(one["link"], one["kind"], one["threshold"]): one for one in load("links")["points"]}
    names = {"tensor, f32": "tensor as f32", "tensor, u8": "tensor as u8", "picture": "the picture",
             "auto": "`--cut auto`"}
    at = (0, 0.2, 0.5)
    kinds = list(dict.fromkeys(kind for _, kind, _ in points))
    lines = list(dict.fromkeys(link for link, _, _ in points))
    rows = [[names.get(kind, kind),
             *(" / ".join(f"{points[link, kind, each]['mean_ms']:.0f}" for each in at)
               for link in lines)] for kind in kinds]
    head = [f"{link}: T = {' / '.join(f'{each:g}' for each in at)}" for link in lines]
    return table(["mean ms a picture", *head], rows)


def network():
    found = load("network")
    hops = [hop for hop in found["hop"]["hops"] if hop["curve"]]
    sizes = " / ".join(hop["tensor"] for hop in hops)
    ours = " / ".join(f"{hop['p50_us']:.0f}" for hop in hops)
    bare = " / ".join(f"{hop['bare_zmq_p50_us']:.0f}" for hop in hops)
    busy, many, idle = found["busy"], found["many"], found["idle"]
    high, over = many["at_four_fifths"], many["at_three_times"]
    late = ", ".join(f"{name} {high['latency_ms'][name]:.0f}" for name in ("p50", "p99", "p99.9"))
    bad = f"{high['lost']} lost, {high['duplicated']} answered twice, {high['wrong']} wrong"
    rows = [
        [f"one hop with CURVE, {sizes}, p50",
         f"{ours} us; ZeroMQ alone, between two threads, {bare}", "100 / 150 / -"],
        ["encode and decode 16x32x32 as u8", f"{found['codec']['u8']['median_us']:.1f} us", "10 us"],
        ["idle edge and cloud, a device connected",
         f"{idle['edge_percent']:.2f} and {idle['cloud_percent']:.2f} % of a core", "0.5 %"],
        [f"busy cloud, batches of {' / '.join(str(row['batch']) for row in busy)}, share of the "
         "engine's own throughput", f"{shares(row['share'] for row in busy)} %", "85 %"],
        [f"{many['devices']:,} devices with CURVE, four fifths of the peak of "
         f"{many['peak_goodput']:,.0f} a second", f"{late} ms; {bad}", "0 lost"],
        ["the same, three times the peak offered", f"{over['goodput']:,.0f} a second in time, "
         f"{percent(over['goodput'] / many['peak_goodput'], 0)} of the peak", "90 %"],
    ]
    return table(["measured", "found", "wanted"], rows)


# ---- the cards -----------------------------------------------------------------------------------


def card_accuracy(model):
    exits = of_model(model, f"eval-{model}")["exits"]
    return table([f"exit {number + 1}" for number in range(len(exits))],
                 [[percent(one["accuracy"]) for one in exits]])


def card_cascade(model):
    found = of_model(model, f"eval-{model}")
    points = [(f"{each:g}, {each:g}", of_threshold(found["sweep"], each))
              for each in THRESHOLDS_OF_CARD]
    own = {"accuracy": found["accuracy"], "shares": [one["share"] for one in found["exits"]],
           "mean_macs": found["mean_macs"]}
    points.append((f"**{thresholds(found['thresholds'])}** (in the file)", own))
    whole = found["exits"][-1]["macs"]
    rows = [[name, percent(one["accuracy"]), percent(one["shares"][0]), percent(one["shares"][1]),
             millions(one["mean_macs"], 1), percent(one["mean_macs"] / whole, 1)]
            for name, one in sorted(points, key=lambda point: -point[1]["mean_macs"])]
    return table(["thresholds", "accuracy", "device answers", "edge answers", "mean MACs (M)",
                  "of all MACs"], rows)


def card_targets(model):
    rows = []
    for one in of_model(model, f"exit-criteria-{model}")["choices"]:
        if one["criterion"] == "entropy":
            test = one["test"]
            rows.append([f"{one['points']:g}", thresholds(one["thresholds"]),
                         f"{one['heldout']['loss']:.2f}", f"{test['loss']:.2f}",
                         percent(test["cost"], 1), shares(test["shares"], 1)])
    return table(["target: points lost at most", "thresholds", "held out: lost", "test set: lost",
                  "test set: of all MACs", "device / edge / cloud answer %"], rows)


def card_criteria(model):
    choices = of_model(model, f"exit-criteria-{model}")["choices"]
    names = [name for name in dict.fromkeys(one["criterion"] for one in choices) if name != "entropy"]
    points = dict.fromkeys(one["points"] for one in choices)
    found = {(one["points"], one["criterion"]): one["test"] for one in choices}
    rows = [[f"{each:g}", *(f"{found[each, name]['loss']:.2f}, {percent(found[each, name]['cost'], 1)}"
                            for name in names)]
            for each in points]
    return table(["target", f"{names[0]}: lost, of all MACs", *names[1:]], rows)


def card(model):
    makers = {"accuracy": card_accuracy, "cascade": card_cascade, "targets": card_targets,
              "criteria": card_criteria}
    return {name: functools.partial(make, model) for name, make in makers.items()}


TABLES = {
    "README.md": {
        "default model": default_model,
        "model zoo": lambda: model_zoo(load("model-zoo")),
        "study": lambda: study.markdown(of_default("study")),
        "published": published,
        "peers": lambda: peers_report.short([load(name) for name in PEERS]),
        "time and work": time_and_work,
        "codecs": codecs,
        "links": links,
        "network": network,
    },
    **{f"weights/{model}.md": card(model) for model in MODELS},
}


def renewed(text, tables):
    """`text` with each of `tables` between its marks, and the names of those that were not so."""
    changed = []
    for name, make in tables.items():
        mark = BEGIN.format(name)
        before, begin, rest = text.partition(mark + "\n")
        old, end, after = rest.partition("\n" + END)
        if not begin or not end or BEGIN.split("{}")[0] in old:
            raise Missing(f"wanted '{mark}' and after it '{END}', found none")
        new = make()
        if new != old:
            changed.append(name)
        text = before + begin + new + end + after
    return text, changed


def main(words):
    if words not in ([], ["--check"]):
        print(__doc__.strip(), file=sys.stderr)
        return 64
    stale = []
    for file, tables in TABLES.items():
        path = ROOT / file
        try:
            text, changed = renewed(path.read_text(), tables)
        except (Missing, OSError, KeyError, ValueError, LookupError) as error:
            print(f"tables.py: {file}: {error}", file=sys.stderr)
            return 65
        stale += [f"{file}: {name}" for name in changed]
        if changed and not words:
            path.write_text(text)
    for one in stale:
        print(f"tables.py: {one}: {'not what bench/results says' if words else 'written'}",
              file=sys.stderr if words else sys.stdout)
    return 1 if stale and words else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
