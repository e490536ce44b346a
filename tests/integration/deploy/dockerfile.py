"""A Dockerfile read, and its build steps carried out in a folder, without a container engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

VARIABLE = re.compile(r"\$\{(\w+)\}")
FLAG = re.compile(r"--(\S+)=(\S+)\s+")


@dataclass(frozen=True)
class Step:
    """An instruction of a stage: its word, its flags and the rest of its lines as one."""

    word: str
    flags: Mapping[str, str]
    text: str

    @property
    def words(self) -> list[str]:
        """The rest as JSON words, or split as a shell splits it."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def all(self, word: str) -> list[Step]:
        """Every instruction of one kind, in order."""
        return [step for step in self.steps if step.word == word]


@dataclass(frozen=True)
class Dockerfile:
    """Its stages by name, and the defaults of its global arguments."""

    stages: Mapping[str, Stage]
    arguments: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Dockerfile:
        """Parse a file. Only what ours uses: no heredocs, no parser directives."""
        lines = [
            line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        text = re.sub(r"\\\n\s*", "", "\n".join(lines))
        stages: dict[str, Stage] = {}
        arguments: dict[str, str] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            word, _, rest = line.partition(" ")
            flags = {}
            while found := FLAG.match(rest):
                flags[found[1]] = found[2]
                rest = rest[found.end() :]
            if word == "FROM":
                base, _, name = rest.split()
                stages[name] = Stage(name, base)
            elif stages:
                stages[name].steps.append(Step(word, flags, rest))
            else:
                arguments |= [rest.split("=", 1)]
        return cls(stages, arguments)

    def chain(self, name: str) -> list[Step]:
        """The instructions of a stage after those of the stages that it is made from."""
        stage = self.stages[name]
        before = self.chain(stage.base) if stage.base in self.stages else []
        return [*before, *stage.steps]

    def last(self, name: str, word: str) -> Step:
        """The instruction of a kind that holds in an image."""
        return [step for step in self.chain(name) if step.word == word][-1]

    def environment(self, name: str) -> dict[str, str]:
        """What ENV sets in an image."""
        pairs = [pair for step in self.chain(name) if step.word == "ENV" for pair in step.words]
        return dict(pair.split("=", 1) for pair in pairs)

    def labels(self, name: str) -> dict[str, str]:
        """What LABEL says of an image, its arguments at their defaults."""
        given = self.defaults(name)
        pairs = [pair for step in self.chain(name) if step.word == "LABEL" for pair in step.words]
        return {key: _filled(value, given) for key, value in (p.split("=", 1) for p in pairs)}

    def defaults(self, name: str) -> dict[str, str]:
        """The arguments that a stage declares; global ones where it gives no value."""
        given: dict[str, str] = {}
        for step in self.chain(name):
            if step.word == "ARG":
                key, has_value, value = step.text.partition("=")
                given[key] = value if has_value else self.arguments[key]
        return given


def _filled(text: str, values: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: values[found[1]], text)


class Context:
    """The files that a builder is sent: those that .dockerignore lets through."""

    def __init__(self, root: Path) -> None:
        self.root = root
        lines = map(str.strip, (root / ".dockerignore").read_text().splitlines())
        self._patterns = [line for line in lines if line and not line.startswith("#")]

    def lets_through(self, path: str) -> bool:
        """Whether a file, named relative to the root, is sent."""
        parts = PurePosixPath(path)
        names = [str(parts), *(str(parent) for parent in parts.parents if parent.name)]
        sent = True
        for pattern in self._patterns:
            bare = pattern.removeprefix("!")
            if any(_matches(name, bare) for name in names):
                sent = pattern.startswith("!")
        return sent

    def copy(self, source: str, into: Path) -> None:
        """Copy a file, or what is in a folder, as COPY does."""
        if (self.root / source).is_file():
            assert self.lets_through(source), f"{source} is not sent"
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / source, into)
            return
        sent = 0
        for folder, folders, files in os.walk(self.root / source):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in files:
                path = Path(folder, name)
                if self.lets_through(path.relative_to(self.root).as_posix()):
                    target = into / path.relative_to(self.root / source)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, target)
                    sent += 1
        assert sent, f"nothing of {source} is sent"


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(PurePosixPath(name).name, pattern.removeprefix("**/"))
    # A pattern matches part by part: its star is no slash.
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch, parts, wanted))


class Build:
    """Stages as folders under ``root``; absolute paths of the Dockerfile lie in their stage's.

    Steps run as they stand, but for these paths and for base images: the commands of this machine,
    with ``path`` first, stand for those. ``arguments`` are those of ``--build-arg``.
    """

    def __init__(
        self,
        dockerfile: Dockerfile,
        context: Context,
        root: Path,
        *,
        path: str,
        arguments: Mapping[str, str],
    ) -> None:
        self._file, self._context, self._root = dockerfile, context, root
        self._path, self._arguments = path, arguments

    def place(self, stage: str, path: str) -> Path:
        """Where an absolute path of a stage lies."""
        return self._root / stage / path.lstrip("/")

    def run(self, name: str) -> None:
        """Carry out COPY, WORKDIR and RUN of a stage."""
        given, folder = self._file.defaults(name) | self._arguments, "/"
        for step in self._file.stages[name].steps:
            if step.word == "WORKDIR":
                folder = step.text
                self.place(name, folder).mkdir(parents=True, exist_ok=True)
            elif step.word == "COPY":
                self._copy(name, step, folder)
            elif step.word == "RUN":
                self._execute(name, _filled(step.text, given), self.place(name, folder))

    def _copy(self, name: str, step: Step, folder: str) -> None:
        *sources, target = step.words
        for source in sources:
            into = self.place(name, target if target.startswith("/") else f"{folder}/{target}")
            if target.endswith("/"):
                into /= Path(source).name
            if "from" in step.flags:
                shutil.copytree(self.place(step.flags["from"], source), into, symlinks=True)
            else:
                self._context.copy(source, into)

    def _execute(self, name: str, command: str, folder: Path) -> None:
        moved = re.sub(r"(?<=\s)/(?=\w)", f"{self.place(name, '/')}/", command)
        environment = {**os.environ, "PATH": f"{self._path}:{os.environ['PATH']}"}
        subprocess.run(["/bin/sh", "-c", moved], cwd=folder, env=environment, check=True)
