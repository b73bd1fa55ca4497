from __future__ import annotations

import pytest

from syncer.kube.types import Key
from syncer.naming import Names
from syncer.translate.messages import host_names_hidden, names_of_pod
from syncer.translate.token_secret import token_secret_key

PAIRS = (
    ("web-x-default-x-vc", Key("default", "web")),
    ("web-x-default-x-vc-2", Key("default", "web-2")),
    ("cfg-x-default-x-vc", Key("default", "cfg")),
    ("db-x-data-x-vc", Key("data", "db")),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Started container app", "Started container app"),
        ('pods "web-x-default-x-vc" is forbidden', 'pods "web" is forbidden'),
        ("web-x-default-x-vc-2 and web-x-default-x-vc.", "web-2 and web."),
        ('configmap "cfg-x-default-x-vc" not found', 'configmap "cfg" not found'),
        ("object tenants/cfg-x-default-x-vc not registered", "object default/cfg not registered"),
        ("tenants/db-x-data-x-vc", "data/db"),
        ('namespaces "tenants" is being terminated', 'namespaces "default" is being terminated'),
        ("failed container=app pod=web-x-default-x-vc_tenants(5f3a)", "failed container=app pod=web_default(v-uid)"),
        ("lookup db-x-data-x-vc.tenants.svc.cluster.local", "lookup db.default.svc.cluster.local"),
        ("claim web-x-default-x-vc-scratch-7xk2p, not xweb-x-default-x-vcx", "claim web-scratch-7xk2p, not xweb-x-default-x-vcx"),
        ('secret "unknown-x-data-x-vc" not found', 'secret "unknown" not found'),
        ("tenants/unknown-x-default-x-vc-7xk2p", "default/unknown-7xk2p"),
        ("a-x-default-x-vcx a-x-other-x-vc", "a-x-default-x-vcx a"),
        ("quota tenants-quota, pool my-tenants, file xtenants", "quota tenants-quota, pool my-tenants, file xtenants"),
    ],
)
def test_host_names_hidden(text: str, shown: str) -> None:
    assert host_names_hidden(text, names=Names("vc", "tenants"), pairs=PAIRS, replacements=(("5f3a", "v-uid"),)) == shown


def test_without_a_known_object() -> None:
    assert host_names_hidden("in tenants", names=Names("vc", "tenants"), pairs=()) == "in (host)"


def test_a_namespace_that_is_a_pattern() -> None:
    assert host_names_hidden("a-b axb", names=Names("vc", "a-b"), pairs=(("a.b", Key("n", "v")),)) == "n axb"


def test_names_of_a_pod() -> None:
    """Its tokens' Secret has a name of its own, which for a long name is cut."""
    names, key = Names("vc", "tenants"), Key("default", "replica-7ddb9c7578-w59hx-with-a-long-name")
    pod = {"metadata": {}, "spec": {"volumes": [{"name": "v", "configMap": {"name": "settings-x-y"}}]}}
    text = f'volume: secret "{token_secret_key(names, key).name}", configmap "{names.host_name("default", "settings-x-y")}" not found'
    shown = f'volume: secret "{key.name}-token", configmap "settings-x-y" not found'
    assert host_names_hidden(text, names=names, pairs=names_of_pod(names, key, pod)) == shown
    assert host_names_hidden(text, names=names, pairs=names_of_pod(names, key, None)).startswith(f'volume: secret "{key.name}-token"')


def test_readable_names_of_other_namespaces_of_the_cluster_are_virtual_too() -> None:
    names = Names("vc", "hostns")
    text = "waiting for db-x-stock-x-vc, web-x-shop-x-vc-7f and x-x-y-x-other"
    assert host_names_hidden(text, names=names, pairs=()) == "waiting for db, web-7f and x-x-y-x-other"
