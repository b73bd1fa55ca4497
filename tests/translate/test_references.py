from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import Obj
from syncer.translate.references import (
    CONTAINER_FIELDS,
    Kind,
    TokenProjection,
    references,
    renamed_container,
    renamed_spec,
    token_data_key,
    token_sources,
)


def pod(**spec: Any) -> Obj:
    return {"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}


def volume(**source: Any) -> Obj:
    return pod(volumes=[{"name": "v", **source}])


PLACES: dict[str, tuple[Obj, str, set[str]]] = {
    "configMap volume": (volume(configMap={"name": "c"}), "configmaps", {"c"}),
    "secret volume": (volume(secret={"secretName": "s"}), "secrets", {"s"}),
    "projected": (
        volume(projected={"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}, {"downwardAPI": {}}]}),
        "secrets",
        {"s"},
    ),
    "projected configMap": (volume(projected={"sources": [{"configMap": {"name": "c"}}]}), "configmaps", {"c"}),
    "claim": (volume(persistentVolumeClaim={"claimName": "d", "readOnly": True}), "claims", {"d"}),
    "ephemeral": (volume(ephemeral={"volumeClaimTemplate": {"spec": {}}}), "claims", {"web-v"}),
    "pull secret": (pod(imagePullSecrets=[{"name": "p"}, {}, {"name": ""}]), "secrets", {"p"}),
    "azureFile": (volume(azureFile={"secretName": "s", "shareName": "x"}), "secrets", {"s"}),
    "cephfs": (volume(cephfs={"secretRef": {"name": "s"}}), "secrets", {"s"}),
    "cinder": (volume(cinder={"volumeID": "v", "secretRef": {"name": "s"}}), "secrets", {"s"}),
    "csi": (volume(csi={"driver": "d", "nodePublishSecretRef": {"name": "s"}}), "secrets", {"s"}),
    "flexVolume": (volume(flexVolume={"driver": "d", "secretRef": {"name": "s"}}), "secrets", {"s"}),
    "iscsi": (volume(iscsi={"secretRef": {"name": "s"}}), "secrets", {"s"}),
    "rbd": (volume(rbd={"secretRef": {"name": "s"}}), "secrets", {"s"}),
    "scaleIO": (volume(scaleIO={"secretRef": {"name": "s"}}), "secrets", {"s"}),
    "storageos": (volume(storageos={"secretRef": {"name": "s"}}), "secrets", {"s"}),
    "glusterfs": (volume(glusterfs={"endpoints": "e", "path": "p"}), "endpoints", {"e"}),
    "no references": (volume(hostPath={"path": "/"}, emptyDir=None, csi={"driver": "d"}), "secrets", set()),
    **{
        f"{field} {part}": (pod(**{field: [{"name": "c", **content}]}), attribute, {"n"})
        for field in CONTAINER_FIELDS
        for part, attribute, content in (
            ("env", "configmaps", {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}]}),
            ("env", "secrets", {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "n", "key": "k"}}}]}),
            ("envFrom", "configmaps", {"envFrom": [{"prefix": "P", "configMapRef": {"name": "n"}}]}),
            ("envFrom", "secrets", {"envFrom": [{"secretRef": {"name": "n"}}]}),
        )
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_found(place: str) -> None:
    obj, attribute, names = PLACES[place]
    before = copy.deepcopy(obj)
    assert getattr(references(obj), attribute) == names
    assert obj == before


@pytest.mark.parametrize("place", PLACES)
def test_what_is_found_is_renamed(place: str) -> None:
    obj, attribute, names = PLACES[place]
    spec = renamed_spec(obj, lambda _kind, name, _optional: f"{name}-host")
    for field in CONTAINER_FIELDS:
        spec[field] = [renamed_container(item, lambda _kind, name, _optional: f"{name}-host") for item in spec.get(field) or ()]
    assert getattr(references({**obj, "spec": spec}), attribute) == {f"{name}-host" for name in names}


def test_an_empty_pod_refers_to_nothing() -> None:
    for obj in ({}, {"spec": None}, pod(containers=None, volumes=None, imagePullSecrets=None)):
        found = references(obj)
        assert not (found.configmaps | found.secrets | found.claims | found.endpoints)
        assert found.tokens == ()


def test_a_name_is_optional_when_all_references_are() -> None:
    env = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "both", "key": "k", "optional": True}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "both", "key": "k"}}},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "maybe", "key": "k", "optional": True}}},
        {"name": "D", "valueFrom": {"secretKeyRef": {"name": "pulled-and-used", "key": "k"}}},
    ]
    found = references(
        pod(
            containers=[{"name": "c", "env": env}],
            volumes=[{"name": "v", "secret": {"secretName": "maybe", "optional": True}}],
            imagePullSecrets=[{"name": "pull"}, {"name": "pulled-and-used"}],
        )
    )
    assert found.configmaps == {"both", "maybe"}
    assert found.optional_configmaps == {"maybe"}
    assert found.secrets == {"maybe", "pull", "pulled-and-used"}
    assert found.optional_secrets == {"maybe", "pull"}
    assert found.pull_secrets == {"pull", "pulled-and-used"}


def test_names_of_newer_types_do_not_reach_into_the_host_namespace() -> None:
    spec = renamed_spec(
        pod(
            resourceClaims=[{"name": "a", "resourceClaimName": "r"}, {"name": "b", "resourceClaimTemplateName": "t"}],
            schedulingGroup={"podGroupName": "g"},
            workloadRef={"name": "w", "podGroup": "inside"},
        ),
        lambda kind, name, _optional: f"{kind.value}/{name}",
    )
    assert spec["resourceClaims"] == [
        {"name": "a", "resourceClaimName": f"{Kind.RESOURCE_CLAIM.value}/r"},
        {"name": "b", "resourceClaimTemplateName": f"{Kind.RESOURCE_CLAIM_TEMPLATE.value}/t"},
    ]
    assert spec["schedulingGroup"] == {"podGroupName": "PodGroup/g"}
    assert spec["workloadRef"] == {"name": "PodGroup/w", "podGroup": "inside"}


def test_token_sources() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "c"}},
        {"serviceAccountToken": {"path": "aws/token", "audience": "sts.amazonaws.com", "expirationSeconds": 86400}},
    ]
    obj = pod(volumes=[{"name": "plain", "emptyDir": {}}, {"name": "kube-api-access-x", "projected": {"sources": sources}}])
    expected = (
        TokenProjection("kube-api-access-x.token", "", 3600, "kube-api-access-x", "token"),
        TokenProjection(token_data_key("kube-api-access-x", "aws/token"), "sts.amazonaws.com", 86400, "kube-api-access-x", "aws/token"),
    )
    assert token_sources(obj) == expected
    assert references(obj).tokens == expected


VOLUMES = st.from_regex(r"[a-z]([-a-z]{0,5}[a-z])?|[a-z]{63}", fullmatch=True)
PATHS = st.one_of(
    st.text(alphabet="ab/.-_é ", min_size=1, max_size=6),
    st.text(alphabet="ab", min_size=127, max_size=130),
    st.sampled_from(["token", "sha256-" + "0" * 64, ".", "..", "a/b", "a.b"]),
)


@given(first=st.tuples(VOLUMES, PATHS), second=st.tuples(VOLUMES, PATHS))
def test_token_keys_are_valid_and_unique(first: tuple[str, str], second: tuple[str, str]) -> None:
    key, other = token_data_key(*first), token_data_key(*second)
    assert re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key)
    assert not key.startswith("..")
    assert key != "."
    assert (key == other) == (first == second)
