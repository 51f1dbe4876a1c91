"""A real Kubernetes control plane for tests, and what runs on it: see plane.py, kubelet.py and docs/kubernetes.md."""
