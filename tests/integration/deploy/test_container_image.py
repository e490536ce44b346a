"""What the Dockerfile promises, read from it; `test_container_build.py` carries it out."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from tests.integration.deploy.dockerfile import Context, Dockerfile

from coresift.server.config import ServeConfig
from coresift.server.upkeep import LEAVE_S

ROOT = Path(__file__).parents[3]
CONTAINER = ROOT / "deploy" / "container"
TARGETS = ("cpu", "gpu")
NEEDED = (
    "pyproject.toml",
    "constraints.txt",
    "proto/coresift/v1/selection.proto",
    "server/coresift/server/state/lua/claim.lua",
    "client/coresift/client/cli.py",
    "deploy/container/install.sh",
)
UNWANTED = (
    ".git/config",
    ".venv/bin/python",
    ".env",
    "deploy/compose/.env",
    "tests/data/clinc150/embeddings.npy",
    "out/pool/manifest.json",
    "server/coresift/server/__pycache__/app.cpython-312.pyc",
    "proto/coresift/v1/selection_pb2.py",
    "proto/coresift/v1/selection_pb2_grpc.pyi",
)


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile.read(ROOT / "Dockerfile")


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(ROOT)


@pytest.mark.parametrize("path", NEEDED)
def test_the_builder_is_sent_what_it_needs(context: Context, path: str) -> None:
    assert context.lets_through(path)


@pytest.mark.parametrize("path", UNWANTED)
def test_the_builder_is_sent_nothing_else(context: Context, path: str) -> None:
    assert not context.lets_through(path)


def test_whatever_is_copied_is_there_and_sent(dockerfile: Dockerfile, context: Context) -> None:
    for stage in dockerfile.stages.values():
        for step in stage.all("COPY"):
            if "from" in step.flags:
                assert step.flags["from"] in dockerfile.stages
                continue
            for source in step.words[:-1]:
                assert (ROOT / source).exists(), source
                assert context.lets_through(source), source


def test_every_script_of_a_step_may_be_run(dockerfile: Dockerfile) -> None:
    steps = [step for stage in dockerfile.stages.values() for step in stage.all("RUN")]
    scripts = {name for step in steps for name in re.findall(r"deploy/container/\S+", step.text)}
    assert scripts == {f"deploy/container/{name}" for name in ("build_wheel.sh", "install.sh")}
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)


def test_bases_are_pinned_to_a_patch_release(dockerfile: Dockerfile) -> None:
    outside = {stage.base for stage in dockerfile.stages.values()} - set(dockerfile.stages)
    assert outside == {"${PYTHON_IMAGE}"}
    image = dockerfile.arguments["PYTHON_IMAGE"]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", image)


def test_nothing_is_added_from_the_network_and_no_argument_is_a_secret(
    dockerfile: Dockerfile,
) -> None:
    for stage in dockerfile.stages.values():
        assert not stage.all("ADD")
        for step in (*stage.all("ARG"), *stage.all("ENV")):
            assert not re.search(r"(?i)passw|secret|token|api_?key|credential", step.text)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_and_keeps_what_it_writes_in_one_place(
    dockerfile: Dockerfile, target: str
) -> None:
    user, group = dockerfile.last(target, "USER").text.split(":")
    assert int(user) >= 10_000
    assert int(group) >= 10_000
    environment = dockerfile.environment(target)
    assert {environment[name] for name in ("CORESIFT_DATA", "HOME", "TMPDIR")} == {"/data"}
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert dockerfile.last(target, "VOLUME").words == ["/data"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_the_environment_of_its_own_target(
    dockerfile: Dockerfile, target: str
) -> None:
    """At the path where it was made: a virtual environment knows its own place."""
    (copied,) = dockerfile.stages[target].all("COPY")
    assert copied.flags["from"] == f"install-{target}"
    assert copied.words == ["/opt/coresift", "/opt/coresift"]
    (made,) = dockerfile.stages[f"install-{target}"].all("RUN")
    assert f"install.sh {target} /wheels /opt/coresift" in made.text
    assert dockerfile.environment(target)["PATH"].startswith("/opt/coresift/bin:")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is(dockerfile: Dockerfile, target: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = dockerfile.labels(target)
    assert said["org.opencontainers.image.version"] == project["version"]
    assert said["org.opencontainers.image.licenses"] == project["license"]
    assert said["org.opencontainers.image.description"] == project["description"]
    assert {"revision", "created", "title"} <= {key.rpartition(".")[2] for key in said}


@pytest.mark.parametrize("target", TARGETS)
def test_health_is_asked_on_the_port_that_has_no_tls(dockerfile: Dockerfile, target: str) -> None:
    check = dockerfile.last(target, "HEALTHCHECK")
    port = dockerfile.environment(target)["CORESIFT_HEALTH_LISTEN"].rpartition(":")[2]
    assert check.text == f'CMD ["coresift", "health", "--server", "127.0.0.1:{port}"]'
    assert port in dockerfile.last(target, "EXPOSE").words


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_never_serves_others_in_plain_text_by_itself(
    dockerfile: Dockerfile, target: str
) -> None:
    environment = dockerfile.environment(target)
    assert environment["CORESIFT_LISTEN"].startswith("0.0.0.0:")
    assert "CORESIFT_ALLOW_PLAINTEXT" not in environment


def test_it_stops_as_the_server_drains(dockerfile: Dockerfile) -> None:
    """Docker's own grace, 10 s, is enough for the default drain."""
    assert dockerfile.last("cpu", "STOPSIGNAL").text == "SIGTERM"
    assert LEAVE_S + ServeConfig(pools=()).drain_s + 2.0 < 10.0


def test_the_gpu_image_has_one_cuda() -> None:
    pins = (CONTAINER / "constraints-gpu.txt").read_text().splitlines()
    versions = dict(pin.split("==") for pin in pins if not pin.startswith("#"))
    generation = versions["nvidia-cuda-runtime"].rsplit(".", 1)[0]
    for name in ("cuda-toolkit", "nvidia-cuda-nvrtc", "nvidia-nvjitlink", "nvidia-nvtx"):
        assert versions[name].startswith(f"{generation}."), name
    assert not [name for name in versions if name.endswith("-cu12") or name == "faiss-gpu"]
