"""The network ``tabular_transformer``. This package imports no torch until it is built."""
