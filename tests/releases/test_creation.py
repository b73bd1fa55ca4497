from __future__ import annotations

import pytest

from syncer.errors import ConfigError
from syncer.releases.chart import chart_directory
from syncer.releases.creation import Wanted, arguments, require_name

CHART = chart_directory()


@pytest.mark.parametrize("name", ["a", "demo", "team-1", "a" * 52])
def test_a_name(name: str) -> None:
    require_name(name)


@pytest.mark.parametrize("name", ["", "Demo", "1demo", "-demo", "demo-", "de_mo", "de.mo", "demo\n", "a" * 53])
def test_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a virtual cluster's name"):
        require_name(name)


IMAGES = [
    "--set=vcluster.image=rancher/k3s:v1.35.2-k3s1",
    "--set=api.image=registry.k8s.io/kube-apiserver:v1.35.2",
    "--set=controller.image=registry.k8s.io/kube-controller-manager:v1.35.2",
]
"""Of all distros: which one it is may be said in a file, or may have been said long ago."""
CASES: list[tuple[Wanted, list[str]]] = [
    (Wanted(name="a", namespace="n"), []),
    (Wanted(name="a", namespace="n", isolate=True), ["--set=isolation.enabled=true"]),
    (Wanted(name="a", namespace="n", expose=True), ["--set=service.type=LoadBalancer"]),
    (Wanted(name="a", namespace="n", expose=True, sets=("service.type=NodePort",)), ["--set=service.type=NodePort"]),
    (Wanted(name="a", namespace="n", distro="k8s"), ["--set=distro=k8s"]),
    (Wanted(name="a", namespace="n", kubernetes_version="1.35.2"), IMAGES),
    (Wanted(name="a", namespace="n", kubernetes_version="v1.35.2", distro="k8s"), ["--set=distro=k8s", *IMAGES]),
    (Wanted(name="a", namespace="n", kubernetes_version="1.35.2", sets=("vcluster.image=x",)), [*IMAGES[1:], "--set=vcluster.image=x"]),
    (Wanted(name="a", namespace="n", values=("x.yaml", "-"), sets=("a=b",)), ["--values=x.yaml", "--values=-", "--set=a=b"]),
    (Wanted(name="a", namespace="n", upgrade=True), ["--reset-then-reuse-values"]),
]


@pytest.mark.parametrize(("wanted", "expected"), CASES)
def test_what_helm_is_told(wanted: Wanted, expected: list[str]) -> None:
    assert arguments(wanted, CHART) == [str(CHART), *expected]


def test_a_version_that_has_no_image() -> None:
    with pytest.raises(ConfigError, match=r"'1\.35' has no image; name a whole version, such as 1"):
        arguments(Wanted(name="a", namespace="n", kubernetes_version="1.35"), CHART)
