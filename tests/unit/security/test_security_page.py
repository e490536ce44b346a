"""The page on security says what the rules are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coresift.server.access_tokens import parse_tokens
from coresift.server.rpc import scopes
from coresift.server.rpc.scopes import SCOPES, scope_of
from coresift.server.state.trial import ACL_RULE, CLUSTER_COMMANDS, SENTINEL_ACL_RULE
from coresift.v1 import selection_pb2 as pb

PAGE = (Path(scopes.__file__).parent / "SECURITY.md").read_text()


def test_the_table_is_the_rules() -> None:
    said = dict(re.findall(r"^\| (\w+) \| (read|label|admin) \|$", PAGE, re.MULTILINE))
    assert said == {method: scope.value for method, scope in SCOPES.items()}
    methods = pb.DESCRIPTOR.services_by_name["SelectionService"].methods
    assert list(said) == [method.name for method in methods]


def test_an_rpc_without_a_rule_would_need_admin() -> None:
    assert scope_of("NotYet") == "admin"


def test_the_example_is_a_file_of_tokens() -> None:
    [example] = re.findall(r'\{"tokens": \[\{.*?\}\]\}', PAGE, re.DOTALL)
    [token] = parse_tokens(example.replace("<64 hexadecimal digits>", "0" * 64))
    assert (token.name, token.caller.tenant) == ("frontend", "acme")
    with pytest.raises(ValueError, match="64 lower-case"):
        parse_tokens(example)


def test_the_least_rights_in_redis() -> None:
    words = " ".join(PAGE.split())
    assert f"ACL SETUSER coresift on >PASSWORD {ACL_RULE} and" in words
    assert " ".join(f"+{name}" for name in CLUSTER_COMMANDS) in words
    assert SENTINEL_ACL_RULE in words
