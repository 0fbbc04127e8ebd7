"""The quantizers: weights and activations whose widths are learned, one a neuron."""
