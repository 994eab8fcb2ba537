"""Triton kernels of the CUDA forward; imported only where Triton and a GPU are."""
