# SPDX-License-Identifier: Apache-2.0
"""A private certificate authority, made with openssl: nothing outside this run trusts it."""

import ssl
import subprocess


class Authority:
    """`file` is its certificate; issue() signs others."""

    def __init__(self, folder, name="test authority"):
        self.folder = folder
        self.file = folder / "ca.crt"
        self._key = folder / "ca.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", self._key, "-out", self.file, "-days", "2", "-subj", f"/CN={name}"),
        )

    def issue(self, name, alternatives="IP:127.0.0.1,DNS:localhost"):
        """(certificate, key), paths; for a server of these names, or a client called name."""
        key, request = self.folder / f"{name}.key", self.folder / f"{name}.csr"
        certificate, more = self.folder / f"{name}.crt", self.folder / f"{name}.ext"
        more.write_text(f"subjectAltName={alternatives}\n")
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", key, "-out", request, "-subj", f"/CN={name}"),
        )
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._key),
            *("-CAcreateserial", "-out", certificate, "-days", "2", "-extfile", more),
        )
        return certificate, key

    def server_context(self, name="server", clients=None, **how):
        """For a server; clients: the authority whose certificates it demands."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, **how))
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.file)
        return context


def _openssl(*arguments):
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
