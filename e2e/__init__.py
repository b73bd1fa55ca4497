"""Tests on a real Kubernetes: how its binaries are obtained (`kubernetes`), how it is started (`lab`), and the tests themselves."""
