"""The quantizers: fifteen levels, DoReFa's levels, and activations with a learned range."""
