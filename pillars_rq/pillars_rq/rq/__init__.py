"""Residual quantization of pillar features: books that grow row by row, and everything that trains them."""
