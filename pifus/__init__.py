"""pifus: a user-space TCP/IP stack for Python.

The names here are the public ones; each is loaded when it is first used.
"""

# Type checkers know this name; importing typing would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from pifus._ambient import priority
    from pifus.completion import (
        TCP,
        UDP,
        Address,
        Block,
        Client,
        Completion,
        Opcode,
        Option,
        Priority,
        Protocol,
        Socket,
        SocketState,
    )
    from pifus.errors import (
        ArenaFull,
        BackendGone,
        BackendUnavailable,
        BlockBusy,
        ClientClosed,
        DeadlineMissed,
        PifusError,
        ProtocolError,
        QueueFull,
    )

__version__ = "0.1.0"

__all__ = [
    "TCP",
    "UDP",
    "Address",
    "ArenaFull",
    "BackendGone",
    "BackendUnavailable",
    "Block",
    "BlockBusy",
    "Client",
    "ClientClosed",
    "Completion",
    "DeadlineMissed",
    "Opcode",
    "Option",
    "PifusError",
    "Priority",
    "Protocol",
    "ProtocolError",
    "QueueFull",
    "Socket",
    "SocketState",
    "__version__",
    "priority",
]

_ERRORS = frozenset(
    {
        "ArenaFull",
        "BackendGone",
        "BackendUnavailable",
        "BlockBusy",
        "ClientClosed",
        "DeadlineMissed",
        "PifusError",
        "ProtocolError",
        "QueueFull",
    }
)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    places = {"priority": "pifus._ambient"} | dict.fromkeys(_ERRORS, "pifus.errors")
    module = importlib.import_module(places.get(name, "pifus.completion"))
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
