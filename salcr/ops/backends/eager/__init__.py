"""Plain PyTorch in blocks and with gradients written out: what runs where no compiled backend does."""
