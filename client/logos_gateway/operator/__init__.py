"""For operators: metrics of all processes, live events of the kernel, the dashboard."""
