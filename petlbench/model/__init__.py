"""Pre-trained networks as embedding, stages of blocks, pooling and head."""
