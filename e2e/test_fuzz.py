"""Objects drawn from the API's own schema: what the virtual API server accepts arrives on the host whole, and nothing gives way.

Each object starts from a valid one and is changed here and there as the schema allows; a change that the API server refuses is
taken back. `FUZZ_SEED` and `FUZZ_OBJECTS` (how many of each type) repeat a run and make it longer.
"""

from __future__ import annotations

import copy
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from e2e.errors import LabError
from e2e.lab.api import ApiFailure, wait_until
from e2e.parity import sides
from e2e.schema import Drawer, lost, schemas
from syncer.kube.types import CONFIGMAPS, PODS, SECRETS, SERVICES, Key, Obj, Resource, Side, is_deleting
from syncer.naming import Names
from syncer.resources import ALL
from syncer.sync.referenced import FORCE_SYNC
from tests.agreement import leaks, wide_selectors
from tests.resources.apply import Rejected
from tests.resources.objects import API, named, ready_world

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.schema import Schema
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes"), pytest.mark.timeout(300)]

SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
OBJECTS = int(os.environ.get("FUZZ_OBJECTS", "12"))
PURE = int(os.environ.get("FUZZ_PURE", "150"))
CHANGES = 5
SETTLED_SECONDS = 60.0
WAITED = 10.0
"""Seconds for which a decision has waited: long enough not to wait for what may still come."""

_META: Obj = {"labels": {"app": "x"}, "annotations": {FORCE_SYNC: "true"}}


@dataclass(frozen=True)
class Sort:
    """One type: a valid object of it, and where to change it: path of a part, and the schema of that part."""

    resource: Resource
    template: Obj
    parts: Mapping[str, str]
    translated: re.Pattern[str] = re.compile("(?!)")
    """Paths that the host object has otherwise by design, or not at all."""


_TRANSLATED_POD = re.compile(
    r"""
    spec\.(serviceAccount|serviceAccountName|automountServiceAccountToken|enableServiceLinks|hostname|subdomain)
    |spec\.(dnsPolicy|dnsConfig|hostAliases|nodeName|schedulerName)(\b.*)?
    |spec\.(priority|priorityClassName|preemptionPolicy|runtimeClassName|overhead)(\b.*)?
    |spec\.imagePullSecrets\[\]\.name
    |spec\.volumes\[\]\.(secret\.secretName|configMap\.name|persistentVolumeClaim\.claimName|ephemeral.*|downwardAPI.*|projected.*)
    |spec\.volumes\[\]\..*[sS]ecretRef\.name|spec\.volumes\[\]\.azureFile\.secretName|spec\.volumes\[\]\.glusterfs\.endpoints
    |spec\.volumes\[\]\.csi\.nodePublishSecretRef\.name
    |spec\.(initContainers|containers)\[\]\.(env|envFrom)
    |spec\.affinity\.pod(Anti)?Affinity\b.*\.(labelSelector|namespaces|namespaceSelector|matchLabelKeys|mismatchLabelKeys)
    |spec\.topologySpreadConstraints\[\]\.(labelSelector|matchLabelKeys)
    |spec\.resourceClaims\b.*|spec\.workloadRef\b.*|spec\.schedulingGroup\b.*
    """,
    re.VERBOSE,
)

_CORE = "io.k8s.api.core.v1."
SORTS = (
    Sort(
        PODS,
        {
            "metadata": _META,
            "spec": {
                "containers": [{"name": "app", "image": "lab.local/none:1"}],
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
            },
        },
        {
            "spec": _CORE + "PodSpec",
            "spec.containers.0": _CORE + "Container",
            "spec.containers.0.securityContext": _CORE + "SecurityContext",
        },
        _TRANSLATED_POD,
    ),
    Sort(
        SERVICES,
        {"metadata": _META, "spec": {"ports": [{"name": "web", "port": 80}], "selector": {"app": "x"}}},
        {"spec": _CORE + "ServiceSpec", "spec.ports.0": _CORE + "ServicePort"},
        re.compile(r"spec\.selector"),
    ),
    Sort(CONFIGMAPS, {"metadata": _META, "data": {"a": "1"}}, {"": _CORE + "ConfigMap"}),
    Sort(SECRETS, {"metadata": _META, "data": {"a": "MQ=="}}, {"": _CORE + "Secret"}, re.compile("type")),
)
_FIXED = ("apiVersion", "kind", "metadata", "status", "containers", "nodeName", "ephemeralContainers", "stringData")


@pytest.fixture(scope="module")
def daemon(tenant: StartTenant) -> Daemon:
    return tenant("fuzz")


@pytest.fixture(scope="module")
def types(daemon: Daemon) -> Mapping[str, Schema]:
    return schemas(daemon.virtual.api, "api/v1")


def changed(drawer: Drawer, sort: Sort, obj: Obj) -> Obj:
    """A copy with one more field drawn anew."""
    new = copy.deepcopy(obj)
    path, kind = drawer.rng.choice(list(sort.parts.items()))
    part: Any = new
    for step in filter(None, path.split(".")):
        part = part[int(step)] if step.isdigit() else part.setdefault(step, {})
    name = drawer.rng.choice([field for field in drawer.fields(kind) if field not in _FIXED])
    part[name] = drawer.field(kind, name)
    if name == "volumeMounts":  # each needs its volume
        part[name] = _distinct_mounts(part[name])
        new["spec"]["volumes"] = [{"name": mount["name"], "emptyDir": {}} for mount in part[name]]
    return new


def _distinct_mounts(mounts: list[Obj]) -> list[Obj]:
    return [{**mount, "mountPath": f"/mnt/{number}"} for number, mount in enumerate(mounts)]


def draw(drawer: Drawer, sort: Sort, accepts: Callable[[Obj], bool], asked: Counter[str]) -> Obj:
    """An object with as many accepted changes as `CHANGES`, give or take."""
    obj = sort.template
    for _ in range(CHANGES):
        candidate = changed(drawer, sort, obj)
        good = accepts(candidate)
        asked[f"{sort.resource} {'accepted' if good else 'refused'}"] += 1
        if good:
            obj = candidate
    return obj


class Tenant:
    """Sends what is drawn to the virtual API server."""

    def __init__(self, daemon: Daemon) -> None:
        self._api = daemon.virtual.api

    def accepts(self, sort: Sort, name: str, obj: Obj) -> bool:
        """Whether it could be made; nothing is."""
        return self._post(sort, name, obj, dryRun="All")

    def makes(self, sort: Sort, name: str, obj: Obj) -> bool:
        return self._post(sort, name, obj)

    def _post(self, sort: Sort, name: str, obj: Obj, **params: str) -> bool:
        body = {**obj, "apiVersion": "v1", "kind": sort.resource.kind, "metadata": {**obj["metadata"], "name": name}}
        try:
            self._api.request("POST", sort.resource.path("default"), body, params=params)
        except ApiFailure as failure:
            if failure.status >= 500:
                raise
            return False
        return True


def test_what_is_accepted_arrives_whole(daemon: Daemon, types: Mapping[str, Schema]) -> None:
    drawer, asked, tenant = Drawer(types, random.Random(SEED)), Counter[str](), Tenant(daemon)
    made: list[tuple[Sort, Key]] = []
    for sort in SORTS:
        for number in range(OBJECTS):
            name = f"fuzz-{number}"
            obj = draw(drawer, sort, partial(tenant.accepts, sort, name), asked)
            if tenant.makes(sort, name, obj):
                made.append((sort, Key("default", name)))
    print(f"FUZZ_SEED={SEED}: {dict(asked)}, {len(made)} made")
    try:
        judge(daemon, made)
        for sort in SORTS:
            share = asked[f"{sort.resource} accepted"] / (asked[f"{sort.resource} accepted"] + asked[f"{sort.resource} refused"])
            assert share > 0.3, f"too little of what is drawn for {sort.resource} is valid to mean anything: {share:.0%}"
    except (AssertionError, LabError) as error:
        error.add_note(f"FUZZ_SEED={SEED}")
        raise
    finally:
        for sort, key in made:
            daemon.virtual.api.delete(sort.resource.path(*key))


def judge(daemon: Daemon, made: list[tuple[Sort, Key]]) -> None:
    virtual = daemon.virtual
    names = Names(virtual.name, virtual.host_namespace)
    before = [""]

    def at_rest() -> bool:
        last, before[0] = before[0], "\n".join(line for line in daemon.get("/metrics")[1].splitlines() if "_api_requests_total" in line)
        time.sleep(1.5)
        return _writes(last) == _writes(before[0]) != []

    wait_until(at_rest, "no more writes", SETTLED_SECONDS)
    found = sides(virtual)
    events = virtual.api.get("/api/v1/namespaces/default/events")["items"]
    told = {(event["involvedObject"]["kind"], event["involvedObject"]["name"]) for event in events}
    problems = []
    for sort, key in made:
        ours, image = found.virtual(sort.resource).get(key), found.image(sort.resource, key)
        if ours is None or is_deleting(ours):
            continue
        if image is None:
            if (sort.resource.kind, key.name) not in told:
                problems.append(f"{sort.resource} {key} is not on the host, and nobody says why")
            continue
        content = {field: value for field, value in ours.items() if field not in ("apiVersion", "kind", "metadata", "status")}
        problems += [f"{sort.resource} {key} {path}" for path in lost(content, image, sort.translated)]
        problems += [f"{sort.resource} {key}: {problem}" for problem in wide_selectors(names, "default", image)]
    problems += leaks(found)
    problems += [str(line) for line in daemon.log() if line["event"] == "pair.bug"]
    assert not problems, "\n".join(problems)


def _writes(metrics: str) -> list[str]:
    return [line for line in metrics.splitlines() if re.search(r'verb="(create|patch|delete|update)"', line)]


def test_no_decision_raises_or_goes_on_for_ever(types: Mapping[str, Schema]) -> None:
    """Without any server, also on what no API server would accept, with a status drawn as well."""
    on_host, drawn = Counter[str](), Counter[str]()
    for seed in range(SEED, SEED + PURE):
        drawer = Drawer(types, random.Random(seed))
        for sort in SORTS:
            obj = sort.template
            for _ in range(CHANGES):
                obj = changed(drawer, sort, obj)
            kind = _CORE + sort.resource.kind
            status = drawer.field(kind, "status") if "status" in drawer.fields(kind) else {}
            drawn[sort.resource.plural] += 1
            try:
                on_host[sort.resource.plural] += decide_until_settled(sort, obj, status)
            except Rejected:
                continue
            except Exception as error:
                error.add_note(f"FUZZ_SEED={seed} FUZZ_PURE=1 {sort.resource}: {obj} {status}")
                raise
    for plural, count in drawn.items():
        assert on_host[plural] > 0.5 * count, f"of {count} {plural} only {on_host[plural]} came to the host: this tests little"


def decide_until_settled(sort: Sort, obj: Obj, status: Obj) -> bool:
    """Whether there is a host object in the end, which then got that status. AssertionError when decisions never come to rest."""
    world = ready_world(*ALL)
    world.put(Side.VIRTUAL, SERVICES, named("kubernetes", spec={"clusterIP": API}))
    (spec,) = (spec for spec in ALL if spec.name == sort.resource.plural)
    key = Key("default", "drawn")
    world.put(Side.VIRTUAL, sort.resource, {**obj, "metadata": {**obj["metadata"], "name": key.name, "namespace": key.namespace}})
    world.settle(spec, key, waited=WAITED)
    host = world.get(Side.HOST, sort.resource, world.names.host_key(key))
    if host is None:
        return False
    assert list(wide_selectors(world.names, key.namespace, host)) == []
    if status:
        host["status"] = copy.deepcopy(status)
        world.settle(spec, key, waited=WAITED)
    return True
