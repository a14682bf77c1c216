"""What judges pictures: quality, motion and likeness clip by clip, and the features of FID, FVD and KVD."""
