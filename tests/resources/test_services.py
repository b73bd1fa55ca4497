from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import SERVICES, Key, Obj, Side, annotations_of, uid_of
from syncer.naming import ANNOTATION_UID
from syncer.resources import services
from syncer.sync.intents import Create, Delete, Patch, Warn
from syncer.translate.merge import apply
from syncer.translate.services import CHANGING, PENDING, READDRESSING, admission_patch, host_service, pending_service
from tests.resources.apply import NAMES, NOW, OWNER, World, told
from tests.resources.objects import API, HOST, deleting, named, ready_world

DB = Key("default", "db")
HOST_DB = Key(HOST, "db-x-default-x-vc")
KUBERNETES = Key("default", "kubernetes")

PORT = {"name": "sql", "port": 5432, "protocol": "TCP", "targetPort": 5432}
IP = "10.96.7.7"


def service(changes: Obj | None = None) -> Obj:
    spec = {"type": "ClusterIP", "clusterIP": IP, "clusterIPs": [IP], "ports": [PORT], "selector": {"app": "db"}, "sessionAffinity": "None"}
    base = named("db", spec=spec, status={"loadBalancer": {}})
    base["metadata"]["uid"] = "uid-db"
    changed: Obj = apply(base, changes or {})
    return changed


def state(virtual: Obj | None, host: Obj | None, *, accepted: bool = True) -> World:
    """`virtual` and `host` are changes to an ordinary Service and its host copy; `accepted`: host addresses are known to work."""
    world = ready_world(services.SPEC)
    world.put(Side.VIRTUAL, SERVICES, named("kubernetes", spec={"clusterIP": API if accepted else "10.43.0.1"}))
    if host is not None:
        copy = host_service(NAMES, OWNER, service())
        copy["spec"] |= {"clusterIP": IP, "clusterIPs": [IP]}
        world.put(Side.HOST, SERVICES, apply(copy, host))
    if virtual is not None:
        world.put(Side.VIRTUAL, SERVICES, service(virtual))
    return world


def spec(**fields: Any) -> Obj:
    return {"spec": fields}


def addressed(address: str) -> Obj:
    return spec(clusterIP=address, clusterIPs=[address])


def pending(value: str) -> Obj:
    return {"metadata": {"annotations": {PENDING: value, ANNOTATION_UID: ""}}}


def annotated(key: str, value: str | None) -> Obj:
    return {"metadata": {"annotations": {key: value}}}


def conditions(*types: str) -> Obj:
    return {"status": {"conditions": [{"type": kind, "status": "False"} for kind in types]}}


GOING = apply(deleting(None), {"metadata": {"finalizers": ["x/y"]}})
LB = spec(type="LoadBalancer")
BALANCED = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
HOST_SPEC = [f"patch host services {HOST_DB} spec"]
HOST_METADATA = [f"patch host services {HOST_DB} metadata"]
READDRESS = [f"patch virtual services {DB} metadata+spec", f"patch virtual services {DB} metadata+spec", "warn Readdressed"]

RULES: list[tuple[str, Obj | None, Obj | None, list[str]]] = [
    ("nothing at all", None, None, []),
    ("Create Forward: got past the admission webhook", {}, None, [f"create host services {HOST_DB}"]),
    ("deleting before it was copied", GOING, None, []),
    ("Update forward not needed", {}, {}, []),
    ("Sync ports virtual to physical", spec(ports=[{**PORT, "port": 5433}]), {}, HOST_SPEC),
    ("a second port", spec(ports=[PORT, {**PORT, "name": "b", "port": 1}]), {}, HOST_SPEC),
    ("appProtocol taken away", {}, spec(ports=[{**PORT, "appProtocol": "http"}]), HOST_SPEC),
    ("selector", spec(selector={"app": "other"}), {}, HOST_SPEC),
    ("selector taken away", spec(selector=None), {}, HOST_SPEC),
    ("session affinity", spec(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 9}}), {}, HOST_SPEC),
    ("source ranges set", spec(loadBalancerSourceRanges=["192.0.2.0/24"]), {}, HOST_SPEC),
    ("source ranges taken away", {}, spec(loadBalancerSourceRanges=["192.0.2.0/24"]), HOST_SPEC),
    ("external addresses, which v0.19 lets the host win", spec(externalIPs=["192.0.2.9"]), {}, HOST_SPEC),
    ("publishNotReadyAddresses", spec(publishNotReadyAddresses=True), {}, HOST_SPEC),
    ("a default that only the host's version has", {}, spec(internalTrafficPolicy="Cluster", allocateSomething=True), []),
    ("internal traffic policy", spec(internalTrafficPolicy="Local"), spec(internalTrafficPolicy="Cluster"), HOST_SPEC),
    ("type and its allocated node port", spec(type="NodePort", ports=[{**PORT, "nodePort": 30001}]), {}, HOST_SPEC),
    ("labels and annotations", {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}, {}, HOST_METADATA),
    (
        "a node port that the tenant changed goes down",
        spec(type="NodePort", ports=[{**PORT, "nodePort": 30001}]),
        spec(type="NodePort", ports=[{**PORT, "nodePort": 30002}]),
        HOST_SPEC,
    ),
    (
        "Sync node ports physical to virtual: where the tenant has none",
        spec(type="NodePort"),
        spec(type="NodePort", ports=[{**PORT, "nodePort": 30002}]),
        [f"patch virtual services {DB} spec"],
    ),
    (
        "the health check port up",
        spec(type="LoadBalancer", externalTrafficPolicy="Local"),
        spec(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=31000),
        [f"patch virtual services {DB} spec"],
    ),
    (
        "Update backward status",
        spec(type="LoadBalancer"),
        {**LB, **BALANCED},
        [f"patch virtual services {DB} status"],
    ),
    ("status taken away", {**LB, **BALANCED}, spec(type="LoadBalancer"), [f"patch virtual services {DB} status"]),
    ("Update backward status not needed", {**LB, **BALANCED}, {**LB, **BALANCED}, []),
    (
        "status, while the host has yet to take a change, or refuses it",
        apply(LB, spec(selector={"app": "other"})),
        {**LB, **BALANCED},
        [*HOST_SPEC, f"patch virtual services {DB} status"],
    ),
    ("no load balancer, no status", {}, BALANCED, []),
    (
        "what the syncer says of a refusal stays",
        {**LB, **conditions("Ready", "vcluster.loft.sh/Synced")},
        {**LB, **conditions("Ready")},
        [],
    ),
    (
        "the host's conditions come beside it",
        {**LB, **conditions("vcluster.loft.sh/Synced")},
        {**LB, **conditions("example.com/Ready")},
        [f"patch virtual services {DB} status"],
    ),
    ("a condition of the host goes", {**LB, **conditions("example.com/Ready")}, LB, [f"patch virtual services {DB} status"]),
    ("Update backward spec with recreation: the address is the host's", {}, addressed("10.96.1.1"), READDRESS),
    ("its second address is not the host's", spec(clusterIPs=[IP, "fd00::1"]), {}, READDRESS),
    ("the host has a second address, the virtual API server but one family", {}, spec(clusterIPs=[IP, "fd00::1"]), []),
    ("it wants a second address now", spec(ipFamilyPolicy="PreferDualStack"), spec(ipFamilyPolicy="SingleStack"), HOST_SPEC),
    ("another address, but it is being deleted", GOING, addressed("10.96.1.1"), []),
    ("both headless", addressed("None"), addressed("None"), []),
    (
        "headless now",
        addressed("None"),
        {},
        [f"delete host services {HOST_DB}", f"wait host services {HOST_DB}"],
    ),
    (
        "headless now, and of two families, which the host need not know",
        apply(addressed("None"), spec(ipFamilyPolicy="RequireDualStack")),
        spec(ipFamilyPolicy="SingleStack"),
        [f"delete host services {HOST_DB}", f"wait host services {HOST_DB}"],
    ),
    (
        "ExternalName now: the host drops the address by itself",
        spec(type="ExternalName", externalName="x.example", clusterIP=None, clusterIPs=None, selector=None),
        {},
        HOST_SPEC,
    ),
    ("ExternalName to ClusterIP: the host allocates first", {}, spec(type="ExternalName", clusterIP=None, clusterIPs=None), HOST_SPEC),
    (
        "ExternalName to NodePort",
        spec(type="NodePort", ports=[{**PORT, "nodePort": 30001}]),
        spec(type="ExternalName", clusterIP=None, clusterIPs=None),
        HOST_SPEC,
    ),
    ("host Service is being deleted by somebody", {}, deleting(None), [f"wait host services {HOST_DB}"]),
    ("virtual deleting (finalizers): works on until it is gone", GOING, {}, []),
    # the virtual Service was made anew
    ("host copy of a predecessor is taken over", {}, annotated(ANNOTATION_UID, "uid-before"), HOST_METADATA),
    # made by admission
    ("pending, and now the virtual one is stored", {}, pending("1"), HOST_METADATA),
    ("pending, young", None, pending(f"{NOW - 20:.0f}"), ["again 40"]),
    (
        "pending, old",
        None,
        pending(f"{NOW - 60:.0f}"),
        [f"delete host services {HOST_DB}"],
    ),
    ("pending, unreadable", None, pending("x"), [f"delete host services {HOST_DB}"]),
    (
        "pending, but of a predecessor: nobody saw that go",
        None,
        annotated(PENDING, f"{NOW - 60:.0f}"),
        [f"delete host services {HOST_DB} unexplained"],
    ),
    # changed by admission
    ("the host is ahead of an update", {}, apply(LB, annotated(CHANGING, f"{NOW - 20:.0f}/999")), ["again 40"]),
    (
        "it was, but the update never came",
        {},
        apply(LB, annotated(CHANGING, f"{NOW - 60:.0f}/999")),
        HOST_SPEC,
    ),
    ("it was, and the update came", LB, apply(LB, annotated(CHANGING, f"{NOW - 1:.0f}/0")), []),
    (
        "it was, and another update came",
        {},
        apply(LB, annotated(CHANGING, f"{NOW - 1:.0f}/0")),
        HOST_SPEC,
    ),
    ("a mark that says nothing", {}, annotated(CHANGING, "x"), []),
    # host only
    ("host only", None, {}, [f"delete host services {HOST_DB} unexplained"]),
    ("host only, deleting", None, deleting(None), []),
    ("excluded by annotation", annotated("vcluster.loft.sh/controlled-by", "x"), None, []),
    ("excluded by label", {"metadata": {"labels": {"vcluster.loft.sh/controlled-by": "x"}}}, None, []),
]


@pytest.mark.parametrize(("virtual", "host", "expected"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_rule(virtual: Obj | None, host: Obj | None, expected: list[str]) -> None:
    assert told(state(virtual, host).decide(services.SPEC, DB, waited=1)) == expected


@pytest.mark.parametrize(("virtual", "host"), [rule[1:3] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_every_state_settles(virtual: Obj | None, host: Obj | None) -> None:
    state(virtual, host).settle(services.SPEC, DB, waited=1)


def created(virtual: Obj) -> Obj:
    """What is asked of the host if it does not give the address."""
    (create,) = state(virtual, None).decide(services.SPEC, DB, waited=1)
    assert isinstance(create, Create)
    body: Obj = (create.obj, *create.alternatives)[min(1, len(create.alternatives))]["spec"]
    return body


def test_the_host_allocates_addresses_and_the_selector_is_narrowed() -> None:
    assert created({}) == {
        "type": "ClusterIP",
        "ports": [PORT],
        "selector": {"app": "db", "vcluster.loft.sh/managed-by": "vc", "vcluster.loft.sh/namespace": "default"},
        "sessionAffinity": "None",
    }


def test_without_a_selector_nothing_is_selected() -> None:
    assert "selector" not in created(spec(selector=None))


@pytest.mark.parametrize(
    ("asked", "passed"),
    [
        ({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}, {}),  # the virtual API server's default
        ({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]}, {"ipFamilyPolicy": "PreferDualStack"}),
        ({"ipFamilyPolicy": "RequireDualStack"}, {"ipFamilyPolicy": "RequireDualStack"}),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, {"clusterIP": "None"}),
        ({"loadBalancerClass": "x/y", "type": "LoadBalancer"}, {"loadBalancerClass": "x/y"}),
    ],
)
def test_fields_that_are_only_settable_at_creation(asked: Obj, passed: Obj) -> None:
    body = created(spec(**asked))
    fields = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "loadBalancerClass")
    assert {field: body[field] for field in fields if field in body} == passed


def test_node_ports_are_kept_as_asked() -> None:
    assert created(spec(type="NodePort", ports=[{**PORT, "nodePort": 30007}]))["ports"][0]["nodePort"] == 30007


def test_a_host_service_that_is_not_there_is_given_a_moment_to_show_or_to_let_go() -> None:
    assert told(state({}, None).decide(services.SPEC, DB)) == [f"wait host services {HOST_DB} at most 1"]


class TestReaddressing:
    """A Service that got past the admission webhook has an address of the virtual range."""

    def test_end_to_end(self) -> None:
        world = state({"metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]}, **addressed("10.43.5.5")}, None)
        assert world.settle(services.SPEC, DB, waited=1) == []
        virtual, host = world.get(Side.VIRTUAL, SERVICES, DB), world.get(Side.HOST, SERVICES, HOST_DB)
        assert virtual is not None
        assert host is not None
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"] != "10.43.5.5"
        assert virtual["metadata"]["labels"] == {"a": "b"}
        assert (uid_of(virtual), virtual["metadata"]["finalizers"]) == ("uid-db", ["x/y"]), "it is the same object"
        assert READDRESSING not in annotations_of(virtual)

    def test_all_that_it_was_comes_back(self) -> None:
        balanced = spec(
            type="LoadBalancer",
            clusterIPs=["10.43.5.5"],
            clusterIP="10.43.5.5",
            ports=[{**PORT, "nodePort": 31000}],
            loadBalancerSourceRanges=["192.0.2.0/24"],
            externalTrafficPolicy="Local",
            healthCheckNodePort=31001,
            sessionAffinity="ClientIP",
            sessionAffinityConfig={"clientIP": {"timeoutSeconds": 9}},
        )
        world = state(balanced, None)
        before = service(balanced)["spec"]
        world.settle(services.SPEC, DB, waited=1)
        virtual, host = world.get(Side.VIRTUAL, SERVICES, DB), world.get(Side.HOST, SERVICES, HOST_DB)
        assert virtual is not None
        assert host is not None
        addresses = {field: host["spec"][field] for field in ("clusterIP", "clusterIPs")}
        assert virtual["spec"] == {**before, **addresses}

    @pytest.mark.parametrize("done", [0, 1, 2])
    def test_interrupted_anywhere_it_is_finished_later(self, done: int) -> None:
        world = state({}, addressed("10.96.1.1"))
        world.carry_out(world.decide(services.SPEC, DB, waited=1)[:done])
        assert world.settle(services.SPEC, DB, waited=1) == []
        virtual = world.get(Side.VIRTUAL, SERVICES, DB)
        assert virtual is not None
        assert virtual["spec"] == {**service()["spec"], "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"]}
        assert world.get(Side.HOST, SERVICES, HOST_DB) is not None

    def test_the_host_service_goes_meanwhile(self) -> None:
        world = state({}, addressed("10.96.1.1"))
        world.carry_out(world.decide(services.SPEC, DB, waited=1)[:1])
        world.objects[Side.HOST, SERVICES].pop(HOST_DB)
        assert world.settle(services.SPEC, DB, waited=1) == []
        virtual, host = world.get(Side.VIRTUAL, SERVICES, DB), world.get(Side.HOST, SERVICES, HOST_DB)
        assert virtual is not None
        assert host is not None
        assert (virtual["spec"]["type"], virtual["spec"]["clusterIP"]) == ("ClusterIP", host["spec"]["clusterIP"])

    def test_the_tenant_is_told_of_both_addresses(self) -> None:
        world = state({}, addressed("10.96.1.1"))
        (warning,) = (intent for intent in world.decide(services.SPEC, DB, waited=1) if isinstance(intent, Warn))
        assert "10.96.1.1 now" in warning.message
        assert IP in warning.message

    def test_not_before_a_host_address_was_seen_to_be_accepted(self) -> None:
        world = state({}, addressed("10.96.1.1"), accepted=False)
        assert told(world.decide(services.SPEC, DB, waited=1)) == ["wait virtual services default/kubernetes"]

    @pytest.mark.parametrize("note", [None, "", "null", "[]"])
    def test_an_unreadable_note_leaves_an_external_name(self, note: str | None) -> None:
        external = spec(type="ExternalName", externalName="readdressing.invalid", clusterIP=None, clusterIPs=None)
        world = state(apply(external, annotated(READDRESSING, note)), None)
        assert world.settle(services.SPEC, DB, waited=1) == []
        host = world.get(Side.HOST, SERVICES, HOST_DB)
        assert host is not None
        assert host["spec"]["type"] == "ExternalName"

    def test_a_note_that_was_left_behind_goes(self) -> None:
        world = state(annotated(READDRESSING, "{}"), {})
        assert told(world.decide(services.SPEC, DB, waited=1)) == [f"patch virtual services {DB} metadata"]
        assert world.settle(services.SPEC, DB, waited=1) == []


class TestDeletedOnTheHost:
    """Somebody deleted the host Service: what it was is asked for again."""

    NODE_PORT = spec(type="NodePort", ports=[{**PORT, "nodePort": 30007}])

    def test_it_comes_back_with_the_same_address_and_ports(self) -> None:
        world = state(self.NODE_PORT, None)
        assert world.settle(services.SPEC, DB, waited=1) == []
        virtual, host = world.get(Side.VIRTUAL, SERVICES, DB), world.get(Side.HOST, SERVICES, HOST_DB)
        assert virtual is not None
        assert host is not None
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"] == IP
        assert host["spec"]["ports"][0]["nodePort"] == 30007
        assert [type(write) for write in world.log] == [Create]

    @pytest.mark.parametrize("taken", [{IP}, {IP, 30007}, {30007}], ids=["address", "both", "port"])
    def test_what_is_taken_by_now_is_replaced_and_the_virtual_one_follows(self, taken: set[Any]) -> None:
        world = state(self.NODE_PORT, None)
        world.taken = taken
        assert world.settle(services.SPEC, DB, waited=1) == []
        virtual, host = world.get(Side.VIRTUAL, SERVICES, DB), world.get(Side.HOST, SERVICES, HOST_DB)
        assert virtual is not None
        assert host is not None
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"] != IP
        assert virtual["spec"]["ports"] == host["spec"]["ports"]
        assert (host["spec"]["ports"][0]["nodePort"] == 30007) is (30007 not in taken)


def test_becoming_headless_makes_the_host_service_anew() -> None:
    world = state(addressed("None"), {})
    assert world.settle(services.SPEC, DB, waited=1) == []
    host = world.get(Side.HOST, SERVICES, HOST_DB)
    assert host is not None
    assert host["spec"]["clusterIP"] == "None"


def test_external_name_to_headless_keeps_the_host_service() -> None:
    world = state(addressed("None"), spec(type="ExternalName", clusterIP=None, clusterIPs=None))
    assert world.settle(services.SPEC, DB, waited=1) == []
    assert not any(isinstance(write, Delete) for write in world.log)


def test_kubernetes_is_never_copied() -> None:
    world = state(None, None)
    assert world.decide(services.SPEC, KUBERNETES) == []
    copy = {"metadata": {**named("x")["metadata"], "name": "kubernetes-x-default-x-vc", "namespace": HOST}}
    assert services.SPEC.virtual_key(copy, world.view()) is None


class TestAdmission:
    ASKED = named("db", spec={"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2, "nodePort": 30005}], "ipFamilies": ["IPv6"]})

    def test_the_pending_service(self) -> None:
        host = pending_service(NAMES, OWNER, self.ASKED, NOW + 0.9)
        assert host["metadata"]["annotations"][PENDING] == str(int(NOW))
        assert host["metadata"]["annotations"][ANNOTATION_UID] == ""
        assert host["spec"]["ipFamilies"] == ["IPv6"]
        assert host["spec"]["ports"] == [{"port": 1}, {"port": 2, "nodePort": 30005}]

    def test_the_answer(self) -> None:
        host = pending_service(NAMES, OWNER, self.ASKED, NOW)
        host["spec"] |= {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilyPolicy": "SingleStack", "healthCheckNodePort": 31000}
        host["spec"]["ports"] = [{"port": 1, "protocol": "TCP", "nodePort": 30001}, {"port": 2, "protocol": "TCP", "nodePort": 30005}]
        assert admission_patch(self.ASKED, host) == [
            {"op": "add", "path": "/spec/clusterIP", "value": "fd00::1"},
            {"op": "add", "path": "/spec/clusterIPs", "value": ["fd00::1"]},
            {"op": "add", "path": "/spec/ipFamilyPolicy", "value": "SingleStack"},
            {"op": "add", "path": "/spec/healthCheckNodePort", "value": 31000},
            {"op": "add", "path": "/spec/ports/0/nodePort", "value": 30001},
        ]

    def test_an_external_name_gets_no_address(self) -> None:
        asked = named("db", spec={"type": "ExternalName", "externalName": "x.example"})
        assert admission_patch(asked, pending_service(NAMES, OWNER, asked, NOW)) == []

    def test_adopted_without_another_write_to_the_virtual_side(self) -> None:
        world = state(None, None)
        host = world.put(Side.HOST, SERVICES, pending_service(NAMES, OWNER, service(), NOW))
        host["spec"] |= {"clusterIP": IP, "clusterIPs": [IP]}
        world.put(Side.VIRTUAL, SERVICES, service())
        assert world.settle(services.SPEC, DB, waited=1) == []
        assert [type(write) for write in world.log] == [Patch]
        host_now = world.get(Side.HOST, SERVICES, HOST_DB)
        assert host_now is not None
        assert PENDING not in host_now["metadata"]["annotations"]
        assert host_now["metadata"]["annotations"][ANNOTATION_UID] == "uid-db"


TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")


@st.composite
def specs(draw: st.DrawFn) -> Obj:
    kind = draw(st.sampled_from(TYPES))
    node_ports = kind in ("NodePort", "LoadBalancer")
    ports = draw(st.lists(st.sampled_from([1, 2, 3]), unique=True, min_size=1, max_size=3))
    result: Obj = {
        "type": kind,
        "clusterIP": None,
        "clusterIPs": None,
        "ports": [{**PORT, "name": f"p{port}", "port": port, **({"nodePort": 30000 + port} if node_ports else {})} for port in ports],
        "selector": draw(st.sampled_from([None, {"app": "db", "x": None}, {"x": "y", "app": None}])),
        "externalName": "x.example" if kind == "ExternalName" else None,
        "loadBalancerSourceRanges": draw(st.sampled_from([None, ["192.0.2.0/24"]])),
        "internalTrafficPolicy": draw(st.sampled_from([None, "Cluster", "Local"])),
    }
    if kind != "ExternalName":
        address = draw(st.sampled_from([IP, "10.96.1.1", *(["None"] if kind == "ClusterIP" else [])]))
        result |= {"clusterIP": address, "clusterIPs": [address]}
    return {"spec": result}


MARKS = st.fixed_dictionaries(
    {ANNOTATION_UID: st.sampled_from(["uid-db", "", "uid-before"])}, optional={PENDING: st.sampled_from(["1", f"{NOW:.0f}", "x"])}
)


@given(virtual=st.none() | specs(), host=st.none() | specs(), marks=MARKS, gone=st.booleans())
def test_any_state_settles_and_stays(virtual: Obj | None, host: Obj | None, marks: dict[str, str], gone: bool) -> None:
    deletion: Obj = deleting(None)["metadata"] if gone else {}
    world = state(
        None if virtual is None else {**virtual, "metadata": {**deletion, **({"finalizers": ["x/y"]} if gone else {})}},
        None if host is None else {**host, "metadata": {"annotations": marks}},
    )
    world.settle(services.SPEC, DB, waited=1)
    left, copy = world.get(Side.VIRTUAL, SERVICES, DB), world.get(Side.HOST, SERVICES, HOST_DB)
    assert (left is None) == (virtual is None), "a tenant's Service came or went"
    if left is not None and copy is not None and not gone:
        assert left["spec"].get("clusterIP") == copy["spec"].get("clusterIP")
        assert left["spec"]["type"] == copy["spec"]["type"]
