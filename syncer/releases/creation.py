"""Makes a virtual cluster, or changes one: its namespace, Helm's part, and the wait for it."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from syncer.errors import AlreadyExists, ConfigError, Forbidden, NoSuchCluster, NotFound
from syncer.kube.types import NAMESPACES, Key, labels_of
from syncer.releases.belongings import CREATED
from syncer.releases.readiness import wait_balanced, wait_ready
from syncer.releases.release import Status, find_release

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from syncer.kube.client import Client
    from syncer.kube.types import Obj
    from syncer.releases.helm import Helm
    from syncer.releases.waiting import Progress

POD_SECURITY = "pod-security.kubernetes.io/enforce"
_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 52
_VERSIONED = {"vcluster": "-k3s1", "api": "", "controller": ""}
"""Of which values the image's tag is the Kubernetes version, and what follows it there. No distro renders another one's."""
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the user asks for; `values` are files, `sets` are `path=value`, both for Helm and the user's own business."""

    name: str
    namespace: str
    create_namespace: bool = True
    values: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    isolate: bool = False
    expose: bool = False
    distro: str = ""
    kubernetes_version: str = ""
    upgrade: bool = False
    wait: bool = True


def require_name(name: str) -> None:
    """Raise ConfigError unless it can be a virtual cluster's: the chart says the same, later."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{name!r} cannot be a virtual cluster's name, which is that of a Service: use up to {_LONGEST_NAME} small letters, "
            "digits and '-', and begin with a letter"
        )


def arguments(wanted: Wanted, chart: Path) -> list[str]:
    """Of helm, after the release's name. What was typed as `--set` and `--values` wins over what our flags stand for."""
    ours = {
        **({"isolation.enabled": "true"} if wanted.isolate else {}),
        **({"service.type": "LoadBalancer"} if wanted.expose else {}),
        **({"distro": wanted.distro} if wanted.distro else {}),
        **(_version(wanted, chart) if wanted.kubernetes_version else {}),
    }
    given = [path.split("=", 1)[0] for path in wanted.sets]
    return [
        str(chart),
        *(f"--values={path}" for path in wanted.values),
        *(f"--set={path}={value}" for path, value in ours.items() if path not in given),
        *(f"--set={path}" for path in wanted.sets),
        *(["--reset-then-reuse-values"] if wanted.upgrade else []),
    ]


def _version(wanted: Wanted, chart: Path) -> Mapping[str, str]:
    found = _VERSION.fullmatch(wanted.kubernetes_version)
    if found is None:
        raise ConfigError(f"--kubernetes-version: {wanted.kubernetes_version!r} has no image; name a whole version, such as 1.36.3")
    defaults: dict[str, Any] = yaml.safe_load((chart / "values.yaml").read_text())
    return {f"{part}.image": f"{defaults[part]['image'].rpartition(':')[0]}:v{found[1]}{suffix}" for part, suffix in _VERSIONED.items()}


async def create(host: Client, helm: Helm, wanted: Wanted, chart: Path, progress: Progress) -> str:
    """Until it is ready; the address that a load balancer gave it, "" without one. Raises ConfigError and TooLate."""
    require_name(wanted.name)
    words = await asyncio.to_thread(arguments, wanted, chart)
    await helm.check()
    await _require_free(host, helm, wanted)
    await _make_namespace(host, wanted)
    await helm.apply(wanted.name, wanted.namespace, words, upgrade=wanted.upgrade)
    isolation = (await helm.values(wanted.name, wanted.namespace)).get("isolation") or {}
    if isolation.get("enabled"):
        await _label(host, wanted.namespace, isolation.get("podSecurityStandard") or "baseline")
    if not wanted.wait:
        return ""
    await wait_ready(host, wanted.name, wanted.namespace, progress)
    return await wait_balanced(host, wanted.name, wanted.namespace, progress) if wanted.expose else ""


async def _require_free(host: Client, helm: Helm, wanted: Wanted) -> None:
    """Raise ConfigError if there is one already that was not meant, or that is in no state to be changed."""
    name, namespace = wanted.name, wanted.namespace
    try:
        found = await find_release(host, name, namespace)
    except NoSuchCluster:
        found = None
    for record in await helm.records(name, namespace):
        if not record.ours:
            raise ConfigError(f"{name} is a Helm release of {record.chart} in namespace {namespace}; take another name")
        if record.blocked:
            raise ConfigError(record.blocked)
        if found is None and not wanted.upgrade:
            raise ConfigError(
                f"a virtual cluster {name} was half made in namespace {namespace} (Helm says: {record.status}); "
                f"go on with --upgrade, or clear up with `syncer delete {name} --namespace={namespace}`"
            )
    if found is None:
        return
    found.require_ours()
    if not wanted.upgrade:
        raise ConfigError(
            f"there is a virtual cluster {name} in namespace {namespace} already; `syncer connect {name}` leads to it, "
            "and --upgrade changes it"
        )
    if found.status is Status.PAUSED:
        raise ConfigError(f"{name} is paused, and Helm would start it half; run `syncer resume {name} --namespace={namespace}` first")


async def _make_namespace(host: Client, wanted: Wanted) -> None:
    key = Key("", wanted.namespace)
    try:
        found = await host.get(NAMESPACES, key)
    except Forbidden:
        return  # whoever may only work in one namespace may not look at it either
    except NotFound:
        found = {}
    if (found.get("status") or {}).get("phase") == "Terminating":
        raise ConfigError(f"namespace {wanted.namespace} is being deleted; wait until it is gone, or take another one")
    if found:
        return
    if not wanted.create_namespace:
        raise ConfigError(f"there is no namespace {wanted.namespace}; create it, or leave out --no-create-namespace")
    body: Obj = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": wanted.namespace, "annotations": {CREATED: "true"}}}
    try:
        await host.create(NAMESPACES, "", body)
    except AlreadyExists:
        pass
    except Forbidden as error:
        raise ConfigError(f"{error.message}; have somebody create it, or name one of your own with --namespace") from None


async def _label(host: Client, namespace: str, level: str) -> None:
    """A chart cannot label its own namespace."""
    key = Key("", namespace)
    try:
        if labels_of(await host.get(NAMESPACES, key)).get(POD_SECURITY) != level:
            await host.patch(NAMESPACES, key, {"metadata": {"labels": {POD_SECURITY: level}}})
    except Forbidden:
        raise ConfigError(
            f"the virtual cluster is made, but not isolated yet: labelling its namespace is not allowed; have somebody run "
            f"`kubectl label namespace {namespace} {POD_SECURITY}={level}`"
        ) from None
