from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.types import Key, Obj
from syncer.naming import Names
from syncer.translate.ingress import (
    MAX_KEY,
    host_rename,
    overlong_key,
    references,
    renamed_annotations,
    renamed_spec,
    uncopied_names,
)

NAMES = Names("vc", "hostns")
RENAME = host_rename(NAMES, "vc-service")
NGINX = "nginx.ingress.kubernetes.io/"
ALB = "alb.ingress.kubernetes.io/"
HAPROXY = "haproxy-ingress.github.io/"


def service(name: str, port: str | int = 80) -> Obj:
    return {"service": {"name": name, "port": {"number" if isinstance(port, int) else "name": port}}}


def path(backend: Obj, **more: Any) -> Obj:
    return {"path": "/", "pathType": "Prefix", "backend": backend, **more}


def ingress(annotations: dict[str, str] | None = None, namespace: str = "default", **spec: Any) -> Obj:
    return {"metadata": {"name": "web", "namespace": namespace, "annotations": annotations or {}}, "spec": spec}


SPECS: list[tuple[str, Obj, Obj]] = [
    ("nothing", {}, {}),
    ("default backend", {"defaultBackend": service("a")}, {"defaultBackend": service("a-x-default-x-vc")}),
    (
        "backends of rules",
        {"rules": [{"host": "a.example", "http": {"paths": [path(service("a")), path(service("b", "http"))]}}]},
        {
            "rules": [
                {
                    "host": "a.example",
                    "http": {"paths": [path(service("a-x-default-x-vc")), path(service("b-x-default-x-vc", "http"))]},
                }
            ]
        },
    ),
    ("a rule with a host only", {"rules": [{"host": "a.example"}]}, {"rules": [{"host": "a.example"}]}),
    (
        "a resource",
        {"defaultBackend": {"resource": {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "static"}}},
        {"defaultBackend": {"resource": {"apiGroup": "k8s.example.com", "kind": "StorageBucket", "name": "static-x-default-x-vc"}}},
    ),
    (
        "TLS, one without a Secret of its own",
        {"tls": [{"hosts": ["a.example"], "secretName": "cert"}, {"hosts": ["b.example"]}]},
        {"tls": [{"hosts": ["a.example"], "secretName": "cert-x-default-x-vc"}, {"hosts": ["b.example"]}]},
    ),
    ("class", {"ingressClassName": "nginx"}, {"ingressClassName": "nginx"}),
    ("the API server's own Service", {"defaultBackend": service("kubernetes")}, {"defaultBackend": service("vc-service")}),
    (
        "unknown fields",
        {"future": 1, "rules": [{"http": {"paths": [path(service("a"), retries=3)], "more": True}, "weight": 2}], "tls": [{"alpn": "h2"}]},
        {
            "future": 1,
            "rules": [{"http": {"paths": [path(service("a-x-default-x-vc"), retries=3)], "more": True}, "weight": 2}],
            "tls": [{"alpn": "h2"}],
        },
    ),
]


@pytest.mark.parametrize(("given", "expected"), [case[1:] for case in SPECS], ids=[case[0] for case in SPECS])
def test_names_in_the_spec(given: Obj, expected: Obj) -> None:
    assert renamed_spec(ingress(**given), RENAME) == expected


ANNOTATIONS: list[tuple[str, str, str, str]] = [
    ("Secret", NGINX + "auth-secret", "users", "users-x-default-x-vc"),
    ("Secret of another namespace", NGINX + "auth-secret", "shop/users", "hostns/users-x-shop-x-vc"),
    ("among blanks, as controllers trim", NGINX + "auth-secret", " hostns/other \n", "hostns/other-x-hostns-x-vc"),
    ("client certificates", NGINX + "auth-tls-secret", "default/ca", "hostns/ca-x-default-x-vc"),
    ("certificate for the backend", NGINX + "proxy-ssl-secret", "default/client", "hostns/client-x-default-x-vc"),
    ("ConfigMap", NGINX + "custom-headers", "default/headers", "hostns/headers-x-default-x-vc"),
    ("headers for the authentication", NGINX + "auth-proxy-set-headers", "headers", "headers-x-default-x-vc"),
    ("FastCGI parameters", NGINX + "fastcgi-params-configmap", "params", "params-x-default-x-vc"),
    ("Service", NGINX + "default-backend", "fallback", "fallback-x-default-x-vc"),
    (
        "URL in the cluster",
        NGINX + "auth-url",
        "http://oauth.auth.svc.cluster.local:4180/auth?rd=$uri",
        "http://oauth-x-auth-x-vc.hostns.svc.cluster.local:4180/auth?rd=$uri",
    ),
    ("short URL in the cluster", NGINX + "mirror-target", "https://copy.shop.svc$uri", "https://copy-x-shop-x-vc.hostns.svc$uri"),
    ("URL of elsewhere that looks so", NGINX + "auth-url", "https://a.b.svc.example.com/", "https://a.b.svc.example.com/"),
    ("URL of elsewhere", NGINX + "auth-url", "https://auth.example.com/auth", "https://auth.example.com/auth"),
    ("snippet", NGINX + "configuration-snippet", "proxy_pass http://a.b.svc;", "proxy_pass http://a.b.svc;"),
    ("HAProxy: Secret", HAPROXY + "auth-tls-secret", "shop/ca", "hostns/ca-x-shop-x-vc"),
    ("HAProxy: file", HAPROXY + "secure-crt-secret", "file:///etc/ssl/a.pem", "file:///etc/ssl/a.pem"),
    ("HAProxy: Service", HAPROXY + "auth-url", "svc://auth/oauth:80/check", "svc://hostns/oauth-x-auth-x-vc:80/check"),
    ("HAProxy: Service beside", HAPROXY + "auth-url", "svc://oauth:80", "svc://oauth-x-default-x-vc:80"),
    ("HAProxy Technologies", "haproxy.org/server-ca", "default/ca", "hostns/ca-x-default-x-vc"),
    ("nginx.org: Secret", "nginx.org/basic-auth-secret", "users", "users-x-default-x-vc"),
    ("nginx.org: Services", "nginx.org/ssl-services", "a, b", "a-x-default-x-vc,b-x-default-x-vc"),
    (
        "nginx.org: rewrites",
        "nginx.org/rewrites",
        "serviceName=a rewrite=/;serviceName=b rewrite=/b/",
        "serviceName=a-x-default-x-vc rewrite=/;serviceName=b-x-default-x-vc rewrite=/b/",
    ),
    ("OpenShift", "route.openshift.io/destination-ca-certificate-secret", "ca", "ca-x-default-x-vc"),
    ("Traefik's middlewares", "traefik.ingress.kubernetes.io/router.middlewares", "a-b@kubernetescrd", "a-b@kubernetescrd"),
    ("cert-manager", "cert-manager.io/cluster-issuer", "letsencrypt", "letsencrypt"),
    ("class of old", "kubernetes.io/ingress.class", "nginx", "nginx"),
    ("AWS: not JSON", ALB + "auth-idp-oidc", "{broken", "{broken"),
    ("AWS: JSON without names", ALB + "auth-idp-oidc", '{ "issuer": "https://x" }', '{ "issuer": "https://x" }'),
    ("AWS: Secret", ALB + "auth-idp-oidc", '{"issuer":"https://x","secretName":"oidc"}', '{"issuer":"https://x","secretName":"oidc-x-default-x-vc"}'),
]  # fmt: skip


@pytest.mark.parametrize(("key", "given", "expected"), [case[1:] for case in ANNOTATIONS], ids=[case[0] for case in ANNOTATIONS])
def test_translate_annotation(key: str, given: str, expected: str) -> None:
    assert renamed_annotations(ingress({key: given}), RENAME) == {key: expected}


def test_annotations_of_alb_name_services_in_their_keys() -> None:
    """Names of Services and of actions alike, so that the backend and its annotations still belong together."""
    weighted = {"Type": "forward", "forwardConfig": {"targetGroups": [{"serviceName": "a", "servicePort": 80}, {"ServiceName": "b"}]}}
    given = ingress(
        {
            ALB + "actions.weighted": json.dumps(weighted),
            ALB + "conditions.weighted": '[{"field":"http-header"}]',
            ALB + "conditions.a": "[]",
            ALB + "scheme": "internal",
        },
        rules=[{"http": {"paths": [path(service("weighted", "use-annotation")), path(service("a"))]}}],
    )
    assert renamed_annotations(given, RENAME) == {
        ALB + "actions.weighted-x-default-x-vc": (
            '{"Type":"forward","forwardConfig":{"targetGroups":'
            '[{"serviceName":"a-x-default-x-vc","servicePort":80},{"ServiceName":"b-x-default-x-vc"}]}}'
        ),
        ALB + "conditions.weighted-x-default-x-vc": '[{"field":"http-header"}]',
        ALB + "conditions.a-x-default-x-vc": "[]",
        ALB + "scheme": "internal",
    }
    backends = [item["backend"]["service"]["name"] for item in renamed_spec(given, RENAME)["rules"][0]["http"]["paths"]]
    assert backends == ["weighted-x-default-x-vc", "a-x-default-x-vc"]


def test_rancher_excluded() -> None:
    assert renamed_annotations(ingress({"field.cattle.io/publicEndpoints": "[]", "a": "b"}), RENAME) == {"a": "b"}


LONG = "s" * 50


def test_a_service_whose_name_gets_too_long_for_a_key_is_found() -> None:
    paths = [path(service(LONG))]
    assert (
        overlong_key(ingress({ALB + f"conditions.{LONG}": "[]"}, rules=[{"http": {"paths": paths}}]), RENAME) == ALB + f"conditions.{LONG}"
    )
    actions = [path(service(LONG, "use-annotation"))]
    assert overlong_key(ingress({ALB + f"conditions.{LONG}": "[]"}, rules=[{"http": {"paths": actions}}]), RENAME) is None


@given(name=st.from_regex(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True), namespace=st.sampled_from(["default", "n" * 63]))
def test_an_actions_name_always_fits_into_a_key_and_agrees_with_its_backend(name: str, namespace: str) -> None:
    given = ingress(
        {ALB + f"actions.{name}": "{}", ALB + f"conditions.{name}": "[]"}, namespace, defaultBackend=service(name, "use-annotation")
    )
    backend = renamed_spec(given, RENAME)["defaultBackend"]["service"]["name"]
    keys = [key.rpartition("/")[2] for key in renamed_annotations(given, RENAME)]
    assert keys == [f"actions.{backend}", f"conditions.{backend}"]
    assert all(len(key) <= MAX_KEY for key in keys)


REFERENCES = ingress(
    {
        NGINX + "auth-secret": "users",
        NGINX + "auth-tls-secret": "shop/ca",
        NGINX + "custom-headers": "headers",
        NGINX + "default-backend": "fallback",
        ALB + "auth-idp-oidc": '{"secretName": "oidc"}',
    },
    defaultBackend=service("a"),
    tls=[{"secretName": "cert"}, {"hosts": ["x"]}],
)


def test_what_it_refers_to() -> None:
    found = references(REFERENCES)
    assert found.secrets == {Key("default", "users"), Key("shop", "ca"), Key("default", "oidc"), Key("default", "cert")}
    assert found.configmaps == {Key("default", "headers")}


def test_the_host_ingress_refers_to_the_host_objects_of_the_same() -> None:
    host = {
        "metadata": {"name": "x", "namespace": "hostns", "annotations": renamed_annotations(REFERENCES, RENAME)},
        "spec": renamed_spec(REFERENCES, RENAME),
    }
    found, on_host = references(REFERENCES), references(host)
    assert on_host.secrets == {NAMES.host_key(key) for key in found.secrets}
    assert on_host.configmaps == {NAMES.host_key(key) for key in found.configmaps}


def test_names_of_custom_resources_are_listed() -> None:
    given = ingress({"traefik.ingress.kubernetes.io/router.middlewares": "a-b@kubernetescrd", "konghq.com/plugins": "x", "other": "y"})
    assert uncopied_names(given) == ["konghq.com/plugins", "traefik.ingress.kubernetes.io/router.middlewares"]
