"""Name records of a newer release."""

from __future__ import annotations

import pytest

from coresift.server.errors import CoresiftError, Reason
from coresift.server.state.names import Name
from coresift.server.state.replies import pack, unpack
from coresift.server.state.values import Request, Settings


def test_a_name_with_more_fields_is_refused() -> None:
    name = Name("id", "uid", b"secret", Settings(1, None, b"config"), Request("request", b"digest"))
    assert Name.unpacked(name.packed()) == name
    with pytest.raises(CoresiftError) as caught:
        Name.unpacked(pack([*unpack(name.packed()), b"of a later release"]))
    assert caught.value.reason is Reason.FORMAT_TOO_NEW
