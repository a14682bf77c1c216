"""What is plugged in: plain PyTorch, no Lightning."""
