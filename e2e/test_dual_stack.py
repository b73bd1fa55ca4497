"""Services of two IP families, on a host that has both, for virtual clusters that have both or one; and the other way round."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from e2e.daemon import Daemon
from e2e.lab.api import ApiFailure, wait_until
from e2e.lab.host import HostCluster
from e2e.lab.state import HOST_SERVICE_RANGE, Lab
from e2e.lab.teardown import down
from e2e.lab.virtual import VirtualCluster
from e2e.servicepairs import ServicePairs, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.api import Obj

pytestmark = [pytest.mark.apiserver, pytest.mark.long]

HOST_RANGES = f"{HOST_SERVICE_RANGE},fd96::/112"
VIRTUAL_RANGES = "10.97.0.0/16,fd97::/112"
BOTH = ["IPv4", "IPv6"]


@pytest.fixture(scope="module")
def host() -> Iterator[HostCluster]:
    """A host of two families, in a lab of its own."""
    lab = Lab(f"test-{os.getpid()}-dual")
    try:
        cluster = HostCluster(lab)
        cluster.up(scheduler=False, service_range=HOST_RANGES)
        yield cluster
    finally:
        down(lab)


@pytest.fixture(scope="module")
def start(host: HostCluster) -> Iterator[Callable[[str, str | None], Daemon]]:
    daemons: list[Daemon] = []

    def start(name: str, ranges: str | None) -> Daemon:
        virtual = VirtualCluster(host.lab, name)
        virtual.up(service_range=ranges)
        daemons.append(Daemon(virtual, f"--service-cidr={HOST_RANGES}"))
        daemons[-1].start()
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.stop()


@pytest.fixture(scope="module")
def daemon(start: Callable[[str, str | None], Daemon]) -> Daemon:
    return start("both", VIRTUAL_RANGES)


@pytest.fixture(scope="module")
def both(daemon: Daemon) -> ServicePairs:
    return ServicePairs(daemon)


def families(spec: Obj) -> list[str]:
    return ["IPv6" if ":" in address else "IPv4" for address in spec["clusterIPs"]]


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("plain", {}, ["IPv4"]),
        ("prefers", {"ipFamilyPolicy": "PreferDualStack"}, BOTH),
        ("requires", {"ipFamilyPolicy": "RequireDualStack", "type": "LoadBalancer"}, BOTH),
        ("six", {"ipFamilies": ["IPv6"]}, ["IPv6"]),
        ("six-first", {"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}, ["IPv6", "IPv4"]),
    ],
)
def test_created(both: ServicePairs, name: str, asked: Obj, expected: list[str]) -> None:
    made = both.create(service(name, selector={"a": "b"}, **asked))["spec"]
    assert families(made) == expected
    assert made["clusterIPs"] == both.get_host(name)["spec"]["clusterIPs"]
    assert both.settle(name)["ipFamilies"] == expected


def test_headless(both: ServicePairs) -> None:
    both.create(service("head", clusterIP="None", selector={"a": "b"}, ipFamilyPolicy="PreferDualStack"))
    assert both.settle("head")["ipFamilies"] == BOTH
    both.create(service("head-by-hand", clusterIP="None"))
    assert both.settle("head-by-hand")["ipFamilyPolicy"] == "RequireDualStack"


def test_a_second_family_comes_and_goes(both: ServicePairs) -> None:
    both.create(service("grows", selector={"a": "b"}))
    for _ in range(2):
        answer = both.patch("grows", {"ipFamilyPolicy": "RequireDualStack"})["spec"]
        assert families(answer) == BOTH
        assert answer["clusterIPs"] == both.get_host("grows")["spec"]["clusterIPs"], "the host's, at once"
        assert both.settle("grows")["clusterIPs"] == answer["clusterIPs"]
        both.patch("grows", {"ipFamilyPolicy": "SingleStack"})
        assert families(both.settle("grows")) == ["IPv4"]


def test_both_addresses_are_put_right(daemon: Daemon, both: ServicePairs) -> None:
    daemon.stop()
    both.remove_admission()
    before = both.create(service("early", ipFamilyPolicy="PreferDualStack"))
    daemon.start()
    after = both.settle("early")
    assert families(after) == BOTH
    assert not set(after["clusterIPs"]) & set(before["spec"]["clusterIPs"])
    assert both.get("early")["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_virtual_cluster_of_one_family_on_it(start: Callable[[str, str | None], Daemon]) -> None:
    one = ServicePairs(start("one", None))
    made = one.create(service("prefers", selector={"a": "b"}, ipFamilyPolicy="PreferDualStack"))["spec"]
    host = one.get_host("prefers")["spec"]
    assert (made["ipFamilyPolicy"], made["clusterIPs"], families(host)) == ("PreferDualStack", host["clusterIPs"][:1], BOTH)
    with pytest.raises(ApiFailure, match="dual-stack"):
        one.create(service("requires", ipFamilyPolicy="RequireDualStack"))
    wait_until(lambda: "vcluster.loft.sh/pending" not in one.get_host("prefers")["metadata"]["annotations"], "it is adopted")
    assert one.get("prefers")["spec"] == made
    assert [one.get_host("prefers")["spec"]["clusterIPs"]] == [host["clusterIPs"]]


def test_a_virtual_cluster_of_two_families_on_a_host_of_one(virtual_cluster: StartVirtual) -> None:
    virtual = virtual_cluster("two-on-one", service_range=VIRTUAL_RANGES)
    daemon = Daemon(virtual)
    try:
        daemon.start()
        pairs = ServicePairs(daemon)
        asked: dict[str, Any] = {"selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}
        made = pairs.create(service("prefers", **asked))["spec"]
        assert made["clusterIPs"] == pairs.get_host("prefers")["spec"]["clusterIPs"]
        assert pairs.settle("prefers")["ipFamilies"] == ["IPv4"]
        with pytest.raises(ApiFailure, match="dual-stack"):
            pairs.create(service("requires", ipFamilyPolicy="RequireDualStack"))
        with pytest.raises(ApiFailure, match="dual-stack"):
            pairs.patch("prefers", {"ipFamilyPolicy": "RequireDualStack"})
        assert pairs.settle("prefers")["ipFamilies"] == ["IPv4"]
    finally:
        daemon.stop()
        virtual.remove(wait=False)
