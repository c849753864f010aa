"""What ``benchmarks/train.py`` measures with: model and data, contestants, matrix rate, a server's first step."""
