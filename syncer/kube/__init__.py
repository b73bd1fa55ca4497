"""Kubernetes over HTTP: types, JSON, credentials, requests, watches. Knows nothing of virtual or host semantics."""
