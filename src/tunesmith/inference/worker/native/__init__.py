"""The engine's step in C: products with packed weights, attention over the cache, a whole forward without torch.

Compiled when the package is installed (``hatch_build.py``), for x86 processors with AVX2; where that was not possible the
engine computes the same through torch, slower.
"""
