"""The networks: ``vgg4bit`` and ``simple_resnet4bit``."""
