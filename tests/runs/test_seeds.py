from __future__ import annotations

from qcore.runs.seeds import derived_seed, job_generator


def test_a_derived_seed_is_the_same_for_ever() -> None:
    assert derived_seed(0, 0, "init") == 1619581288853663070
    assert len({derived_seed(s, f, p) for s in range(3) for f in range(3) for p in ("init", "train")}) == 18


def test_two_generators_of_one_job_give_one_stream() -> None:
    import torch

    draws = [torch.rand(3, generator=job_generator(1, 2, "train")) for _ in range(2)]
    assert torch.equal(*draws)
