"""The image, built by the Dockerfile's own steps in an empty folder, and run as a container is.

What is not a container's: paths lie under the folder, ports are free ones, and instead of a
read-only root the installation is write-protected and its owner has no privileges.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.fixtures.servers import Pools
from tests.integration.deploy.dockerfile import Build, Context, Dockerfile

from coresift.client import Client
from coresift.server.config import ServeConfig
from coresift.server.upkeep import LEAVE_S

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
TARGET = "cpu"
FREE = dict.fromkeys(
    ("CORESIFT_LISTEN", "CORESIFT_HEALTH_LISTEN", "CORESIFT_METRICS_LISTEN"), "0.0.0.0:0"
)
VERSIONS = """
from importlib.metadata import distributions
for each in distributions():
    print(each.metadata["Name"].lower().replace("_", "-"), each.version.partition("+")[0])
"""


@dataclass(frozen=True)
class Image:
    """An installation and what the Dockerfile says of running it."""

    dockerfile: Dockerfile
    build: Build

    @property
    def venv(self) -> Path:
        return self.build.place(f"install-{TARGET}", "/opt/coresift")

    def place(self, path: str) -> Path:
        """Where a path of the container lies."""
        return self.build.place(TARGET, path)

    def environment(self, **more: str) -> dict[str, str]:
        """The image's ENV, and ``docker run --env``."""
        given = self.dockerfile.environment(TARGET)
        moved = {
            "PATH": given["PATH"].replace("/opt/coresift", str(self.venv)),
        } | {name: str(self.place(given[name])) for name in ("HOME", "TMPDIR", "CORESIFT_DATA")}
        return given | moved | FREE | more

    def command(self, *words: str) -> list[str]:
        """Words run without any privilege; paths of the container are moved."""
        moved = [str(self.place(word)) if word.startswith("/") else word for word in words]
        if os.geteuid() == 0:  # root too must not write where it may not
            return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", *moved]
        return moved

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """ENTRYPOINT and CMD, as the first process of a session."""
        words = [self.dockerfile.last(TARGET, word).words for word in ("ENTRYPOINT", "CMD")]
        return subprocess.Popen(
            self.command(*words[0], *words[1]),
            env=self.environment(**environment),
            cwd=self.place("/sealed"),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def check(self, port: str) -> subprocess.CompletedProcess[str]:
        """HEALTHCHECK, with the port that the server has."""
        words = self.dockerfile.last(TARGET, "HEALTHCHECK").text.removeprefix("CMD ")
        *command, address = json.loads(words)
        return subprocess.run(
            self.command(*command, f"{address.rpartition(':')[0]}:{port}"),
            env=self.environment(),
            cwd=self.place("/sealed"),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def image(pools: Pools) -> Iterator[Image]:
    """Built once, with a pool mounted at /pool. A gigabyte: removed at the end."""
    dockerfile = Dockerfile.read(ROOT / "Dockerfile")
    with TemporaryDirectory(prefix="coresift-image-") as folder:
        build = Build(
            dockerfile,
            Context(ROOT),
            Path(folder),
            path=str(Path(sys.executable).parent),
            arguments=own_index(),
        )
        build.run("wheel")
        build.run(f"install-{TARGET}")
        image = Image(dockerfile, build)
        for path in ("/data", "/sealed"):
            image.place(path).mkdir(parents=True)
        shutil.copytree(pools.things.directory, image.place("/pool"))
        for path in (image.venv, image.place("/pool"), image.place("/sealed")):
            permit(path, "a-w")
        yield image
        permit(Path(folder), "u+w")


def permit(folder: Path, mode: str) -> None:
    """Change what may be done in a folder and those in it."""
    subprocess.run(["find", folder, "-type", "d", "-exec", "chmod", mode, "{}", "+"], check=True)


def own_index() -> dict[str, str]:
    """If this machine's pip is told of a place besides PyPI, that one stands for PyTorch's."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = dict(line.split("=", 1) for line in told.splitlines())
    own = {key.rpartition(".")[2]: value.strip("'\"") for key, value in settings.items()}
    if not own.keys() & {"extra-index-url", "find-links"}:
        return {}
    return {"TORCH_INDEX": own.get("extra-index-url", "")}


@contextmanager
def serving(image: Image, **environment: str) -> Iterator[tuple[dict[str, Any], float]]:
    """A running container: what it said when it served; afterwards it is stopped as Docker does.

    It must end by itself, with 0, within the drain.
    """
    process = image.start(CORESIFT_ALLOW_PLAINTEXT="true", **environment)
    assert process.stderr is not None
    try:
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if '"serving"' in line:
                break
        assert '"serving"' in said[-1:][0], "".join(said)
        yield json.loads(said[-1]), time.monotonic()
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest
        assert time.monotonic() - began < LEAVE_S + ServeConfig(pools=()).drain_s + 2.0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


def test_every_version_is_pinned(image: Image) -> None:
    python = image.venv / "bin" / "python"
    said = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    installed = dict(line.split() for line in said.stdout.splitlines())
    pinned = {}
    for name in ("constraints.txt", "constraints-image.txt", f"constraints-{TARGET}.txt"):
        folder = ROOT if name == "constraints.txt" else ROOT / "deploy" / "container"
        pins = [pin for pin in (folder / name).read_text().splitlines() if pin[:1] != "#"]
        for pin in pins:
            package, version = pin.partition(";")[0].split("==")
            pinned[package.lower().replace("_", "-")] = version.strip().partition("+")[0]
    assert installed.pop("coresift")
    assert installed == {name: pinned.get(name) for name in installed}
    assert "pip" not in installed
    assert not [name for name in installed if name.startswith(("nvidia-", "cuda-"))]


def test_a_public_address_without_tls_is_refused(image: Image) -> None:
    process = image.start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "TLS" in said


def test_it_serves_heals_and_stops(image: Image) -> None:
    """Health before, while and after; labels outlive the container, and nothing else is written."""
    before = listing(image.venv)
    with serving(image) as (said, _):
        port = port_of(said["health"])
        healthy = image.check(port)
        assert (healthy.returncode, healthy.stdout) == (0, "readiness: SERVING\n"), healthy.stderr
        with Client(f"127.0.0.1:{port_of(said['listen'])}") as client:
            session = client.create_session("things", session_id="kept")
            client.add_labels(session, {"item-2": "positive", "item-0": "negative"}, "ann")
            assert len(client.next_batch(session, "ann", size=5)) == 5
    assert image.check(port).returncode == 4
    with (
        serving(image) as (said, _),
        Client(f"127.0.0.1:{port_of(said['listen'])}") as client,
    ):
        assert len(list(client.list_labels("kept"))) == 2
    assert listing(image.venv) == before
    assert not list(image.place("/sealed").iterdir())


def listing(folder: Path) -> dict[str, int]:
    """Files and the times of their last change."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}
