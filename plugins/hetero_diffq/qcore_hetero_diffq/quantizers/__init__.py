"""Quantizers with learned step sizes and ranges."""
