"""local-path-provisioner: makes the host's volumes as directories on the real node, and removes them when they are released.

It runs beside the host's controllers; the pods that make and remove the directories run on the node.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import yaml

from e2e.kubernetes import binaries
from e2e.lab import process
from e2e.lab.images import BUSYBOX

if TYPE_CHECKING:
    from e2e.lab.api import Obj
    from e2e.lab.host import HostCluster

NAME = "local-path-provisioner"
CLASS = "local-path"
"""StorageClass whose volumes are made once a pod that uses them is scheduled; the host's default."""
IMMEDIATE = "local-path-immediate"
"""StorageClass whose volumes are made at once, and kept when they are released."""
DIRECTORY = "/var/lib/local-path"
"""Where the volumes of CLASS are, on the node, and gone with it."""
_NAMESPACE = "local-path-storage"
_PROVISIONER = "rancher.io/local-path"
_CONFIG = {
    "storageClassConfigs": {
        CLASS: {"nodePathMap": [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [DIRECTORY]}]},
        IMMEDIATE: {"sharedFileSystemPath": f"{DIRECTORY}-shared"},  # on the one node there is, which is all that it has to be
    }
}
_SCRIPTS = {"setup": 'mkdir -m 0777 -p "$VOL_DIR"', "teardown": 'rm -rf "$VOL_DIR"'}


def start(host: HostCluster) -> None:
    """Start it unless it runs, with its two StorageClasses. The host needs its real node, on which the volumes are."""
    host.create_namespace(_NAMESPACE)
    for obj in (_scripts(), _class(CLASS, "WaitForFirstConsumer", "Delete", default=True), _class(IMMEDIATE, "Immediate", "Retain")):
        host.api.apply(obj)
    config, helper = host.dir / f"{NAME}.json", host.dir / f"{NAME}.yaml"
    config.write_text(json.dumps(_CONFIG))
    helper.write_text(yaml.safe_dump(_helper_pod()))
    process.spawn(
        host.dir,
        NAME,
        [
            binaries.ensure(NAME)[NAME],
            "start",
            f"--kubeconfig={host.kubeconfig}",
            f"--config={config}",
            f"--helper-pod-file={helper}",
            f"--helper-image={BUSYBOX}",
            f"--namespace={_NAMESPACE}",
            "--service-account-name=default",
        ],
    )


def stop(host: HostCluster) -> None:
    """End it, and take its classes away; volumes stay."""
    process.stop(host.dir, NAME, grace=0)
    for name in (CLASS, IMMEDIATE):
        host.api.delete(f"/apis/storage.k8s.io/v1/storageclasses/{name}")


def _class(name: str, binding: str, policy: str, *, default: bool = False) -> Obj:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": _PROVISIONER,
        "volumeBindingMode": binding,
        "reclaimPolicy": policy,
    }


def _scripts() -> Obj:
    metadata = {"name": "local-path-config", "namespace": _NAMESPACE}
    data = {name: f"#!/bin/sh\nset -eu\n{command}\n" for name, command in _SCRIPTS.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _helper_pod() -> Obj:
    spec = {"containers": [{"name": "helper-pod", "image": BUSYBOX, "imagePullPolicy": "Never"}], "terminationGracePeriodSeconds": 0}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "helper-pod"}, "spec": spec}
