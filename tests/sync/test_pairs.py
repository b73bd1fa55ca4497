"""Pairs through the whole engine: what arrives on the other side, with how many writes, and what waits for what."""

from __future__ import annotations

import asyncio

import pytest

from syncer.kube.types import CONFIGMAPS, EVENTS, NAMESPACES, NODES, PODS, SECRETS, SERVICES, Key, Side, key_of, uid_of
from tests.fakes.requests import is_write, on
from tests.sync.harness import NAMES, clock, host_event, named, pod, running, service, stage

pytestmark = pytest.mark.looptime


async def test_a_pod_with_all_it_needs_arrives_runs_and_goes_with_a_bounded_number_of_writes() -> None:
    async with running() as world:
        began = clock()
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        world.virtual.create(named("Secret", "password", data={"b": "Mg=="}))
        world.virtual.create(service("web"))
        world.virtual.create(pod("web", tokens=True, configmap="settings", secret="password"))
        await world.settle_running()
        virtual = world.virtual_pod("web")
        assert virtual is not None
        assert virtual["spec"]["nodeName"] == "node-1"
        assert virtual["status"]["phase"] == "Running"
        assert world.host_copy(CONFIGMAPS, "settings") is not None
        assert world.host_copy(SECRETS, "password") is not None
        web, copy = world.virtual.get(SERVICES, Key("default", "web")), world.host_copy(SERVICES, "web")
        assert web is not None
        assert copy is not None
        assert web["spec"]["clusterIP"] == copy["spec"]["clusterIP"]
        assert world.virtual.get(NODES, Key("", "node-1")) is not None
        for resource in (PODS, CONFIGMAPS):
            assert len(world.journal.find("create", resource, side=Side.HOST, since=began)) == 1, resource
        assert len(world.journal.find("create", SECRETS, side=Side.HOST, since=began)) == 2, "the copy and the tokens"
        assert len(world.journal.find("create", PODS, subresource="binding", since=began)) == 1
        assert world.syncer is not None
        assert world.syncer.rows() == {}
        assert await world.scan_writes() == []

        world.virtual.registry.delete(PODS, Key("default", "web"), {})
        await world.settle_running()
        assert world.virtual_pod("web") is None
        assert world.host_pod("web") is None
        assert world.host_copy(CONFIGMAPS, "settings") is None
        assert world.host.objects(SECRETS) == []
        assert world.virtual.get(NODES, Key("", "node-1")) is None
        assert await world.scan_writes() == []
        assert world.syncer.rows() == {}


async def test_a_second_reconcile_before_the_watch_event_creates_nothing_twice() -> None:
    async with running() as world:
        assert world.syncer is not None
        world.host.hang_watches()
        began = clock()
        world.virtual.create(pod("web"))
        await world.settle()
        for _ in range(3):
            world.virtual.change(PODS, Key("default", "web"), {"metadata": {"annotations": {"touched": str(clock())}}})
            await world.settle()
        assert len(world.journal.find("create", PODS, side=Side.HOST, since=began)) == 1
        assert world.syncer.outcomes.counts["pods", "stale"] == 0
        patches = world.journal.find("patch", PODS, side=Side.HOST, since=began)
        assert len(patches) == 3, "and each change goes down once, from what our own writes answered"
        assert await world.scan_writes() == []


async def test_a_pod_waits_for_the_address_of_the_dns_and_goes_on_the_moment_it_is_there() -> None:
    async with stage() as world:
        dns = Key(NAMES.host_namespace, "one-dns")
        body = world.host.get(SERVICES, dns)
        assert body is not None
        world.host.remove(SERVICES, dns)
        syncer = await world.start()
        world.virtual.create(pod("web"))
        await world.settle()
        assert syncer.rows() == {("pods", "default/web"): "waiting"}
        assert world.host_pod("web") is None
        asked = world.journal.lively()
        await asyncio.sleep(300)
        assert world.journal.lively() == asked, "waiting is not polling"
        appeared = clock()
        world.host.put(service("one-dns", NAMES.host_namespace, clusterIP="10.96.0.99"))
        await world.settle()
        (created,) = world.journal.find("create", PODS, side=Side.HOST)
        assert created.at - appeared < 0.5
        assert syncer.rows() == {}


async def test_a_pod_is_created_after_the_copies_of_what_it_mounts() -> None:
    async with running() as world:
        slow = world.host.fault(on("create", CONFIGMAPS), delay=2.0)
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        world.virtual.create(pod("web", configmap="settings"))
        await world.settle()
        assert slow.hits == 1
        (created,), (copied,) = (world.journal.find("create", kind, side=Side.HOST, since=0.1) for kind in (PODS, CONFIGMAPS))
        assert created.at - copied.at == pytest.approx(2.0, abs=0.2)


async def test_a_pod_waits_for_a_copy_that_the_host_refuses_and_says_so() -> None:
    async with running() as world:
        refusal = world.host.fault(on("create", CONFIGMAPS), status=403, message="exceeded quota")
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        world.virtual.create(pod("web", configmap="settings"))
        await asyncio.sleep(10)
        assert world.journal.find("create", PODS, side=Side.HOST) == []
        assert ("NotCopied", "web") in world.warnings()
        refusal.lift()
        await asyncio.sleep(30)
        assert world.host_pod("web") is not None, "once it is there, the pod is created"


async def test_a_node_that_is_waited_for_wakes_the_pod_even_when_it_appears_during_the_write_before() -> None:
    """The status goes up first, the wait for the Node is noted after it: the Node may come in between."""
    async with running() as world:
        world.virtual.fault(on("patch", PODS, subresource="status"), delay=3.0)
        world.virtual.fault(on("create", NODES), delay=1.0)
        world.virtual.create(pod("web"))
        await world.settle()
        began = clock()
        world.run_pods()
        await world.settle()
        (bound,) = world.journal.find("create", PODS, subresource="binding")
        assert bound.at - began < 10


async def test_a_crash_between_a_create_and_its_answer_leaves_one_pod() -> None:
    async with running() as world:
        world.host.hang_watches()
        lost = world.host.fault(on("create", PODS), drop=True, after=True, times=1)
        world.virtual.create(pod("web"))
        await asyncio.sleep(5)
        assert lost.hits == 1
        await world.settle()
        assert len(world.host.objects(PODS)) == 1
        assert len(world.journal.find("create", PODS, side=Side.HOST)) == 2, "the second one found it there, and adopted it"
        assert world.warnings() == []
        assert world.syncer is not None
        assert world.syncer.rows() == {}
        assert await world.scan_writes() == []


async def test_a_restarted_syncer_adopts_what_its_predecessor_made_without_having_heard_so() -> None:
    async with running() as world:
        world.host.fault(on("create", PODS), hang=True, after=True, times=1)
        world.virtual.create(pod("web"))
        await asyncio.sleep(1)
        await world.kill()
        await world.start()
        await world.settle()
        assert len(world.journal.find("create", PODS, side=Side.HOST)) == 1
        assert await world.scan_writes() == []


async def test_a_restart_writes_nothing() -> None:
    async with running() as world:
        world.virtual.create(named("ConfigMap", "settings", data={"a": "1"}))
        world.virtual.create(service("web", type="NodePort"))
        world.virtual.create(pod("web", tokens=True, configmap="settings"))
        await world.settle_running()
        host = world.host_pod("web")
        assert host is not None
        world.host.create(host_event("web.1", host))
        await world.settle()
        await world.kill()
        began = clock()
        await world.start()
        await world.settle()
        assert world.journal.writes(since=began) == []


@pytest.mark.parametrize(
    "ours", [pytest.param(False, id="a foreign pod"), pytest.param(True, id="a copy with our labels and another name")]
)
async def test_a_foreign_object_in_the_way_is_told_of_and_left_alone(ours: bool) -> None:
    async with running() as world:
        assert world.syncer is not None
        key = NAMES.host_key(Key("default", "web"))
        foreign = pod(key.name, key.namespace)
        if ours:
            labels = {"vcluster.loft.sh/managed-by": "one", "vcluster.loft.sh/namespace": "default"}
            marks = {"vcluster.loft.sh/object-name": "other", "vcluster.loft.sh/object-namespace": "default"}
            foreign["metadata"] |= {"labels": labels, "annotations": marks}
        world.host.create(foreign)
        world.protect(Side.HOST, PODS, key, unchanged=True)
        world.virtual.create(pod("web"))
        await asyncio.sleep(120)
        assert world.warnings() == [("NameTaken", "web")]
        assert world.syncer.rows() == {("pods", "default/web"): "refused"}
        assert len(world.journal.find("create", PODS, side=Side.HOST)) < 15
        world.virtual.registry.delete(PODS, Key("default", "web"), {})
        await world.settle()
        assert world.syncer.rows() == {}


async def test_when_the_foreign_object_goes_the_pod_comes() -> None:
    async with running() as world:
        key = NAMES.host_key(Key("default", "web"))
        foreign = world.host.create(pod(key.name, key.namespace))
        world.virtual.create(pod("web"))
        await asyncio.sleep(60)
        world.host.remove(PODS, key)
        await asyncio.sleep(60)
        made = world.host_pod("web")
        assert made is not None
        assert uid_of(made) != uid_of(foreign)
        assert world.syncer is not None
        assert world.syncer.rows() == {}


async def test_a_host_object_that_replaced_ours_is_not_deleted_in_its_place() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle()
        world.host.hang_watches()
        key = NAMES.host_key(Key("default", "web"))
        world.host.remove(PODS, key)
        world.host.create(pod(key.name, key.namespace))
        world.protect(Side.HOST, PODS, key, unchanged=True)
        world.virtual.registry.delete(PODS, Key("default", "web"), {})
        await world.settle()
        assert len(world.journal.find("delete", PODS, side=Side.HOST)) == 1, "it was tried, with the UID of the one that was meant"


async def test_a_deletion_that_conflicts_for_another_reason_is_tried_again() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle()
        refused = world.host.fault(on("delete", PODS), status=409, times=2)
        world.virtual.registry.delete(PODS, Key("default", "web"), {})
        await asyncio.sleep(5)
        await world.settle()
        assert refused.hits == 2
        assert world.host_pod("web") is None


async def test_a_pod_deleted_and_made_anew_gets_a_host_pod_of_its_own_after_the_first_one_ended() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle_running()
        first = world.host_pod("web")
        assert first is not None
        world.virtual.remove(PODS, Key("default", "web"))
        second = world.virtual.create(pod("web"))
        await world.settle()
        now = world.host_pod("web")
        assert now is not None
        assert uid_of(now) == uid_of(first), "graceful"
        assert now["metadata"]["deletionTimestamp"]
        await world.settle_running()
        now, virtual = world.host_pod("web"), world.virtual_pod("web")
        assert now is not None
        assert virtual is not None
        assert uid_of(now) != uid_of(first)
        assert uid_of(virtual) == uid_of(second)
        assert virtual["status"]["phase"] == "Running"
        assert await world.scan_writes() == []


async def test_a_host_pod_that_vanishes_takes_its_virtual_pod_along_and_is_not_made_anew() -> None:
    async with running() as world:
        world.virtual.create(pod("web"))
        await world.settle_running()
        world.host.remove(PODS, NAMES.host_key(Key("default", "web")))
        await world.settle()
        assert world.virtual_pod("web") is None
        assert world.host.objects(PODS) == []


async def test_a_service_that_got_past_admission_gets_the_hosts_address_by_one_write_each() -> None:
    async with running() as world:
        began = clock()
        world.virtual.create(service("web"))
        await world.settle()
        virtual, host = world.virtual.get(SERVICES, Key("default", "web")), world.host_copy(SERVICES, "web")
        assert virtual is not None
        assert host is not None
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"]
        writes = [(entry.side, entry.request.verb) for entry in world.journal.entries if entry.at >= began and is_write(entry.request)]
        assert writes == [
            (Side.HOST, "create"),  # asks for the address that it has, in vain
            (Side.HOST, "create"),
            (Side.VIRTUAL, "patch"),  # gives its address up, and notes what it was
            (Side.VIRTUAL, "patch"),
            (Side.VIRTUAL, "create"),  # the event that tells of it
        ]
        assert await world.scan_writes() == []


@pytest.mark.parametrize("after", [False, True])
async def test_a_service_survives_a_crash_while_it_is_readdressed(after: bool) -> None:
    async with running() as world:
        world.virtual.fault(on("patch", SERVICES, namespace="default"), hang=True, after=after, times=1)
        uid = uid_of(world.virtual.create(service("web", selector={"app": "here"})))
        await asyncio.sleep(1)
        await world.kill()
        await world.start()
        await world.settle()
        virtual, host = world.virtual.get(SERVICES, Key("default", "web")), world.host_copy(SERVICES, "web")
        assert virtual is not None
        assert host is not None
        assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"]
        assert (uid_of(virtual), virtual["spec"]["type"], virtual["spec"]["selector"]) == (uid, "ClusterIP", {"app": "here"})
        assert await world.scan_writes() == []


class TestNamespaces:
    async def test_a_namespace_that_is_deleted_takes_its_pods_along_on_the_host(self) -> None:
        async with running() as world:
            world.virtual.create(named("Namespace", "shop", ""))
            world.virtual.create(named("ServiceAccount", "default", "shop"))
            world.virtual.create(named("ConfigMap", "settings", "shop", data={"a": "1"}))
            world.virtual.create(service("web", "shop"))
            for name in ("a", "b"):
                world.virtual.create(pod(name, "shop", configmap="settings", tokens=True))
            await world.settle_running()
            assert len(world.host.objects(PODS)) == 2
            world.virtual.registry.delete(NAMESPACES, Key("", "shop"), {})
            await world.settle_running()
            assert world.virtual.get(NAMESPACES, Key("", "shop")) is None
            left = [key_of(obj).name for kind in (PODS, SECRETS, SERVICES, CONFIGMAPS) for obj in world.host.objects(kind)]
            assert sorted(left) == ["one", "one-dns", "vc-one-owner"]
            assert world.syncer is not None
            assert world.syncer.rows() == {}
            assert await world.scan_writes() == []

    async def test_nothing_is_created_in_a_namespace_that_is_terminating_nor_tried_in_a_hot_loop(self) -> None:
        async with running() as world:
            world.virtual.create(named("Namespace", "shop", ""))
            world.virtual.create(pod("a", "shop"))
            await world.settle_running()
            world.virtual.registry.delete(NAMESPACES, Key("", "shop"), {})
            await world.settle()
            host = world.host_pod("a", "shop")
            assert host is not None
            began = clock()
            world.host.create(host_event("a.killing", host))
            await asyncio.sleep(60)
            assert world.journal.find("create", EVENTS, since=began) == []
            await world.settle_running()
            assert world.virtual.get(NAMESPACES, Key("", "shop")) is None

    async def test_a_namespace_that_is_gone_without_our_having_heard_stops_nobody(self) -> None:
        async with running() as world:
            assert world.syncer is not None
            world.virtual.create(named("Namespace", "shop", ""))
            world.virtual.create(pod("a", "shop"))
            await world.settle_running()
            world.virtual.hang_watches()
            world.virtual.remove(PODS, Key("shop", "a"))
            world.virtual.remove(NAMESPACES, Key("", "shop"))
            host = world.host_pod("a", "shop")
            assert host is not None
            began = clock()
            world.host.create(host_event("a.killing", host))
            await asyncio.sleep(60)
            tried = world.journal.find("create", EVENTS, since=began)
            assert 0 < len(tried) < 15
            assert world.syncer.outcomes.counts["events", "stale"] == len(tried)
            world.virtual.resume_watches()
            await asyncio.sleep(60)
            await world.settle_running()
            assert world.host.objects(PODS) == []

    async def test_a_host_namespace_that_is_terminating_is_not_the_tenants_fault(self) -> None:
        async with running() as world:
            world.host.change(NAMESPACES, Key("", NAMES.host_namespace), {"metadata": {"deletionTimestamp": "2027-01-15T08:00:00Z"}})
            began = clock()
            world.virtual.create(pod("web"))
            await asyncio.sleep(120)
            assert 0 < len(world.journal.find("create", PODS, side=Side.HOST, since=began)) < 15
            assert world.warnings() == []
            assert world.syncer is not None
            assert world.syncer.rows() == {("pods", "default/web"): "retrying"}, "but whoever looks is told"
