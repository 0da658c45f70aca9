"""The network. This room imports neither `data` nor `train`."""
