"""Prometheus metrics of the daemon. All names begin with `syncer_`, in base units; no label takes values without bound.

What happens is counted where it happens, through the methods of `Metrics`. What *is* (queue lengths, cache sizes,
leadership) is read from its owner at the moment of a scrape: see `Metrics.register_source`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from enum import Enum
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from syncer.kube.types import Side

VERSION = version("syncer")

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_RECONCILE_SECONDS = (0.0005, 0.002, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
_VERBS = frozenset({"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "post", "put", "head"})
_PROXY_RESOURCES = 200
"""How many resources are told apart; CRDs included, few clusters have more that anybody uses."""
_LAG_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0)


class Measure(Enum):
    """What can be read at a scrape: its name, what it means, and its labels. Names that end in `_total` are counters, the others gauges."""

    QUEUE_DEPTH = ("syncer_queue_depth", "Pairs that wait for a worker.", ("resource",))
    QUEUE_OLDEST = ("syncer_queue_oldest_seconds", "For how long the pair that waits longest has been waiting.", ("resource",))
    PAIRS = ("syncer_pairs", "Pairs that are not in sync, by where they stand.", ("resource", "state"))
    REFUSED = ("syncer_pairs_refused", "Pairs that an API server refuses, by cause.", ("resource", "cause"))
    DRIFTING = (
        "syncer_pairs_drifting",
        "Pairs with a field that one side does not keep: it does not have it, or somebody there changes it.",
        ("resource", "side", "why"),
    )
    LIMIT = ("syncer_api_concurrency_limit", "How many requests at once the API server is trusted with now.", ("side", "lane"))
    IN_FLIGHT = ("syncer_api_requests_in_flight", "Requests that wait for an answer.", ("side", "lane"))
    CACHE_OBJECTS = ("syncer_cache_objects", "Objects in the cache.", ("side", "resource"))
    CACHE_BYTES = ("syncer_cache_bytes", "Bytes of JSON kept in the cache.", ("side", "resource"))
    WATCH_RESTARTS = ("syncer_watch_restarts_total", "Watches begun anew.", ("side", "resource"))
    WATCH_STALENESS = ("syncer_watch_staleness_seconds", "Time since the last sign of life of a watch.", ("side", "resource"))
    DELETIONS_HELD = ("syncer_deletions_held", "Deletions that wait to be released by a person.", ("resource",))
    FENCE_CLOSED = ("syncer_fence_closed", "1 while nothing may be written, because the virtual control plane is not the recorded one.", ())
    MANIFESTS = ("syncer_init_manifests", "Documents of --init-manifests, by whether they are applied or waiting.", ("state",))
    LEADER = ("syncer_leader", "1 on the replica that does the work.", ())
    PROXY_CONNECTIONS = ("syncer_proxy_connections", "Connections of clients of the virtual cluster.", ())
    PROXY_TURNED_AWAY = (
        "syncer_proxy_connections_turned_away_total",
        "Connections that were closed at once, because there were too many and none was idle.",
        (),
    )
    LOOP_LAG = ("syncer_event_loop_lag_seconds", "Worst recent delay of the event loop.", ())

    def __init__(self, series: str, meaning: str, labels: tuple[str, ...]) -> None:
        self.series = series
        self.meaning = meaning
        self.labels = labels
        """Names of the labels, in the order in which a Reading gives their values."""


class Reading(NamedTuple):
    """One value of a measure, with the values of its labels in order."""

    measure: Measure
    labels: tuple[str, ...]
    value: float


class Metrics:
    """All metrics of one daemon, in a registry of their own."""

    def __init__(self) -> None:
        # Each counter and histogram would export its time of birth besides: a third more series that nobody asks for.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        self._registry = CollectorRegistry()
        self._sources: list[Callable[[], Iterable[Reading]]] = []
        self._reconciles = Counter(
            "syncer_reconciles_total", "Reconciles, by how they ended.", ("resource", "outcome"), registry=self._registry
        )
        self._reconcile_seconds = Histogram(
            "syncer_reconcile_duration_seconds",
            "Time of a reconcile, its writes included.",
            ("resource",),
            buckets=_RECONCILE_SECONDS,
            registry=self._registry,
        )
        self._requests = Counter(
            "syncer_api_requests_total", "Requests to the API servers.", ("side", "verb", "resource", "code"), registry=self._registry
        )
        self._request_seconds = Histogram(
            "syncer_api_request_duration_seconds",
            "Time from sending a request to its answer.",
            ("side", "verb", "resource"),
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        self._lag_seconds = Histogram(
            "syncer_sync_lag_seconds",
            "Time from seeing a change to the pair being in sync.",
            ("resource",),
            buckets=_LAG_SECONDS,
            registry=self._registry,
        )
        self._proxy_requests = Counter(
            "syncer_proxy_requests_total",
            "Requests of clients of the virtual cluster, by HTTP code; 499 when the client did not wait.",
            ("verb", "resource", "code"),
            registry=self._registry,
        )
        self._proxy_seconds = Histogram(
            "syncer_proxy_request_duration_seconds",
            "Time to answer clients of the virtual cluster, without watches and what else has no end of its own.",
            ("verb", "resource"),
            buckets=_REQUEST_SECONDS,
            registry=self._registry,
        )
        self._proxy_lasting = Gauge(
            "syncer_proxy_lasting_requests",
            "Watches, followed logs and tunnels that are open.",
            ("verb", "resource"),
            registry=self._registry,
        )
        self._proxy_resources = {"path"}
        self._proxy_unnamed: dict[tuple[str, str], int] = defaultdict(int)
        """How many lasting requests began under no name of their own."""
        # Children are bound once: finding one by its labels costs four times what counting does.
        self._reconcile_children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._request_children: dict[tuple[str, str, str, str], tuple[Counter, Histogram]] = {}
        self._lag_children: dict[str, Histogram] = {}
        self._proxy_children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._registry.register(self)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def reconciled(self, resource: str, outcome: str, seconds: float) -> None:
        """A reconcile of `resource` ended in `outcome` after `seconds`."""
        child = self._reconcile_children.get((resource, outcome))
        if child is None:
            child = self._reconciles.labels(resource, outcome), self._reconcile_seconds.labels(resource)
            self._reconcile_children[resource, outcome] = child
        child[0].inc()
        child[1].observe(seconds)

    def synced_after(self, resource: str, seconds: float) -> None:
        """A pair of `resource` is in sync `seconds` after a change to it was seen."""
        child = self._lag_children.get(resource)
        if child is None:
            child = self._lag_children[resource] = self._lag_seconds.labels(resource)
        child.observe(seconds)

    def api_request(self, side: Side, verb: str, resource: str, code: str, seconds: float) -> None:
        """A request was answered with `code`, or failed in a way that `code` names, after `seconds`."""
        labels = (side, verb, resource, code)
        child = self._request_children.get(labels)
        if child is None:
            child = self._requests.labels(*labels), self._request_seconds.labels(side, verb, resource)
            self._request_children[labels] = child
        child[0].inc()
        child[1].observe(seconds)

    def proxy_request(self, verb: str, resource: str, code: int, seconds: float | None) -> None:
        """A client of the virtual cluster was answered with `code`; `seconds` is None for what has no end of its own.

        Clients choose what they ask for, so a resource has a name of its own only once somebody was let have it.
        """
        if code < 400 and len(self._proxy_resources) < _PROXY_RESOURCES:
            self._proxy_resources.add(resource)
        verb, name = _known(verb, _VERBS), _known(resource, self._proxy_resources)
        child = self._proxy_children.get((verb, name, code))
        if child is None:
            child = self._proxy_requests.labels(verb, name, str(code)), self._proxy_seconds.labels(verb, name)
            self._proxy_children[verb, name, code] = child
        child[0].inc()
        if seconds is not None:
            child[1].observe(seconds)

    def proxy_lasting(self, verb: str, resource: str, change: int) -> None:
        """One more or less watch, followed log or tunnel is open."""
        asked, name = (verb, resource), _known(resource, self._proxy_resources)
        if change > 0 and name != resource:
            self._proxy_unnamed[asked] += 1
        elif change < 0 and self._proxy_unnamed[asked] > 0:
            name = "other"  # as when it began; by now its name may be known
            self._proxy_unnamed[asked] -= 1
        if not self._proxy_unnamed[asked]:
            del self._proxy_unnamed[asked]
        self._proxy_lasting.labels(_known(verb, _VERBS), name).inc(change)

    def register_source(self, source: Callable[[], Iterable[Reading]]) -> None:
        """Have `source` asked for its readings at every scrape; two sources must not give the same measure with the same labels."""
        self._sources.append(source)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily | InfoMetricFamily]:
        """For the registry: what the sources say now."""
        families: dict[Measure, GaugeMetricFamily | CounterMetricFamily] = {}
        for source in self._sources:
            for measure, labels, value in source():
                family = families.get(measure)
                if family is None:
                    kind = CounterMetricFamily if measure.series.endswith("_total") else GaugeMetricFamily
                    family = families[measure] = kind(measure.series, measure.meaning, labels=measure.labels)
                family.add_metric(labels, value)
        yield from families.values()
        yield InfoMetricFamily("syncer_build", "What is running.", {"version": VERSION})

    async def render(self) -> bytes:
        """Everything, in the text format of `CONTENT_TYPE`."""
        ours = generate_latest(self._registry)
        return ours + await asyncio.to_thread(generate_latest, self._process)  # which reads files below /proc


def _known(name: str, names: Container[str]) -> str:
    return name if name in names else "other"
