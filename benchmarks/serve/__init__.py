"""Parts of benchmarks/serve.py and benchmarks/compare.py."""
