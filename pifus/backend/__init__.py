"""The control plane of the backend process: `python -m pifus.backend`."""
