"""What a checkpoint holds and how it is written: trainable, sharded, atomic."""
