// Exists to have <torch/torch.h> compiled into a header once.
