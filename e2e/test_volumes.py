"""Claims, volumes and classes on real API servers: the host's own controllers bind and release, and play the provisioner's part by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.claims import CLASSES, DEFAULT, PROVISIONER, VOLUMES, Tenant, storage_class
from e2e.guestbook import kubectl
from e2e.lab import controller_manager
from e2e.lab.api import ApiFailure, wait_until
from syncer.naming import ANNOTATION_UID, LABEL_MANAGED_BY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("simulated_nodes", "host_classes")]


@pytest.fixture(scope="module")
def host_classes(host_cluster: HostCluster) -> Iterator[list[str]]:
    """Classes of the host: the default one, which can be expanded, one that cannot, and one that waits for a pod."""
    parameters = {"type": "ssd", "csi.storage.k8s.io/provisioner-secret-name": "hidden"}
    classes = [
        storage_class("volumes-fast", default=True, allowVolumeExpansion=True, parameters=parameters),
        storage_class("volumes-fixed"),
        storage_class("volumes-late", volumeBindingMode="WaitForFirstConsumer", provisioner="kubernetes.io/no-provisioner"),
    ]
    for obj in classes:
        host_cluster.api.apply(obj)
    yield [obj["metadata"]["name"] for obj in classes]
    for volume in host_cluster.api.get(VOLUMES)["items"]:
        host_cluster.api.delete(f"{VOLUMES}/{volume['metadata']['name']}")
    for obj in classes:
        host_cluster.api.delete(f"{CLASSES}/{obj['metadata']['name']}")


@pytest.fixture(scope="module")
def rich(tenant: StartTenant, host_classes: list[str]) -> Tenant:
    """May read the host's volumes and classes."""
    started = Tenant(tenant("volumes-rich", cluster_rights=True))
    wait_until(lambda: all(started.virtual.api.find(f"{CLASSES}/{name}") for name in host_classes), "classes are shown", 20)
    return started


@pytest.fixture(scope="module")
def poor(tenant: StartTenant) -> Tenant:
    """Has a Role in its namespace only."""
    return Tenant(tenant("volumes-poor"))


class TestWithTheHostsVolumes:
    def test_a_claim_is_bound_when_its_volume_is_there_and_shows_the_hosts_facts(self, rich: Tenant) -> None:
        host = rich.ask("data")
        assert host["spec"]["storageClassName"] == "volumes-fast"  # filled in by the virtual API server, as the class is shown there
        assert rich.virtual.phase("data") == "Pending"
        affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z1"]}]}]}}
        rich.provision("data", "pvc-data", size="2Gi", nodeAffinity=affinity, mountOptions=["noatime"])
        claim = rich.wait_phase("data", "Bound")
        assert (claim["spec"]["volumeName"], claim["status"]["capacity"]) == ("pvc-data", {"storage": "2Gi"})
        wait_until(lambda: (rich.virtual.volume("pvc-data") or {})["status"]["phase"] == "Bound", "the volume is bound", 10)
        volume = rich.virtual.volume("pvc-data")
        assert volume is not None
        spec = volume["spec"]
        assert (spec["claimRef"]["namespace"], spec["claimRef"]["name"], spec["claimRef"]["uid"]) == (
            "default",
            "data",
            claim["metadata"]["uid"],
        )
        assert (spec["capacity"], spec["persistentVolumeReclaimPolicy"], spec["storageClassName"]) == (
            {"storage": "2Gi"},
            "Delete",
            "volumes-fast",
        )
        assert (spec["nodeAffinity"], spec["mountOptions"]) == (affinity, ["noatime"])
        assert spec["csi"]["driver"] == "disks.example.com"
        assert volume["metadata"]["labels"]["topology.kubernetes.io/zone"] == "z1"
        assert "hidden" not in str(volume)
        assert "10.1.2.3" not in str(volume)
        shown = kubectl(rich.daemon.virtual, "get", "pv,pvc", "--no-headers")
        assert "default/data" in shown
        assert "volumes-fast" in shown

    def test_what_the_host_changes_about_a_volume_is_shown(self, rich: Tenant) -> None:
        rich.host.patch(f"{VOLUMES}/pvc-data", {"spec": {"persistentVolumeReclaimPolicy": "Retain", "capacity": {"storage": "3Gi"}}})
        wait_until(
            lambda: (rich.virtual.volume("pvc-data") or {})["spec"]["persistentVolumeReclaimPolicy"] == "Retain", "policy is shown", 10
        )
        assert (rich.virtual.volume("pvc-data") or {})["spec"]["capacity"] == {"storage": "3Gi"}

    def test_a_retained_volume_is_shown_released_for_as_long_as_the_host_has_it(self, rich: Tenant) -> None:
        rich.delete("data")
        wait_until(lambda: (rich.virtual.volume("pvc-data") or {})["status"]["phase"] == "Released", "shown as released", 20)
        assert (rich.host.volume("pvc-data") or {})["status"]["phase"] == "Released"
        rich.host.api.delete(f"{VOLUMES}/pvc-data")
        wait_until(lambda: rich.virtual.volume("pvc-data") is None, "gone with the host's", 20)

    def test_the_classes_are_shown_and_tell_no_secrets(self, rich: Tenant) -> None:
        shown = rich.virtual.api.get(f"{CLASSES}/volumes-fast")
        assert (shown["provisioner"], shown["allowVolumeExpansion"], shown["parameters"]) == (PROVISIONER, True, {"type": "ssd"})
        assert shown["metadata"]["annotations"][DEFAULT] == "true"
        assert rich.virtual.api.get(f"{CLASSES}/volumes-late")["volumeBindingMode"] == "WaitForFirstConsumer"

    def test_classes_follow_the_hosts_and_the_tenants_own_stay(self, rich: Tenant) -> None:
        virtual, host = rich.virtual.api, rich.host.api
        virtual.apply(storage_class("volumes-own", provisioner="tenants.example/own"))
        host.apply(storage_class("volumes-own"))
        host.apply(storage_class("volumes-passing"))
        wait_until(lambda: virtual.find(f"{CLASSES}/volumes-passing") is not None, "a new class is shown", 10)
        host.delete(f"{CLASSES}/volumes-passing")
        host.apply(storage_class("volumes-passing", reclaimPolicy="Retain"))
        wait_until(lambda: (virtual.find(f"{CLASSES}/volumes-passing") or {}).get("reclaimPolicy") == "Retain", "made anew", 10)
        for name in ("volumes-passing", "volumes-own"):
            host.delete(f"{CLASSES}/{name}")
        wait_until(lambda: virtual.find(f"{CLASSES}/volumes-passing") is None, "gone with the host's", 10)
        assert virtual.get(f"{CLASSES}/volumes-own")["provisioner"] == "tenants.example/own"

    def test_expansion(self, rich: Tenant) -> None:
        rich.ask("grows")
        rich.provision("grows", "pvc-grows")
        rich.wait_phase("grows", "Bound")
        bigger = {"spec": {"resources": {"requests": {"storage": "5Gi"}}}}
        rich.virtual.patch(rich.virtual.path("grows"), bigger)
        host = rich.host_name("grows")
        wait_until(lambda: (rich.host.claim(host) or {})["spec"]["resources"]["requests"]["storage"] == "5Gi", "asked of the host", 10)
        condition = {"type": "FileSystemResizePending", "status": "True", "message": f"of {rich.host.namespace}/{host}"}
        rich.host.patch(f"{rich.host.path(host)}/status", {"status": {"conditions": [condition]}})
        wait_until(lambda: "conditions" in (rich.virtual.claim("grows") or {})["status"], "the condition is shown", 10)
        assert (rich.virtual.claim("grows") or {})["status"]["conditions"][0]["message"] == "of default/grows"
        rich.host.patch(f"{rich.host.path(host)}/status", {"status": {"conditions": None, "capacity": {"storage": "5Gi"}}})
        wait_until(lambda: (rich.virtual.claim("grows") or {})["status"]["capacity"] == {"storage": "5Gi"}, "the size is shown", 10)
        assert "conditions" not in (rich.virtual.claim("grows") or {})["status"]

    def test_a_refused_expansion_is_told_at_once_where_the_class_is_shown(self, rich: Tenant) -> None:
        rich.ask("fixed", storageClassName="volumes-fixed")
        rich.provision("fixed", "pvc-fixed")
        rich.wait_phase("fixed", "Bound")
        with pytest.raises(ApiFailure, match="only dynamically provisioned pvc can be resized"):
            rich.virtual.patch(rich.virtual.path("fixed"), {"spec": {"resources": {"requests": {"storage": "5Gi"}}}})

    def test_and_on_the_claim_where_the_host_refuses(self, rich: Tenant) -> None:
        """The class could be expanded when the tenant asked, as far as the virtual API server knows."""
        rich.virtual.api.apply(storage_class("volumes-unknown", allowVolumeExpansion=True))
        rich.ask("unknown", storageClassName="volumes-unknown")
        rich.provision("unknown", "pvc-unknown")
        rich.wait_phase("unknown", "Bound")
        rich.virtual.patch(rich.virtual.path("unknown"), {"spec": {"resources": {"requests": {"storage": "5Gi"}}}})
        message = rich.wait_event("unknown", "Forbidden")
        assert "only dynamically provisioned pvc can be resized" in message
        assert rich.host.namespace not in message

    def test_a_volume_by_name_and_by_label_is_the_hosts(self, rich: Tenant) -> None:
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "volumes-static"}
        for name in ("volumes-a", "volumes-b"):
            metadata = {"name": name, "labels": {"disk": name}}
            body = {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": metadata,
                "spec": {**spec, "hostPath": {"path": "/srv/hidden"}},
            }
            rich.host.api.apply(body)
        rich.ask("by-name", storageClassName="volumes-static", volumeName="volumes-b")
        rich.ask("by-label", storageClassName="volumes-static", selector={"matchLabels": {"disk": "volumes-a"}})
        assert rich.wait_phase("by-name", "Bound")["spec"]["volumeName"] == "volumes-b"
        assert rich.wait_phase("by-label", "Bound")["spec"]["volumeName"] == "volumes-a"
        shown = rich.virtual.volume("volumes-a")
        assert shown is not None
        assert shown["spec"]["csi"]["driver"] == "hostpath.vcluster.loft.sh"
        assert "hidden" not in str(shown)

    def test_wait_for_first_consumer(self, rich: Tenant) -> None:
        """The host's scheduler places the host pod, and with that its volume."""
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["simulated-2"]}]}
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "volumes-late",
            "local": {"path": "/mnt/disks/1"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        }
        rich.host.api.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "volumes-disk"}, "spec": spec})
        rich.ask("late", storageClassName="volumes-late")
        assert rich.virtual.phase("late") == "Pending"
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "late"}}
        container = {"name": "main", "image": "lab.local/none:1", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
        pod = {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 0}
        rich.virtual.api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late"}, "spec": pod})
        assert rich.wait_phase("late", "Bound")["spec"]["volumeName"] == "volumes-disk"
        path = "/api/v1/namespaces/default/pods/late"
        wait_until(lambda: rich.virtual.api.get(path)["status"]["phase"] == "Running", "the pod runs", 20)
        assert rich.virtual.api.get(path)["spec"]["nodeName"] == "simulated-2"
        # in use, so that deleting the claim has no effect before the pod is gone
        rich.virtual.api.delete(rich.virtual.path("late"))
        wait_until(
            lambda: "vcluster.loft.sh/deletion-seen" in (rich.host.claim(rich.host_name("late")) or {})["metadata"]["annotations"],
            "noted",
            10,
        )
        assert "deletionTimestamp" not in (rich.host.claim(rich.host_name("late")) or {})["metadata"]
        rich.virtual.api.delete(path)
        wait_until(lambda: rich.virtual.claim("late") is None, "the virtual claim is gone", 20)
        wait_until(lambda: rich.host.claim(rich.host_name("late")) is None, "and the host's", 20)

    def test_a_clone_names_the_host_claim(self, rich: Tenant) -> None:
        source = {"kind": "PersistentVolumeClaim", "name": "grows"}
        host = rich.ask("clone", dataSource=source)
        assert host["spec"]["dataSource"]["name"] == host["spec"]["dataSourceRef"]["name"] == rich.host_name("grows")
        rich.delete("clone")

    def test_a_source_that_the_host_knows_nothing_of_is_refused_in_words(self, rich: Tenant) -> None:
        rich.ask("book", copied=False, dataSourceRef={"apiGroup": "example.com", "kind": "Book", "name": "b"})
        assert "names a Book" in rich.wait_event("book", "UnsupportedDataSource")
        assert rich.host.claim(rich.host_name("book")) is None
        rich.virtual.api.delete(rich.virtual.path("book"))


class TestDataIsSafe:
    def test_a_claim_that_vanished_on_the_host_is_lost_and_never_given_an_empty_volume(self, rich: Tenant) -> None:
        rich.ask("vanishes")
        rich.provision("vanishes", "pvc-vanishes", policy="Retain")
        rich.wait_phase("vanishes", "Bound")
        rich.host.api.delete(rich.host.path(rich.host_name("vanishes")))
        claim = rich.wait_phase("vanishes", "Lost")
        assert "capacity" not in claim["status"]
        assert "not given an empty volume" in rich.wait_event("vanishes", "ClaimLost")
        assert rich.host.claim(rich.host_name("vanishes")) is None
        rich.virtual.api.delete(rich.virtual.path("vanishes"))
        wait_until(lambda: rich.virtual.claim("vanishes") is None, "a lost claim can be deleted", 10)

    def test_made_anew_under_the_same_name_it_has_a_volume_of_its_own(self, rich: Tenant) -> None:
        before = rich.ask("again")
        rich.provision("again", "pvc-again")
        rich.wait_phase("again", "Bound")
        rich.virtual.api.delete(rich.virtual.path("again"))
        wait_until(lambda: rich.virtual.claim("again") is None, "gone", 10)
        rich.ask("again")
        host = rich.host_name("again")
        wait_until(lambda: (rich.host.claim(host) or before)["metadata"]["uid"] != before["metadata"]["uid"], "a new host claim", 20)
        assert rich.virtual.phase("again") == "Pending"

    def test_a_claim_deleted_while_nobody_looked_keeps_its_data_until_a_person_agrees(self, rich: Tenant) -> None:
        rich.ask("precious")
        rich.provision("precious", "pvc-precious")
        rich.wait_phase("precious", "Bound")
        rich.daemon.stop()
        rich.virtual.api.delete(rich.virtual.path("precious"))
        wait_until(lambda: rich.virtual.claim("precious") is None, "gone", 10)
        rich.daemon.start()
        rich.daemon.wait_log("deletions.held", resource="persistentvolumeclaims")
        host = rich.host.claim(rich.host_name("precious"))
        assert host is not None
        assert "deletionTimestamp" not in host["metadata"]
        # the way back: a claim of that name takes over the host claim from which a person has taken the mark of the old one
        annotation = {"metadata": {"annotations": {ANNOTATION_UID: None}}}
        rich.host.patch(rich.host.path(rich.host_name("precious")), annotation)
        rich.ask("precious")
        assert rich.wait_phase("precious", "Bound")["spec"]["volumeName"] == "pvc-precious"

    def test_nothing_on_the_host_is_written_for_volumes(self, rich: Tenant) -> None:
        for volume in rich.host.api.get(VOLUMES)["items"]:
            assert LABEL_MANAGED_BY not in str(volume["metadata"].get("labels"))
            managers = {entry["manager"] for entry in volume["metadata"].get("managedFields", [])}
            assert not [name for name in managers if "syncer" in name]

    def test_at_rest_nothing_is_written(self, rich: Tenant) -> None:
        def versions() -> dict[str, str]:
            found = [*rich.virtual.api.get(VOLUMES)["items"], *rich.virtual.api.get("/api/v1/persistentvolumeclaims")["items"]]
            found += rich.host.api.get(f"/api/v1/namespaces/{rich.host.namespace}/persistentvolumeclaims")["items"]
            return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in found}

        rich.daemon.stop()
        before = versions()
        rich.daemon.start()
        for loop in ("persistentvolumeclaims", "persistentvolumes"):
            decided = f'syncer_reconciles_total{{outcome="synced",resource="{loop}"}}'
            wait_until(lambda decided=decided: rich.daemon.metric(decided) >= 4, f"{loop} are decided", 20)  # type: ignore[misc]
        assert versions() == before


class TestWithARoleOnly:
    def test_the_volume_is_made_up_from_the_claim(self, poor: Tenant) -> None:
        host = poor.ask("data")
        assert poor.virtual.api.get(CLASSES)["items"] == []
        assert host["spec"]["storageClassName"] == "volumes-fast"  # the host's API server filled it in
        wait_until(lambda: (poor.virtual.claim("data") or {})["spec"].get("storageClassName") == "volumes-fast", "and that is shown", 10)
        poor.provision("data", "pvc-poor", size="2Gi")
        assert poor.wait_phase("data", "Bound")["status"]["capacity"] == {"storage": "2Gi"}
        volume = poor.virtual.volume("pvc-poor")
        assert volume is not None
        assert volume["metadata"]["labels"] == {"vcluster.loft.sh/fake-pv": "true"}
        assert (volume["spec"]["capacity"], volume["spec"]["storageClassName"]) == ({"storage": "2Gi"}, "volumes-fast")

    def test_it_goes_with_the_claim(self, poor: Tenant) -> None:
        poor.delete("data")
        wait_until(lambda: poor.virtual.volume("pvc-poor") is None, "the made-up volume is gone", 20)
        assert poor.host.volume("pvc-poor") is not None

    def test_a_volume_of_the_tenants_own_is_never_touched(self, poor: Tenant) -> None:
        spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}
        body = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pvc-same"}, "spec": spec}
        made = poor.virtual.api.apply(body)
        poor.ask("same")
        poor.provision("same", "pvc-same")
        assert "so is a PersistentVolume of this virtual cluster" in poor.wait_event("same", "VolumeNameTaken")
        assert (poor.virtual.volume("pvc-same") or {})["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        assert poor.virtual.phase("same") == "Pending"
        poor.virtual.api.delete(f"{VOLUMES}/pvc-same")
        poor.wait_phase("same", "Bound")

    def test_a_binder_in_the_virtual_cluster_finds_its_work_done(self, poor: Tenant) -> None:
        """k3s in a virtual cluster runs without one; other control planes may have it."""
        virtual = poor.daemon.virtual
        virtual.stop_controllers()
        controller_manager.start(virtual, controllers="*,-nodelifecycle,-nodeipam,-ttl")
        try:
            poor.ask("both")
            poor.provision("both", "pvc-both")
            poor.wait_phase("both", "Bound")
            wait_until(lambda: (poor.virtual.volume("pvc-both") or {})["status"].get("phase") == "Bound", "the volume too", 20)
            before = self.versions(poor)
            for number in range(3):
                decided = poor.daemon.metrics_sum("syncer_reconciles_total{")
                body = {"metadata": {"annotations": {"volumes.e2e/number": str(number)}}}
                poor.host.patch(poor.host.path(poor.host_name("both")), body)
                wait_until(lambda decided=decided: poor.daemon.metrics_sum("syncer_reconciles_total{") > decided, "decided again", 10)  # type: ignore[misc]
            assert self.versions(poor) == before
            poor.delete("both")
            wait_until(lambda: poor.virtual.volume("pvc-both") is None, "the volume is gone", 30)
        finally:
            virtual.stop_controllers()
            virtual.start_controllers()

    def versions(self, tenant: Tenant) -> list[str]:
        return [(found or {})["metadata"]["resourceVersion"] for found in (tenant.virtual.claim("both"), tenant.virtual.volume("pvc-both"))]

    def test_a_refusal_by_quota_reaches_the_claim(self, poor: Tenant) -> None:
        namespace = poor.host.namespace
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "volumes", "namespace": namespace}}
        poor.host.api.apply({**quota, "spec": {"hard": {"requests.storage": "1Gi"}}})
        path = f"/api/v1/namespaces/{namespace}/resourcequotas/volumes"
        wait_until(lambda: "used" in poor.host.api.get(path).get("status", {}), "the quota is in force", 20)
        poor.ask("many", copied=False)
        message = poor.wait_event("many", "ExceededQuota")
        assert "storage" in message
        assert namespace not in message
        poor.host.api.delete(path)
        wait_until(lambda: poor.host.claim(poor.host_name("many")) is not None, "copied once there is room", 60)
