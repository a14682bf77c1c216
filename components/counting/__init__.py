"""What computations take, counted on the meta device: FLOPs, activations that autograd keeps, memory held at a time."""
