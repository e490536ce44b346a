"""What a state URL says, and that no refusal repeats a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.certificates import Certificates

from coresift.server.errors import StartError
from coresift.server.state.address import Address, parse_state_url


def test_each_kind_is_read() -> None:
    single = parse_state_url("redis://ann:p%40ss%2Fword@host:1234/3")
    assert single.addresses == (Address("host", 1234),)
    assert single.options == {"username": "ann", "password": "p@ss/word", "db": 3}
    socket = parse_state_url("unix:///run/redis.sock?db=2")
    assert (socket.addresses, socket.options) == ((Address("/run/redis.sock", 0),), {"db": 2})
    sentinel = parse_state_url(
        "redis+sentinel://:secret@one:1,two/labels?sentinel_username=u&sentinel_password=p%26"
    )
    assert sentinel.addresses == (Address("one", 1), Address("two", 26379))
    assert (sentinel.kind, sentinel.master_name) == ("sentinel", "labels")
    assert sentinel.options == {"password": "secret"}
    assert sentinel.sentinel_options == {"username": "u", "password": "p&"}
    cluster = parse_state_url("redis+cluster://[::1]:7,two")
    assert cluster.addresses == (Address("::1", 7), Address("two", 6379))


def test_tls_options_go_to_servers_and_sentinels(certificates: Certificates) -> None:
    files = f"ssl_ca_certs={certificates.authority.certificate}&ssl_check_hostname=false"
    url = parse_state_url(f"rediss+sentinel://one,two/labels?{files}&ssl_cert_reqs=optional")
    tls = url.options["tls"]
    assert url.sentinel_options["tls"] is tls
    assert tls.get() is tls.get()
    assert not tls.get().check_hostname
    by_default = parse_state_url("rediss://host").options["tls"].get()
    assert by_default.check_hostname


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host", "scheme"),
        ("host:6379", "scheme"),
        ("redis://", "host is missing"),
        ("redis://one,,two", "host is missing"),
        ("redis://one,two", r"redis\+sentinel"),
        ("redis://host:port", "port"),
        ("redis://host:0", "port"),
        ("redis://host/one", "database"),
        ("redis://host/1?db=2", "database"),
        ("redis://host?timeout=3", "no option timeout"),
        ("redis://host?ssl_cert_reqs=none", "no option ssl_cert_reqs"),
        ("redis://host?sentinel_password=x", "no option sentinel_password"),
        ("rediss://host?ssl_ca_certs=/nowhere/ca.pem", "no file /nowhere/ca.pem"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://host?ssl_check_hostname=maybe", "ssl_check_hostname"),
        ("redis+sentinel://host", "name that sentinels give"),
        ("redis+cluster://host/1", "database 0 only"),
        ("unix://host/socket", "absolute path"),
        ("unix://", "absolute path"),
    ],
)
def test_wrong_ones_are_refused(url: str, says: str) -> None:
    with pytest.raises(StartError, match=f"state URL: .*{says}"):
        parse_state_url(url)


@pytest.mark.parametrize("password", ["sesame/s3cret", "sesame#s3cret", "ses@me?s3cret", "s3cret["])
@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
def test_no_refusal_repeats_a_secret(scheme: str, password: str) -> None:
    for url in (f"{scheme}://ann:{password}@host:1/name", f"{scheme}://ann:{password}@host"):
        try:
            said = repr(parse_state_url(url))
        except StartError as error:
            said = f"{error} {error.__context__} {error.__cause__}"
        assert "s3cret" not in said
        assert "sesame" not in said


def test_replaced_files_are_read_again(certificates: Certificates, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificates.authority.certificate.read_bytes())
    tls = parse_state_url(f"rediss://host?ssl_ca_certs={authority}").options["tls"]
    before = tls.get()
    new = tmp_path / "new.pem"
    new.write_bytes(authority.read_bytes())
    new.replace(authority)
    assert tls.get() is not before
