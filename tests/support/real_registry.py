# SPDX-License-Identifier: Apache-2.0
"""
The real ones: Debian's docker-registry, a token server it believes, nginx as its object store.

    with DockerRegistry(folder, authority) as registry:            # TLS, tokens
        digest = registry.push("library/x", data)
    with Nginx(folder, authority, "location / { ... }") as nginx: ...

Everything listens on 127.0.0.1, at ports found free a moment before; a start that loses the race
for one is repeated. Both programs run in the foreground, as children that end with the context.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request

from . import http_server

START_S = 20.0
PACKAGES = {"docker-registry": "docker-registry", "nginx": "nginx-light", "openssl": "openssl"}


def missing():
    """Why the real ones cannot be had here; "" when they can."""
    absent = [name for name in PACKAGES if not _program(name)]
    packages = " ".join(PACKAGES[name] for name in absent)
    return f"no {', '.join(absent)} here; as root: apt-get install {packages}" if absent else ""


def _program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class _Server:
    """A program that listens on a port; subclasses configure it and say how to run it."""

    scheme = "https"

    def __init__(self, folder, authority):
        self.folder = folder
        self.authority = authority
        self.certificate, self.key = authority.issue(type(self).__name__.lower())
        self.process = None
        self.port = None

    def __enter__(self):
        for _ in range(3):
            self.port = _free_port()
            self.configure()
            if self.start():
                return self
        raise RuntimeError(f"{self.command()[0]} does not start: {self.output()}")

    def __exit__(self, *exc):
        self.stop()

    @property
    def host(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"{self.scheme}://{self.host}"

    def start(self):
        """Whether it listens; again on the same port after stop()."""
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/"
            )
        deadline = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            time.sleep(0.01)
        self.stop()
        return False

    def stop(self, number=signal.SIGTERM):
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def output(self):
        return (self.folder / "output").read_text(errors="replace")


class TokenServer:
    """Gives tokens that the registry believes: RS256, signed by `certificate`."""

    def __init__(self, folder, authority):
        self.certificate, self.key = folder / "token.crt", folder / "token.key"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=tokens",
        ]
        command += ["-keyout", self.key, "-out", self.certificate, "-days", "2"]
        subprocess.run(command, check=True, capture_output=True)
        self.users = {"me": "secret"}
        self.lifetime_s = 300  # of what is in the token; what is told to the client never changes
        self.server = http_server.Server(self._answer, authority.server_context("tokens"))

    def close(self):
        self.server.close()

    def sign(self, *scopes):
        """A token for scopes such as "repository:x:pull"."""
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        claims = {"iss": "test", "sub": "", "aud": "registry", "jti": "x", "access": access}
        claims.update(iat=now - 600, nbf=now - 600, exp=now + self.lifetime_s)
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        command = ["openssl", "dgst", "-sha256", "-sign", self.key]
        done = subprocess.run(command, input=text.encode(), check=True, capture_output=True)
        return f"{text}.{_b64(done.stdout)}"

    def _answer(self, request):
        pair = f"{'me'}:{self.users['me']}".encode()
        if request.headers.get("authorization") != "Basic " + base64.b64encode(pair).decode():
            return http_server.Reply(401, {}, b"{}")
        token = self.sign(*request.query.get("scope", []))
        answer = {"token": token, "expires_in": 300}
        return http_server.Reply(200, {}, json.dumps(answer).encode())


def _b64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class DockerRegistry(_Server):
    """With TLS and tokens; `redirect_to`: the URL of an object store with the same files."""

    def __init__(self, folder, authority, redirect_to=""):
        super().__init__(folder, authority)
        self.storage = folder / "storage"
        self.redirect_to = redirect_to
        self.tokens = TokenServer(folder, authority)

    def __exit__(self, *exc):
        super().__exit__(*exc)
        self.tokens.close()

    def configure(self):
        config = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {
                "addr": self.host,
                "secret": "x",
                "tls": {"certificate": str(self.certificate), "key": str(self.key)},
            },
            "auth": {
                "token": {
                    "realm": self.tokens.server.url + "/token",
                    "service": "registry",
                    "issuer": "test",
                    "rootcertbundle": str(self.tokens.certificate),
                }
            },
        }
        if self.redirect_to:
            redirect = {"name": "redirect", "options": {"baseurl": self.redirect_to}}
            config["middleware"] = {"storage": [redirect]}
        # JSON is YAML.
        (self.folder / "config.yml").write_text(json.dumps(config))

    def command(self):
        return [_program("docker-registry"), "serve", str(self.folder / "config.yml")]

    def repo_url(self, repository):
        return f"{self.url}/v2/{repository}/blobs"

    def push(self, repository, data):
        """The digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        context = ssl.create_default_context(cafile=str(self.authority.file))
        token = self.tokens.sign(f"repository:{repository}:pull,push")

        def send(method, url, body=None):
            request = urllib.request.Request(url, body, method=method)
            request.add_header("Authorization", f"Bearer {token}")
            request.add_header("Content-Type", "application/octet-stream")
            return urllib.request.urlopen(request, context=context)

        with send("POST", self.repo_url(repository) + "/uploads/", b"") as started:
            location = started.headers["Location"]
        with send("PUT", f"{location}&digest={digest}", data) as done:
            assert done.status == 201
        return digest


class Nginx(_Server):
    """`locations` is what goes into its server block; logs who sent which Authorization."""

    def __init__(self, folder, authority, locations):
        super().__init__(folder, authority)
        self.locations = locations

    def configure(self):
        # Not to be confused with Python's: braces are nginx's own.
        text = """
            daemon off; worker_processes 1; pid FOLDER/pid; error_log FOLDER/error.log; USER
            events { worker_connections 64; }
            http {
                log_format own '$status $request_method $uri [$http_range] [$http_authorization]';
                access_log FOLDER/access.log own;
                client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
                fastcgi_temp_path FOLDER/fastcgi; uwsgi_temp_path FOLDER/uwsgi;
                scgi_temp_path FOLDER/scgi;
                server {
                    listen HOST ssl; ssl_certificate CERTIFICATE; ssl_certificate_key KEY;
                    LOCATIONS
                }
            }
        """
        values = {
            "LOCATIONS": self.locations,
            "FOLDER": self.folder,
            "HOST": self.host,
            "CERTIFICATE": self.certificate,
            "KEY": self.key,
            "USER": "user root;" if os.geteuid() == 0 else "",
        }
        for name, value in values.items():
            text = text.replace(name, str(value))
        (self.folder / "nginx.conf").write_text(text)

    def command(self):
        return [_program("nginx"), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    def log(self, word, count):
        """
        Lines of "status method path [range] [authorization]" with the word. nginx writes one after
        the last byte of its answer: they are waited for until there are as many as count.
        """
        for _ in range(600):
            text = (self.folder / "access.log").read_text()
            found = [line for line in text.splitlines() if word in line]
            if len(found) >= count:
                break
            time.sleep(0.1)
        return found
