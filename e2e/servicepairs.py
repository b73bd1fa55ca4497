"""A tenant's Services, and their images on the host: what tests of both compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e2e.errors import LabError
from e2e.lab.api import ApiFailure, wait_until
from syncer.kube.types import ENDPOINTS, EVENTS, MUTATING_WEBHOOKS, SERVICES, Key
from syncer.naming import Names
from syncer.translate.services import PENDING

if TYPE_CHECKING:
    from e2e.daemon import Daemon
    from e2e.lab.api import Api, Obj

MERGE = "application/merge-patch+json"
_OURS = "vcluster.loft.sh/"


def service(name: str, **spec: Any) -> Obj:
    """A Service with one port, unless said otherwise."""
    ports = {} if spec.get("type") == "ExternalName" else {"ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {**ports, **spec}}


class ServicePairs:
    """The Services of one tenant, all in the namespace default."""

    def __init__(self, daemon: Daemon) -> None:
        virtual = daemon.virtual
        self.virtual: Api = virtual.api
        self.host: Api = virtual.host.api
        self.host_namespace = virtual.host_namespace
        self.names = Names(virtual.name, virtual.host_namespace)

    def path(self, name: str, subresource: str = "") -> str:
        return SERVICES.path("default", name, subresource)

    def host_path(self, name: str, subresource: str = "") -> str:
        return SERVICES.path(*self.names.host_key(Key("default", name)), subresource)

    def create(self, body: Obj) -> Any:
        return self.virtual.request("POST", SERVICES.path("default"), body)

    def patch(self, name: str, spec: Obj, metadata: Obj | None = None) -> Any:
        body = {"spec": spec, **({"metadata": metadata} if metadata else {})}
        return self.virtual.request("PATCH", self.path(name), body, content_type=MERGE)

    def get(self, name: str) -> Any:
        return self.virtual.get(self.path(name))

    def get_host(self, name: str) -> Any:
        return self.host.get(self.host_path(name))

    def settle(self, name: str) -> Obj:
        """Wait until both say the same and the host Service is not pending any more; the common spec, as the tenant sees it.

        An API server that saw an address as missing while it was given up makes it taken again, and frees it after a minute
        (pkg/registry/core/service/ipallocator/controller/repairip.go).
        """
        try:
            wait_until(lambda: self._differing(name) is None, f"the Service {name} is the same on both sides", 100)
        except LabError as error:
            told = [event["message"] for event in self.events(name)]
            raise AssertionError(f"{error}: {self._differing(name)}; told: {told}") from None
        spec: Obj = self.get(name)["spec"]
        return spec

    def _differing(self, name: str) -> str | None:
        virtual, host = self.virtual.find(self.path(name)), self.host.find(self.host_path(name))
        if virtual is None or host is None:
            return f"there: {virtual is not None}, {host is not None}"
        ours, theirs = dict(virtual["spec"]), dict(host["spec"])
        selector = {key: value for key, value in (theirs.pop("selector", None) or {}).items() if not key.startswith(_OURS)}
        if (ours.pop("selector", None) or {}) != selector:
            return f"selectors: {virtual['spec'].get('selector')}, {host['spec'].get('selector')}"
        if ours != theirs:
            return f"specs: {ours}, {theirs}"
        return "it is pending" if PENDING in host["metadata"]["annotations"] else None

    def events(self, name: str, kind: str = "Service") -> list[Obj]:
        """The events on a virtual object, but for those of its API server, which on a busy machine repairs addresses of its own accord."""
        selector = f"involvedObject.name={name},involvedObject.kind={kind}"
        found: list[Obj] = self.virtual.get(EVENTS.path("default"), fieldSelector=selector)["items"]
        return [event for event in found if not event.get("reportingComponent", "").endswith("allocator-repair-controller")]

    def remove_admission(self) -> None:
        """Take the webhook out from under a stopped syncer, so that Services are made without it.

        The API server asks a webhook for some moments after its configuration is gone.
        """
        for item in self.virtual.get(MUTATING_WEBHOOKS.path())["items"]:
            self.virtual.delete(MUTATING_WEBHOOKS.path("", item["metadata"]["name"]))
        wait_until(self._admits_unasked, "the API server makes Services without asking")

    def _admits_unasked(self) -> bool:
        try:
            self.virtual.request("POST", SERVICES.path("default"), service("probe"), params={"dryRun": "All"})
        except ApiFailure:
            return False
        return True

    def endpoints(self, name: str, *addresses: str) -> None:
        """Hand-made Endpoints of a Service without selector."""
        subsets = [{"addresses": [{"ip": address} for address in addresses], "ports": [{"port": 80}]}]
        self.virtual.apply(
            {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, "namespace": "default"}, "subsets": subsets}
        )

    def endpoints_path(self, name: str) -> str:
        return ENDPOINTS.path("default", name)
