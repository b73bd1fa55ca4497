"""An upgrade of the chart, and back, under a tenant whose pods run: none of them notices.

`e2e/golden/previous` has the objects of the chart as it was before. As a chart of plain objects they are what Helm upgrades from.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e import guestbook
from e2e.chart import CHART
from e2e.installed import Installed, merged
from e2e.lab import k3s_image, provisioner, syncer_image
from e2e.lab.api import wait_until
from e2e.test_chart_apiserver import PREVIOUS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from e2e.lab.host import HostCluster

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

NAME, NAMESPACE = "blue", "team-blue"  # as they are in the golden files
VALUES: dict[str, Any] = {"storage": {"persistence": True}}
IMAGES: dict[str, Callable[[], str]] = {"rancher/k3s:v1.36.3-k3s1": k3s_image.tag, "syncer:0.1.0": lambda: syncer_image.SYNCER}


def chart_before(directory: Path) -> Path:
    """The chart as it was, with the lab's images."""
    (golden,) = [path for path in PREVIOUS if path.stem == "chart-default"]
    text = golden.read_text()
    for name, there in IMAGES.items():
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', f'"{there()}"')
    assert "{{" not in text
    chart = directory / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: syncer\nversion: 0.0.1\n")
    (chart / "templates" / "all.yaml").write_text(text)
    return chart


@pytest.fixture(scope="module")
def blue(prepared_node: HostCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The virtual cluster by the chart as it was, with a Deployment and a StatefulSet that run in it."""
    provisioner.start(prepared_node)
    release = Installed(prepared_node, NAME, NAMESPACE, VALUES)
    try:
        release.install(chart_before(tmp_path_factory.mktemp("before")))
        release.wait_ready()
        guestbook.apply(release)
        guestbook.wait_ready(release)
        yield release
    finally:
        release.uninstall()
        prepared_node.api.delete(release.path)
        wait_until(lambda: prepared_node.api.find(release.path) is None, "the namespace is gone", 120)
        provisioner.stop(prepared_node)


def lives(blue: Installed) -> dict[str, Any]:
    """What tells one life of a pod from another, on both sides."""
    found: dict[str, Any] = {}
    for side, pods in (("virtual", guestbook.pods(blue)), ("host", blue.tenant_pods())):
        for pod in pods:
            containers = {one["name"]: (one["containerID"], one["restartCount"]) for one in pod["status"]["containerStatuses"]}
            found[f"{side} {pod['metadata']['name']}"] = (pod["metadata"]["uid"], containers)
    return found


def control_plane(blue: Installed) -> str:
    (pod,) = blue.pods()
    uid: str = pod["metadata"]["uid"]
    return uid


def settle(blue: Installed, before: str) -> None:
    """Until another pod of the control plane is ready, and what it syncs is at rest."""
    wait_until(lambda: [pod["metadata"]["uid"] for pod in blue.pods()] not in ([], [before]), "another pod of the control plane", 60)
    blue.wait_ready()
    entry = f"after-{before[:8]}"
    guestbook.write_entry(blue, entry)
    assert json.loads(guestbook.read_entry(blue, entry))["data"].endswith(entry)
    blue.kubectl("annotate", "--overwrite", "--namespace=guestbook", "pods", "--all", f"mark={before}")

    def seen() -> bool:
        return all(pod["metadata"]["annotations"].get("mark") == before for pod in blue.tenant_pods())

    wait_until(seen, "each pod is synced once more", 60)


def owner(blue: Installed) -> tuple[str, Any]:
    """What the fence goes by."""
    found = blue.host.api.get(f"{blue.path}/configmaps/vc-{NAME}-owner")
    return found["metadata"]["uid"], found["data"]


def test_no_pod_of_the_tenant_notices_an_upgrade(blue: Installed) -> None:
    first, was = (lives(blue), owner(blue)), control_plane(blue)
    assert len(first[0]) == 2 * guestbook.PODS
    blue.install()
    settle(blue, was)
    assert (lives(blue), owner(blue)) == first


@pytest.mark.long
def test_nor_another_value_and_the_way_back(blue: Installed) -> None:
    first, was = (lives(blue), owner(blue)), control_plane(blue)
    changed = Installed(blue.host, NAME, NAMESPACE, merged(VALUES, {"podAnnotations": {"note": "another"}}))
    changed.install(CHART)
    settle(blue, was)
    assert (lives(blue), owner(blue)) == first

    was = control_plane(blue)
    blue.helm("rollback", NAME, "1")
    settle(blue, was)
    assert (lives(blue), owner(blue)) == first
