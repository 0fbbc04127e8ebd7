"""The Triton kernels, and nothing of torch. Importing a module of this package imports Triton."""
