from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncer.kube.types import Side
from syncer.metrics import CONTENT_TYPE, Measure, Metrics, Reading


async def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by name and label values in the order of the labels' names."""
    text = (await metrics.render()).decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_reconciles() -> None:
    metrics = Metrics()
    metrics.reconciled("pods", "synced", 0.02)
    metrics.reconciled("pods", "synced", 0.3)
    metrics.reconciled("pods", "refused", 0.02)
    got = await samples(metrics)
    assert got["syncer_reconciles_total", "synced", "pods"] == 2
    assert got["syncer_reconciles_total", "refused", "pods"] == 1
    assert got["syncer_reconcile_duration_seconds_count", "pods"] == 3
    assert got["syncer_reconcile_duration_seconds_bucket", "0.025", "pods"] == 2
    assert got["syncer_reconcile_duration_seconds_sum", "pods"] == pytest.approx(0.34)


async def test_requests() -> None:
    metrics = Metrics()
    metrics.api_request(Side.HOST, "patch", "pods", "200", 0.004)
    metrics.api_request(Side.HOST, "patch", "pods", "409", 0.004)
    metrics.api_request(Side.VIRTUAL, "patch", "pods", "200", 0.004)
    got = await samples(metrics)
    assert got["syncer_api_requests_total", "409", "pods", "host", "patch"] == 1
    assert got["syncer_api_requests_total", "200", "pods", "virtual", "patch"] == 1
    assert got["syncer_api_request_duration_seconds_bucket", "0.005", "pods", "host", "patch"] == 2


async def test_requests_of_clients() -> None:
    metrics = Metrics()
    metrics.proxy_request("get", "pods", 200, 0.004)
    metrics.proxy_lasting("watch", "pods", 1)
    metrics.proxy_request("watch", "pods", 403, None)
    got = await samples(metrics)
    assert got["syncer_proxy_requests_total", "200", "pods", "get"] == 1
    assert got["syncer_proxy_requests_total", "403", "pods", "watch"] == 1
    assert got["syncer_proxy_request_duration_seconds_bucket", "0.005", "pods", "get"] == 1
    assert got["syncer_proxy_lasting_requests", "pods", "watch"] == 1


async def test_clients_cannot_make_up_series() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.proxy_lasting("watch", f"strange{number}", 1)
        metrics.proxy_request("watch", f"strange{number}", 404, None)
    metrics.proxy_request("brew", "pods", 200, 0.1)
    metrics.proxy_lasting("watch", "pods", 1)
    for number in range(1000):
        metrics.proxy_request("get", f"strange{number}", 200, 0.1)
        metrics.proxy_lasting("watch", f"strange{number}", -1)
    got = await samples(metrics)
    assert got["syncer_proxy_requests_total", "404", "other", "watch"] == 1000
    assert got["syncer_proxy_requests_total", "200", "pods", "other"] == 1
    assert got["syncer_proxy_lasting_requests", "other", "watch"] == 0
    assert got["syncer_proxy_lasting_requests", "pods", "watch"] == 1
    assert sum(1 for name, *_ in got if name == "syncer_proxy_requests_total") < 250


async def test_lag() -> None:
    metrics = Metrics()
    metrics.synced_after("pods", 0.04)
    assert (await samples(metrics))["syncer_sync_lag_seconds_bucket", "0.05", "pods"] == 1


async def test_sources_are_read_at_each_scrape_and_only_then() -> None:
    metrics = Metrics()
    asked = 0

    def queues() -> list[Reading]:
        nonlocal asked
        asked += 1
        return [Reading(Measure.QUEUE_DEPTH, ("pods",), 3.0 * asked), Reading(Measure.LEADER, (), 1.0)]

    metrics.register_source(queues)
    metrics.register_source(lambda: [Reading(Measure.QUEUE_DEPTH, ("services",), 1.0)])
    metrics.register_source(lambda: [Reading(Measure.WATCH_RESTARTS, (Side.HOST, "pods"), 7.0)])
    assert asked == 0
    assert (await samples(metrics))["syncer_queue_depth", "pods"] == 3
    got = await samples(metrics)
    assert got["syncer_queue_depth", "pods"] == 6
    assert got["syncer_queue_depth", "services"] == 1
    assert got["syncer_watch_restarts_total", "pods", "host"] == 7
    assert got["syncer_leader",] == 1


@pytest.mark.parametrize("measure", Measure)
async def test_every_measure_can_be_read(measure: Measure) -> None:
    metrics = Metrics()
    metrics.register_source(lambda: [Reading(measure, tuple(f"x-{label}" for label in measure.labels), 1.5)])
    assert (await samples(metrics))[measure.series, *(f"x-{label}" for label in sorted(measure.labels))] == 1.5


async def test_names_and_types_follow_the_conventions() -> None:
    metrics = Metrics()
    metrics.reconciled("pods", "synced", 0.1)
    metrics.api_request(Side.HOST, "get", "pods", "200", 0.1)
    metrics.synced_after("pods", 0.1)
    for measure in Measure:
        metrics.register_source(lambda measure=measure: [Reading(measure, tuple("x" for _ in measure.labels), 1.0)])  # type: ignore[misc]  # mypy cannot infer a lambda with defaults
    families = list(text_string_to_metric_families((await metrics.render()).decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith(("syncer_", "process_")), family.name
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith("_created"), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds"), family.name
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "syncer_build_info"} <= {family.name for family in families}


async def test_two_daemons_in_one_process_do_not_meet() -> None:
    one, other = Metrics(), Metrics()
    one.reconciled("pods", "synced", 0.1)
    assert ("syncer_reconciles_total", "synced", "pods") not in await samples(other)


async def test_content_type_is_what_prometheus_understands() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
