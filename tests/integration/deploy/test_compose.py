"""What deploy/compose promises: a valid file, few rights, nothing lost, nothing open to others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fixtures.prometheus import need

from coresift.server.pool.pool import Pool
from coresift.server.upkeep import LEAVE_S

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy" / "compose"
DEFAULT = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}")
REPLICAS = ("coresift-1", "coresift-2")
LONG_RUNNING = (*REPLICAS, "redis", "prometheus", "grafana")

Service = dict[str, Any]


def filled(value: Any) -> Any:
    """The file's values, each variable at its default."""
    match value:
        case str():
            return DEFAULT.sub(lambda found: found[2] or "", value)
        case dict():
            return {key: filled(entry) for key, entry in value.items()}
        case list():
            return [filled(entry) for entry in value]
        case _:
            return value


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(filled(yaml.safe_load((COMPOSE / "compose.yaml").read_text())))


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Service]:
    return dict(compose["services"])


def mounts(service: Service) -> list[tuple[str, str, str]]:
    """Source, target and mode of each volume."""
    parts = [volume.split(":") for volume in service.get("volumes", ())]
    return [(source, target, *(mode or ["rw"])) for source, target, *mode in parts]


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def mebibytes(size: str) -> int:
    return int(size[:-2] if size.endswith("b") else size[:-1]) * (1024 if "g" in size else 1)


def test_it_is_a_compose_file() -> None:
    """By the schema of the Compose specification, which check-jsonschema carries."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    said = subprocess.run(
        [*command, COMPOSE / "compose.yaml"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_setting_has_a_default_and_stands_in_the_example() -> None:
    """So that one command starts it."""
    used = DEFAULT.findall((COMPOSE / "compose.yaml").read_text())
    assert [name for name, default in used if not default] == []
    offered = re.findall(r"^#?(\w+)=", (COMPOSE / ".env.example").read_text(), re.MULTILINE)
    assert sorted(offered) == sorted({name for name, _ in used})


def test_whatever_is_mounted_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for source, _, mode in mounts(service):
            if source.startswith("."):
                assert (COMPOSE / source).exists(), source
                assert mode == "ro", source
            else:
                assert source in compose["volumes"], source


def test_every_container_may_do_little(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.keys() & {"privileged", "cap_add", "devices", "pid", "ipc"}, name
        is_ours = service["image"].startswith("coresift")
        assert is_ours or service["user"].split(":")[0] not in {"", "0", "root"}, name


def test_images_are_pinned(services: dict[str, Service]) -> None:
    for name, service in services.items():
        if "build" not in service:
            assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+(-\w+)?", service["image"]), name


def test_ports_are_this_machines_own(services: dict[str, Service]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)
    # On a host 50052 is the port of health, as in the image and in Kubernetes.
    assert "50052" not in {port.split(":")[1] for port in ports}
    assert "ports" not in services["redis"]


def test_long_running_services_are_watched_and_bounded(services: dict[str, Service]) -> None:
    for name in LONG_RUNNING:
        service = services[name]
        assert service["restart"] == "unless-stopped", name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        # The image of ours has a check of its own.
        assert name in REPLICAS or service["healthcheck"]["test"][0] == "CMD", name


def test_redis_keeps_every_label(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]
    words = redis["command"]
    settings = dict(zip(words[1::2], words[2::2], strict=True))
    assert settings["--appendonly"] == "yes"
    assert settings["--appendfsync"] == "always"
    assert settings["--maxmemory-policy"] == "noeviction"
    limit = redis["deploy"]["resources"]["limits"]["memory"]
    assert mebibytes(limit) >= 2 * mebibytes(settings["--maxmemory"])
    assert ("redis", "/data", "rw") in mounts(redis)
    assert redis["networks"] == ["state"]
    assert compose["networks"]["state"]["internal"] is True


def test_replicas_share_state_artifacts_and_pool(services: dict[str, Service]) -> None:
    first, second = (services[name] for name in REPLICAS)
    assert {k: v for k, v in first.items() if k != "ports"} == {
        k: v for k, v in second.items() if k != "ports"
    }
    assert first["environment"]["CORESIFT_STATE"].startswith("redis://redis:6379")
    assert ("pools", "/pools", "ro") in mounts(first)
    assert ("artifacts", "/data", "rw") in mounts(first)
    assert first["networks"]["default"]["aliases"] == ["coresift"]
    assert {name: need["condition"] for name, need in first["depends_on"].items()} == {
        "redis": "service_healthy",
        "pool": "service_completed_successfully",
    }


def test_a_replica_may_drain(services: dict[str, Service]) -> None:
    service = services["coresift-1"]
    drain_s = float(service["environment"]["CORESIFT_DRAIN_S"])
    assert seconds(service["stop_grace_period"]) >= LEAVE_S + drain_s + 5.0


def test_prometheus_finds_both_replicas_and_every_rule() -> None:
    config = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    for path in config["rule_files"]:
        rules = ROOT / "deploy" / "prometheus" / Path(path).name
        assert yaml.safe_load(rules.read_text())["groups"], path
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "coresift")
    (found,) = job["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["coresift"], "A", 9464)
    labels = {rule["target_label"] for rule in job["relabel_configs"]}
    assert labels == {"namespace", "pod"}  # by which dashboards and alerts choose


def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    text = (COMPOSE / "prometheus.yml").read_text()
    moved = text.replace("/etc/prometheus/rules", str(ROOT / "deploy" / "prometheus"))
    (tmp_path / "prometheus.yml").write_text(moved)
    command = [need("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_grafana_shows_the_dashboards_of_this_repository(services: dict[str, Service]) -> None:
    grafana = services["grafana"]
    (provider,) = yaml.safe_load(
        (COMPOSE / "grafana" / "dashboards" / "coresift.yaml").read_text()
    )["providers"]
    assert ("../grafana/dashboards", provider["options"]["path"], "ro") in mounts(grafana)
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (ROOT / "deploy" / "grafana" / "dashboards" / home.name).is_file()
    (source,) = yaml.safe_load(
        (COMPOSE / "grafana" / "datasources" / "prometheus.yaml").read_text()
    )["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_the_demo_builds_its_pool_once(clinc150: Path, tmp_path: Path) -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        tools = str(Path(sys.executable).parent)
        environment = {**os.environ, "DEMO_DATA": str(clinc150)}
        environment["PATH"] = f"{tools}{os.pathsep}{environment['PATH']}"
        command = [str(shutil.which("sh")), str(COMPOSE / "demo_pool.sh"), str(tmp_path / name)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run("clinc150").returncode == 0
    pool = Pool.open(tmp_path / "clinc150", device="cpu")
    assert (pool.manifest.name, pool.manifest.items) == ("clinc150", 23_700)
    pool.close()
    manifest = tmp_path / "clinc150" / "manifest.json"
    built = manifest.stat().st_mtime_ns
    assert run("clinc150").returncode == 0
    assert manifest.stat().st_mtime_ns == built
    missing = run("photos")
    assert missing.returncode == 1
    assert "there is no photos" in missing.stderr
