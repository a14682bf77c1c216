"""What is trained: LightningModules, the Trainer and the command line."""
