"""`python -m pifus.backend`, and `pifus backend`: reads the configuration and runs a backend."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import sys
from collections.abc import Sequence

from pifus._core import _paths, _protocol
from pifus.backend._config import Config, ConfigError, load
from pifus.backend._control import ControlPlane
from pifus.backend._core import Core, CoreError
from pifus.backend._listener import Listener, ListenError, from_systemd, listen, notify

log = logging.getLogger("pifus.backend")

_REQUEST_SECONDS = 10.0


def main(argv: Sequence[str] | None = None, prog: str = "python -m pifus.backend") -> int:
    """Runs a backend until it is told to end.

    Args:
        argv: the options; None: those of the process.
        prog: how it was called, for --help.

    Returns:
        The exit status: 0, or 1 after a sentence on standard error that says what is wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = _first_connection(arguments)
    try:
        config = load(arguments, prog)
        _log_to_stderr(config)
        _run(config, first)
    except (ConfigError, ListenError, CoreError, OSError, ValueError) as error:
        code = getattr(error, "code", None) or getattr(error, "errno", None) or errno.EINVAL
        if first is not None:
            _refuse(first, code, str(error))
        else:
            print(f"pifus backend: {error}", file=sys.stderr)
        return 1
    return 0


def _run(config: Config, first: socket.socket | None) -> None:
    _raise_descriptor_limit()
    listener = _listen(config)
    try:
        core = Core(config, str(listener.path))
    except BaseException:
        listener.close()
        raise
    plane = ControlPlane(config, core, listener, first)
    log.info("backend %r listens at %s", config.name, listener.path)
    log.info("drivers: %s; profile %s", ", ".join(config.drivers), config.profile)
    notify("READY=1")
    plane.run()
    notify("STOPPING=1")


def _listen(config: Config) -> Listener:
    given = None if config.private else from_systemd()
    if given is not None:
        return given
    if not config.socket:
        _paths.runtime_dir(create=True)
    return listen(config.socket_path, config.mode, config.group)


def _first_connection(arguments: Sequence[str]) -> socket.socket | None:
    """The connection that a private backend inherits: found before anything else can go wrong."""
    if "--control-fd" not in arguments[:-1]:
        return None
    fd = int(arguments[arguments.index("--control-fd") + 1])
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock


def _refuse(first: socket.socket, code: int, text: str) -> None:
    """Tells the process that started this one why it failed: the answer to its first request."""
    with first:
        # It is on its way; closing a connection with an unread request would hide the answer.
        first.settimeout(_REQUEST_SECONDS)
        try:
            first.recv(_protocol.MESSAGE_BYTES_MAX)
            first.send(_protocol.encode(_protocol.refusal(code, text)))
        except OSError:
            print(f"pifus backend: {text}", file=sys.stderr)


def _raise_descriptor_limit() -> None:
    """Each client needs a few descriptors, each mirrored socket one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to_stderr(config: Config) -> None:
    level = config.log_level
    if config.private and level == "info":
        # A private backend shares the terminal of a program that never asked for its news.
        level = "warning"
    logging.basicConfig(
        level=level.upper(), format="pifus backend: %(message)s", stream=sys.stderr, force=True
    )


if __name__ == "__main__":
    sys.exit(main())
