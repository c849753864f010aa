"""The trainer's large products in C, in block fixed point, and its attention, gates, norms and softmax in float32.

Compiled when the package is installed (``hatch_build.py``), for x86 processors with AVX2 and without bfloat16 arithmetic;
where that was not possible the weights are widened and torch computes in float32, slower.
"""
