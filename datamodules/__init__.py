"""What is fed: LightningDataModules over real mp4 files."""
