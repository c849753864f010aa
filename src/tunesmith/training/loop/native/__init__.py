"""The trainer's large products in C, in block fixed point, and its attention in float32.

Compiled when the package is installed (``hatch_build.py``), for x86 processors with AVX2 and without bfloat16 arithmetic;
where that was not possible the weights are widened and torch multiplies and attends in float32, slower.
"""
