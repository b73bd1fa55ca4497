"""What a control plane of Kubernetes' own parts (`distro: k8s`) needs, and the range of Service addresses that older ones need."""
