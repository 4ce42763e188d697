"""The modules of CPython's own tests that are about the network."""

from __future__ import annotations

from tests.stdlib.runner import Job

_NETWORK_HANDLERS = (
    r"\.(SocketHandlerTest|UnixSocketHandlerTest|DatagramHandlerTest|UnixDatagramHandlerTest"
    r"|SysLogHandlerTest|UnixSysLogHandlerTest|IPv6SysLogHandlerTest|HTTPHandlerTest"
    r"|SMTPHandlerTest)\.|test_listen_config"
)

JOBS = (
    # Where there are no virtual machines a test of VSOCK waits for one minute.
    Job("test_socket", "^(?!.*VSOCK)"),
    Job("test_timeout"),
    Job("test_socketserver"),
    Job("test_selectors"),
    Job("test_select"),
    Job("test_poll"),
    Job("test_epoll"),
    Job("test_ssl"),
    Job("test_asyncio.test_base_events"),
    Job("test_asyncio.test_buffered_proto"),
    Job("test_asyncio.test_events"),
    Job("test_asyncio.test_selector_events"),
    Job("test_asyncio.test_sendfile"),
    Job("test_asyncio.test_server"),
    Job("test_asyncio.test_sock_lowlevel"),
    Job("test_asyncio.test_ssl"),
    Job("test_asyncio.test_sslproto"),
    Job("test_asyncio.test_streams"),
    Job("test_asyncio.test_subprocess"),
    Job("test_asyncio.test_unix_events"),
    Job("test_httplib"),
    Job("test_httpservers"),
    Job("test_urllib2_localnet"),
    Job("test_xmlrpc"),
    Job("test_docxmlrpc"),
    Job("test_ftplib"),
    Job("test_smtplib"),
    Job("test_poplib"),
    Job("test_imaplib"),
    Job("test_logging", _NETWORK_HANDLERS),
    Job("test_wsgiref"),
    Job("test_robotparser"),
    Job("test_telnetlib"),
    Job("test_nntplib"),
    Job("test_asyncore"),
    Job("test_asynchat"),
)
