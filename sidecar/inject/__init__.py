"""The injector: puts the sidecar into pods as they are made. What it decides is pure; what asks the cluster is thin."""
