import socket as _socket  # noqa: I001 - one block for the names below
from socket import *  # noqa: F403

# Of an interpreter that was built with Bluetooth; typeshed's __all__ leaves them out.
from socket import (
    AF_BLUETOOTH as AF_BLUETOOTH,
    BDADDR_ANY as BDADDR_ANY,
    BDADDR_LOCAL as BDADDR_LOCAL,
    BTPROTO_HCI as BTPROTO_HCI,
    BTPROTO_L2CAP as BTPROTO_L2CAP,
    BTPROTO_RFCOMM as BTPROTO_RFCOMM,
    BTPROTO_SCO as BTPROTO_SCO,
    HCI_DATA_DIR as HCI_DATA_DIR,
    HCI_FILTER as HCI_FILTER,
    HCI_TIME_STAMP as HCI_TIME_STAMP,
    SOL_HCI as SOL_HCI,
)

# What the interpreter's `socket` has beside its __all__.
EAGAIN: int
EBADF: int
EWOULDBLOCK: int
AddressInfo = _socket.AddressInfo
MsgFlag = _socket.MsgFlag
SocketIO = _socket.SocketIO
