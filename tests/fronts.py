"""nginx and haproxy, in front of a server of the tests."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from .conftest import until

NGINX = """
daemon off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log;
worker_processes 1;
worker_shutdown_timeout 300ms;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{target};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_read_timeout {timeout};
            proxy_send_timeout {timeout};
        }}
        location /patient {{
            proxy_pass http://127.0.0.1:{target};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
    }}
}}
"""

HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
    timeout queue 300ms
    retries 0
frontend front
    bind 127.0.0.1:{port}
    {frontend}
    use_backend patient if {{ path_beg /patient }}
    default_backend hasty
backend hasty
    timeout tunnel {timeout}
    server target 127.0.0.1:{target} {behind}
backend patient
    timeout tunnel 1m
    server target 127.0.0.1:{target}
"""


class Front:
    """nginx or haproxy, in front of a port."""

    def __init__(self, kind: str, target: int, directory: Path, **settings: str) -> None:
        # Where a distribution puts what is for administrators is not on everybody's path.
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
        found = shutil.which(kind, path=path)
        if found is None:
            pytest.skip(f"{kind} is not installed")
        self.kind = kind
        directory.mkdir(exist_ok=True)
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        defaults = {"timeout": "1m", "frontend": "", "behind": ""}
        values = defaults | settings | {"port": str(self.port), "target": str(target)}
        # Its workers, who else would be somebody who cannot read what the tests write.
        values["user"] = "user root;" if os.getuid() == 0 else ""
        config = directory / f"{kind}.conf"
        template = NGINX if kind == "nginx" else HAPROXY
        config.write_text(template.format(directory=directory, **values))
        if kind == "nginx":
            self._command = [found, "-p", str(directory), "-e", str(directory / "error.log")]
            self._command += ["-c", str(config)]
        else:
            self._command = [found, "-db", "-f", str(config)]
        self.log = directory / "output"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def version(self) -> str:
        """What the program says it is; for nginx alone."""
        asked = subprocess.run([self._command[0], "-v"], capture_output=True, text=True)
        return asked.stderr.strip().rpartition("/")[2].split()[0]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def patient_url(self) -> str:
        """Of the same endpoint, with no timeout to speak of."""
        return f"{self.url}patient"

    def _spawn(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log)

    async def start(self) -> None:
        self.process = self._spawn()
        async with asyncio.timeout(30):
            while True:
                assert self.process.poll() is None, self.log.read_text()
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    break
            writer.close()

    async def stop(self) -> None:
        if self.process is None:
            return
        # At once, with whatever is open.
        self.process.send_signal(signal.SIGTERM)
        process, self.process = self.process, None
        await until(lambda: process.poll() is not None)
