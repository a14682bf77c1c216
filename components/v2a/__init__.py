"""Video-to-audio models, the inverse that CycleSync needs."""
