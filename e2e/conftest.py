"""Everything in this directory needs a real Kubernetes."""

pytest_plugins = ["e2e.fixtures", "e2e.tenants"]
