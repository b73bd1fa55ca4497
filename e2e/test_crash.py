"""The syncer is killed at many random moments of an application's life, and nobody can tell from what is there in the end.

`CRASH_SEED` repeats the lives that the syncer was given; what it was doing when they ended is up to the machine.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e import guestbook
from e2e.daemon import Daemon
from e2e.errors import LabError
from e2e.guestbook import kubectl
from e2e.lab.api import wait_until
from e2e.parity import differences, versions
from e2e.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from e2e.fixtures import StartVirtual
    from e2e.lab.virtual import VirtualCluster

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("real_node"), pytest.mark.timeout(600)]

STEADY = "steady"
"""A namespace whose pods nobody touches."""
SETTLED_SECONDS = 60.0
QUIET_SECONDS = 4.0
ATTEMPTS = 4
_OF_ITS_OWN_ACCORD = ("mutatingwebhookconfigurations.", "servicecidrs.", "selfsubjectrulesreviews", "events")
"""What is written or asked by POST whatever the state: the webhook's new certificate, questions, and what a kubelet happens to say."""


class Application:
    """The tenant's application, and its life: what its owner does with it, one thing after another.

    `kills()` tells how often the syncer was killed so far.
    """

    def __init__(self, virtual: VirtualCluster, kills: Callable[[], int]) -> None:
        self.virtual = virtual
        self._kills = kills
        self.doing = "nothing yet"
        """What its owner does at the moment."""
        self.replicas: Counter[str] = Counter()
        self.created: Counter[str] = Counter()
        """How many pods each workload has to have made in all, if no pod ever went that nobody wanted to go."""
        self.deeds: dict[str, Callable[[], None]] = {
            "apply": self.apply,
            "scale up": lambda: self.scale(frontend=5, **{"agnhost-replica": 3}),
            "roll out": self.roll_out,
            "change ConfigMap and Secret": self.reconfigure,
            "delete single pods": self.delete_pods,
            "scale down": lambda: self.scale(frontend=2, **{"agnhost-replica": 1}),
            "roll out the StatefulSet": self.roll_out_peers,
            "delete and apply the namespace": self.recreate,
        }

    def live(self, enough: Callable[[], bool]) -> None:
        """Do all of it, again and again until it is enough, each to its end."""
        while True:
            for name, deed in self.deeds.items():
                self.doing = name
                deed()
                if enough():
                    self.doing = "nothing more"
                    return

    def apply(self) -> None:
        """Creating a Service is refused while the syncer is away, so as any owner we try again."""

        def applied() -> bool:
            try:
                guestbook.apply(self.virtual)
            except LabError:
                return False
            return True

        wait_until(applied, "the application is applied")
        started = Counter({"agnhost-primary": 1, "agnhost-replica": 2, "frontend": 3, "peers": 2})
        if not self.replicas:
            self.created += started
        self.replicas = started
        self.wait_ready()

    def scale(self, **replicas: int) -> None:
        for name, count in replicas.items():
            self.kubectl("scale", f"deployment/{name}", f"--replicas={count}")
            self.created[name] += max(0, count - self.replicas[name])
            self.replicas[name] = count
        self.wait_ready()

    def roll_out(self) -> None:
        self.kubectl("rollout", "restart", "deployment/frontend")
        self.kubectl("set", "env", "deployment/agnhost-replica", f"ROUND={time.time_ns()}")
        for name in ("frontend", "agnhost-replica"):
            self.created[name] += self.replicas[name]
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")
        self.wait_ready()

    def roll_out_peers(self) -> None:
        self.kubectl("rollout", "restart", "statefulset/peers")
        self.created["peers"] += self.replicas["peers"]
        self.kubectl("rollout", "status", "statefulset/peers", "--timeout=60s")
        self.wait_ready()

    def reconfigure(self) -> None:
        """Until the syncer was killed meanwhile: this takes no time by itself."""
        kills, deadline = self._kills(), time.monotonic() + 10
        while self._kills() == kills and time.monotonic() < deadline:
            now = str(time.time_ns())
            self.kubectl("patch", "configmap", "settings", "--type=merge", "-p", f'{{"data": {{"time": "{now}"}}}}')
            self.kubectl("patch", "secret", "credentials", "--type=merge", "-p", f'{{"stringData": {{"time": "{now}"}}}}')

    def delete_pods(self) -> None:
        """One by one: of a Deployment, of a StatefulSet, and by force, so that the virtual pod is gone at once."""
        for workload, selector, *how in (
            ("frontend", "tier=frontend"),
            ("peers", "app=peers"),
            ("agnhost-replica", "role=replica", "--grace-period=0", "--force"),
        ):
            name = self.kubectl("get", "pods", "-l", selector, "-o", "name").split()[0]
            self.kubectl("delete", name, *how, "--timeout=60s")
            self.created[workload] += 1
        self.wait_ready()

    def recreate(self) -> None:
        kubectl(self.virtual, "delete", "namespace", guestbook.NAMESPACE, "--timeout=60s")
        self.replicas.clear()
        self.apply()

    def forget_replicas(self) -> None:
        """The primary writes to each replica that ever registered, and fails if one has gone: have both begin anew."""
        for name in ("agnhost-primary", "agnhost-replica"):
            self.kubectl("rollout", "restart", f"deployment/{name}")
            self.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")

    def kubectl(self, *words: str) -> str:
        return kubectl(self.virtual, "-n", guestbook.NAMESPACE, *words)

    def wait_ready(self) -> None:
        guestbook.wait_ready(self.virtual, self.replicas.total(), 150)


class Killer:
    """Gives the syncer short lives, by seed, and counts what it died of."""

    def __init__(self, daemon: Daemon, witness: Witness, seed: int) -> None:
        self._daemon = daemon
        self._witness = witness
        self._random = random.Random(seed)
        self.during: Counter[str] = Counter()

    def kill(self, doing: Callable[[], str]) -> None:
        """Let it live for a moment, kill it, and start it again at once."""
        self._let_live(self._random.choices(["starting", "running", "writing"], [2, 1, 1])[0], self._random.uniform(0, 1.5))
        self.during[doing()] += 1
        assert self._daemon.alive, "it has ended by itself, see its log"
        self._daemon.kill()
        self._daemon.start(ready=False)

    def _let_live(self, until: str, life: float) -> None:
        """From its start on, from when it is ready, or until a write of it was seen on the host, with a bit of life more."""
        if until == "starting":
            time.sleep(life)
            return
        deadline = time.monotonic() + 5.0
        while self._daemon.get("/readyz")[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        if until == "running":
            time.sleep(life)
            return
        self._witness.change.clear()
        self._witness.change.wait(1.5)
        time.sleep(life / 30)


@pytest.fixture
def daemon(virtual_cluster: StartVirtual) -> Iterator[Daemon]:
    """A tenant's syncer, ready, with a StatefulSet in the namespace STEADY that runs."""
    virtual = virtual_cluster("crash")
    daemon = Daemon(virtual)
    daemon.start()
    for obj in yaml.safe_load_all(guestbook.MANIFEST.read_text()):
        name = obj["metadata"]["name"]
        if obj["kind"] == "Namespace":
            virtual.api.apply({**obj, "metadata": {"name": STEADY}})
        elif name in ("peers", "settings", "credentials"):
            virtual.api.apply({**obj, "metadata": {**obj["metadata"], "namespace": STEADY}})
    wait_until(lambda: len(steady_pods(virtual)) == 2 and all(map(guestbook.is_ready, steady_pods(virtual))), "the steady pods run")
    yield daemon
    daemon.stop()
    virtual.remove()


def steady_pods(virtual: VirtualCluster) -> list[dict[str, Any]]:
    return guestbook.pods(virtual, STEADY)


def identity(virtual: VirtualCluster) -> dict[str, list[str]]:
    """UID and container IDs, by name, of the host pods in the namespace STEADY."""
    return {
        pod["metadata"]["name"]: [pod["metadata"]["uid"], *(status["containerID"] for status in pod["status"]["containerStatuses"])]
        for pod in guestbook.host_pods(virtual)
        if pod["metadata"]["labels"]["vcluster.loft.sh/namespace"] == STEADY
    }


def writes(daemon: Daemon) -> list[str]:
    """The series of /metrics that count writes, with their values."""
    return [
        line
        for line in daemon.get("/metrics")[1].splitlines()
        if line.startswith("syncer_api_requests_total")
        and any(f'verb="{verb}"' in line for verb in ("create", "patch", "delete"))
        and not any(f'resource="{resource}' in line for resource in _OF_ITS_OWN_ACCORD)
    ]


def wait_agreed(virtual: VirtualCluster) -> None:
    """Until both sides agree; AssertionError with the differences."""
    try:
        wait_until(lambda: not differences(virtual), "both sides agree", SETTLED_SECONDS)
    except LabError as error:
        raise AssertionError(f"{error}: {differences(virtual)}") from None


def wait_at_rest(virtual: VirtualCluster) -> None:
    """Until nothing has changed on either side for a second."""

    def rests() -> bool:
        before = versions(virtual)
        time.sleep(1)
        return before == versions(virtual)

    wait_until(rests, "both sides are at rest", SETTLED_SECONDS)


def restart_quietly(daemon: Daemon) -> None:
    """A restart writes nothing. Tried again where the host has news of its own meanwhile: on a busy machine a probe may fail."""
    for attempt in range(ATTEMPTS):
        daemon.stop()
        then = versions(daemon.virtual)
        daemon.start()
        time.sleep(QUIET_SECONDS)
        written, now = writes(daemon), versions(daemon.virtual)
        news = [place for place in then if place.startswith("host ") and now.get(place) != then[place]]
        if not news or attempt == ATTEMPTS - 1 or any('side="host"' in line for line in written):
            assert written == []
            assert now == then
            return


def kill_during(application: Application, killer: Killer, witness: Witness, kills: int) -> None:
    """Kill again and again while the application lives, `kills` times and during each deed; earlier if something is wrong already."""
    over = threading.Event()

    def enough() -> bool:
        covered = killer.during.total() >= kills and len(killer.during) >= len(application.deeds)
        return over.is_set() or bool(witness.problems) or covered

    with ThreadPoolExecutor(1) as owner:
        life = owner.submit(application.live, enough)
        try:
            while not enough() and not life.done():
                killer.kill(lambda: application.doing)
        finally:
            over.set()
        life.result()


@pytest.mark.parametrize("kills", [15, pytest.param(50, marks=pytest.mark.long)])
def test_kills_leave_no_trace(daemon: Daemon, kills: int) -> None:
    seed = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
    print(f"CRASH_SEED={seed}")
    virtual = daemon.virtual
    before = identity(virtual)
    assert len(before) == 2
    with Witness(virtual) as witness:
        killer = Killer(daemon, witness, seed)
        application = Application(virtual, killer.during.total)
        kill_during(application, killer, witness, kills)
        print(f"killed {killer.during.total()} times: {dict(killer.during)}")
        print(f"{witness.deletions} of {len(witness.host_pods)} host pods deleted")
        daemon.wait_ready()
        wait_agreed(virtual)
        assert witness.problems == []
        assert {name: count for name, count in witness.created.items() if not name.startswith(STEADY)} == {
            f"{guestbook.NAMESPACE}/{name}": count for name, count in application.created.items()
        }
        assert identity(virtual) == before
        assert [witness.restarts(uid) for uid, *_ in before.values()] == [0, 0]
        application.forget_replicas()
        guestbook.write_entry(virtual, f"after-{kills}-kills")
        guestbook.read_entry(virtual, f"after-{kills}-kills")
        wait_agreed(virtual)
        wait_at_rest(virtual)
        assert witness.problems == []

    restart_quietly(daemon)
