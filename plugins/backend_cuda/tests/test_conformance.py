from qcore.testing import conformance

test_conformance = conformance("backend_cuda")
