"""Sockets of the completion API for event loops: what pifus.trio and pifus.aio have in common."""
