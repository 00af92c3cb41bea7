"""Certificates for tests, made by the openssl command. The repository contains none."""

from __future__ import annotations

import ssl
import subprocess
import warnings
from pathlib import Path
from typing import Literal

Kind = Literal["good", "wrong host", "expired", "self-signed", "old protocol"]


class Authority:
    """A certificate authority with its files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = directory / "authority.pem"
        # Python 3.13 and newer require the usage, and in issued certificates the identifier of the authority's key.
        subject = ("-subj", "/CN=authority", "-addext", "keyUsage=critical,keyCertSign")
        self._openssl("req", "-x509", *_KEY, "-keyout", "authority.key", "-out", self.file.name, *subject)

    def issue(self, name: str, *, address: str = "127.0.0.1", days: int = 30) -> tuple[Path, Path]:
        """Return certificate and key files for a server or a client. Negative `days` make an expired certificate."""
        extensions = self._directory / f"{name}.ext"
        alternative = f"subjectAltName={'IP' if address[0].isdigit() else 'DNS'}:{address}\n"
        extensions.write_text(f"{alternative}authorityKeyIdentifier=keyid\n")
        self._openssl("req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", self.file.name, "-CAkey", "authority.key", "-CAcreateserial", "-days", str(days))
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-extfile", extensions.name, "-out", f"{name}.pem")
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def self_signed(self) -> tuple[Path, Path]:
        subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
        self._openssl("req", "-x509", *_KEY, "-keyout", "self.key", "-out", "self.pem", *subject)
        return self._directory / "self.pem", self._directory / "self.key"

    def server(self, kind: Kind) -> ssl.SSLContext:
        """Return the TLS context of a server of this kind. `make_good` corrects it for later connections."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        match kind:
            case "wrong host":
                chain = self.issue("wrong", address="other.example")
            case "expired":
                chain = self.issue("expired", days=-1)
            case "self-signed":
                chain = self.self_signed()
            case _:
                chain = self.issue("good")
        if kind == "old protocol":
            with warnings.catch_warnings(action="ignore"):
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
            context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(*chain)
        return context

    def make_good(self, context: ssl.SSLContext) -> None:
        context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        context.load_cert_chain(*self.issue("good"))

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._directory, check=True, capture_output=True)


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
