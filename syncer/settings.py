"""What `syncer start` can be told: one frozen model, from flags, `SYNCER_*` environment variables and defaults, in that order.

A dataclass of its own rather than pydantic-settings, which would keep 13.6 MiB in a daemon of 60 (measured, besides
0.2 s at every start) for a model that has hardly a field without a rule of Kubernetes' own.

An empty value means the default, so that a chart may pass values it does not set.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from syncer import classic
from syncer.errors import ConfigError
from syncer.values import (
    Address,
    address,
    boolean,
    choice,
    cidr,
    count,
    dns_label,
    dns_subdomain,
    duration,
    fraction,
    image_pair,
    tcp_port,
    truth,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds its own namespace."""


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field of Settings is given: its group, metavar and words in --help, and how its text is read.

    `parse` reads one value; `many`, where a flag takes several (repeated, or joined by commas), makes one of them all.
    """

    group: str
    metavar: str
    words: str
    parse: Callable[[str], Any]
    many: type[tuple[Any, ...] | dict[Any, Any]] | None = None
    default: str = ""
    """The default in words, where it is not that of the field."""

    def shown(self, value: Any) -> str:
        """A value of the field as one would give it."""
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:g}s" if self.parse is duration else str(value) if self.many is None else ""

    def read(self, parts: Sequence[str]) -> Any:
        """The field's value from every text given, none of them empty; ValueError in words when one is wrong."""
        if self.many is None:
            return self.parse(parts[-1])
        return self.many([self.parse(text.strip()) for part in parts for text in part.split(",") if text.strip()])


def _flag(group: str, metavar: str, words: str, parse: Callable[[str], Any], **more: Any) -> dict[str, Flag]:
    return {"flag": Flag(group, metavar, words, parse, **more)}


CLUSTER = "Which virtual cluster"
SERVERS = "API servers"
SYNC = "What is synced, and how"
NETWORK = "Network of the virtual cluster"
SAFETY = "Safety"
ELECTION = "Leader election"
OPERATION = "Operation"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that `syncer start` can be told. Each field is a flag of the same name and `SYNCER_` plus that name in capitals.

    Durations are seconds. `service_name` and `dns_service` are never empty; `target_namespace` is not when it comes from `load`.
    """

    name: str = field(
        default="vcluster", metadata=_flag(CLUSTER, "NAME", "name of the virtual cluster: part of host names, and a label value", dns_label)
    )
    target_namespace: str = field(
        default="",
        metadata=_flag(
            CLUSTER, "NAMESPACE", "host namespace that everything is synced into", dns_label, default="$NAMESPACE, or that of the pod"
        ),
    )
    service_name: str = field(
        default="",
        metadata=_flag(
            CLUSTER, "SERVICE", "host Service in front of the virtual API server; pods reach their API there", dns_label, default="--name"
        ),
    )

    kube_config: str = field(
        default="/data/server/cred/admin.kubeconfig", metadata=_flag(SERVERS, "FILE", "kubeconfig of the virtual API server", str)
    )
    host_kube_config: str = field(
        default="",
        metadata=_flag(
            SERVERS, "FILE", "kubeconfig of the host API server, to run outside of it", str, default="the pod's service account"
        ),
    )

    sync: tuple[str, ...] = field(
        default=(),
        metadata=_flag(
            SYNC,
            "[-]RESOURCE,…",
            "switch syncing of a resource on, or off with a leading '-'; a wrong name is answered with the right ones",
            str,
            many=tuple,
        ),
    )
    disable_sync_resources: tuple[str, ...] = field(
        default=(), metadata=_flag(SYNC, "RESOURCE,…", "old form of --sync=-RESOURCE", str, many=tuple)
    )
    set_owner: bool = field(
        default=True,
        metadata=_flag(
            SYNC, "BOOL", "make the ConfigMap vc-NAME-owner the owner of all host objects, so that they go when it is deleted", boolean
        ),
    )
    service_account: str = field(
        default="",
        metadata=_flag(SYNC, "NAME", "host service account of synced pods", dns_subdomain, default="that of the host namespace"),
    )
    translate_image: Mapping[str, str] = field(
        default_factory=dict,
        metadata=_flag(SYNC, "IMAGE=OTHER,…", "use another image where a container names exactly this one", image_pair, many=dict),
    )

    cluster_domain: str = field(
        default="cluster.local", metadata=_flag(NETWORK, "DOMAIN", "DNS domain of the virtual cluster", dns_subdomain)
    )
    dns_service: str = field(
        default="", metadata=_flag(NETWORK, "SERVICE", "host Service of the virtual cluster's CoreDNS", dns_label, default="NAME-dns")
    )
    service_cidr: tuple[str, ...] = field(
        default=(),
        metadata=_flag(
            NETWORK,
            "CIDR,…",
            "range of the host's Service addresses, at most one of each IP family (a wider one will do). From Kubernetes 1.33 on, the "
            "virtual API server is told by a ServiceCIDR object to accept it; an older one must have been started with the same range",
            cidr,
            many=tuple,
            default="covers whatever the host hands out",
        ),
    )
    webhook_port: int = field(
        default=8444,
        metadata=_flag(
            NETWORK,
            "PORT",
            "loopback port where the virtual API server asks for the addresses of new Services; 0 picks a free one",
            tcp_port,
        ),
    )

    deletion_hold_count: int = field(
        default=25,
        metadata=_flag(
            SAFETY,
            "COUNT",
            "hold deletions that nobody was seen asking for when they are more than this many, and more than --deletion-hold-fraction",
            count,
        ),
    )
    deletion_hold_fraction: float = field(
        default=0.25, metadata=_flag(SAFETY, "FRACTION", "part of the managed objects, from 0 to 1; see --deletion-hold-count", fraction)
    )
    scan_interval: float = field(
        default=600.0, metadata=_flag(SAFETY, "DURATION", "how often every pair is compared again, whether it changed or not", duration)
    )

    leader_elect: bool = field(
        default=False, metadata=_flag(ELECTION, "BOOL", "elect one of several replicas to do the work; needed with more than one", boolean)
    )
    lease_duration: float = field(
        default=60.0, metadata=_flag(ELECTION, "DURATION", "how long others wait for a silent leader, in whole seconds", duration)
    )
    renew_deadline: float = field(
        default=40.0,
        metadata=_flag(ELECTION, "DURATION", "how long the leader goes on without renewing; shorter than the lease", duration),
    )
    retry_period: float = field(default=15.0, metadata=_flag(ELECTION, "DURATION", "how often the lease is renewed or tried for", duration))

    health_bind_address: Address = field(
        default=Address("0.0.0.0", 8081),  # noqa: S104  probes and scrapes come from outside of the pod
        metadata=_flag(OPERATION, "HOST:PORT", "address of /healthz, /readyz and /metrics; port 0 picks a free one", address),
    )
    log_format: LogFormat = field(
        default="auto",
        metadata=_flag(OPERATION, "FORMAT", "json, console, or auto: console in a terminal", choice("auto", "json", "console")),
    )
    log_level: LogLevel = field(
        default="info",
        metadata=_flag(
            OPERATION,
            "LEVEL",
            "debug, info, warning or error",
            choice("debug", "info", "warning", "error"),
            default="info, or debug when $DEBUG is true",
        ),
    )
    shutdown_timeout: float = field(
        default=4.0, metadata=_flag(OPERATION, "DURATION", "how long writes in flight may take to finish at a stop", duration)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "service_name", self.service_name or self.name)
        object.__setattr__(self, "dns_service", self.dns_service or f"{self.name}-dns")

    def enabled(self, known: Mapping[str, bool]) -> frozenset[str]:
        """The resources to sync, of those `known` with whether each is on by default. Raises ConfigError for an unknown one."""
        wanted = {name.removeprefix("-"): not name.startswith("-") for name in self.sync}
        contrary = [name for name in wanted if {name, f"-{name}"} <= {*self.sync}]
        contrary += [name for name in self.disable_sync_resources if wanted.get(name)]
        if contrary:
            raise ConfigError(f"--sync: {contrary[0]} is switched both on and off; drop one of them")
        wanted |= dict.fromkeys(self.disable_sync_resources, False)
        for name, on in wanted.items():
            if name in known or (name in classic.RESOURCES and not on):
                continue
            why = "this version does not sync" if name in classic.RESOURCES else "there is no resource"
            raise ConfigError(f"--sync: {why} {name!r}; it knows {', '.join(sorted(known))}")
        return frozenset(name for name, default in known.items() if wanted.get(name, default))


def flags() -> dict[str, Flag]:
    """The flags of Settings by name, as in `lease-duration`."""
    return {item.name.replace("_", "-"): item.metadata["flag"] for item in fields(Settings)}


def variable(name: str) -> str:
    """The environment variable of a flag."""
    return "SYNCER_" + name.replace("-", "_").upper()


def load(
    given: Mapping[str, Sequence[str]], environ: Mapping[str, str], *, pod_namespace: Path = POD_NAMESPACE
) -> tuple[Settings, list[str]]:
    """Settings from flags (name to every value given) and the environment, and warnings about flags that can be dropped.

    Raises ConfigError with a line for everything that is wrong.
    """
    texts = _texts(given, environ)
    problems, warnings = classic.judge(texts, environ)
    values: dict[str, Any] = {}
    for name, flag in flags().items():
        if name in texts:
            source, parts = texts[name]
            try:
                values[name.replace("-", "_")] = flag.read(parts)
            except ValueError as error:
                problems.append(f"{source}: {error}")
    if truth(environ.get("DEBUG", "")):
        values.setdefault("log_level", "debug")
    values.setdefault("target_namespace", _own_namespace(environ, pod_namespace))
    settings = Settings(**values)
    if problems := problems or _contradictions(settings):
        raise ConfigError("\n".join(problems))
    return settings, warnings


def _texts(given: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> dict[str, classic.Given]:
    """What each flag was given, by name, aliases resolved where nothing contradicts them."""
    texts: dict[str, classic.Given] = {}
    for name in (*flags(), *classic.FLAGS):
        if parts := [part.strip() for part in given.get(name) or () if part.strip()]:
            texts[name] = classic.Given(f"--{name}", parts)
        elif (text := environ.get(variable(name), "").strip()) and not _is_service_link(name, text):
            texts[name] = classic.Given(variable(name), [text])
    if "suffix" in texts:
        texts.setdefault("name", texts["suffix"])
    return texts


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """`SYNCER_*` variables that nothing reads, but for those that Kubernetes sets for a Service whose name begins with `syncer`."""
    known = {variable(name) for name in (*flags(), *classic.FLAGS)}
    link = re.compile(r"SYNCER(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
    return sorted(name for name in environ if name.startswith("SYNCER_") and name not in known and not link.fullmatch(name))


def _is_service_link(name: str, text: str) -> bool:
    # Kubernetes sets SYNCER_PORT=tcp://10.0.0.1:443 in every pod of a namespace with a Service named syncer.
    return name.endswith("port") and "://" in text


def _own_namespace(environ: Mapping[str, str], pod_namespace: Path) -> str:
    if own := environ.get("NAMESPACE", ""):
        return own
    try:
        return pod_namespace.read_text().strip()
    except OSError:
        return ""


def _contradictions(settings: Settings) -> list[str]:
    found = []
    if not settings.target_namespace:
        found.append("--target-namespace: not running in a pod, so say which host namespace to sync into")
    if len(settings.dns_service) > 63:
        found.append(f"--dns-service: {settings.dns_service!r} is longer than 63 characters; name the host Service of CoreDNS")
    if settings.lease_duration != int(settings.lease_duration):
        found.append("--lease-duration: a Lease knows whole seconds only")
    if settings.renew_deadline >= settings.lease_duration:
        found.append("--renew-deadline: must be shorter than --lease-duration, or a silent leader would outlive its lease")
    if settings.renew_deadline <= 1.2 * settings.retry_period:
        found.append("--renew-deadline: must be longer than 1.2 times --retry-period, so that there is time for a second try")
    families = [ipaddress.ip_network(text).version for text in settings.service_cidr]
    if len(set(families)) != len(families):
        found.append("--service-cidr: takes one range of each IP family; give one that covers all of the host's")
    return found
