"""Modules that stand for those of the standard library: `import pifus.compat.socket as socket`."""
