"""What is true of every socket for tasks, whatever the event-loop library."""

from __future__ import annotations

from pifus._async._endpoint import Endpoint
from pifus._core._address import Address
from pifus._core._ops import Option, Priority
from pifus._core._socket import Socket


class Resource:
    """A socket of the stack, in an event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __repr__(self) -> str:
        kind = type(self)
        library = kind.__module__.rpartition(".")[0]
        return f"<{library}.{kind.__name__} {self._endpoint.sock!r}>"

    @property
    def socket(self) -> Socket:
        """The socket of the completion API. Its completions are taken here: submit nothing."""
        return self._endpoint.sock

    @property
    def local_address(self) -> Address | None:
        """The local address, as of the kernel's sockets.

        Raises:
            OSError: EBADF after close.
        """
        return self._endpoint.sock.local_address

    @property
    def priority(self) -> Priority:
        """The priority that the backend works with."""
        return self._endpoint.sock.priority

    def set_priority(self, priority: Priority) -> None:
        """Changes the priority, for what is sent or received from now on."""
        self.setopt(Option.PRIORITY, Priority(priority))

    def setopt(self, option: Option, value: int) -> None:
        """Sets an option, at once.

        Raises:
            OSError: the value is none for it; EBADF after close.
        """
        self._endpoint.setopt(Option(option), value)


class Connected(Resource):
    """One that may have a peer."""

    @property
    def peer_address(self) -> Address | None:
        """The address of the peer; None: there is none.

        Raises:
            OSError: EBADF after close.
        """
        return self._endpoint.sock.peer_address


class Datagrams(Connected):
    """What UDP sockets do beside sending and receiving."""

    async def connect(self, address: Address | None) -> None:
        """Chooses the only peer, from now on; None: any peer.

        Raises:
            OSError: the address cannot be used.
        """
        await self._endpoint.reconnect(address)

    async def join_group(self, group: str, interface: int = 0) -> None:
        """Joins a multicast group: its datagrams to the socket's port are received.

        Args:
            group: a multicast address of the socket's family.
            interface: index of the backend's interface (1 is its loopback); 0: the default one.

        Raises:
            OSError: `group` is none, or it was joined before.
        """
        await self._endpoint.in_group(group, interface, joined=True)

    async def leave_group(self, group: str, interface: int = 0) -> None:
        """Leaves a group that was joined with the same arguments.

        Raises:
            OSError: it was not.
        """
        await self._endpoint.in_group(group, interface, joined=False)
