"""One module per Kubernetes type: what that type means, as pure functions."""
