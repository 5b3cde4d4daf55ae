"""A certificate and its key make it https; what does not go together is told before anything listens."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
from tests.http.serving import raw, serving

from embank.bank import open_bank
from embank.errors import InvalidInput
from embank.testing.fakes import HashModel

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Makes a certificate that signs itself, for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: nothing here makes a certificate")
    folder = tmp_path_factory.mktemp("certificates")

    def make(name: str) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        subprocess.run(
            [openssl, *made, *subject, "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=60
        )
        return certificate, key

    return make


def test_with_a_certificate_it_speaks_https_only(certified: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    certificate, key = certified("own")
    with serving(tmp_path / "a.bank", tls_cert=str(certificate), tls_key=str(key)) as served:
        assert served.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=certificate)
        with httpx2.Client(base_url=served.url, verify=trusting, timeout=30) as http:
            written = http.post("/collections/c/documents", json={"documents": [{"id": "a", "text": "kept secret"}]})
            assert written.json()["added"] == 1
        with pytest.raises(httpx2.ConnectError):
            served.http.get("/livez")  # its own client trusts nobody's signature
        assert b"200" not in raw(served, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


def test_files_that_do_not_go_together_are_told(certified: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    from embank.http.server import BankServer

    certificate, key = certified("one")
    _, other = certified("other")
    for given, words in [
        ({"http.tls_cert": str(certificate)}, "go together"),
        ({"http.tls_cert": str(certificate), "http.tls_key": str(other)}, "http.tls_key"),
        ({"http.tls_cert": str(tmp_path / "none.pem"), "http.tls_key": str(key)}, "none.pem"),
        ({"http.tls_cert": str(key), "http.tls_key": str(key)}, "http.tls_cert"),
    ]:
        with (
            open_bank(tmp_path / "b.bank", model=HashModel(), flags={"http.port": 0, **given}) as bank,
            pytest.raises(InvalidInput, match=words),
        ):
            BankServer(bank)
