"""zeroconf: services announced, found, changed and withdrawn by multicast DNS; asyncio, too."""

import asyncio
import queue
import socket

from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

KIND = "_pifus._tcp.local."
SECONDS = 30
ONLY = {"interfaces": ["127.0.0.1"], "ip_version": IPVersion.V4Only}


def service(name: str, **properties: str) -> ServiceInfo:
    return ServiceInfo(
        KIND,
        f"{name}.{KIND}",
        port=4711,
        properties=properties,
        server=f"{name}.local.",
        addresses=[socket.inet_aton("127.0.0.1")],
    )


def main() -> None:
    seen: queue.Queue = queue.Queue()

    def changed(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        seen.put((state_change.name, name))

    with Zeroconf(**ONLY) as one, Zeroconf(**ONLY) as other:
        browser = ServiceBrowser(other, KIND, [changed])
        info = service("plant", state="idle")
        one.register_service(info)
        assert seen.get(timeout=SECONDS) == ("Added", f"plant.{KIND}")
        found = other.get_service_info(KIND, f"plant.{KIND}", SECONDS * 1000)
        assert (found.port, found.properties) == (4711, {b"state": b"idle"})
        for state in ("starting", "running"):
            one.update_service(service("plant", state=state))
            assert seen.get(timeout=SECONDS)[0] == "Updated"
        asyncio.run(asynchronous())
        one.unregister_service(info)
        while seen.get(timeout=SECONDS) != ("Removed", f"plant.{KIND}"):
            pass
        browser.cancel()


async def asynchronous() -> None:
    async with AsyncZeroconf(**ONLY) as zeroconf:
        info = AsyncServiceInfo(KIND, f"plant.{KIND}")
        assert await info.async_request(zeroconf.zeroconf, SECONDS * 1000)
        assert info.properties == {b"state": b"running"}


main()
print("all well")
