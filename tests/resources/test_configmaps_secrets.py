from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import CONFIGMAPS, INGRESSES, PODS, SECRETS, Key, Obj, Resource, Side, annotations_of
from syncer.naming import ANNOTATION_UID
from syncer.resources import configmaps, secrets
from syncer.sync.intents import Create, Patch
from syncer.sync.referenced import FORCE_SYNC
from syncer.sync.spec import SyncSpec
from syncer.translate.merge import apply
from syncer.translate.metadata import host_metadata
from syncer.translate.token_secret import token_secret
from tests.resources.apply import NAMES, OWNER, World, told
from tests.resources.objects import HOST, deleting, named, pod, ready_world

APP = Key("default", "app")
HOST_APP = Key(HOST, "app-x-default-x-vc")

USERS: dict[Resource, Obj] = {
    CONFIGMAPS: {"spec": {"volumes": [{"name": "v", "configMap": {"name": "app"}}]}},
    SECRETS: {"spec": {"volumes": [{"name": "v", "secret": {"secretName": "app"}}]}},
}
SPECS = [pytest.param(configmaps.SPEC, id="configmap"), pytest.param(secrets.SPEC, id="secret")]
DATA: Obj = {"data": {"a": "MQ==", "b": "Mg=="}}
FORCED = {"metadata": {"annotations": {FORCE_SYNC: "true"}}}


def state(spec: SyncSpec, virtual: Obj | None, host: Obj | None, *, used: bool = True) -> World:
    """`virtual` and `host` are changes to an object with DATA and its host copy; `used`: a pod refers to it."""
    world = ready_world(spec)
    plain = named("app", **DATA, **({"type": "Opaque"} if spec.kind == SECRETS else {}))
    plain["metadata"]["uid"] = "uid-app"
    if virtual is not None:
        world.put(Side.VIRTUAL, spec.kind, apply(plain, virtual))
    if host is not None:
        copy = {**plain, "metadata": host_metadata(NAMES, OWNER, spec.kind, plain)}
        world.put(Side.HOST, spec.kind, apply(copy, host))
    if used:
        world.put(Side.VIRTUAL, PODS, pod(USERS[spec.kind]))
    return world


EARLIER = {"metadata": {"annotations": {ANNOTATION_UID: "before"}}}
MADE_ANEW = ["delete host {0} {1}", "wait host {0} {1}"]

RULES: list[tuple[str, Obj | None, Obj | None, bool, list[str]]] = [
    ("Unused", {}, None, False, []),
    ("Used", {}, None, True, ["create host {0} {1}"]),
    ("Unused, but asked for", FORCED, None, False, ["create host {0} {1}"]),
    ("Used, but does not exist", None, None, True, []),
    ("Used, and just being deleted", {"metadata": {"deletionTimestamp": "x"}}, None, True, []),
    ("in sync", {}, {}, True, []),
    ("Update used: changed", {"data": {"a": "OQ=="}}, {}, True, ["patch host {0} {1} data"]),
    ("Update used: a key more", {"data": {"c": "OQ=="}}, {}, True, ["patch host {0} {1} data"]),
    ("Update used: a key fewer", {"data": {"a": None}}, {}, True, ["patch host {0} {1} data"]),
    ("all data taken away", {"data": None}, {}, True, ["patch host {0} {1} data"]),
    ("somebody changed the copy", {}, {"data": {"a": "OQ=="}}, True, ["patch host {0} {1} data"]),
    ("somebody added to the copy", {}, {"data": {"z": "OQ=="}}, True, ["patch host {0} {1} data"]),
    ("labels", {"metadata": {"labels": {"x": "y"}}}, {}, True, ["patch host {0} {1} metadata"]),
    ("labels and data", {"metadata": {"labels": {"x": "y"}}, "data": {"a": "OQ=="}}, {}, True, ["patch host {0} {1} data+metadata"]),
    ("what others put on the copy stays", {}, {"metadata": {"labels": {"x": "y"}, "annotations": {"x": "y"}}}, True, []),
    ("made anew: takes the copy over", {}, EARLIER, True, ["patch host {0} {1} metadata"]),
    ("becomes immutable", {"immutable": True}, {}, True, ["patch host {0} {1} immutable"]),
    ("both immutable", {"immutable": True}, {"immutable": True}, True, []),
    (
        "both immutable, labels still change",
        {"immutable": True, "metadata": {"labels": {"x": "y"}}},
        {"immutable": True},
        True,
        ["patch host {0} {1} metadata"],
    ),
    ("immutable copy with other data", {"immutable": True, "data": {"a": "OQ=="}}, {"immutable": True}, True, MADE_ANEW),
    ("immutable copy of a mutable one", {"immutable": False}, {"immutable": True}, True, MADE_ANEW),
    ("false is as good as absent", {"immutable": False}, {}, True, []),
    ("copy is being deleted by somebody", {}, deleting(None), True, ["wait host {0} {1}"]),
    ("deleting, but still there and used", {"metadata": {"deletionTimestamp": "x"}}, {}, True, []),
    ("Remove unused", {}, {}, False, ["delete host {0} {1}"]),
    ("asked for, not used", FORCED, {}, False, []),
    ("virtual one is gone, used", None, {}, True, ["delete host {0} {1} unexplained"]),
    ("virtual one is gone, unused", None, {}, False, ["delete host {0} {1} unexplained"]),
    ("virtual one is gone, copy is going", None, deleting(None), False, []),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("virtual", "host", "used", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(spec: SyncSpec, virtual: Obj | None, host: Obj | None, used: bool, expected: list[str]) -> None:
    world = state(spec, virtual, host, used=used)
    assert told(world.decide(spec, APP)) == [text.format(spec.kind.plural, HOST_APP) for text in expected]
    world.settle(spec, APP)


SECRET_RULES: list[tuple[str, Obj, Obj, list[str]]] = [
    ("type is copied", {"type": "kubernetes.io/tls"}, {"type": "kubernetes.io/tls"}, []),
    ("a service account's token is opaque on the host", {"type": "kubernetes.io/service-account-token"}, {}, []),
    ("another type: made anew", {"type": "kubernetes.io/tls"}, {}, [f"delete host secrets {HOST_APP}", f"wait host secrets {HOST_APP}"]),
]


@pytest.mark.parametrize(("virtual", "host", "expected"), [rule[1:] for rule in SECRET_RULES], ids=[rule[0] for rule in SECRET_RULES])
def test_secret_types(virtual: Obj, host: Obj, expected: list[str]) -> None:
    world = state(secrets.SPEC, virtual, host)
    assert told(world.decide(secrets.SPEC, APP)) == expected
    world.settle(secrets.SPEC, APP)


def test_binary_data_is_copied() -> None:
    world = state(configmaps.SPEC, {"binaryData": {"x": "AA=="}}, None)
    (create,) = world.decide(configmaps.SPEC, APP)
    assert isinstance(create, Create)
    assert (create.obj["data"], create.obj["binaryData"]) == (DATA["data"], {"x": "AA=="})
    assert "immutable" not in create.obj


def test_only_the_difference_is_sent() -> None:
    world = state(secrets.SPEC, {"data": {"a": None, "c": "OQ=="}}, {})
    (patch,) = world.decide(secrets.SPEC, APP)
    assert isinstance(patch, Patch)
    assert patch.body == {"data": {"a": None, "c": "OQ=="}}


@pytest.mark.parametrize("spec", SPECS)
def test_only_what_is_needed_is_fetched(spec: SyncSpec) -> None:
    assert spec.hydrate is not None
    assert spec.hydrate(APP, state(spec, {}, None).view())
    assert spec.hydrate(APP, state(spec, FORCED, None, used=False).view())
    assert not spec.hydrate(APP, state(spec, {}, {}, used=False).view())
    assert not spec.hydrate(APP, state(spec, None, {}, used=False).view())


REFERENCES: list[tuple[str, Resource, Obj]] = [
    ("env", CONFIGMAPS, {"containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "app"}}}]}]}),
    ("optional env", SECRETS, {"containers": [{"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "app", "optional": True}}}]}]}),
    ("envFrom of an init container", SECRETS, {"initContainers": [{"envFrom": [{"secretRef": {"name": "app"}}]}]}),
    ("envFrom of an ephemeral container", CONFIGMAPS, {"ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "app"}}]}]}),
    ("projected", CONFIGMAPS, {"volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "app"}}]}}]}),
    ("pull secret", SECRETS, {"imagePullSecrets": [{"name": "app"}]}),
]


@pytest.mark.parametrize(("resource", "spec"), [case[1:] for case in REFERENCES], ids=[case[0] for case in REFERENCES])
def test_a_pod_wakes_and_needs_what_it_refers_to(resource: Resource, spec: Obj) -> None:
    loop = configmaps.SPEC if resource == CONFIGMAPS else secrets.SPEC
    world = ready_world(loop)
    user = world.put(Side.VIRTUAL, PODS, named("web", spec=spec))
    (wake,) = (wake for wake in loop.index_wakes if (wake.side, wake.resource) == (Side.VIRTUAL, PODS))
    values = loop.indexes[wake.side, wake.resource][wake.index](user)
    assert [wake.key(value, world.view()) for value in values] == [APP]
    assert loop.hydrate is not None
    assert loop.hydrate(APP, world.view())
    assert not loop.hydrate(Key("shop", "app"), world.view())


TLS = {"spec": {"tls": [{"secretName": "app"}]}}
HEADERS = {"metadata": {"annotations": {"nginx.ingress.kubernetes.io/custom-headers": "default/app"}}}
INGRESSES_OF = [pytest.param(configmaps.SPEC, HEADERS, id="configmap"), pytest.param(secrets.SPEC, TLS, id="secret")]


@pytest.mark.parametrize(("spec", "changes"), INGRESSES_OF)
@pytest.mark.parametrize("synced", [True, False])
def test_an_ingress_wakes_and_needs_what_it_refers_to(spec: SyncSpec, changes: Obj, synced: bool) -> None:
    """From another namespace too: `default/app` is named by an Ingress of `shop`."""
    world = state(spec, {}, None, used=False)
    if synced:
        world.policy = replace(world.policy, synced=world.policy.synced | {INGRESSES})
    user = world.put(Side.VIRTUAL, INGRESSES, apply(named("web", "default" if spec.kind == SECRETS else "shop"), changes))
    (wake,) = (wake for wake in spec.index_wakes if (wake.side, wake.resource) == (Side.VIRTUAL, INGRESSES))
    values = spec.indexes[wake.side, wake.resource][wake.index](user)
    assert [wake.key(value, world.view()) for value in values] == [APP]
    assert spec.hydrate is not None
    assert spec.hydrate(APP, world.view()) is synced
    assert told(world.decide(spec, APP)) == ([f"create host {spec.kind.plural} {HOST_APP}"] if synced else [])


def test_a_host_ingress_that_outlives_its_virtual_one_keeps_the_copy() -> None:
    world = state(secrets.SPEC, {}, {}, used=False)
    world.put(Side.HOST, INGRESSES, named("web", HOST, spec={"tls": [{"secretName": HOST_APP.name}]}))
    assert world.decide(secrets.SPEC, APP) == []
    (wake,) = (wake for wake in secrets.SPEC.index_wakes if (wake.side, wake.resource) == (Side.HOST, INGRESSES))
    assert wake.key(str(HOST_APP), world.view()) == APP
    assert wake.key(f"{HOST}/strangers", world.view()) is None


@pytest.mark.parametrize("spec", SPECS)
def test_all_of_a_type_are_copied_if_so_asked(spec: SyncSpec) -> None:
    world = state(spec, {}, None, used=False)
    world.policy = replace(world.policy, all_copied=frozenset({spec.kind}))
    assert told(world.decide(spec, APP)) == [f"create host {spec.kind.plural} {HOST_APP}"]
    assert spec.hydrate is not None
    assert spec.hydrate(APP, world.view())
    world.policy = replace(world.policy, all_copied=frozenset({CONFIGMAPS, SECRETS} - {spec.kind}))
    assert world.decide(spec, APP) == []


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [(HOST_APP.name, ["warn TakenOver"]), ("app", [f"patch host secrets {HOST_APP} data"])],
    ids=["of the host", "of the virtual cluster"],
)
def test_a_copy_that_a_cert_manager_writes(annotation: str, expected: list[str]) -> None:
    """Certificates for Ingresses are named as their Secret: the host's cert-manager knows it by its host name only."""
    marked = {"metadata": {"annotations": {"cert-manager.io/certificate-name": annotation}}}
    world = state(secrets.SPEC, {}, {**marked, "data": {"a": "OQ=="}})
    assert told(world.decide(secrets.SPEC, APP)) == expected
    world.settle(secrets.SPEC, APP)


def test_a_copy_that_was_taken_over_goes_when_it_is_not_needed_any_more() -> None:
    marked = {"metadata": {"annotations": {"cert-manager.io/certificate-name": HOST_APP.name}}}
    world = state(secrets.SPEC, {}, marked, used=False)
    assert told(world.decide(secrets.SPEC, APP)) == [f"delete host secrets {HOST_APP}"]


def test_a_token_secret_is_none_of_the_secrets_loops() -> None:
    secret = token_secret(NAMES, pod(), named("web-x-default-x-vc", HOST))
    assert secrets.SPEC.virtual_key(secret, ready_world(secrets.SPEC).view()) is None


VALUES = st.sampled_from([b64encode(bytes([number])).decode() for number in range(3)])
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.none() | st.dictionaries(st.sampled_from("abc"), st.none() | VALUES),
        "immutable": st.sampled_from([True, False]),
        "metadata": st.sampled_from([{"annotations": {FORCE_SYNC: "true"}}, {"labels": {"x": "y"}}, deleting(None)["metadata"]]),
    },
)


@given(spec=st.sampled_from([configmaps.SPEC, secrets.SPEC]), virtual=st.none() | CONTENTS, host=st.none() | CONTENTS, used=st.booleans())
def test_any_state_settles_and_stays(spec: SyncSpec, virtual: dict[str, Any] | None, host: dict[str, Any] | None, used: bool) -> None:
    world = state(spec, virtual, host, used=used)
    left = world.settle(spec, APP)
    mine, copy = world.get(Side.VIRTUAL, spec.kind, APP), world.get(Side.HOST, spec.kind, HOST_APP)
    if copy is not None and not left and "deletionTimestamp" not in copy["metadata"]:
        assert mine is not None
        assert used or annotations_of(mine).get(FORCE_SYNC) == "true"
        assert (copy.get("data") or {}) == (mine.get("data") or {})
        assert bool(copy.get("immutable")) == bool(mine.get("immutable"))
