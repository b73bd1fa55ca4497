"""Pods of a tenant on the real node: what only containers can show."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from e2e.guestbook import in_pod, kubectl
from e2e.lab.api import wait_until
from e2e.lab.images import BUSYBOX
from e2e.podpairs import NAMESPACE, PodPairs, conditions, pod
from syncer.kube.types import EVENTS, PODS, SECRETS, Key, Side
from syncer.translate.token_secret import token_secret_key

if TYPE_CHECKING:
    from e2e.lab.host import HostCluster
    from e2e.tenants import StartTenant

pytestmark = pytest.mark.node

VIRTUAL, HOST = Side.VIRTUAL, Side.HOST
FOREVER = "trap 'exit 0' TERM; while :; do sleep 1; done"


@pytest.fixture(scope="module")
def pairs(real_node: HostCluster, tenant: StartTenant) -> PodPairs:
    assert real_node.running()
    return PodPairs(tenant("lives"))


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", script], **fields}


def inside(pairs: PodPairs, name: str, script: str) -> str:
    """What a script prints in the pod's container."""
    key = pairs.names.host_key(Key(NAMESPACE, name))
    return in_pod(pairs.daemon.virtual.host, key.namespace, key.name, "sh", "-c", script).strip()


def test_ready_once_its_probe_and_its_gate_say_so(pairs: PodPairs) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1}
    gate = "lab.local/gate"
    pairs.run(pod("gated", readinessGates=[{"conditionType": gate}], containers=[shell(FOREVER, readinessProbe=probe)]))
    assert conditions(pairs.get(VIRTUAL, "gated"))["ContainersReady"]["status"] == "False"
    inside(pairs, "gated", "touch /tmp/ready")
    pairs.wait(VIRTUAL, "gated", lambda found: conditions(found)["ContainersReady"]["status"] == "True", "its probe is happy", 20)
    assert conditions(pairs.get(VIRTUAL, "gated"))["Ready"]["status"] == "False"
    condition = {"type": gate, "status": "True", "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    pairs.patch(VIRTUAL, "gated", {"status": {"conditions": [condition]}}, "status")
    pairs.wait(VIRTUAL, "gated", lambda found: conditions(found)["Ready"]["status"] == "True", "it is ready", 20)
    pairs.assert_quiet()


def test_what_it_is_told_of_itself(pairs: PodPairs) -> None:
    paths = ["metadata.name", "metadata.namespace", "metadata.uid", "spec.serviceAccountName", "metadata.labels['tier']"]
    env = [{"name": f"V{number}", "valueFrom": {"fieldRef": {"fieldPath": path}}} for number, path in enumerate(paths)]
    mounted_paths = [*paths[:3], paths[4], "metadata.labels"]
    items = [{"path": f"v{number}", "fieldRef": {"fieldPath": path}} for number, path in enumerate(mounted_paths)]
    volume = {"name": "self", "downwardAPI": {"items": items}}
    mounted = shell(FOREVER, env=env, volumeMounts=[{"name": "self", "mountPath": "/self"}])
    made = pairs.run(pod("told", labels={"tier": "front"}, volumes=[volume], containers=[mounted]))
    expected = ["told", "default", made["metadata"]["uid"], "default", "front"]
    assert inside(pairs, "told", 'for v in "$V0" "$V1" "$V2" "$V3" "$V4"; do echo "$v"; done').split("\n") == expected
    assert inside(pairs, "told", "for v in 0 1 2 3; do cat /self/v$v; echo; done").split("\n") == [*expected[:3], expected[4]]
    assert inside(pairs, "told", "cat /self/v4") == 'tier="front"'


def test_a_resize_changes_the_running_container(pairs: PodPairs) -> None:
    limits = {"cpu": "200m", "memory": "64Mi"}
    pairs.run(pod("grown", containers=[shell(FOREVER, resources={"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": limits})]))
    pairs.wait(VIRTUAL, "grown", lambda found: status(found).get("resources", {}).get("limits") == limits, "its resources are shown", 20)
    bigger = {"cpu": "400m", "memory": "128Mi"}
    pairs.patch(VIRTUAL, "grown", {"spec": {"containers": [{"name": "main", "resources": {"limits": bigger}}]}}, "resize")
    pairs.wait(VIRTUAL, "grown", lambda found: status(found)["resources"]["limits"] == bigger, "the new ones are shown", 60)
    shown = pairs.get(VIRTUAL, "grown")
    assert status(shown)["restartCount"] == 0
    assert shown["status"]["observedGeneration"] == shown["metadata"]["generation"]
    quota = inside(pairs, "grown", "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || true").split()[0]
    memory = inside(pairs, "grown", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || true")
    assert (quota, memory) == ("40000", str(128 * 2**20))


def status(found: Any) -> Any:
    (container,) = found["status"]["containerStatuses"]
    return container


def test_ephemeral_containers_really_run(pairs: PodPairs) -> None:
    pairs.run(pod("debugged", containers=[shell(FOREVER)]))
    for number in (1, 2):
        debug = {"name": f"debug-{number}", "image": BUSYBOX, "command": ["sh", "-c", f"echo here-{number}; sleep 1d"]}
        pairs.patch(VIRTUAL, "debugged", {"spec": {"ephemeralContainers": [debug]}}, "ephemeralcontainers")
        pairs.wait(VIRTUAL, "debugged", lambda found, number=number: running(found) == number, f"{number} run", 30)  # type: ignore[misc]
        key = pairs.names.host_key(Key(NAMESPACE, "debugged"))
        said = kubectl(pairs.daemon.virtual.host, "-n", key.namespace, "logs", key.name, "-c", f"debug-{number}")
        assert said.strip() == f"here-{number}"


def running(found: Any) -> int:
    return sum("running" in item["state"] for item in found["status"].get("ephemeralContainerStatuses") or ())


class TestEnds:
    def test_a_hook_has_its_time(self, pairs: PodPairs) -> None:
        hook = {"preStop": {"exec": {"command": ["sh", "-c", "sleep 3; echo bye >/proc/1/fd/1"]}}}
        pairs.run(pod("hooked", terminationGracePeriodSeconds=30, containers=[shell(FOREVER, lifecycle=hook)]))
        begun = time.monotonic()
        pairs.delete(VIRTUAL, "hooked")
        pairs.wait(HOST, "hooked", lambda found: found["metadata"].get("deletionGracePeriodSeconds") == 30, "the host pod ends", 5)
        assert pairs.get(VIRTUAL, "hooked")["metadata"]["deletionTimestamp"]
        pairs.wait_gone("hooked")
        assert 3 < time.monotonic() - begun < 20

    def test_who_does_not_listen_is_killed_when_his_time_is_over(self, pairs: PodPairs) -> None:
        body = pod("deaf", terminationGracePeriodSeconds=2, containers=[shell("trap '' TERM; while :; do sleep 1; done")])
        body["metadata"]["finalizers"] = ["lab.local/kept"]
        pairs.run(body)
        pairs.delete(VIRTUAL, "deaf")
        pairs.wait(VIRTUAL, "deaf", lambda found: found["status"]["phase"] == "Failed", "it has ended", 30)
        assert status(pairs.get(VIRTUAL, "deaf"))["state"]["terminated"]["exitCode"] == 137
        pairs.patch(VIRTUAL, "deaf", {"metadata": {"finalizers": None}})
        pairs.wait_gone("deaf")

    def test_a_job_with_a_failure_in_between(self, pairs: PodPairs) -> None:
        script = 'test -e /kept/tried && exit 0; touch /kept/tried; echo "the first try" >/dev/termination-log; exit 3'
        mounted = shell(script, volumeMounts=[{"name": "kept", "mountPath": "/kept"}])
        template = pod("once", restartPolicy="OnFailure", volumes=[{"name": "kept", "emptyDir": {}}], containers=[mounted])
        metadata = {"name": "once", "namespace": NAMESPACE}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": template["spec"]}}}
        api = pairs.api(VIRTUAL)
        api.apply(job)
        wait_until(lambda: api.get(api.path_of(job))["status"].get("succeeded") == 1, "the Job is complete", 60)
        (ended,) = api.get(PODS.path(NAMESPACE), labelSelector="job-name=once")["items"]
        first = status(ended)["lastState"]["terminated"]
        assert (first["exitCode"], first["message"], status(ended)["restartCount"]) == (3, "the first try\n", 1)
        assert status(ended)["state"]["terminated"]["exitCode"] == 0


class TestTokens:
    def mounting(self, name: str, **spec: Any) -> dict[str, Any]:
        sources = [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
            {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 1200}},
        ]
        mount = {"name": "tokens", "mountPath": "/tokens"}
        return pod(
            name, volumes=[{"name": "tokens", "projected": {"sources": sources}}], containers=[shell(FOREVER, volumeMounts=[mount])], **spec
        )

    def test_its_pod_lifetime_and_audience(self, pairs: PodPairs) -> None:
        made = pairs.run(self.mounting("bearer"))
        for path, audience, seconds in (("token", "https://kubernetes.default.svc.cluster.local", 600), ("vault", "vault", 1200)):
            token = inside(pairs, "bearer", f"cat /tokens/{path}")
            claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
            assert claims["aud"] == [audience]
            assert claims["exp"] - claims["iat"] == seconds
            assert claims["kubernetes.io"]["pod"] == {"name": "bearer", "uid": made["metadata"]["uid"]}
            assert self.review(pairs, token, audience)["authenticated"] is True
        token = inside(pairs, "bearer", "cat /tokens/token")
        secret = token_secret_key(pairs.names, Key(NAMESPACE, "bearer"))
        pairs.delete(VIRTUAL, "bearer")
        pairs.wait_gone("bearer")
        wait_until(lambda: pairs.api(HOST).find(SECRETS.path(*secret)) is None, "the Secret goes with its pod", 10)
        # API servers remember for ten seconds that a token was good.
        wait_until(lambda: not self.review(pairs, token, "").get("authenticated"), "a token dies with its pod", 30)

    def review(self, pairs: PodPairs, token: str, audience: str) -> Any:
        spec = {"token": token, **({"audiences": [audience]} if audience else {})}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        return pairs.api(VIRTUAL).request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body)["status"]

    def test_many_at_once_find_their_tokens(self, pairs: PodPairs) -> None:
        """A Secret that is not there when the kubelet first looks costs its pod half a second, and the tenant a puzzling event."""
        names = [f"crowd-{number}" for number in range(15)]
        for name in names:
            pairs.make(self.mounting(name))
        for name in names:
            pairs.wait(VIRTUAL, name, lambda found: found["status"].get("phase") == "Running", f"{name} runs", 120)
        failed = pairs.api(HOST).get(EVENTS.path(pairs.names.host_namespace), fieldSelector="reason=FailedMount")["items"]
        assert [event["message"] for event in failed if "not found" in event["message"]] == []
