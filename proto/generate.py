"""Build hook: turns the .proto files into Python modules and type stubs beside them."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


def generate(root: Path = ROOT) -> None:
    """Write ``*_pb2.py``, ``*_pb2_grpc.py`` and their ``.pyi`` beside each ``.proto``."""
    from grpc_tools import protoc  # not at import: only the build environment has it

    # An isolated build has the plugins on its PATH, a plain run beside its interpreter.
    path = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    plugins = [
        f"--plugin={name}={shutil.which(name, path=path)}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    sources = sorted(str(path) for path in root.rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            *plugins,
            f"--proto_path={root}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--python_out={root}",
            f"--grpc_python_out={root}",
            f"--mypy_out=quiet:{root}",
            f"--mypy_grpc_out=quiet:{root}",
            *sources,
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")


class GenerateHook(BuildHookInterface):  # type: ignore[type-arg]
    """Hatch calls this before it packs a wheel or makes an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root) / "proto")
        build_data["artifacts"].append("proto/**/*_pb2*")


if __name__ == "__main__":
    sys.exit(generate())
