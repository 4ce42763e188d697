from socket import *  # noqa: F403
