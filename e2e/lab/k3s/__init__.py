"""The program `/bin/k3s` of the lab's k3s-shaped image: what k3s is to a virtual cluster, made of Kubernetes' own programs and kine.

It runs inside the image, where of this project there is nothing but this package, `e2e.lab.pki` and `e2e.lab.kubeconfig`.
"""
