"""An informer of client-go that speaks protobuf, and Services made in every way there is, through the front door."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e.front import Command, Way
from e2e.kubernetes import binaries
from e2e.servicepairs import ServicePairs, service
from syncer.kube.types import CONFIGMAPS, SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.daemon import Daemon
    from e2e.lab.api import Api, Obj
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

NAMESPACE = "informed"
MANY = 200


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("clients")


@pytest.fixture(scope="module")
def front(daemon: Daemon) -> Way:
    return Way(daemon.virtual, "front", f"https://127.0.0.1:{daemon.proxy_port}", token="")


class Informer:
    """The program in e2e/kubernetes/modules/informer, and what it has told so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.told: list[str] = []

    def until(self, line: str) -> None:
        """Read on until it tells that."""
        assert self._process.stdout is not None
        while not self.told or self.told[-1] != line:
            read = self._process.stdout.readline()
            assert read, f"it ended without {line!r}"
            self.told.append(read.strip())

    def cache(self) -> dict[str, str]:
        """What it has in the end: values by name."""
        rest, _ = self._process.communicate(timeout=60)
        lines = [line.split() for line in rest.splitlines()]
        return {name: value for mark, name, *values in lines if mark == "=" for value in values}


@contextmanager
def informer(way: Way, namespace: str) -> Iterator[Informer]:
    argv = [str(binaries.ensure("informer")["informer"]), str(way.kubeconfig("admin")), namespace]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Informer(process)
        finally:
            process.kill()


class Writers:
    """Change ConfigMaps with the key `value`, several at a time, directly at the virtual API server."""

    def __init__(self, api: Api) -> None:
        self._api = api
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})

    def write(self, value: str, *names: str) -> None:
        def one(name: str) -> None:
            metadata = {"name": name, "namespace": NAMESPACE}
            self._api.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}})

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one, names))

    def delete(self, *names: str) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: self._api.delete(CONFIGMAPS.path(NAMESPACE, name)), names))

    def truth(self) -> dict[str, str]:
        listed = self._api.get(CONFIGMAPS.path(NAMESPACE))["items"]
        return {item["metadata"]["name"]: item["data"]["value"] for item in listed if "value" in item["data"]}


def test_an_informer_sees_every_change_and_goes_on_after_a_restart(daemon: Daemon, front: Way) -> None:
    writers, names = Writers(daemon.virtual.api), [f"n-{number}" for number in range(MANY)]
    writers.write("first", *names[: MANY // 2])
    with informer(front, NAMESPACE) as seen:
        seen.until("add n-0 first")
        writers.write("second", *names)
        writers.write("third", *names[:50])
        writers.delete(*names[50:100])
        writers.write("last", "mark-1")
        seen.until("add mark-1 last")
        told = Counter(line for line in seen.told if line.split()[1].startswith("n-"))
        expected = Counter(
            [f"add {name} first" for name in names[:100]]
            + [f"update {name} second" for name in names[:100]]
            + [f"add {name} second" for name in names[100:]]
            + [f"update {name} third" for name in names[:50]]
            + [f"delete {name}" for name in names[50:100]]
        )
        assert told == expected
        daemon.stop()
        writers.write("fourth", *names[:10])
        writers.delete(*names[100:110])
        daemon.start()
        writers.write("last", "mark-2")
        seen.until("add mark-2 last")
        assert {f"update {name} fourth" for name in names[:10]} | {f"delete {name}" for name in names[100:110]} <= set(seen.told)
        truth = writers.truth()
        assert len(truth) == 142
        assert {name: value for name, value in seen.cache().items() if name in truth} == truth


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of a protobuf message; a message is its fields one after the other. For small numbers only."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


def protobuf(name: str) -> bytes:
    """A Service with the port 80, as client-go sends it: k8s.io/apimachinery/pkg/runtime/generated.proto and core/v1/generated.proto."""
    metadata, port = field(1, name) + field(3, "default"), field(3, 80)
    typed = field(1, "v1") + field(2, "Service")
    return b"k8s\0" + field(1, typed) + field(2, field(1, metadata) + field(2, field(1, port)))


def post(front: Way, body: bytes, content_type: str, query: str = "") -> Obj:
    connection = front.connection("admin")
    try:
        connection.request("POST", SERVICES.path("default") + query, body, {"Content-Type": content_type, "Accept": "application/json"})
        answer = connection.getresponse()
        created: Obj = json.loads(answer.read())
        assert answer.status == 201, created
    finally:
        connection.close()
    return created


def give(front: Way, words: str, stdin: str = "") -> Obj:
    """The Service that kubectl prints."""
    done = front.done(Command(f"{words} --namespace=default -o json", stdin))
    assert done.returncode == 0, done.stderr
    made: Obj = json.loads(done.stdout)
    return made


def document(name: str) -> str:
    """JSON, which is YAML too."""
    return json.dumps(service(name))


WAYS = {
    "created": lambda front, name, dry: give(front, f"create service clusterip {name} --tcp=80 {dry}"),
    "with-a-node-port": lambda front, name, dry: give(front, f"create service nodeport {name} --tcp=80 {dry}"),
    "with-a-balancer": lambda front, name, dry: give(front, f"create service loadbalancer {name} --tcp=80 {dry}"),
    "applied": lambda front, name, dry: give(front, f"apply -f - {dry}", document(name)),
    "applied-by-the-server": lambda front, name, dry: give(front, f"apply --server-side -f - {dry}", document(name)),
    "as-yaml": lambda front, name, dry: post(front, document(name).encode(), "application/yaml", "?dryRun=All" if dry else ""),
    "as-protobuf": lambda front, name, dry: post(
        front, protobuf(name), "application/vnd.kubernetes.protobuf", "?dryRun=All" if dry else ""
    ),
}


class TestServices:
    @pytest.mark.parametrize("way", WAYS)
    def test_have_the_hosts_address_from_the_beginning(self, daemon: Daemon, front: Way, way: str) -> None:
        pairs = ServicePairs(daemon)
        WAYS[way](front, f"dry-{way}", "--dry-run=server")
        assert pairs.virtual.find(pairs.path(f"dry-{way}")) is None
        made = WAYS[way](front, way, "")
        uid, address = made["metadata"]["uid"], made["spec"]["clusterIP"]
        assert address == pairs.get_host(way)["spec"]["clusterIP"]
        pairs.settle(way)
        after = pairs.get(way)
        assert (after["metadata"]["uid"], after["spec"]["clusterIP"]) == (uid, address)
        assert pairs.host.find(pairs.host_path(f"dry-{way}")) is None
