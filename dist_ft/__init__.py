"""Fine-tune a pretrained image classifier with Apache MXNet Gluon and Horovod."""

__version__ = "0.1.0"
