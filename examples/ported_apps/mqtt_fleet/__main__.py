"""A fleet of MQTT sensors over the stack, and a real mosquitto in the kernel, over a TAP device."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from examples.ported_apps import stage
from pifus.bench._net import new_name, new_pair
from pifus.bench._run import privilege_missing

HERE = Path(__file__).parent
SKIPPED = 77
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sensors", type=int, default=25)
    parser.add_argument("--readings", type=int, default=100, help="of each sensor")
    options = parser.parse_args()
    if reason := obstacle():
        print(f"not run: {reason}")
        return SKIPPED
    host, stack = new_pair()
    device = ("tap", "--tap-name", new_name("t"), "--tap-ipv4", f"{stack}/30")
    with stage.Stage(*device, "--tap-host-ipv4", f"{host}/30") as scene:
        print(f"stack {stack} over {device[2]}, mosquitto in the kernel at {host}")
        port, log = scene.enter_context(mosquitto(host))
        watch = scene.kernel(str(HERE / "monitor.py"), host, str(port), str(options.sensors))
        watch.line()
        words = [host, str(port), str(options.sensors), str(options.readings)]
        print("pifus run -- python sensors.py", *words)
        scene.unmodified(str(HERE / "sensors.py"), *words).finish()
        heard = json.loads(watch.finish())
        seen = log.read_text().count(f"New client connected from {stack}:")
    print(f"mosquitto saw {seen} clients come from the stack's address")
    print(
        f"the monitor heard {heard['readings']} readings, {heard['p50_ms']:.1f} ms after each was "
        f"made (p50), and the last will of sensor {', '.join(heard['lost'])}"
    )
    wanted = options.sensors * options.readings
    well = seen == options.sensors and heard["readings"] == wanted and heard["lost"] == ["0"]
    return 0 if well else 1


def obstacle() -> str:
    """Why this cannot run here; "": it can."""
    if not shutil.which("mosquitto", path=_PATH):
        return "mosquitto is not installed (apt-get install mosquitto)"
    if not importlib.util.find_spec("paho"):
        return "paho-mqtt is not installed (.venv/bin/pip install paho-mqtt)"
    return privilege_missing()


@contextlib.contextmanager
def mosquitto(host: str) -> Iterator[tuple[int, Path]]:
    """The broker, open to all; its port and its log."""
    with socket.create_server((host, 0)) as probe:
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as place:
        config, log = Path(place, "mosquitto.conf"), Path(place, "log")
        config.write_text(
            f"listener {port} {host}\nallow_anonymous true\npersistence false\n"
            "log_dest stderr\nlog_type all\nset_tcp_nodelay true\n"
        )
        program = shutil.which("mosquitto", path=_PATH)
        with (
            log.open("wb") as file,
            subprocess.Popen(
                [str(program), "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            ) as process,
        ):
            try:
                end = time.monotonic() + 10
                while True:
                    with contextlib.suppress(OSError):
                        socket.create_connection((host, port), 1).close()
                        break
                    if process.poll() is not None or time.monotonic() > end:
                        raise RuntimeError(f"mosquitto does not run: {log.read_text()}")
                    time.sleep(0.02)  # nobody tells when it listens
                yield port, log
            finally:
                process.terminate()


if __name__ == "__main__":
    sys.exit(main())
