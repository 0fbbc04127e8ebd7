"""The tasks: ``imagenet`` and ``imagenet_sample``."""
