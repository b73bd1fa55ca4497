from __future__ import annotations

from dataclasses import replace

import pytest

from syncer.kube.types import (
    CONFIGMAPS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    SECRETS,
    SERVICES,
    Key,
    Obj,
    Ref,
    Side,
    key_of,
)
from syncer.naming import ANNOTATION_UID
from syncer.resources import pods
from syncer.sync.intents import Create, Refuse, Wait, Warn
from syncer.translate.merge import apply
from syncer.translate.token_secret import token_secret
from tests.resources.apply import NAMES, World, told
from tests.resources.objects import DNS, HOST, deleting, host_marks, named, pod, ready_world
from tests.resources.pod_states import WEB, state


class TestCreation:
    def world(self, changes: Obj | None = None) -> World:
        return state(changes or {}, None)

    def created(self, world: World) -> Obj:
        (create,) = world.decide(pods.SPEC, WEB)
        assert isinstance(create, Create)
        return create.obj

    def test_markers_owner_and_addresses(self) -> None:
        obj = self.created(self.world())
        assert obj["metadata"]["ownerReferences"] == [ready_world().policy.owner]
        assert obj["metadata"]["annotations"]["vcluster.loft.sh/object-uid"] == "uid-web"
        assert obj["spec"]["dnsConfig"]["nameservers"] == [DNS]
        assert "status" not in obj

    @pytest.mark.parametrize("spec", [{"ports": []}, {"clusterIP": "None"}, {"clusterIP": ""}], ids=["none yet", "headless", "empty"])
    def test_waits_for_the_address_of_the_virtual_api_server(self, spec: Obj) -> None:
        world = self.world()
        world.put(Side.HOST, SERVICES, named("vc", HOST, spec=spec))
        assert told(world.decide(pods.SPEC, WEB)) == ["wait host services hostns/vc"]

    def test_waits_for_dns(self) -> None:
        world = self.world()
        del world.objects[Side.HOST, SERVICES][Key(HOST, "kube-dns-x-vc")]
        copy = NAMES.host_key(Key("kube-system", "kube-dns"))
        assert told(world.decide(pods.SPEC, WEB)) == [f"wait host services hostns/kube-dns-x-vc host services {copy}"]

    @pytest.mark.parametrize("spec", [{"dnsPolicy": "Default"}, {"dnsPolicy": "None"}, {"hostNetwork": True}])
    def test_pods_that_do_not_use_dns_do_not_wait_for_it(self, spec: Obj) -> None:
        world = self.world({"spec": spec})
        del world.objects[Side.HOST, SERVICES][Key(HOST, "kube-dns-x-vc")]
        self.created(world)

    def test_a_copy_of_kube_dns_serves_when_no_service_was_made_for_it(self) -> None:
        world = self.world()
        del world.objects[Side.HOST, SERVICES][Key(HOST, "kube-dns-x-vc")]
        foreign = {"metadata": {**host_marks("Service", "kube-dns", "kube-system"), "labels": {}}, "spec": {"clusterIP": "10.96.0.66"}}
        world.put(Side.HOST, SERVICES, foreign)
        assert told(world.decide(pods.SPEC, WEB))[0].startswith("wait")
        world.put(Side.HOST, SERVICES, {"metadata": host_marks("Service", "kube-dns", "kube-system"), "spec": {"clusterIP": "10.96.0.66"}})
        assert self.created(world)["spec"]["dnsConfig"]["nameservers"] == ["10.96.0.66"]

    MOUNTING: Obj = {  # noqa: RUF012  never changed
        "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "configMap": {"name": "settings", "optional": True}},
                {"name": "b", "secret": {"secretName": "absent"}},
            ],
        }
    }

    def test_waits_for_copies_of_what_exists_and_not_for_what_does_not(self) -> None:
        world = self.world(self.MOUNTING)
        world.put(Side.VIRTUAL, CONFIGMAPS, named("settings"))
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        assert told(world.decide(pods.SPEC, WEB)) == [
            (
                "wait host configmaps hostns/settings-x-default-x-vc virtual configmaps default/settings "
                "host secrets hostns/pull-x-default-x-vc virtual secrets default/pull at most 5"
            )
        ]
        world.put(Side.HOST, CONFIGMAPS, {"metadata": host_marks("ConfigMap", "settings")})
        world.put(Side.HOST, SECRETS, {"metadata": host_marks("Secret", "pull")})
        (create,) = world.decide(pods.SPEC, WEB)
        assert isinstance(create, Create)
        assert create.vacant == ((Ref(Side.HOST, SECRETS, Key(HOST, "absent-x-default-x-vc")), "absent"),)

    def test_says_so_when_it_waits_long_for_copies(self) -> None:
        world = self.world(self.MOUNTING)
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        (wait,) = told(world.decide(pods.SPEC, WEB, waited=4.9))
        assert wait.endswith("at most 5")
        assert told(world.decide(pods.SPEC, WEB, waited=5.0)) == [
            "warn NotCopied",
            "wait host secrets hostns/pull-x-default-x-vc virtual secrets default/pull",
        ]

    def test_a_stranger_with_the_copys_name_is_not_the_copy(self) -> None:
        world = self.world(self.MOUNTING)
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        world.put(Side.HOST, SECRETS, {"metadata": {**host_marks("Secret", "pull"), "annotations": {}}})
        assert told(world.decide(pods.SPEC, WEB, waited=5.0))[0] == "warn NotCopied"

    CLAIMING: Obj = {  # noqa: RUF012  never changed
        "spec": {"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "tmp", "ephemeral": {}}]}
    }
    OWNED: Obj = {"ownerReferences": [{"kind": "Pod", "name": "web", "uid": "uid-web", "controller": True}]}  # noqa: RUF012  never changed

    def claiming(self) -> World:
        world = self.world(self.CLAIMING)
        world.policy = replace(world.policy, synced=world.policy.synced | {PERSISTENT_VOLUME_CLAIMS})
        return world

    def test_waits_for_claims_whether_they_exist_or_not(self) -> None:
        world = self.claiming()
        both = " ".join(
            f"host persistentvolumeclaims hostns/{name}-x-default-x-vc virtual persistentvolumeclaims default/{name}"
            for name in ("data", "web-tmp")
        )
        assert told(world.decide(pods.SPEC, WEB)) == [f"wait {both} at most 5"]
        for name in ("data", "web-tmp"):
            world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, {"metadata": host_marks("PersistentVolumeClaim", name)})
        assert told(world.decide(pods.SPEC, WEB)) == [f"wait {both} at most 5"], "what is there on the host is left from before"
        world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, named("data"))
        tmp = named("web-tmp")
        tmp["metadata"] |= self.OWNED
        world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, tmp)
        volumes = self.created(world)["spec"]["volumes"]
        assert [item["persistentVolumeClaim"]["claimName"] for item in volumes] == ["data-x-default-x-vc", "web-tmp-x-default-x-vc"]

    def test_an_ephemeral_volume_is_not_filled_with_another_claim(self) -> None:
        world = self.claiming()
        for name in ("data", "web-tmp"):
            world.put(Side.HOST, PERSISTENT_VOLUME_CLAIMS, {"metadata": host_marks("PersistentVolumeClaim", name)})
            world.put(Side.VIRTUAL, PERSISTENT_VOLUME_CLAIMS, named(name))
        warning, wait = world.decide(pods.SPEC, WEB, waited=5.0)
        assert isinstance(warning, Warn)
        assert warning.message == "not on the host cluster yet: PersistentVolumeClaim web-tmp"
        assert isinstance(wait, Wait)

    def test_claims_that_are_not_synced_are_refused(self) -> None:
        (refusal,) = self.world(self.CLAIMING).decide(pods.SPEC, WEB)
        assert isinstance(refusal, Refuse)
        assert refusal.message == "it uses PersistentVolumeClaim data, web-tmp, but claims are not synced to the host cluster"

    def test_does_not_wait_for_one_token(self) -> None:
        source = {"serviceAccountToken": {"path": "token"}}
        self.created(self.world({"spec": {"volumes": [{"name": "t", "projected": {"sources": [source]}}]}}))

    def test_waits_for_several_tokens(self) -> None:
        sources = [{"serviceAccountToken": {"path": "token"}}, {"serviceAccountToken": {"path": "vault", "audience": "vault"}}]
        world = self.world({"spec": {"volumes": [{"name": "t", "projected": {"sources": sources}}]}})
        secret = token_secret(NAMES, None, pod())
        waiting = [f"wait host secrets {key_of(secret)} at most 5"]
        assert told(world.decide(pods.SPEC, WEB)) == waiting
        for not_his in (apply(secret, {"metadata": {"annotations": {ANNOTATION_UID: "before"}}}), apply(secret, deleting(None))):
            world.put(Side.HOST, SECRETS, not_his)
            assert told(world.decide(pods.SPEC, WEB)) == waiting
        world.put(Side.HOST, SECRETS, secret)
        mounted = self.created(world)["spec"]["volumes"][0]["projected"]["sources"]
        assert {item["secret"]["name"] for item in mounted} == {key_of(secret).name}

    SANDBOXED: Obj = {"spec": {"runtimeClassName": "gvisor"}}  # noqa: RUF012  never changed

    def test_waits_for_the_runtime_class(self) -> None:
        world = self.world(self.SANDBOXED)
        assert told(world.decide(pods.SPEC, WEB)) == ["warn NoRuntimeClass", "wait host runtimeclasses gvisor"]
        world.put(Side.HOST, RUNTIME_CLASSES, {"metadata": {"name": "gvisor"}})
        assert self.created(world)["spec"]["runtimeClassName"] == "gvisor"

    def test_without_a_look_at_runtime_classes_the_host_decides(self) -> None:
        world = self.world(self.SANDBOXED)
        world.policy = replace(world.policy, lacking=frozenset({"runtimeclasses.node.k8s.io"}))
        assert self.created(world)["spec"]["runtimeClassName"] == "gvisor"

    @pytest.mark.parametrize(("name", "passes"), [("high", True), ("low", False), ("system-node-critical", False)])
    def test_priority_classes(self, name: str, passes: bool) -> None:
        world = self.world({"spec": {"priorityClassName": name, "priority": 7, "preemptionPolicy": "Never"}})
        for on_host in ("high", "system-node-critical"):
            world.put(Side.HOST, PRIORITY_CLASSES, {"metadata": {"name": on_host}})
        spec = self.created(world)["spec"]
        assert spec.get("priorityClassName") == (name if passes else None)
        assert not {"priority", "preemptionPolicy"} & spec.keys()

    def test_does_not_wait_for_copies_that_are_not_synced(self) -> None:
        world = self.world(self.MOUNTING)
        world.policy = replace(world.policy, synced=frozenset({CONFIGMAPS}))
        world.put(Side.VIRTUAL, SECRETS, named("pull"))
        self.created(world)

    def test_services_of_the_namespace_become_variables(self) -> None:
        world = self.world()
        world.put(Side.VIRTUAL, SERVICES, named("db", spec={"clusterIP": "10.96.1.1", "ports": [{"port": 5432}]}))
        world.put(Side.VIRTUAL, SERVICES, named("other", "shop", spec={"clusterIP": "10.96.1.2", "ports": [{"port": 1}]}))
        env = {item["name"]: item.get("value") for item in self.created(world)["spec"]["containers"][0]["env"]}
        assert env["DB_SERVICE_HOST"] == "10.96.1.1"
        assert "OTHER_SERVICE_HOST" not in env

    def test_variables_of_an_envfrom_are_not_shadowed(self) -> None:
        world = self.world({"spec": {"containers": [{"name": "app", "image": "x", "envFrom": [{"configMapRef": {"name": "settings"}}]}]}})
        world.put(Side.VIRTUAL, CONFIGMAPS, named("settings"))
        world.put(Side.VIRTUAL, SERVICES, named("db", spec={"clusterIP": "10.96.1.1", "ports": [{"port": 5432}]}))
        world.put(Side.HOST, CONFIGMAPS, {"metadata": host_marks("ConfigMap", "settings"), "data": {"DB_SERVICE_HOST": "mine"}})
        names = {item["name"] for item in self.created(world)["spec"]["containers"][0].get("env", ())}
        assert "DB_SERVICE_HOST" not in names
        assert "DB_SERVICE_PORT" in names

    SELECTORS: list[tuple[Obj, list[str]]] = [  # noqa: RUF012  never changed
        ({"matchLabels": {"team": "a"}}, ["a1", "a2"]),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["b"]}]}, ["b1"]),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, ["b1", "default", "kube-system", "shop"]),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, ["a1", "a2", "b1"]),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, ["default", "kube-system", "shop"]),
        ({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "x", "operator": "Unheard"}]}, []),
    ]

    @pytest.mark.parametrize(("selector", "expected"), SELECTORS)
    def test_affinity_to_namespaces_by_label(self, selector: Obj, expected: list[str]) -> None:
        term = {"topologyKey": "zone", "labelSelector": {}, "namespaceSelector": selector}
        world = self.world({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
        for name, team in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            world.put(Side.VIRTUAL, NAMESPACES, {"metadata": {"name": name, "labels": {"team": team}}})
        on_host = self.created(world)["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
        told_namespaces = {
            tuple(e.get("values", ())) for e in on_host["labelSelector"].get("matchExpressions", ()) if e["operator"] == "In"
        } | {(value,) for key, value in on_host["labelSelector"]["matchLabels"].items() if key == "vcluster.loft.sh/namespace"}
        assert told_namespaces == ({tuple(expected)} if expected else set())

    def test_tells_the_host_who_controls_the_pod(self) -> None:
        owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u", "controller": True}
        annotations = self.created(self.world({"metadata": {"ownerReferences": [owner]}}))["metadata"]["annotations"]
        assert annotations["vcluster.loft.sh/owner-set-kind"] == "DaemonSet"
        assert annotations["cluster-autoscaler.kubernetes.io/daemonset-pod"] == "true"
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "true"

    def test_what_the_tenant_tells_the_autoscaler_stands(self) -> None:
        said = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": True}
        world = self.world({"metadata": {"ownerReferences": [owner], "annotations": said}})
        assert self.created(world)["metadata"]["annotations"].items() >= said.items()
