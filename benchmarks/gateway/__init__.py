"""What ``benchmarks/gateway.py`` measures with: subjects, upstream, load."""
