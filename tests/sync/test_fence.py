"""The fence: which control plane belongs to the host namespace, and what happens when another one answers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from syncer.errors import FenceClosed
from syncer.kube.client import Client
from syncer.kube.types import CONFIGMAPS, NAMESPACES, Key, Side, uid_of
from syncer.sync.fence import PAUSED_AT, RELEASE_DELETIONS, VIRTUAL_UID, Fence, owner_key
from syncer.sync.recorder import Notice
from tests.fakes.apiserver import FakeApiServer

OWNER = owner_key("host-ns", "one")


class Notices:
    """Stands in for the recorder."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def warn(self, notice: Notice) -> None:
        self.reasons.append(notice.reason)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fence(clients: Mapping[Side, Client], notices: Notices | None = None, clock: Clock | None = None) -> Fence:
    return Fence(
        virtual=clients[Side.VIRTUAL],
        host=clients[Side.HOST],
        recorder=notices or Notices(),
        namespace="host-ns",
        name="one",
        clock=clock or Clock(),
    )


def kube_system_uid(api: FakeApiServer) -> str:
    namespace = api.get(NAMESPACES, Key("", "kube-system"))
    assert namespace is not None
    return uid_of(namespace)


async def test_the_first_control_plane_is_recorded_and_stays_welcome(clients: Mapping[Side, Client], virtual_api: FakeApiServer) -> None:
    one = fence(clients)
    with pytest.raises(FenceClosed, match="not checked yet"):
        one.require_open()
    await one.open()
    assert one.closed is None
    assert one.virtual_uid == kube_system_uid(virtual_api)
    again = fence(clients)
    await again.open()
    assert again.closed is None
    assert again.owner_uid == one.owner_uid
    assert again.owner_reference()["uid"] == one.owner_uid


async def test_a_wiped_control_plane_closes_it_while_running_and_is_told_once(
    clients: Mapping[Side, Client], virtual_api: FakeApiServer
) -> None:
    notices, clock = Notices(), Clock()
    running = fence(clients, notices, clock)
    await running.open()
    virtual_api.wipe()
    clock.now += 10
    for _ in range(3):
        with pytest.raises(FenceClosed, match="lost its data or is another cluster"):
            await running.verify()
    assert running.closed is not None
    assert notices.reasons == ["FenceClosed"]


async def test_a_wiped_control_plane_is_refused_by_a_restarted_syncer(clients: Mapping[Side, Client], virtual_api: FakeApiServer) -> None:
    await fence(clients).open()
    virtual_api.wipe()
    restarted = fence(clients)
    with pytest.raises(FenceClosed, match="delete the ConfigMap host-ns/vc-one-owner"):
        await restarted.open()
    with pytest.raises(FenceClosed):
        restarted.require_open()


async def test_it_opens_again_when_the_right_control_plane_is_back(clients: Mapping[Side, Client], virtual_api: FakeApiServer) -> None:
    clock = Clock()
    running = fence(clients, clock=clock)
    await running.open()
    kube_system = virtual_api.get(NAMESPACES, Key("", "kube-system"))
    assert kube_system is not None
    virtual_api.wipe()
    clock.now += 10
    with pytest.raises(FenceClosed):
        await running.verify()
    virtual_api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "uid": uid_of(kube_system)}})
    await running.verify()
    assert running.closed is None


async def test_a_control_plane_without_kube_system_is_nobody(clients: Mapping[Side, Client], virtual_api: FakeApiServer) -> None:
    clock = Clock()
    running = fence(clients, clock=clock)
    await running.open()
    virtual_api.remove(NAMESPACES, Key("", "kube-system"))
    clock.now += 10
    with pytest.raises(FenceClosed, match="no kube-system"):
        await running.verify()


async def test_two_virtual_clusters_have_two_owners(clients: Mapping[Side, Client], host_api: FakeApiServer) -> None:
    await fence(clients).open()
    other = Fence(
        virtual=clients[Side.VIRTUAL], host=clients[Side.HOST], recorder=Notices(), namespace="host-ns", name="two", clock=Clock()
    )
    await other.open()
    names = {obj["metadata"]["name"] for obj in host_api.objects(CONFIGMAPS, "host-ns")}
    assert names == {"vc-one-owner", "vc-two-owner"}


async def test_an_owner_that_is_gone_or_was_made_anew_closes_it(clients: Mapping[Side, Client], host_api: FakeApiServer) -> None:
    running = fence(clients)
    await running.open()
    host_api.remove(CONFIGMAPS, OWNER)
    with pytest.raises(FenceClosed, match="is gone"):
        await running.verify_host()
    host_api.put(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": OWNER.name, "namespace": OWNER.namespace},
            "data": {VIRTUAL_UID: "x"},
        }
    )
    with pytest.raises(FenceClosed, match="was made anew"):
        await running.verify_host()
    await running.verify()
    assert running.closed is not None, "the virtual side being right does not make up for the host side"


@pytest.mark.parametrize(
    ("text", "epoch"),
    [pytest.param("2026-01-02T03:04:05Z", 1767323045.0, id="RFC 3339"), pytest.param("yesterday", None, id="unreadable is ignored")],
)
async def test_a_release_is_read_from_the_owner(
    clients: Mapping[Side, Client], host_api: FakeApiServer, text: str, epoch: float | None
) -> None:
    running = fence(clients)
    await running.open()
    assert running.released_at is None
    host_api.change(CONFIGMAPS, OWNER, {"metadata": {"annotations": {RELEASE_DELETIONS: text}}})
    await running.verify_host()
    assert running.released_at == epoch


async def test_it_knows_of_the_last_pause_from_the_start(clients: Mapping[Side, Client]) -> None:
    first = fence(clients)
    await first.open()
    assert first.paused_at == 0.0
    for text, expected in (("1970-01-01T00:01:00Z", 60.0), ("yesterday", 0.0)):
        await clients[Side.HOST].patch(CONFIGMAPS, OWNER, {"metadata": {"annotations": {PAUSED_AT: text}}})
        resumed = fence(clients)
        await resumed.open()
        assert resumed.paused_at == expected
