"""The host's range of Service addresses, found out with no other right than to create Services, and without making any.

A dry run with an address of one's own tells whether the host's range has it, and one without any answers an address of the range,
though not one that it would really hand out. From one address in the range its bounds follow by halving. No error text is read.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

import structlog

from syncer.errors import AlreadyExists, ConfigError, Forbidden, Invalid
from syncer.kube.types import CONFIGMAPS, SERVICES, Key
from syncer.naming import LABEL_CLUSTER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from syncer.kube.client import Client
    from syncer.kube.types import Obj

log = structlog.get_logger("syncer.controlplane")

Address = IPv4Address | IPv6Address

KEY = "service-cidr"
"""In the ConfigMap, from which the chart takes flags."""
_BITS = 20
"""Of a range, those that may differ: no API server before 1.33, for which this is, takes a wider one."""
_NARROWEST = 3
_REMEDY = "tell the host's range by the chart's value serviceCIDR"


def configmap_key(namespace: str, name: str) -> Key:
    """Where the range is told for the virtual cluster `name`."""
    return Key(namespace, f"vc-{name}-service-cidr")


async def range_around(address: Address, contains: Callable[[Address], Awaitable[bool]]) -> str:
    """The range, in CIDR notation, that `address` is in. `contains` tells of any other address whether it is in the range too.

    Raises ConfigError for one that is wider than old API servers take.
    """
    width = address.max_prefixlen

    async def fits(bits: int) -> bool:
        candidate = ip_network((address, width - bits), strict=False)
        # Nobody gets the first address, and of IPv4 the last.
        return await contains(candidate[1]) and await contains(candidate[-2])

    low, high = _NARROWEST, _BITS + 1
    if await fits(high):
        raise ConfigError(
            f"the host's range of Service addresses around {address} is wider than 2^{_BITS}, which API servers before Kubernetes 1.33 "
            "do not take; let the virtual cluster have 1.33 or newer"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await fits(middle) else (low, middle)
    return str(ip_network((address, width - low), strict=False))


async def service_ranges(host: Client, namespace: str) -> tuple[str, ...]:
    """The host's ranges of Service addresses, its first IP family's first.

    Raises ConfigError where the host does not tell, another ApiError, or a network error.
    """
    try:
        made = await _try(host, namespace, {"ipFamilyPolicy": "PreferDualStack"})
    except (Forbidden, Invalid) as error:
        raise ConfigError(f"asking the host for its range of Service addresses: {error.message}; {_REMEDY}") from None
    addresses = [ip_address(text) for text in made["spec"].get("clusterIPs") or ()]
    if not addresses:
        raise ConfigError(f"the host gives no addresses to Services; {_REMEDY}")

    async def contains(address: Address) -> bool:
        family = f"IPv{address.version}"
        try:
            await _try(host, namespace, {"clusterIP": str(address), "ipFamilies": [family], "ipFamilyPolicy": "SingleStack"})
        except Invalid:
            return False
        return True

    return tuple([await range_around(address, contains) for address in addresses])


async def publish_ranges(host: Client, key: Key, ranges: Sequence[str], *, name: str, owners: Sequence[Obj]) -> None:
    """Tell the ranges in the ConfigMap `key` of the virtual cluster `name`. Safe beside another replica, which finds out the same."""
    data = {KEY: ",".join(ranges)}
    owned: Obj = {"ownerReferences": [*owners]} if owners else {}
    metadata: Obj = owned | {"name": key.name, "namespace": key.namespace, "labels": {LABEL_CLUSTER: name}}
    try:
        await host.create(CONFIGMAPS, key.namespace, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    except AlreadyExists:
        await host.patch(CONFIGMAPS, key, {"metadata": owned, "data": data})
    log.info("service_range.told", key=str(key), ranges=list(ranges))


async def _try(host: Client, namespace: str, spec: Obj) -> Obj:
    body: Obj = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"generateName": "syncer-asks-", "namespace": namespace},
        "spec": {"ports": [{"port": 443}], **spec},
    }
    return await host.create(SERVICES, namespace, body, dry_run=True)
