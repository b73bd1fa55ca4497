"""What runs on a real node meets the front door from both sides: Helm and kubectl from outside, pods with their tokens from inside."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e import guestbook
from e2e.front import Command, Way
from e2e.kubernetes import binaries
from e2e.lab.api import wait_until
from e2e.lab.images import AGNHOST, BUSYBOX
from syncer.kube.types import NAMESPACES, PODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Obj
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("real_node")]

CHART = Path(__file__).parent / "manifests" / "chart"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
TWICE = "if [ -f /kept/there ]; then echo again; sleep 1d; fi; touch /kept/there; echo once; exit 1"


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    """With the pods `web`, which serves its name, `twice`, which has failed once, `ended`, and `tools`, which has kubectl."""
    daemon = tenant("inhabited")
    kept = {"volumes": [{"name": "kept", "emptyDir": {}}]}
    kubectl = {"name": "kubectl", "hostPath": {"path": str(daemon.virtual.binary("kubectl")), "type": "File"}}
    pods: dict[str, Obj] = {
        "web": pod("mkdir /w; hostname >/w/index.html; httpd -f -p 8080 -h /w"),
        "twice": pod(TWICE, volumeMounts=[{"name": "kept", "mountPath": "/kept"}]) | kept,
        "ended": pod("for i in 1 2 3; do echo $i; sleep 1; done") | {"restartPolicy": "Never"},
        "tools": pod("sleep 1d", image=AGNHOST, volumeMounts=[{"name": "kubectl", "mountPath": "/kubectl"}]) | {"volumes": [kubectl]},
    }
    api = daemon.virtual.api
    for name, spec in pods.items():
        metadata = {"name": name, "namespace": "default", "labels": {"app": name}}
        api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    ports = [{"port": 80, "targetPort": 8080}]
    metadata = {"name": "web", "namespace": "default"}
    api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": {"app": "web"}, "ports": ports}})

    def ready() -> bool:
        found = {item["metadata"]["name"]: item for item in api.get(PODS.path("default"))["items"]}
        restarts = found["twice"]["status"]["containerStatuses"][0]["restartCount"]
        return all(guestbook.is_ready(found[name]) for name in ("web", "twice", "tools")) and restarts == 1

    wait_until(lambda: guestbook.is_ready(api.get(PODS.path("default", "web"))), "a pod is ready", 120)
    wait_until(ready, "all pods are ready", 120)
    return daemon


def pod(script: str, **container: object) -> Obj:
    main = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script], **container}
    return {"terminationGracePeriodSeconds": 0, "containers": [main]}


@pytest.fixture(scope="module")
def front(daemon: Daemon) -> Way:
    return Way(daemon.virtual, "front", f"https://127.0.0.1:{daemon.proxy_port}", token="")


def kubectl(front: Way, words: str, stdin: str = "", code: int = 0) -> str:
    """What it prints, of its complaints as well if it is to fail."""
    done = front.done(Command(f"--namespace=default {words}", stdin))
    assert done.returncode == code, f"kubectl {words}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout + (done.stderr if code else "")


class TestContainers:
    def test_the_log_of_one_that_failed(self, front: Way) -> None:
        assert kubectl(front, "logs twice --previous") == "once\n"
        assert kubectl(front, "logs twice") == "again\n"

    def test_a_log_that_is_followed_ends_with_its_container(self, front: Way) -> None:
        assert kubectl(front, "logs ended --follow") == "1\n2\n3\n"

    def test_logs_of_several_pods(self, front: Way) -> None:
        assert kubectl(front, "logs -l app=twice --prefix") == "[pod/twice/main] again\n"

    @pytest.mark.parametrize(
        "words", ["exec {} -- true", "exec {} -c none -- true", "attach {}", "cp {}:/missing /tmp/missing", "port-forward {} :x"]
    )
    def test_what_fails_fails_as_on_the_host(self, daemon: Daemon, front: Way, words: str) -> None:
        kubectl(front, "wait pod ended --for=jsonpath={.status.phase}=Succeeded --timeout=60s")
        virtual = daemon.virtual
        host_pod = guestbook.host_pod_name(virtual, "ended", "default")
        command = [str(virtual.binary("kubectl")), f"--kubeconfig={virtual.host.kubeconfig}", f"--namespace={virtual.host_namespace}"]
        directly = subprocess.run([*command, *words.format(host_pod).split()], capture_output=True, text=True, timeout=60, check=False)
        said = directly.stdout + directly.stderr
        assert kubectl(front, words.format("ended"), code=directly.returncode) == said.replace(host_pod, "ended")
        assert directly.returncode != 0

    def test_one_that_runs_while_kubectl_does(self, front: Way) -> None:
        said = kubectl(front, f"run once -i --rm --quiet --restart=Never --image={BUSYBOX} -- cat", "hello\n")
        assert said == "hello\n"
        assert kubectl(front, "get pod once", code=1) == 'Error from server (NotFound): pods "once" not found\n'

    def test_a_copy_to_debug(self, front: Way) -> None:
        kubectl(front, f"debug web --copy-to=copy --container=main --image={BUSYBOX} --profile=general -- sh -c 'echo copied; sleep 1d'")
        kubectl(front, "wait pod copy --for=condition=Ready --timeout=60s")
        assert kubectl(front, "logs copy") == "copied\n"
        kubectl(front, "delete pod copy --now")


def test_ports_of_pods_and_services(front: Way) -> None:
    assert kubectl(front, "get --raw /api/v1/namespaces/default/pods/web:8080/proxy/") == "web\n"
    assert kubectl(front, "get --raw /api/v1/namespaces/default/services/web:80/proxy/") == "web\n"
    with going(front, "proxy --port=0") as line:
        base = f"http://127.0.0.1:{line.rpartition(':')[2].strip()}/api/v1/namespaces/default"
        assert fetch(f"{base}/pods/web:8080/proxy/") == "web\n"
        assert fetch(f"{base}/pods/twice/log") == "again\n"
    with going(front, "--namespace=default port-forward service/web :80") as line:
        assert fetch(f"http://127.0.0.1:{line.split('127.0.0.1:')[1].split()[0]}/") == "web\n"


@contextmanager
def going(front: Way, words: str) -> Iterator[str]:
    """kubectl while it runs, and the first line that it prints."""
    with subprocess.Popen(front.argv(Command(words)), env=front.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.kill()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


class TestFromInside:
    def test_a_pod_is_who_its_token_says(self, daemon: Daemon, front: Way) -> None:
        said = json.loads(kubectl(front, "exec tools -- /kubectl auth whoami -o json"))["status"]["userInfo"]
        assert said["username"] == "system:serviceaccount:default:default"
        web = daemon.virtual.api.get(PODS.path("default", "tools"))
        assert said["extra"]["authentication.kubernetes.io/pod-uid"] == [web["metadata"]["uid"]]

    def test_it_may_what_its_account_may(self, front: Way) -> None:
        assert "cannot list resource" in kubectl(front, "exec tools -- /kubectl get pods", code=1)
        kubectl(front, "create role looker --verb=get,list,watch,create --resource=pods,pods/exec,pods/log")
        kubectl(front, "create rolebinding looker --role=looker --serviceaccount=default:default")
        inside = "exec tools -- /kubectl"
        wait_until(lambda: front.done(Command(f"--namespace=default {inside} get pods")).returncode == 0, "it has its rights")
        assert kubectl(front, f"{inside} get pods -o name") == kubectl(front, "get pods -o name")
        assert "cannot list resource" in kubectl(front, f"{inside} get secrets", code=1)
        assert kubectl(front, f"{inside} exec web -- hostname") == "web\n"
        assert kubectl(front, f"{inside} logs twice") == "again\n"
        for name in ("kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "kubernetes"):
            script = f'/kubectl --server=https://{name} --certificate-authority={ACCOUNT}/ca.crt --token="$(cat {ACCOUNT}/token)" version'
            assert "Server Version" in kubectl(front, f"exec tools -- sh -c '{script}'")


class Helm:
    """Helm at the front door."""

    def __init__(self, front: Way) -> None:
        self._front = front
        self._start = [str(binaries.ensure("helm")["helm"]), f"--kubeconfig={front.kubeconfig('admin')}", "--namespace=colours"]

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run([*self._start, *words], env=self._front.environment, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == code, f"helm {' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def colour(self) -> str:
        return kubectl(self._front, "get configmap paint --namespace=colours -o jsonpath={.data.colour}")


def test_helm_installs_upgrades_tests_rolls_back_and_removes(daemon: Daemon, front: Way) -> None:
    helm, wait = Helm(front), ("--wait", "--timeout=120s")
    said = helm("install", "paint", str(CHART), "--create-namespace", *wait)
    assert f"It is red, on Kubernetes {daemon.virtual.version}." in said
    assert helm.colour() == "red"
    log = helm("test", "paint", "--logs", "--timeout=120s")
    assert "Phase:          Succeeded" in log
    assert log.rstrip().endswith("red")
    helm("upgrade", "paint", str(CHART), "--set=colour=blue,replicas=2", *wait)
    assert helm.colour() == "blue"
    assert helm("test", "paint", "--logs", "--timeout=120s").rstrip().endswith("blue")
    helm("rollback", "paint", "1", *wait)
    assert helm.colour() == "red"
    history = json.loads(helm("history", "paint", "-o", "json"))
    assert [(entry["revision"], entry["status"]) for entry in history] == [(1, "superseded"), (2, "superseded"), (3, "deployed")]
    assert [entry["name"] for entry in json.loads(helm("list", "-o", "json"))] == ["paint"]
    assert "replicas: 1" in helm("get", "manifest", "paint")
    helm("uninstall", "paint", *wait)
    assert helm("list", "-q") == ""
    wait_until(lambda: names_of(guestbook.pods(daemon.virtual, "colours")) == ["paint-test"], "of its pods only that of the test is left")
    daemon.virtual.api.delete(NAMESPACES.path("", "colours"))


def names_of(objects: list[Obj]) -> list[str]:
    return [obj["metadata"]["name"] for obj in objects]
