"""The programs: each a script that runs real, unmodified packages and checks what they did.

A script's docstring says what it does; it prints "all well" if all of it was right.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True, slots=True)
class Program:
    """One script.

    Attributes:
        script: its file, without the suffix.
        packages: the distributions that it tries; none: the standard library.
        server: the real server (or browser) in the kernel that is the other end, over TAP; "":
            both ends are the script's, over the stack.
        quick: part of `./dev test`; its packages are in the dependency group `dev`.
        raw: it needs raw sockets, of the kernel too.
        tells: what pifus has to say about it on stderr.
    """

    script: str
    packages: tuple[str, ...]
    server: str = ""
    quick: bool = False
    raw: bool = False
    tells: str = ""

    @property
    def path(self) -> Path:
        return SCRIPTS / f"{self.script}.py"

    @property
    def does(self) -> str:
        """The script's docstring."""
        text = ast.get_docstring(ast.parse(self.path.read_text(encoding="utf-8")))
        assert text, f"{self.path} has no docstring"
        return " ".join(text.split())


PROGRAMS = (
    Program("asyncio_sockets", (), quick=True),
    Program("asyncio_streams", (), quick=True),
    Program("https", (), quick=True),
    Program("mail_tls", (), quick=True),
    Program("inetd_children", (), quick=True),
    Program("web_clients", ("requests", "urllib3", "httpx", "aiohttp"), quick=True),
    Program("browser_site", ("aiohttp",), server="Chromium"),
    Program("uvicorn_asgi", ("uvicorn",), tells="uvloop's sockets would go past the stack"),
    Program("gunicorn_site", ("gunicorn", "django", "gevent")),
    Program("hypercorn_trio", ("hypercorn",)),
    Program("flask_site", ("flask", "werkzeug")),
    Program("django_site", ("django",)),
    Program("wsgi_servers", ("waitress", "falcon", "cheroot", "bottle")),
    Program("websockets_echo", ("websockets",)),
    Program("socketio_rooms", ("python-socketio", "aiohttp")),
    Program("grpclib_calls", ("grpclib",)),
    Program("scrapy_crawl", ("scrapy",)),
    Program("redis_commands", ("redis",), server="redis-server"),
    Program("celery_tasks", ("celery", "kombu"), server="redis-server"),
    Program("postgres_rows", ("pg8000",), server="PostgreSQL"),
    Program("asyncpg_rows", ("asyncpg",), server="PostgreSQL"),
    Program("mqtt_topics", ("paho-mqtt",), server="mosquitto"),
    Program("ssh_session", ("paramiko",), server="OpenSSH sshd"),
    Program("asyncssh_sessions", ("asyncssh",)),
    Program("modbus_plant", ("pymodbus",)),
    Program("opcua_plant", ("asyncua",)),
    Program("osc_messages", ("python-osc",)),
    Program("rpyc_classic", ("rpyc",)),
    Program("pyro_objects", ("Pyro5",)),
    Program("dask_cluster", ("distributed",)),
    Program("dns_queries", ("dnspython",)),
    Program("zeroconf_services", ("zeroconf",)),
    Program("icmp_pings", ("icmplib", "ping3"), raw=True),
    Program("smtp_server", ("aiosmtpd",)),
    Program("ftp_server", ("pyftpdlib", "pyOpenSSL")),
    Program("managers", (), quick=True),
    Program("trio_streams", ("trio",), quick=True),
    Program("tornado_app", ("tornado",), quick=True),
    Program("twisted_echo", ("twisted",), quick=True),
    Program("gevent_server", ("gevent",)),
    Program("eventlet_server", ("eventlet",)),
    Program("curio_streams", ("curio",)),
)
