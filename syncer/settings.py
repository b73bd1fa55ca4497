"""What `syncer start` can be told: one frozen model, from flags, `SYNCER_*` environment variables and defaults, in that order.

The model checks; this module collects the texts and says which flag or variable a mistake came from. An empty value means
the default, so that a chart may pass values it does not set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from syncer import classic
from syncer.errors import ConfigError
from syncer.translate.selectors import equalities, parse_selector
from syncer.values import (
    Address,
    BindAddress,
    CertificateLife,
    Count,
    Duration,
    File,
    Fraction,
    Images,
    IPAddress,
    Label,
    LeaseDuration,
    LogFormat,
    LogLevel,
    Names,
    Port,
    Ranges,
    Selector,
    Subdomain,
    Switch,
    Tolerations,
)

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds its own namespace."""


@dataclass(frozen=True, slots=True)
class Flag:
    """How a field of Settings is shown in --help: its group, metavar and words, and its default where that needs words too.

    A flag that is given several times counts `many` times, or the last time.
    """

    group: str
    metavar: str
    words: str
    default: str = ""
    many: bool = False

    def shown(self, value: Any) -> str:
        """A value of the field as one would give it."""
        if isinstance(value, bool):
            return str(value).lower()
        return f"{value:g}s" if self.metavar == "DURATION" else "" if self.many else str(value)


CLUSTER = "Which virtual cluster"
SERVERS = "API servers"
SYNC = "What is synced, and how"
NODES = "Nodes"
NETWORK = "Network of the virtual cluster"
PROXY = "Front door: where clients of the virtual cluster connect"
SAFETY = "Safety"
CONTROL_PLANE = "Control plane beside the syncer"
ELECTION = "Leader election"
OPERATION = "Operation"


class Settings(BaseModel):
    """Everything that `syncer start` can be told. Each field is a flag of the same name and `SYNCER_` plus that name in capitals.

    Texts are read as the flags take them. Durations are seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[Label, Flag(CLUSTER, "NAME", "name of the virtual cluster; part of the names that its objects have on the host")] = (
        "vcluster"
    )
    target_namespace: Annotated[
        Label, Flag(CLUSTER, "NAMESPACE", "host namespace to sync everything into", default="$NAMESPACE, or the pod's own")
    ]
    service_name: Annotated[
        Label, Flag(CLUSTER, "SERVICE", "host Service in front of the virtual API server; pods reach it there", default="--name")
    ] = Field(default_factory=lambda given: given["name"])
    init_manifests: Annotated[
        str,
        Flag(
            CLUSTER,
            "DIR",
            "directory of YAML files whose objects are applied to the virtual cluster, at start and when they change",
            default="none",
        ),
    ] = ""

    kube_config: Annotated[str, Flag(SERVERS, "FILE", "kubeconfig for the virtual API server; waited for while it is not there")] = (
        "/data/server/cred/admin.kubeconfig"
    )
    host_kube_config: Annotated[
        str,
        Flag(
            SERVERS,
            "FILE",
            "kubeconfig for the host API server, when not running in a pod of the host",
            default="the pod's service account",
        ),
    ] = ""

    sync: Annotated[
        Names,
        Flag(
            SYNC,
            "[-]RESOURCE,…",
            "switch a resource on, or off with a leading '-'",
            default="on are: configmaps, endpoints, events, fake-nodes, hoststorageclasses, ingressclasses, ingresses, "
            "persistentvolumeclaims, pods, secrets, services",
            many=True,
        ),
    ] = ()
    disable_sync_resources: Annotated[Names, Flag(SYNC, "RESOURCE,…", "old form of --sync=-RESOURCE", many=True)] = ()
    set_owner: Annotated[
        Switch,
        Flag(SYNC, "BOOL", "let the host ConfigMap vc-NAME-owner own all host objects, so that they go when it is deleted"),
    ] = True
    service_account: Annotated[
        Subdomain, Flag(SYNC, "NAME", "host service account that synced pods run as", default="the one named default")
    ] = ""
    translate_image: Annotated[
        Images, Flag(SYNC, "IMAGE=OTHER,…", "where a container names exactly IMAGE, run OTHER instead", many=True)
    ] = Field(default_factory=dict)

    sync_all_configmaps: Annotated[
        Switch, Flag(SYNC, "BOOL", "copy every ConfigMap to the host, and not only those that a pod refers to")
    ] = False
    sync_all_secrets: Annotated[
        Switch, Flag(SYNC, "BOOL", "copy every Secret to the host, and not only those that a pod or an Ingress refers to")
    ] = False
    enforce_toleration: Annotated[
        Tolerations,
        Flag(
            SYNC, "KEY[=VALUE][:EFFECT],…", "tolerations that every pod gets on the host besides its own; * tolerates everything", many=True
        ),
    ] = ()

    node_selector: Annotated[
        Selector,
        Flag(
            NODES,
            "SELECTOR",
            "host nodes of this virtual cluster, by their labels; with --sync=nodes any label selector, else key=value pairs",
            default="all nodes",
        ),
    ] = ""
    enforce_node_selector: Annotated[
        Switch,
        Flag(NODES, "BOOL", "let pods run on no other nodes than those of --node-selector; false: show others that run pods as well"),
    ] = True
    sync_all_nodes: Annotated[
        Switch, Flag(NODES, "BOOL", "with --sync=nodes, show all nodes (of --node-selector), and not only those that run pods")
    ] = False
    node_clear_image_status: Annotated[Switch, Flag(NODES, "BOOL", "with --sync=nodes, do not show which images the nodes have")] = False
    disable_fake_kubelets: Annotated[
        Switch, Flag(NODES, "BOOL", "do not answer for the kubelets of virtual nodes; their addresses are not changed")
    ] = False
    fake_kubelet_ips: Annotated[
        Switch, Flag(NODES, "BOOL", "give each virtual node a host Service, whose address is where its kubelet is answered for")
    ] = True

    cluster_domain: Annotated[Subdomain, Flag(NETWORK, "DOMAIN", "DNS domain of the virtual cluster")] = "cluster.local"
    dns_service: Annotated[Label, Flag(NETWORK, "SERVICE", "host Service of the virtual cluster's CoreDNS", default="NAME-dns")] = Field(
        default_factory=lambda given: f"{given['name']}-dns", validate_default=True
    )
    service_cidr: Annotated[
        Ranges,
        Flag(
            NETWORK,
            "CIDR,…",
            "range of the host's Service addresses, or a wider one; one for each IP family. A virtual API server of Kubernetes 1.33 or "
            "newer is told to accept it; an older one must have been started with the same range",
            default="whatever the host hands out",
            many=True,
        ),
    ] = ()
    webhook_port: Annotated[
        Port,
        Flag(
            NETWORK,
            "PORT",
            "port on the loopback interface where the virtual API server asks for the addresses of new Services; 0 picks one",
        ),
    ] = 8444

    proxy: Annotated[Switch, Flag(PROXY, "BOOL", "serve the virtual cluster's API, with logs, exec and port-forward, to its clients")] = (
        True
    )
    bind_address: Annotated[IPAddress, Flag(PROXY, "IP", "where to serve it")] = "0.0.0.0"  # noqa: S104  clients come from outside of the pod
    port: Annotated[Port, Flag(PROXY, "PORT", "where to serve it; 0 picks one")] = 8443
    server_ca_cert: Annotated[File, Flag(PROXY, "FILE", "certificate of the authority that signs what it serves with; waited for")] = Path(
        "/data/server/tls/server-ca.crt"
    )
    server_ca_key: Annotated[File, Flag(PROXY, "FILE", "key of that authority")] = Path("/data/server/tls/server-ca.key")
    client_ca_cert: Annotated[File, Flag(PROXY, "FILE", "authority of the virtual cluster's client certificates")] = Path(
        "/data/server/tls/client-ca.crt"
    )
    request_header_ca_cert: Annotated[
        File, Flag(PROXY, "FILE", "authority of front proxies, such as the virtual API server when it asks for metrics.k8s.io")
    ] = Path("/data/server/tls/request-header-ca.crt")
    proxy_client_cert: Annotated[
        File, Flag(PROXY, "FILE", "front-proxy certificate by which the virtual API server takes our word for who a client is")
    ] = Path("/data/server/tls/client-auth-proxy.crt")
    proxy_client_key: Annotated[File, Flag(PROXY, "FILE", "key of that certificate")] = Path("/data/server/tls/client-auth-proxy.key")
    tls_san: Annotated[
        Names,
        Flag(
            PROXY,
            "NAME,…",
            "more host names and IP addresses that clients use for it",
            default="only those of --service-name, the pod and the virtual cluster itself",
            many=True,
        ),
    ] = ()
    proxy_metrics_server: Annotated[
        Switch, Flag(PROXY, "BOOL", "serve metrics.k8s.io, as the host's metrics server has it, for kubectl top and autoscalers")
    ] = False
    metrics_server_port: Annotated[
        Port, Flag(PROXY, "PORT", "port on the loopback interface where the virtual API server asks for it; the same in all replicas")
    ] = 8445
    max_connections: Annotated[
        Count, Flag(PROXY, "COUNT", "how many clients may be connected; beyond that, those that have been idle longest are cut off")
    ] = 1000
    drain_time: Annotated[
        Duration, Flag(PROXY, "DURATION", "how long requests may go on when it is stopped; watches and tunnels are ended at once")
    ] = 1.0
    certificate_life: Annotated[
        CertificateLife,
        Flag(
            PROXY,
            "DURATION",
            "how long serving certificates are good that the syncer issues; each is renewed at 80 % of that",
            default="8760h",
        ),
    ] = 365 * 86400.0
    kube_config_context_name: Annotated[
        str,
        Flag(PROXY, "NAME", "name of context, cluster and user in the kubeconfig that is written", default="those in --kube-config"),
    ] = ""
    out_kube_config_secret: Annotated[
        Subdomain, Flag(PROXY, "NAME", "another host Secret for the kubeconfig, besides vc-NAME", default="none")
    ] = ""
    out_kube_config_secret_namespace: Annotated[Label, Flag(PROXY, "NAMESPACE", "where that one is kept", default="--target-namespace")] = (
        ""
    )
    out_kube_config_server: Annotated[
        str, Flag(PROXY, "URL", "address of the virtual cluster in the kubeconfig", default="https://localhost:--port")
    ] = ""

    deletion_hold_count: Annotated[
        Count,
        Flag(
            SAFETY,
            "COUNT",
            "hold deletions that nobody was seen asking for when there are more of a resource than this, and than the fraction below; "
            "`syncer release-deletions` lets them go ahead",
        ),
    ] = 25
    deletion_hold_fraction: Annotated[Fraction, Flag(SAFETY, "FRACTION", "part of all synced objects of the resource, from 0 to 1")] = 0.25
    scan_interval: Annotated[
        Duration,
        Flag(SAFETY, "DURATION", "how often all objects are compared again, changed or not"),
    ] = 600.0

    control_plane_files: Annotated[
        str,
        Flag(
            CONTROL_PLANE,
            "DIR",
            "data directory of a control plane of Kubernetes' own parts, whose certificates the syncer issues: `syncer prepare` before it "
            "starts, and `syncer start` in time anew",
            default="none: it issues its own",
        ),
    ] = ""

    leader_elect: Annotated[
        Switch,
        Flag(ELECTION, "BOOL", "let one of several replicas do the work and the others wait; needed with more than one"),
    ] = False
    lease_duration: Annotated[
        LeaseDuration, Flag(ELECTION, "DURATION", "how long the others wait once the leader falls silent; whole seconds")
    ] = 60.0
    renew_deadline: Annotated[Duration, Flag(ELECTION, "DURATION", "how long the leader goes on while it cannot renew its lease")] = 40.0
    retry_period: Annotated[Duration, Flag(ELECTION, "DURATION", "how often the leader renews its lease, and the others try for it")] = 15.0

    health_bind_address: Annotated[
        BindAddress, Flag(OPERATION, "HOST:PORT", "where to serve /healthz, /readyz and /metrics; port 0 picks one")
    ] = Address("0.0.0.0", 8081)  # noqa: S104  probes and scrapes come from outside of the pod
    log_format: Annotated[LogFormat, Flag(OPERATION, "FORMAT", "json, console, or auto: console in a terminal, else json")] = "auto"
    log_level: Annotated[
        LogLevel, Flag(OPERATION, "LEVEL", "debug, info, warning or error", default="info, or debug when $DEBUG is true")
    ] = "info"
    shutdown_timeout: Annotated[
        Duration, Flag(OPERATION, "DURATION", "how long writes in flight may take to finish when it is stopped")
    ] = 4.0

    @model_validator(mode="after")
    def _check_election(self) -> Self:
        found = []
        if self.renew_deadline >= self.lease_duration:
            found.append("--renew-deadline: must be shorter than --lease-duration, or a silent leader would outlive its lease")
        if self.renew_deadline <= 1.2 * self.retry_period:
            found.append("--renew-deadline: must be longer than 1.2 times --retry-period, so that there is time for a second try")
        if found:
            raise ValueError("\n".join(found))
        return self

    @model_validator(mode="after")
    def _check_proxy(self) -> Self:
        if self.proxy and not self.port and not self.out_kube_config_server:
            raise ValueError("--port: 0 picks a port that nobody knows in advance; tell by --out-kube-config-server how clients get there")
        return self

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if "nodes" in self.sync:
            return self
        found = []
        if self.sync_all_nodes:
            found.append("--sync-all-nodes: made-up nodes are those in use; to show the host's, add --sync=nodes")
        if self.node_clear_image_status:
            found.append("--node-clear-image-status: made-up nodes show no images; drop it, or add --sync=nodes")
        if self.node_selector and not self.enforce_node_selector:
            found.append("--node-selector: it chooses where pods may run, or with --sync=nodes which nodes are shown; neither is asked for")
        elif equalities(parse_selector(self.node_selector)) is None:
            found.append("--node-selector: without --sync=nodes it is a list of key=value only; write it so, or add --sync=nodes")
        if found:
            raise ValueError("\n".join(found))
        return self

    def enabled(self, known: Mapping[str, bool]) -> frozenset[str]:
        """The resources to sync, of those `known` with whether each is on by default. Raises ConfigError for an unknown one."""
        wanted = {name.removeprefix("-"): not name.startswith("-") for name in self.sync}
        contrary = [name for name in wanted if {name, f"-{name}"} <= {*self.sync}]
        contrary += [name for name in self.disable_sync_resources if wanted.get(name)]
        if contrary:
            raise ConfigError(f"--sync: {contrary[0]} is switched both on and off; drop one of them")
        wanted |= dict.fromkeys(self.disable_sync_resources, False)
        enabled = frozenset(name for name, default in known.items() if wanted.get(name, default))
        for name, on in wanted.items():
            if name in known or (name in classic.RESOURCES and not on) or classic.COVERED.get(name) in enabled:
                continue
            why = "this version does not sync" if name in classic.RESOURCES else "there is no resource"
            raise ConfigError(f"--sync: {why} {name!r}; it knows {', '.join(sorted(known))}")
        return enabled


def flags() -> dict[str, Flag]:
    """The flags of Settings by name, as in `lease-duration`."""
    return {
        name.replace("_", "-"): next(item for item in field.metadata if isinstance(item, Flag))
        for name, field in Settings.model_fields.items()
    }


def variable(name: str) -> str:
    """The environment variable of a flag."""
    return "SYNCER_" + name.replace("-", "_").upper()


def load(
    given: Mapping[str, Sequence[str]], environ: Mapping[str, str], *, pod_namespace: Path = POD_NAMESPACE
) -> tuple[Settings, list[str]]:
    """Settings from flags (name to every value given) and the environment, and warnings about flags that can be dropped.

    Raises ConfigError with a line for everything that is wrong.
    """
    texts = _texts(given, environ, pod_namespace)
    problems, warnings = classic.judge(texts, environ)
    values = {
        name.replace("-", "_"): ",".join(texts[name].parts) if flag.many else texts[name].parts[-1]
        for name, flag in flags().items()
        if name in texts
    }
    if environ.get("DEBUG", "").lower() in ("1", "t", "true"):
        values.setdefault("log_level", "debug")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join([*problems, *_lines(error, texts)])) from None
    if problems:
        raise ConfigError("\n".join(problems))
    return settings, warnings


def _lines(error: ValidationError, texts: Mapping[str, classic.Given]) -> list[str]:
    """What is wrong, a line each, beginning with the flag or variable that said so."""
    lines = []
    for mistake in error.errors(include_url=False):
        match mistake:
            case {"type": "default_factory_not_called"}:
                continue  # what it would be made of is wrong, and has its line
            case {"type": "missing"}:
                words = "not running in a pod, so say which host namespace to sync into"
            case {"type": "value_error", "ctx": {"error": reason}}:
                words = str(reason)
            case _:
                words = mistake["msg"]
        name = str(mistake["loc"][0]).replace("_", "-") if mistake["loc"] else ""
        source = texts[name].source if name in texts else f"--{name}"
        lines += [f"{source}: {words}"] if name else words.splitlines()
    return lines


def _texts(given: Mapping[str, Sequence[str]], environ: Mapping[str, str], pod_namespace: Path) -> dict[str, classic.Given]:
    """What each flag was given, by name, aliases resolved where nothing contradicts them."""
    texts: dict[str, classic.Given] = {}
    for name in (*flags(), *classic.FLAGS):
        if parts := [part.strip() for part in given.get(name) or () if part.strip()]:
            texts[name] = classic.Given(f"--{name}", parts)
        elif (text := environ.get(variable(name), "").strip()) and not _is_service_link(name, text):
            texts[name] = classic.Given(variable(name), [text])
    if "suffix" in texts:
        texts.setdefault("name", texts["suffix"])
    if own := _own_namespace(environ, pod_namespace):
        texts.setdefault("target-namespace", own)
    return texts


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """`SYNCER_*` variables that nothing reads, but for those that Kubernetes sets for a Service whose name begins with `syncer`."""
    known = {variable(name) for name in (*flags(), *classic.FLAGS)}
    link = re.compile(r"SYNCER(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
    return sorted(name for name in environ if name.startswith("SYNCER_") and name not in known and not link.fullmatch(name))


def _is_service_link(name: str, text: str) -> bool:
    # Kubernetes sets SYNCER_PORT=tcp://10.0.0.1:443 in every pod of a namespace with a Service named syncer.
    return name.endswith("port") and "://" in text


def _own_namespace(environ: Mapping[str, str], pod_namespace: Path) -> classic.Given | None:
    if own := environ.get("NAMESPACE", ""):
        return classic.Given("NAMESPACE", [own])
    try:
        return classic.Given(str(pod_namespace), [pod_namespace.read_text().strip()])
    except OSError:
        return None
