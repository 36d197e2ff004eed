"""The manifests of docker/k8s: do they say what Kubernetes understands, do they fit each other, and do
their pods work together?

    k8s.py manifests        against the published schemas, each other, and what a node exports
    k8s.py pods             played by Podman, with several edges and clouds

Wants kubectl or kustomize, and for `manifests` the module kubernetes_validate; for `pods` root, and
Podman where it has namespaces of its own (with_podman.sh).
"""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

SOURCE = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(SOURCE / "tests"))
from scene import draw_data_set  # noqa: E402

IMAGE = os.environ.get("OFFRAMP_IMAGE", "offramp")
VERSIONS = ("1.28", "1.32", "1.37")
REPLICAS = {"cloud": 2, "edge": 2}
PODS_OF = ("Deployment", "Job")


class Failed(Exception):
    pass


def want(condition, what):
    if not condition:
        raise Failed(what)


def run(*command, check=True, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          **options)
    said = (done.stderr or done.stdout).strip().splitlines()[-4:]
    want(done.returncode == 0 or not check, f"{' '.join(map(str, command[:4]))}: {' | '.join(said)}")
    return done.stdout


def rendered(folder, offramp):
    """All objects, of a copy of the manifests with keys made for the occasion."""
    copy = folder / "k8s"
    shutil.copytree(SOURCE / "docker" / "k8s", copy, ignore=shutil.ignore_patterns("keys"))
    run(*offramp, "keygen", "--tiers", copy / "keys")
    build = ("kubectl", "kustomize") if shutil.which("kubectl") else ("kustomize", "build")
    return [one for one in yaml.safe_load_all(run(*build, copy)) if one]


def of_kind(objects, *kinds):
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


# ------------------------------------------------------------------------------------- manifests


def check_schemas(objects):
    import kubernetes_validate

    for version in VERSIONS:
        for one in objects:
            name = f"{one['kind']} {one['metadata']['name']}"
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except Exception as error:  # of several unrelated classes
                where = ".".join(map(str, getattr(error, "path", [])))
                raise Failed(f"{name}, Kubernetes {version}: {where}: {error.message[:300]}")
        bad = json.loads(json.dumps(of_kind(objects, "Deployment")["edge"]))
        bad["spec"]["template"]["spec"]["containers"][0]["readinessprobe"] = {}
        try:
            kubernetes_validate.validate(bad, version, strict=True)
        except Exception:
            continue
        raise Failed(f"Kubernetes {version}: a field that there is not was let pass")
    return f"{len(objects)} objects are valid for Kubernetes {', '.join(VERSIONS)}"


def template(one):
    return one["spec"]["template"]


def matches(selector, labels):
    for rule in selector.get("matchExpressions", ()):
        if rule["operator"] != "In" or labels.get(rule["key"]) not in rule["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def check_fit(objects):
    """Names, labels and times that must agree, which no schema knows."""
    workloads = of_kind(objects, *PODS_OF)
    labels = {name: template(one)["metadata"]["labels"] for name, one in workloads.items()}
    secrets = of_kind(objects, "Secret")
    for name, one in workloads.items():
        pod = template(one)["spec"]
        used = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        want(used and all(secret in secrets for secret in used), f"{name}: no Secret {used}")
        copied = pod["initContainers"][0]["command"]
        files = {word.removeprefix("/secret/") for word in copied if word.startswith("/secret/")}
        want(files == set(secrets[used[0]]["data"]), f"{name}: copies {files}")
        for container in pod["containers"] + pod["initContainers"]:
            context = container["securityContext"]
            want(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
                 and context["capabilities"]["drop"] == ["ALL"], f"{name}: {context}")
            want(container["resources"]["limits"].keys() == {"cpu", "memory"}, f"{name}: limits")
        want(pod["securityContext"]["runAsNonRoot"], f"{name} may be root")
    for name, service in of_kind(objects, "Service").items():
        pod = template(workloads[name])
        want(service["spec"]["clusterIP"] == "None", f"Service {name} is not headless")
        want(service["spec"]["selector"].items() <= labels[name].items(), f"Service {name}: labels")
        named = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            want(named.get(port["targetPort"]) == port["port"], f"Service {name}: {port}")
        node = pod["spec"]["containers"][0]
        for probe, path in (("livenessProbe", "live"), ("readinessProbe", "ready"),
                            ("startupProbe", "ready")):
            want(node[probe]["httpGet"] == {"path": f"/health/{path}", "port": "metrics"}, probe)
        drain = float(node["args"][node["args"].index("--drain") + 1].rstrip("s"))
        want(pod["spec"]["terminationGracePeriodSeconds"] > drain + 5, f"{name}: no time to drain")
        for rule in of_kind(objects, "PodDisruptionBudget")[name], workloads[name]:
            want(matches(rule["spec"]["selector"], labels[name]), f"{rule['kind']} {name}: labels")
        want("replicas" not in workloads[name]["spec"], f"{name}: replicas are the autoscaler's")
        scaler = of_kind(objects, "HorizontalPodAutoscaler")[name]["spec"]
        want(scaler["scaleTargetRef"]["name"] == name, f"HorizontalPodAutoscaler {name}: target")
        want(scaler["minReplicas"] > 1, f"{name}: one is not enough for a disruption")
    policies = of_kind(objects, "NetworkPolicy")
    for name, policy in policies.items():
        want(any(matches(policy["spec"]["podSelector"], one) for one in labels.values()),
             f"NetworkPolicy {name} is for nobody")
    hops = {("device", "edge"): True, ("edge", "cloud"): True, ("device", "cloud"): False,
            ("cloud", "edge"): False, ("edge", "device"): False}
    for (a, b), wanted in hops.items():
        found = (allows(policies, "egress", "to", labels[a], labels[b]) and
                 allows(policies, "ingress", "from", labels[b], labels[a]))
        want(found == wanted, f"NetworkPolicy: {a} to {b} is {'' if found else 'not '}allowed")
    return (f"{len(workloads)} workloads, their Services, Secrets, budgets, autoscalers and "
            f"{len(policies)} policies agree")


def allows(policies, direction, side, mine, others):
    return any(matches(peer.get("podSelector", {"matchLabels": {"": ""}}), others)
               for policy in policies.values() if matches(policy["spec"]["podSelector"], mine)
               for rule in policy["spec"].get(direction, ()) for peer in rule.get(side, ()))


def check_metric(objects, exported):
    """The autoscaler's metric is made of what a node exports."""
    adapter = yaml.safe_load((SOURCE / "docker" / "k8s" / "prometheus-adapter.yaml").read_text())
    made = {}
    for rule in adapter["rules"]["custom"]:
        made[rule["name"]["as"]] = set(re.findall(r"offramp_\w+",
                                                  rule["seriesQuery"] + rule["metricsQuery"]))
    for name, scaler in of_kind(objects, "HorizontalPodAutoscaler").items():
        for metric in scaler["spec"]["metrics"]:
            wanted = metric["pods"]["metric"]["name"]
            want(wanted in made, f"HorizontalPodAutoscaler {name}: nobody makes {wanted}")
            absent = made[wanted] - exported
            want(not absent, f"{wanted} is made of {absent}, which no node exports")
    return f"{', '.join(made)} is made of {', '.join(sorted(set.union(*made.values())))}"


def exported_by(program, keys):
    """Names of series of a node that runs here for the occasion."""
    where = keys / "metrics.addr"
    node = subprocess.Popen([*program, "node", "--tier", "cloud", "--listen", "127.0.0.1:0",
                             "--keys", keys / "cloud", "--metrics", "127.0.0.1:0", "--quiet",
                             "--metrics-port-file", where])
    try:
        end = time.monotonic() + 20
        while not where.exists():
            want(time.monotonic() < end and node.poll() is None, "the node did not start")
            time.sleep(0.05)
        with urllib.request.urlopen(f"http://{where.read_text().strip()}/metrics") as page:
            lines = page.read().decode().splitlines()
    finally:
        node.terminate()
        node.wait()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


def manifests(folder):
    program = [os.environ.get("OFFRAMP_BINARY", str(SOURCE / "build" / "release" / "offramp"))]
    objects = rendered(folder, program)
    yield "schemas", lambda: check_schemas(objects)
    yield "fit", lambda: check_fit(objects)
    yield "metric", lambda: check_metric(objects, exported_by(program, folder / "k8s" / "keys"))


# ------------------------------------------------------------------------------------------ pods


def podman(*words, check=True):
    return run("podman", *words, check=check).strip()


def playable(objects, workload, name):
    """A pod of a workload as Podman 4.3 plays it. What that does not know: Services (network aliases
    stand for them), ports that are not to be published, probes without curl in the image."""
    pod = json.loads(json.dumps(template(of_kind(objects, *PODS_OF)[workload])))
    pod.update(apiVersion="v1", kind="Pod")
    pod["metadata"].update(name=name,
                           annotations={"io.podman.annotations.init.container.type": "always"})
    pod["spec"]["restartPolicy"] = "OnFailure"  # the first container too, otherwise
    for volume in pod["spec"]["volumes"]:
        if "emptyDir" in volume:
            volume["name"] = f"{name}-{volume['name']}"  # a volume by that name, of all pods
    for container in pod["spec"]["initContainers"] + pod["spec"]["containers"]:
        for mount in container["volumeMounts"]:
            if mount["name"] == "keys":
                mount["name"] = f"{name}-keys"
        for what in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
            container.pop(what, None)
    return yaml.safe_dump(pod)


class Pods:
    def __init__(self, folder):
        self.folder = folder
        self.objects = rendered(folder, ["podman", "run", "--rm", "-u", "0", "-v",
                                         f"{folder}:{folder}", "--network", "none", IMAGE])
        podman("network", "create", "offramp", check=False)
        for name, secret in of_kind(self.objects, "Secret").items():
            # Podman 4.3 gives a Secret's data to pods as they are written, in base64.
            plain = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
            file = folder / "secret.yaml"
            file.write_text(yaml.safe_dump(dict(secret, data=plain)))
            podman("secret", "create", name, file)

    def play(self, workload, names):
        """Several at a time: Podman waits 20 s for each pod's first container."""
        playing = []
        for name in names:
            file = self.folder / f"{name}.yaml"
            file.write_text(playable(self.objects, workload, name))
            playing.append(subprocess.Popen(["podman", "kube", "play", "--network",
                                             f"offramp:alias={workload}", file],
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                            text=True))
        for name, one in zip(names, playing):
            said = one.communicate()[0]
            want(one.returncode == 0, f"podman kube play {name}: {said.strip().splitlines()[-1:]}")

    @staticmethod
    def container(pod, name="node"):
        return json.loads(podman("inspect", f"{pod}-{name}"))[0]

    def metrics(self, pod):
        """From within the pods' network, as Prometheus would."""
        found = self.container(pod)["State"]["Pid"]
        text = run("nsenter", "-t", found, "-n", "curl", "-s", "-m", "5",
                   "http://127.0.0.1:9100/metrics")
        pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def health(self, pod, path):
        found = self.container(pod)["State"]["Pid"]
        return run("nsenter", "-t", found, "-n", "curl", "-s", "-m", "5", "-o", "/dev/null", "-w",
                   "%{http_code}", f"http://127.0.0.1:9100/health/{path}", check=False)


def check_play(pods):
    for tier in ("cloud", "edge"):
        pods.play(tier, [f"{tier}-{number}" for number in range(REPLICAS[tier])])
    end = time.monotonic() + 30
    names = [f"{tier}-{number}" for tier, count in REPLICAS.items() for number in range(count)]
    for name in names:
        while pods.health(name, "ready") != "200" or pods.health(name, "live") != "200":
            said = podman("logs", f"{name}-node", check=False)
            want(time.monotonic() < end, f"{name} is not ready: {said[-300:]}")
            time.sleep(0.5)
        seen = pods.container(name)
        want(seen["HostConfig"]["ReadonlyRootfs"] and not seen["EffectiveCaps"]
             and seen["Config"]["User"].startswith("65532"), f"{name} is not confined")
        want(seen["HostConfig"]["Memory"] > 0, f"{name} has no limit of memory")
    return f"{', '.join(names)} live and ready, not root, read-only, no capabilities"


def check_device(pods):
    """The Job, then so many pictures at once that all replicas are used: one at a time goes to the
    node that is warm."""
    pods.play("device", ["device-0"])
    deadline = time.monotonic() + 60
    while (state := pods.container("device-0", "device")["State"])["Status"] in ("running",
                                                                                 "created"):
        want(time.monotonic() < deadline, "the device did not end")
        time.sleep(0.5)
    said = podman("logs", "device-0-device")
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    want(state["ExitCode"] == 0 and rows, f"ended with {state['ExitCode']}: {said[-300:]}")
    statuses = {row["status"] for row in rows}
    want(statuses == {"ok"}, f"statuses {statuses}")
    secret = f"{pods.folder}/k8s/keys/device"
    data = pods.folder / "data"
    data.mkdir()
    draw_data_set(data, 200)
    # Names are resolved anew now and then: not at once are all replicas known.
    podman("run", "--rm", "--network", "offramp", "-u", "0", "-v", f"{secret}:/keys/device:ro",
           "-v", f"{data}:/data:ro", IMAGE, "run", "--next", "edge:5555", "--keys", "/keys/device",
           "--wait", "30s", "--thresholds", "0", "--duration", "15s", "--every", "1ms",
           "--policy", "strict", "--data", "/data", "--json")
    told = []
    for tier, count in REPLICAS.items():
        asked = [pods.metrics(f"{tier}-{number}")["offramp_requests_total"] for number in range(count)]
        want(min(asked) > 0.25 * sum(asked) / count, f"{tier}s were asked {asked} times")
        told.append(f"{tier} " + " / ".join(f"{part / sum(asked):.0%}" for part in asked))
    return f"{len(rows)} pictures of the Job ok; requests then: {', '.join(told)}"


def check_stop(pods):
    begin = time.monotonic()
    grace = template(of_kind(pods.objects, "Deployment")["edge"])["spec"]
    podman("stop", "-t", grace["terminationGracePeriodSeconds"], "edge-0-node")
    took = time.monotonic() - begin
    code = pods.container("edge-0")["State"]["ExitCode"]
    want(code == 0, f"SIGTERM: exit code {code}")
    return f"SIGTERM: exit code 0 after {took:.1f} s"


def pods(folder):
    made = Pods(folder)
    yield "play", lambda: check_play(made)
    yield "device", lambda: check_device(made)
    yield "stop", lambda: check_stop(made)


def main(words):
    parts = {"manifests": manifests, "pods": pods}
    if len(words) != 1 or words[0] not in parts:
        print(__doc__, file=sys.stderr)
        return 64
    counts = {"PASS": 0, "FAIL": 0}
    with tempfile.TemporaryDirectory(prefix="offramp-k8s.") as folder:
        os.chmod(folder, 0o755)
        try:
            for name, check in parts[words[0]](pathlib.Path(folder)):
                begin = time.monotonic()
                try:
                    result, figures = "PASS", check()
                except Failed as failure:
                    result, figures = "FAIL", str(failure)
                counts[result] += 1
                print(f"{result}  {name} [{time.monotonic() - begin:.0f} s]: {figures}", flush=True)
                if result == "FAIL" and words[0] == "pods":
                    break  # the next ones stand on it
        except Failed as failure:
            counts["FAIL"] += 1
            print(f"FAIL  {words[0]}: {failure}", flush=True)
    print(f"{words[0]}: {counts['PASS']} passed, {counts['FAIL']} failed", flush=True)
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
