"""A real Kubernetes on this machine: `python -m e2e.lab --help`."""
