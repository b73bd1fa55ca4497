"""Two replicas while a tenant creates and deletes pods all the time: one of them writes, and the other goes on when it cannot.

Who wrote what, and when it arrived, is taken from the audit logs of both API servers.
"""

from __future__ import annotations

import signal
import ssl
import time
from base64 import b64decode
from typing import TYPE_CHECKING

import pytest

from e2e.lab.api import ApiFailure, wait_until
from e2e.replicas import LEASE, Replica, Replicas, churn
from e2e.witness import Witness
from syncer.kube.types import MUTATING_WEBHOOKS, SECRETS, SERVICE_CIDRS, SERVICES, is_deleting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Obj

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes")]

BUSY = 10.0
"""Seconds that a machine with other things to do may take besides what a rule allows."""


@pytest.fixture(scope="module")
def replicas(virtual_cluster: StartVirtual) -> Iterator[Replicas]:
    virtual = virtual_cluster("pairwise")
    with Replicas(virtual) as both:
        yield both
    virtual.remove(wait=False)


def kill(leader: Replica) -> None:
    leader.kill()


def stop(leader: Replica) -> None:
    leader.send(signal.SIGSTOP)


def hang(leader: Replica) -> None:
    leader.link.hang()


def refuse(leader: Replica) -> None:
    leader.link.refuse()


def restart(leader: Replica) -> None:
    leader.start(ready=False)


def go_on(leader: Replica) -> None:
    leader.send(signal.SIGCONT)


def mend(leader: Replica) -> None:
    leader.link.mend()


@pytest.mark.parametrize(
    ("fault", "mending"),
    [
        pytest.param(kill, restart, id="killed"),
        pytest.param(stop, go_on, id="stopped"),
        pytest.param(hang, mend, id="cut-off"),
        pytest.param(refuse, mend, id="refused", marks=pytest.mark.long),
    ],
)
def test_the_other_takes_over_and_the_old_leader_writes_nothing_more(
    replicas: Replicas, request: pytest.FixtureRequest, fault: Callable[[Replica], None], mending: Callable[[Replica], None]
) -> None:
    replicas.start()
    leader, other = replicas.roles()
    began = time.time()
    with Witness(replicas.virtual) as witness, churn(replicas.virtual, f"{request.node.callspec.id}"):
        replicas.first_write(leader, since=began)
        at = time.time()
        fault(leader)
        taken = replicas.took_over_at(other, since=at)
        assert taken - at <= LEASE + 2
        assert replicas.first_write(other, since=at) - at <= LEASE + 2 + BUSY
        time.sleep(1)  # what the old leader missed piles up meanwhile
        mending(leader)
        wait_until(lambda: leader.get("/readyz")[0] == 200 and not leader.leads, "the old leader is back, as a candidate")
        time.sleep(1)
    assert replicas.intruders(since=began) == []
    assert replicas.created_twice() == []
    assert witness.problems == []
    assert other.leads, "and it keeps the lead"


@pytest.mark.long
def test_a_rolling_restart_costs_no_lease(replicas: Replicas) -> None:
    replicas.start()
    began = time.time()
    with Witness(replicas.virtual) as witness, churn(replicas.virtual, "rolling"):
        for _ in range(2):
            leader, other = replicas.roles()
            at = time.time()
            leader.stop(grace=20)
            # It gives the lease up as its last write; the other looks each half second.
            released = max(write.at for write in replicas.lease_writes() if write.user == leader.user)
            assert released >= at
            assert replicas.took_over_at(other, since=at) - released <= 2, "at once, not when the lease runs out"
            leader.start()
            replicas.first_write(other, since=at)
    assert replicas.intruders(since=began) == []
    assert replicas.created_twice() == []
    assert witness.problems == []


def test_a_candidate_is_ready_and_says_who_leads(replicas: Replicas) -> None:
    replicas.start()
    leader, other = replicas.roles()
    holder = replicas.lease()["spec"]["holderIdentity"]
    assert other.get("/readyz") == (200, f"ok\n[+]leadership ok, but {holder} leads\n")
    assert leader.get("/readyz") == (200, "ok\n")
    assert (leader.metric("syncer_leader"), other.metric("syncer_leader")) == (1, 0)
    assert f"-{leader.pid}_" in holder


def test_a_lease_that_somebody_deletes_changes_nothing(replicas: Replicas) -> None:
    replicas.start()
    leader, _ = replicas.roles()
    began = time.time()
    with churn(replicas.virtual, "deleted"):
        for _ in range(3):
            replicas.virtual.host.api.delete(replicas.lease_path)
            wait_until(lambda: replicas.virtual.host.api.find(replicas.lease_path) is not None, "the lease is made again")
    assert leader.leads
    assert replicas.intruders(since=began) == []


def service(name: str) -> Obj:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}


def webhook(replicas: Replicas) -> Obj:
    configured: Obj = replicas.virtual.api.get(MUTATING_WEBHOOKS.path("", "syncer.vcluster.loft.sh"))["webhooks"][0]["clientConfig"]
    return configured


def test_a_candidate_gives_services_their_addresses(replicas: Replicas) -> None:
    """Each API server calls the replica beside it. Here is one for both, which calls whoever has come last."""
    replicas.start()
    leader, other = replicas.roles()
    other.stop()
    other.start()
    assert f":{other.webhook_port}/" in webhook(replicas)["url"]
    creations = 'syncer_api_requests_total{code="201",resource="services",side="host",verb="create"}'
    before = leader.metric(creations)  # Services of nodes
    made = replicas.virtual.api.request("POST", SERVICES.path("default"), service("from-a-candidate"))
    path = SERVICES.path(replicas.virtual.host_namespace, "from-a-candidate-x-default-x-pairwise")
    host = replicas.virtual.host.api.get(path)
    assert made["spec"]["clusterIP"] == host["spec"]["clusterIP"]
    assert (leader.metric(creations), other.metric(creations)) == (before, 1)
    # The leader adopts what the other one has made.
    uid = made["metadata"]["uid"]
    wait_until(lambda: uid in str(replicas.virtual.host.api.get(path)["metadata"]["annotations"]), "the host Service is adopted")
    replicas.virtual.api.delete(SERVICES.path("default", "from-a-candidate"))
    wait_until(lambda: replicas.virtual.host.api.find(path) is None, "and goes with the virtual one")


def test_all_replicas_have_one_authority(replicas: Replicas) -> None:
    replicas.start()
    secret = replicas.virtual.host.api.get(SECRETS.path(replicas.virtual.host_namespace, "vc-pairwise-webhook"))
    assert secret["metadata"]["ownerReferences"][0]["name"] == "vc-pairwise-owner"
    bundle = webhook(replicas)["caBundle"]
    assert secret["data"]["ca.crt"] == bundle
    context = ssl.create_default_context(cadata=b64decode(bundle).decode())
    served = {ssl.get_server_certificate(("127.0.0.1", replica.webhook_port)) for replica in replicas.both}
    assert len(served) == 2, "certificates of their own"
    for replica in replicas.both:
        replica.handshake(context)
    key = b64decode(secret["data"]["ca.key"]).decode().splitlines()[1]
    for replica in replicas.both:
        assert key not in replica.log_text()


WEBHOOK = MUTATING_WEBHOOKS.path("", "syncer.vcluster.loft.sh")


def test_who_comes_to_lead_mends_the_webhook(replicas: Replicas) -> None:
    replicas.start()
    leader, other = replicas.roles()
    replicas.virtual.api.delete(WEBHOOK)
    leader.kill()
    wait_until(lambda: other.leads, "the other leads")
    wait_until(lambda: replicas.virtual.api.find(WEBHOOK) is not None, "it is back")
    assert f":{other.webhook_port}/" in webhook(replicas)["url"]


def test_who_comes_to_lead_mends_what_a_tenant_edited_and_deleted(replicas: Replicas) -> None:
    """kubectl edit owns the fields that it changes; a range of addresses in use is never quite gone, but lets no Service have one."""
    replicas.start()
    leader, other = replicas.roles()
    api = replicas.virtual.api
    api.request("POST", SERVICES.path("default"), service("before"))
    edited = api.get(WEBHOOK)
    edited["webhooks"][0] |= {"failurePolicy": "Ignore", "objectSelector": {"matchLabels": {"none": "such"}}}
    api.request("PUT", WEBHOOK, edited, params={"fieldManager": "kubectl-edit"})
    ranges = {one["metadata"]["name"] for one in api.get(SERVICE_CIDRS.path())["items"] if one["metadata"]["name"] != "kubernetes"}
    for name in ranges:
        api.delete(SERVICE_CIDRS.path("", name))
    assert {one["metadata"]["name"] for one in api.get(SERVICE_CIDRS.path())["items"] if is_deleting(one)} == ranges, "in use"
    leader.kill()
    wait_until(lambda: api.get(WEBHOOK)["webhooks"][0]["failurePolicy"] == "Fail", "it is as it was")
    assert api.get(WEBHOOK)["webhooks"][0]["objectSelector"] == {}
    wait_until(lambda: makes(replicas, service("after")), "Services get addresses again")
    assert other.leads
    for name in ("before", "after"):
        api.delete(SERVICES.path("default", name))


def makes(replicas: Replicas, body: Obj) -> bool:
    try:
        replicas.virtual.api.request("POST", SERVICES.path("default"), body)
    except ApiFailure:
        return False
    return True
