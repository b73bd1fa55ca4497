"""Kubernetes' own binaries on this machine: `binaries.ensure("kube-apiserver", "etcd")` gives paths, whatever it takes."""
