"""Real API servers tell which fields they do not have, in the words that `syncer.sync.fields` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.api import wait_until
from syncer.kube.client import Client
from syncer.kube.config import load_cluster
from syncer.kube.types import PODS, Key, Side
from syncer.sync.fields import dropped, text_of, unknown_fields

if TYPE_CHECKING:
    from e2e.lab.host import HostCluster

pytestmark = pytest.mark.apiserver

KEY = Key("default", "known")


def pod(name: str) -> dict[str, Any]:
    spec = {"automountServiceAccountToken": False, "containers": [{"name": "main", "image": "lab.local/none:1"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def test_unknown_fields_are_named_and_dropped(host_cluster: HostCluster) -> None:
    api = host_cluster.api
    wait_until(lambda: api.find("/api/v1/namespaces/default/serviceaccounts/default") is not None, "no default service account")
    api.apply(pod(KEY.name))
    body = pod("newer")
    body["spec"]["newField"] = True
    body["spec"]["containers"][0]["newField"] = {"a": [1]}
    cluster = await load_cluster(str(host_cluster.kubeconfig))
    fields = {"spec.newField", "spec.containers[].newField"}
    async with Client(cluster, Side.HOST) as client:
        warnings: list[str] = []
        made = await client.create(PODS, "default", body, dry_run=True, warnings=warnings)
        assert {text_of(path) for path in unknown_fields(warnings)} == fields
        assert {text_of(path) for path in dropped(body, made)} == fields
        merged: list[str] = []
        strategic: list[str] = []
        status: list[str] = []
        await client.patch(PODS, KEY, {"spec": {"newField": 1}}, warnings=merged)
        await client.patch(PODS, KEY, {"spec": {"newField": 1}}, strategy="strategic", warnings=strategic)
        await client.patch(PODS, KEY, {"status": {"newField": 1}}, strategy="strategic", subresource="status", warnings=status)
    told = [{text_of(path) for path in unknown_fields(texts)} for texts in (merged, strategic, status)]
    assert told == [{"spec.newField"}, {"spec.newField"}, {"status.newField"}]
    api.request("DELETE", PODS.path(*KEY), {"gracePeriodSeconds": 0})
