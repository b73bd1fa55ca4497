"""What holds for every pod: nothing is changed in place, nothing unknown is lost, no name and no selector reaches beyond ours."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncer.kube.types import Obj
from syncer.naming import LABEL_MANAGED_BY, LABEL_NAMESPACE, Names
from syncer.translate.references import references

Call = Callable[..., Any]

WORDS = st.sampled_from(["a", "b-x", "x", "a-x-b", "c.d", "long" * 16])
OPTIONAL = st.sampled_from([None, True, False])
REFERENCE = st.builds(lambda name, optional: {"name": name, "optional": optional}, WORDS, OPTIONAL)
VARIABLES = st.one_of(
    st.fixed_dictionaries({"name": st.sampled_from("AB"), "value": st.just("v")}),
    st.fixed_dictionaries(
        {"name": st.sampled_from("AB"), "valueFrom": st.fixed_dictionaries({"configMapKeyRef": REFERENCE})},
    ),
    st.fixed_dictionaries({"name": st.sampled_from("AB"), "valueFrom": st.fixed_dictionaries({"secretKeyRef": REFERENCE})}),
    st.fixed_dictionaries({"name": st.sampled_from("AB"), "valueFrom": st.just({"fieldRef": {"fieldPath": "metadata.labels['release']"}})}),
)
ENV_FROM = st.one_of(st.fixed_dictionaries({"configMapRef": REFERENCE}), st.fixed_dictionaries({"secretRef": REFERENCE}))
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": WORDS, "image": WORDS},
        optional={"env": st.lists(VARIABLES, max_size=3), "envFrom": st.lists(ENV_FROM, max_size=2), "resources": st.just({"limits": {}})},
    ),
    min_size=1,
    max_size=2,
)
VOLUMES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"name": st.just("v"), "configMap": REFERENCE}),
        st.fixed_dictionaries({"name": st.just("v"), "secret": st.builds(lambda name: {"secretName": name}, WORDS)}),
        st.fixed_dictionaries({"name": st.just("v"), "persistentVolumeClaim": st.builds(lambda name: {"claimName": name}, WORDS)}),
        st.fixed_dictionaries({"name": st.just("v"), "csi": st.builds(lambda name: {"nodePublishSecretRef": {"name": name}}, WORDS)}),
        st.fixed_dictionaries(
            {"name": st.just("v"), "projected": st.builds(lambda item: {"sources": [{"configMap": item}, {"secret": item}]}, REFERENCE)}
        ),
        st.fixed_dictionaries(
            {"name": st.just("v"), "downwardAPI": st.just({"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.labels"}}]})}
        ),
    ),
    max_size=3,
)
SELECTORS: st.SearchStrategy[Obj | None] = st.one_of(
    st.none(), st.just({}), st.just({"matchLabels": {"app": "a"}}), st.just({"matchExpressions": []})
)
TERMS = st.fixed_dictionaries(
    {"topologyKey": st.just("zone")},
    optional={"labelSelector": SELECTORS, "namespaces": st.lists(WORDS, max_size=2), "namespaceSelector": SELECTORS},
)
SPECS = st.fixed_dictionaries(
    {"containers": CONTAINERS},
    optional={
        "initContainers": CONTAINERS,
        "volumes": VOLUMES,
        "imagePullSecrets": st.lists(st.builds(lambda name: {"name": name}, WORDS), max_size=2),
        "affinity": st.fixed_dictionaries(
            {"podAffinity": st.builds(lambda terms: {"requiredDuringSchedulingIgnoredDuringExecution": terms}, st.lists(TERMS, max_size=2))}
        ),
        "topologySpreadConstraints": st.lists(
            st.fixed_dictionaries({"topologyKey": st.just("zone")}, optional={"labelSelector": SELECTORS}), max_size=2
        ),
        "dnsConfig": st.just({"options": [{"name": "edns0"}]}),
        "hostAliases": st.just([{"ip": "1.2.3.4", "hostnames": ["a"]}]),
        "hostNetwork": st.booleans(),
        "hostname": st.just("h"),
        "subdomain": st.just("s"),
        "securityContext": st.just({"seLinuxOptions": {"level": "s0"}}),
    },
)
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the fixtures hold no state


def maps(value: Any) -> Iterator[Obj]:
    """Every map of a document, except those that are rebuilt from their meaning."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key not in ("namespaceSelector", "matchLabels"):
                yield from maps(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from maps(inner)


@RELAXED
@given(spec=SPECS)
def test_unknown_fields_survive_at_every_level_and_the_input_is_not_changed(spec: Obj, pod: Call, on_host: Call) -> None:
    spec = copy.deepcopy(spec)  # the strategies share parts, which must not be marked twice
    markers = []
    for number, holder in enumerate([*maps(spec)]):
        markers.append(f"marker-{number}-")
        holder[f"unknown{number}"] = markers[-1]
    virtual = pod(**spec)
    before = json.dumps(virtual)
    text = json.dumps(on_host(virtual, namespaces_matching=lambda _selector: ["a"]))
    assert [marker for marker in markers if marker not in text] == []
    assert json.dumps(virtual) == before


@RELAXED
@given(spec=SPECS)
def test_the_host_pod_refers_to_the_images_of_what_the_virtual_one_refers_to(spec: Obj, pod: Call, on_host: Call, names: Names) -> None:
    virtual = pod(**spec)
    host = on_host(virtual, namespaces_matching=lambda _selector: ["a"])
    wanted, found = references(virtual), references({**virtual, "spec": host})
    for field in ("configmaps", "secrets", "claims", "optional_configmaps", "optional_secrets", "pull_secrets"):
        assert getattr(found, field) == {names.host_name("default", name) for name in getattr(wanted, field)}


@RELAXED
@given(spec=SPECS)
def test_every_selector_is_narrowed(spec: Obj, pod: Call, on_host: Call) -> None:
    host = on_host(pod(**spec), namespaces_matching=lambda _selector: ["a"])
    holders = [*host.get("topologySpreadConstraints", ())]
    for rule in (host.get("affinity") or {}).values():
        holders += rule["requiredDuringSchedulingIgnoredDuringExecution"]
    for holder in holders:
        assert not {"namespaces", "namespaceSelector"} & holder.keys()
        if holder.get("labelSelector") is not None:
            assert holder["labelSelector"]["matchLabels"][LABEL_MANAGED_BY] == "vc"
    for holder in host.get("topologySpreadConstraints", ()):
        if holder.get("labelSelector") is not None:
            assert holder["labelSelector"]["matchLabels"][LABEL_NAMESPACE] == "default"
