"""The networks: ``mobilenet_v2``, ``efficientnet_lite0``, ``squeezenext`` and ``resnet20``."""
