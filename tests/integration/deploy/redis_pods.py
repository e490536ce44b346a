"""Redis and sentinels as overlay ``ha`` starts them: its scripts, its configuration, its secrets.

Pods are processes here, and their names addresses of the loopback network; all else is what stands
in the manifests.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from redis import Redis
from tests.fixtures.redis_topologies import Topology, until
from tests.integration.deploy.manifests import KUBERNETES, Resource, Workload, one, resources

from coresift.server.state import exec_redis
from coresift.server.state.redis_binary import find_binary

MOUNTED = re.compile(r"(?<![\w/])/(data|config|users)(?![\w.-])")
PORTS = {"coresift-redis": 6379, "coresift-sentinel": 26379}


def secrets(kind: str) -> dict[str, dict[str, str]]:
    """What secrets.sh prints, by name."""
    script = str(KUBERNETES / "secrets.sh")
    done = subprocess.run([script, kind], capture_output=True, text=True, check=True, timeout=30)
    return {s["metadata"]["name"]: s["stringData"] for s in yaml.safe_load_all(done.stdout)}


def _free_network() -> str:
    """The first three numbers of loopback addresses on which nobody listens."""
    while True:
        network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        try:
            for port in PORTS.values():
                with socket.create_server((f"{network}.10", port)):
                    pass
        except OSError:
            continue
        return network


class Pod:
    """One of a StatefulSet's; its volume is a folder and outlives it."""

    def __init__(
        self, work: Workload, number: int, address: str, names: dict[str, str], folder: Path
    ) -> None:
        self.name, self.address = f"{work.resource['metadata']['name']}-{number}", address
        self.port = PORTS[work.resource["metadata"]["name"]]
        self._work, self._names = work, names
        self.folder = folder / self.name
        for place in ("data", "config", "users"):
            (self.folder / place).mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self, found: list[Resource], secret: dict[str, str]) -> None:
        """Write what its volumes hold."""
        for volume in self._work.pod["volumes"]:
            if "configMap" in volume:
                files = one(found, "ConfigMap", volume["configMap"]["name"])["data"]
            else:
                files = {item["path"]: secret[item["key"]] for item in volume["secret"]["items"]}
            for name, text in files.items():
                (self.folder / volume["name"] / name).write_text(self._here(text))

    def _here(self, text: str) -> str:
        """With this machine's folders and addresses."""
        text = MOUNTED.sub(lambda found: f"{self.folder}/{found[1]}", text)
        for name, address in self._names.items():
            text = text.replace(name, address)
        return text.replace("bind * -::*", f"bind {self.address}")

    def start(self, secret: dict[str, str]) -> None:
        """Run its command with its environment."""
        [container] = self._work.pod["containers"]
        binary = find_binary().path
        given = {"PATH": f"{binary.parent}:{os.environ['PATH']}"}
        for entry in container["env"]:
            if "value" in entry:
                value = entry["value"].replace("$(POD)", self.name)
                given[entry["name"]] = self._here(value)
            elif "secretKeyRef" in entry["valueFrom"]:
                given[entry["name"]] = secret[entry["valueFrom"]["secretKeyRef"]["key"]]
        shell, words = shutil.which("sh"), [self._here(word) for word in container["command"][1:]]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                # It ends with the thread that started it, whatever becomes of the tests.
                [sys.executable, exec_redis.__file__, str(os.getpid()), str(shell), *words],
                env=given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def lose_data(self) -> None:
        """Its volume is a new one."""
        shutil.rmtree(self.folder / "data")
        (self.folder / "data").mkdir()

    def says(self) -> str:
        """Its log."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def answers(self) -> bool:
        """What the probes of the manifest ask, without a password."""
        command = [find_binary().path.parent / "redis-cli", "-h", self.address]
        done = subprocess.run(
            [*map(str, command), "-p", str(self.port), "ping"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return done.stdout.strip() == "PONG"


class RedisPods(Topology):
    """All of them; ``url`` is the one of the secret, with addresses for names."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._resources, self._secrets = resources("ha"), secrets("sentinel")
        network, self._names = _free_network(), dict[str, str]()
        sets = {name: one(self._resources, "StatefulSet", name) for name in PORTS}
        for tens, (name, found) in enumerate(sets.items(), 1):
            for number in range(found["spec"]["replicas"]):
                self._names[f"{name}-{number}.{name}"] = f"{network}.{10 * tens + number}"
        self.redis, self.sentinels = (
            [self._pod(found, n, folder) for n in range(found["spec"]["replicas"])]
            for found in sets.values()
        )

    def _pod(self, found: Resource, number: int, folder: Path) -> Pod:
        name = found["metadata"]["name"]
        address = self._names[f"{name}-{number}.{name}"]
        return Pod(Workload(found, found["spec"]["template"]), number, address, self._names, folder)

    @property
    def secret(self) -> dict[str, str]:
        return self._secrets["coresift-redis"]

    @property
    def url(self) -> str:
        url = self._secrets["coresift-state"]["url"]
        for name, address in self._names.items():
            url = url.replace(name, address)
        return url

    def _begin(self) -> None:
        for pod in (*self.redis, *self.sentinels):
            pod.mount(self._resources, self.secret)
            self._stack.callback(pod.kill)
            pod.start(self.secret)
        for pod in (*self.sentinels, *self.redis):
            until(pod.answers, f"{pod.name} answers")

    def as_operator(self, pod: Pod) -> Redis:
        """A connection of the user whom the runbook names."""
        login = {"username": "operator", "password": self.secret["operator-password"]}
        return Redis(pod.address, pod.port, decode_responses=True, protocol=2, **login)

    def ask_sentinel(self, *words: str) -> Any:
        """What the first sentinel says to ``SENTINEL ...``."""
        pod, login = (
            self.sentinels[0],
            {"username": "peer", "password": self.secret["peer-password"]},
        )
        with Redis(pod.address, pod.port, decode_responses=True, protocol=2, **login) as client:
            return client.execute_command("SENTINEL", *words)

    def master(self) -> Pod:
        """Whom the sentinels name."""
        host, _ = self.ask_sentinel("GET-MASTER-ADDR-BY-NAME", "coresift")
        return next(pod for pod in self.redis if pod.address == host)

    def replicas_in_sync(self) -> int:
        """How many replicas the master has that follow it."""
        found = self.ask_sentinel("REPLICAS", "coresift")
        pairs = [
            r if isinstance(r, dict) else dict(zip(r[::2], r[1::2], strict=True)) for r in found
        ]
        return sum(p["master-link-status"] == "ok" and p["flags"] == "slave" for p in pairs)
