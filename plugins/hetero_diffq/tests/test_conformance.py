from qcore.testing import conformance

test_conformance = conformance("hetero_diffq")
