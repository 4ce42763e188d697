"""The drop-in: what stands behind `pifus.compat_socket`, `pifus.compat.socket` and `pifus.monkey`.

`_methods` has the methods of the socket class; `_table` knows which descriptors are sockets of the
stack; `_endpoint` is one such socket, and `_connection`, `_stream` and `_options` are what it does.
Only when a program makes its first stack socket is anything of `pifus._core` loaded.
"""
