import socket as _socket
from socket import *  # noqa: F403

# What the interpreter's `socket` has beside its __all__.
EAGAIN: int
EBADF: int
EWOULDBLOCK: int
AddressInfo = _socket.AddressInfo
MsgFlag = _socket.MsgFlag
SocketIO = _socket.SocketIO
