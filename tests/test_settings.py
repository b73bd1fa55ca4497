from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from syncer import classic, values
from syncer.errors import ConfigError
from syncer.settings import Settings, flags, load, unknown_variables, variable

NOWHERE = Path("/nonexistent/namespace")
AT_HOME = {"NAMESPACE": "team-a"}


def settings(*arguments: str, environ: dict[str, str] | None = None) -> Settings:
    return loaded(*arguments, environ=environ)[0]


def loaded(*arguments: str, environ: dict[str, str] | None = None) -> tuple[Settings, list[str]]:
    """`--flag=value` arguments, without the command line in between."""
    found: dict[str, list[str]] = {}
    for argument in arguments:
        name, _, text = argument.removeprefix("--").partition("=")
        found.setdefault(name, []).append(text)
    return load(found, AT_HOME if environ is None else environ, pod_namespace=NOWHERE)


def problems(*arguments: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*arguments, environ=environ)
    return str(caught.value).splitlines()


def test_defaults() -> None:
    got = settings()
    assert got == Settings(target_namespace="team-a")
    assert (got.name, got.service_name, got.dns_service) == ("vcluster", "vcluster", "vcluster-dns")
    assert got.kube_config == "/data/server/cred/admin.kubeconfig"
    assert (got.host_kube_config, got.cluster_domain, got.set_owner, got.leader_elect) == ("", "cluster.local", True, False)
    assert (got.lease_duration, got.renew_deadline, got.retry_period) == (60, 40, 15)
    assert (got.health_bind_address, got.webhook_port, got.service_cidr) == (("0.0.0.0", 8081), 8444, ())
    assert (got.deletion_hold_count, got.deletion_hold_fraction, got.scan_interval, got.shutdown_timeout) == (25, 0.25, 600, 4)
    assert (got.log_format, got.log_level) == ("auto", "info")


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("--name=blue", "name", "blue"),
        ("--name=blue", "service_name", "blue"),
        ("--name=blue", "dns_service", "blue-dns"),
        ("--service-name=front", "service_name", "front"),
        ("--target-namespace=team-b", "target_namespace", "team-b"),
        ("--set-owner=false", "set_owner", False),
        ("--set-owner=F", "set_owner", False),
        ("--leader-elect=1", "leader_elect", True),
        ("--lease-duration=1m30s", "lease_duration", 90.0),
        ("--lease-duration=90", "lease_duration", 90.0),
        ("--retry-period=1500ms", "retry_period", 1.5),
        ("--scan-interval=1h", "scan_interval", 3600.0),
        ("--health-bind-address=:0", "health_bind_address", ("", 0)),
        ("--health-bind-address=[::1]:9000", "health_bind_address", ("::1", 9000)),
        ("--webhook-port=0", "webhook_port", 0),
        ("--service-cidr=10.96.0.0/12, fd00::/108", "service_cidr", ("10.96.0.0/12", "fd00::/108")),
        ("--translate-image=a:1=b:2,c@sha256:0=d", "translate_image", {"a:1": "b:2", "c@sha256:0": "d"}),
        ("--sync=-events,pods", "sync", ("-events", "pods")),
        ("--deletion-hold-count=0", "deletion_hold_count", 0),
        ("--deletion-hold-fraction=1", "deletion_hold_fraction", 1.0),
        ("--log-level=WARNING", "log_level", "warning"),
        ("--name=", "name", "vcluster"),
        ("--lease-duration=", "lease_duration", 60.0),
        ("--sync-all-configmaps=true", "sync_all_configmaps", True),
        ("--node-selector=pool=a,gpu=yes", "node_selector", "pool=a,gpu=yes"),
        (
            "--enforce-toleration=a=b:NoSchedule,c:NoExecute,d,e=",
            "enforce_toleration",
            (
                {"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"},
                {"key": "c", "operator": "Exists", "effect": "NoExecute"},
                {"key": "d", "operator": "Exists"},
                {"key": "e", "operator": "Equal", "value": ""},
            ),
        ),
        ("--enforce-toleration=*", "enforce_toleration", ({"operator": "Exists"},)),
        ("--translate-image=,", "translate_image", {}),
    ],
)
def test_one_flag(argument: str, field: str, value: object) -> None:
    assert getattr(settings(argument), field) == value


def test_repeated_flags_add_up_for_lists_and_override_otherwise() -> None:
    got = settings("--translate-image=a=b", "--translate-image=c=d,e=f", "--name=one", "--name=two")
    assert got.translate_image == {"a": "b", "c": "d", "e": "f"}
    assert got.name == "two"


def test_a_flag_overrides_the_environment_which_overrides_the_default() -> None:
    environ = {**AT_HOME, "SYNCER_NAME": "from-env", "SYNCER_SYNC": "-events,-nodes", "SYNCER_SHUTDOWN_TIMEOUT": " 9s\n"}
    got = settings("--name=from-flag", environ=environ)
    assert (got.name, got.sync, got.shutdown_timeout) == ("from-flag", ("-events", "-nodes"), 9.0)
    assert settings(environ=environ).name == "from-env"
    assert settings(environ={**AT_HOME, "SYNCER_NAME": ""}).name == "vcluster"


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--lease-duration=soon", "--lease-duration: 'soon' is not a duration; write 15s, 1m30s or a number of seconds"),
        ("--lease-duration=-5s", "--lease-duration: '-5s' is not a duration; write 15s, 1m30s or a number of seconds"),
        ("--lease-duration=0", "--lease-duration: '0' must be longer than nothing"),
        ("--lease-duration=60.5", "--lease-duration: a Lease knows whole seconds only"),
        ("--certificate-life=5m", "--certificate-life: certificates have to last 10m at least, so that there is time to renew them"),
        ("--certificate-life=876001h", "--certificate-life: certificates may last 876000h at most, which is a hundred years"),
        ("--renew-deadline=60s", "--renew-deadline: must be shorter than --lease-duration, or a silent leader would outlive its lease"),
        ("--retry-period=35s", "--renew-deadline: must be longer than 1.2 times --retry-period, so that there is time for a second try"),
        ("--set-owner=perhaps", "--set-owner: 'perhaps' is neither true nor false"),
        ("--health-bind-address=8081", "--health-bind-address: '8081' is not an address; write host:port, for example 0.0.0.0:8081"),
        ("--health-bind-address=localhost:1", "--health-bind-address: 'localhost' is not an IP address; write for example 127.0.0.1"),
        ("--webhook-port=65536", "--webhook-port: '65536' is not a port; write a number from 0 (pick a free one) to 65535"),
        ("--translate-image=a", "--translate-image: 'a' is not of the form image=other"),
        ("--deletion-hold-count=-1", "--deletion-hold-count: '-1' is not a whole number from 0 up"),
        ("--deletion-hold-fraction=1.5", "--deletion-hold-fraction: '1.5' is not a number from 0 to 1"),
        ("--log-format=xml", "--log-format: 'xml' is none of auto, json, console"),
        (
            "--service-cidr=10.0.0.0/8,10.96.0.0/12",
            "--service-cidr: takes one range of each IP family; give one that covers all of the host's",
        ),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_flag(argument: str, line: str) -> None:
    assert problems(argument) == [line]


NODE_FLAGS = [
    ("--sync-all-nodes", "--sync-all-nodes: made-up nodes are those in use; to show the host's, add --sync=nodes"),
    ("--node-clear-image-status", "--node-clear-image-status: made-up nodes show no images; drop it, or add --sync=nodes"),
    ("--node-selector=pool", "--node-selector: without --sync=nodes it is a list of key=value only; write it so, or add --sync=nodes"),
    ("--node-selector=a!=b", "--node-selector: without --sync=nodes it is a list of key=value only; write it so, or add --sync=nodes"),
    (
        "--node-selector=a=b --enforce-node-selector=false",
        "--node-selector: it chooses where pods may run, or with --sync=nodes which nodes are shown; neither is asked for",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), NODE_FLAGS)
def test_flags_that_need_the_hosts_nodes_say_so(arguments: str, line: str) -> None:
    given = [argument if "=" in argument else f"{argument}=true" for argument in arguments.split()]
    assert problems(*given) == [line]
    assert problems(*given, "--sync=-nodes") == [line]
    settings(*given, "--sync=nodes")


def test_made_up_nodes_take_labels_to_select_by() -> None:
    assert settings("--node-selector=pool=a,disk in (ssd)").node_selector == "pool=a,disk in (ssd)"
    assert settings("--enforce-node-selector=false").node_selector == ""


@pytest.mark.parametrize("text", ["Blue", "-a", "a-", "a" * 64, "a.b", "ä", "a_b"])
def test_names_that_kubernetes_would_refuse(text: str) -> None:
    (line,) = problems(f"--name={text}")
    assert line.startswith(f"--name: {text!r} is not a name")


def test_a_list_has_a_line_for_each_wrong_item() -> None:
    lines = problems("--service-cidr=x,10.96.0.0/12,y")
    assert [line.partition(" is ")[0] for line in lines] == ["--service-cidr: 'x'", "--service-cidr: 'y'"]


def test_a_wrong_name_is_one_line_though_others_are_made_of_it() -> None:
    assert len(problems("--name=Blue")) == 1


def test_host_bits_in_a_range_are_told() -> None:
    (line,) = problems("--service-cidr=10.96.0.1/12")
    assert line.startswith("--service-cidr: '10.96.0.1/12' is not an IP range (10.96.0.1/12 has host bits set)")


def test_everything_wrong_is_told_at_once_with_its_source() -> None:
    lines = problems("--log-level=loud", "--plugins=x", environ={**AT_HOME, "SYNCER_WEBHOOK_PORT": "x", "SYNCER_CONFIG": "y"})
    assert [line.partition(":")[0] for line in lines] == ["--plugins", "SYNCER_CONFIG", "SYNCER_WEBHOOK_PORT", "--log-level"]


def test_a_port_that_clients_cannot_know_needs_an_address() -> None:
    (line,) = problems("--port=0")
    assert line.startswith("--port: 0 picks a port that nobody knows in advance")
    assert settings("--port=0", "--out-kube-config-server=https://blue.example.com").port == 0
    assert not settings("--port=0", "--proxy=false").proxy


def test_a_derived_name_that_is_too_long_is_told() -> None:
    (line,) = problems("--name=" + "a" * 60)
    assert line.startswith("--dns-service: ")
    assert settings("--name=" + "a" * 60, "--dns-service=dns").dns_service == "dns"


class TestTargetNamespace:
    def test_is_told_to_be_missing_outside_of_a_pod(self) -> None:
        (line,) = problems(environ={})
        assert line == "--target-namespace: not running in a pod, so say which host namespace to sync into"

    def test_that_is_none_is_told_with_the_variable_it_comes_from(self) -> None:
        (line,) = problems(environ={"NAMESPACE": "Team A"})
        assert line.startswith("NAMESPACE: 'Team A' is not a name")

    def test_comes_from_the_pods_file(self, tmp_path: Path) -> None:
        file = tmp_path / "namespace"
        file.write_text("team-c\n")
        assert load({}, {}, pod_namespace=file)[0].target_namespace == "team-c"
        assert load({}, AT_HOME, pod_namespace=file)[0].target_namespace == "team-a"
        assert load({"target-namespace": ["team-d"]}, AT_HOME, pod_namespace=file)[0].target_namespace == "team-d"


@pytest.mark.parametrize(
    ("environ", "arguments", "level"),
    [
        ({"DEBUG": "true"}, (), "debug"),
        ({"DEBUG": "1"}, (), "debug"),
        ({"DEBUG": "false"}, (), "info"),
        ({"DEBUG": ""}, (), "info"),
        ({"DEBUG": "true"}, ("--log-level=error",), "error"),
        ({"DEBUG": "true", "SYNCER_LOG_LEVEL": "warning"}, (), "warning"),
    ],
)
def test_debug_variable(environ: dict[str, str], arguments: tuple[str, ...], level: str) -> None:
    assert settings(*arguments, environ=AT_HOME | environ).log_level == level


class TestSuffix:
    def test_is_another_word_for_name(self) -> None:
        got, warnings = loaded("--suffix=blue")
        assert (got.name, got.service_name) == ("blue", "blue")
        assert warnings == ["--suffix: write --name, it is the old word for --name"]

    def test_must_not_contradict_name(self) -> None:
        assert settings("--suffix=blue", "--name=blue").name == "blue"
        (line,) = problems("--suffix=blue", "--name=green")
        assert line == "--suffix: says something else than --name, and it is the old word for --name; drop it"


class TestEnabled:
    known: ClassVar = {"pods": True, "services": True, "tokens": True, "nodes": False, "persistentvolumeclaims": False}

    @pytest.mark.parametrize(
        ("arguments", "enabled"),
        [
            ((), {"pods", "services", "tokens"}),
            (("--sync=nodes,-pods",), {"services", "tokens", "nodes"}),
            (("--sync=-pods", "--sync=-services"), {"tokens"}),
            (("--disable-sync-resources=pods,services",), {"tokens"}),
            (("--disable-sync-resources=pods", "--sync=-pods"), {"services", "tokens"}),
            (("--sync=-ingresses,-persistentvolumeclaims",), {"pods", "services", "tokens"}),
            (("--sync=persistentvolumeclaims,fake-persistentvolumes",), {"pods", "services", "tokens", "persistentvolumeclaims"}),
        ],
    )
    def test_choice(self, arguments: tuple[str, ...], enabled: set[str]) -> None:
        assert settings(*arguments).enabled(self.known) == enabled

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--sync=podz",), "--sync: there is no resource 'podz'; it knows nodes, persistentvolumeclaims, pods, services, tokens"),
            (("--sync=-podz",), "--sync: there is no resource 'podz'; it knows nodes, persistentvolumeclaims, pods, services, tokens"),
            (
                ("--disable-sync-resources=podz",),
                "--sync: there is no resource 'podz'; it knows nodes, persistentvolumeclaims, pods, services, tokens",
            ),
            (
                ("--sync=ingresses",),
                "--sync: this version does not sync 'ingresses'; it knows nodes, persistentvolumeclaims, pods, services, tokens",
            ),
            (
                ("--sync=fake-persistentvolumes",),
                (
                    "--sync: this version does not sync 'fake-persistentvolumes'; "
                    "it knows nodes, persistentvolumeclaims, pods, services, tokens"
                ),
            ),
            (("--sync=pods,-pods",), "--sync: pods is switched both on and off; drop one of them"),
            (("--sync=pods", "--disable-sync-resources=pods"), "--sync: pods is switched both on and off; drop one of them"),
        ],
    )
    def test_mistakes(self, arguments: tuple[str, ...], message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            settings(*arguments).enabled(self.known)
        assert str(caught.value) == message


class TestClassicFlags:
    @pytest.mark.parametrize(
        "argument",
        [
            "--sync-labels=team,app.kubernetes.io/*",
            "--fake-nodes=true",
            "--fake-nodes=T",
            "--fake-kubelets=true",
            "--service-account-token-secrets=true",
            "--override-hosts=false",
            "--enable-scheduler=0",
            "--multi-namespace-mode=false",
            "--host-metrics-bind-address=0",
            "--disable-plugins=true",
        ],
    )
    def test_what_is_so_anyway_is_accepted_with_a_warning(self, argument: str) -> None:
        _, warnings = loaded(argument)
        assert [line.partition(": can be dropped, ")[0] for line in warnings] == [argument.partition("=")[0]]

    @pytest.mark.parametrize(
        "argument",
        [
            "--sync-labels=release",
            "--sync-labels=team,vcluster.loft.sh/namespace",
            "--fake-nodes=false",
            "--service-account-token-secrets=false",
            "--override-hosts=true",
            "--sync-node-changes=true",
            "--enable-scheduler=true",
            "--multi-namespace-mode=true",
            "--host-metrics-bind-address=0.0.0.0:9090",
            "--plugins=x",
            "--config=/var/vcluster/config.yaml",
            "--noop-syncer=true",
        ],
    )
    def test_everything_else_is_refused_with_a_reason(self, argument: str) -> None:
        flag, _, value = argument.partition("=")
        (line,) = problems(argument)
        assert line.startswith(f"{flag}: not supported by this version with the value {value!r}; ")

    @pytest.mark.parametrize("name", sorted(classic.FLAGS))
    def test_none_is_ignored(self, name: str) -> None:
        for value in ("true", "false", "something"):
            try:
                _, warnings = loaded(f"--{name}={value}")
            except ConfigError as error:
                assert str(error).startswith(f"--{name}: ")  # noqa: PT017  both ways are good, silence is not
            else:
                assert len(warnings) == 1
                assert warnings[0].startswith(f"--{name}: ")

    def test_no_flag_is_both_ours_and_refused(self) -> None:
        assert not classic.FLAGS.keys() & flags().keys()

    @pytest.mark.parametrize(
        ("environ", "source"),
        [
            ({"CONFIG": "version: v1beta1\nexport: []\n"}, "CONFIG"),
            ({"VCLUSTER_COMMAND": "k3s server"}, "VCLUSTER_COMMAND"),
            ({"SYNCER_PLUGINS": "x"}, "SYNCER_PLUGINS"),
        ],
    )
    def test_environment(self, environ: dict[str, str], source: str) -> None:
        (line,) = problems(environ=AT_HOME | environ)
        assert line.startswith(f"{source}: not supported by this version")

    def test_a_config_variable_that_means_something_else_is_none_of_ours(self) -> None:
        assert settings(environ={**AT_HOME, "CONFIG": "release"}).name == "vcluster"


def test_what_kubernetes_sets_for_services_is_not_taken_for_a_flag() -> None:
    environ = {
        **AT_HOME,
        "SYNCER_PORT": "tcp://10.0.0.1:443",
        "SYNCER_WEBHOOK_PORT": "tcp://10.0.0.2:443",
        "SYNCER_SERVICE_HOST": "10.0.0.1",
        "SYNCER_SERVICE_PORT_HTTPS": "443",
        "SYNCER_PORT_443_TCP_ADDR": "10.0.0.1",
        "SYNCER_BLUE_PORT_443_TCP": "tcp://10.0.0.1:443",
    }
    assert settings(environ=environ) == settings()
    assert unknown_variables(environ) == []


def test_misspelt_variables_are_found() -> None:
    environ = {"SYNCER_TARGET_NAMESAPCE": "x", "SYNCER_NAME": "x", "SYNCER_SUFFIX": "x", "OTHER": "x"}
    assert unknown_variables(environ) == ["SYNCER_TARGET_NAMESAPCE"]


def test_every_flag_has_a_group_a_metavar_and_words() -> None:
    for name, flag in flags().items():
        assert flag.group, name
        assert flag.metavar, name
        assert len(flag.words) > 15, name
        assert variable(name).isupper(), name


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from([("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3)])), min_size=1, max_size=4
    )
)
def test_durations_add_up_as_in_go(parts: list[tuple[int, tuple[str, float]]]) -> None:
    text = "".join(f"{number}{unit}" for number, (unit, _) in parts)
    total = sum(number * factor for number, (_, factor) in parts)
    if total > 0:
        assert values.duration(text) == pytest.approx(total)
    else:
        with pytest.raises(ValueError, match="longer than nothing"):
            values.duration(text)


@given(st.text(max_size=12))
def test_any_text_is_a_value_or_one_line_for_a_person(text: str) -> None:
    for name in flags():
        try:
            load({name: [text]}, AT_HOME, pod_namespace=NOWHERE)
        except ConfigError as error:
            for line in str(error).splitlines():
                assert line.startswith("--"), line
                assert "Input should" not in line


@pytest.mark.parametrize(
    "field",
    [
        {"retry_period": -1.0},
        {"webhook_port": 65536},
        {"deletion_hold_fraction": 2},
        {"log_level": "loud"},
        {"health_bind_address": ("x", 1)},
        {"typo": "a"},
    ],
)
def test_the_model_itself_refuses_what_cannot_be(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"1 validation error for Settings\n{next(iter(field))}"):
        Settings.model_validate({"target_namespace": "team-a", **field})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings().name = "other"  # type: ignore[misc]  # that is the point
