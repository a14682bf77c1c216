"""Speed and memory claims as ratios: two ways of doing the same work, side by side in one run.

Each is ``python -m benchmarks.NAME`` and says on which machine and at which size it measured:

- ``frozen_prefix``: a training step with frozen early blocks against one with all blocks trainable;
- ``shared_prefix``: a guided sampling step with a shared early prefix against three separate calls;
- ``pyramid_savings``: what Syncphony's transformer leaves out of sampling and of a training step, saving by saving;
- ``columns``: a training step with all of Syncphony's columns in one call against a call for each, in time and in
  operations;
- ``sampling_flops``: the same in FLOPs of the full experiment;
- ``vae``: the causal video VAE in chunks and tiles against whole clips, and what it holds at full size;
- ``dit_forward``: the transformer's FLOP/s against plain matrix products, and the FLOPs of the full experiments;
- ``harmony_interaction``: Harmony's towers with the decoupled interaction against the same towers side by side;
- ``frame_attention``: a banded mask against no window, FlexAttention and gathered windows;
- ``sync_cfg_step``: the rows of a SyncCFG step in one call against a call for each;
- ``driver_features``: Harmony's features of a driving modality, kept from the first step on against computed anew;
- ``merged_step``: what Syncphony's sampler saves, and changes, without the last evaluation of every stage;
- ``modulation``: Wan's blocks, modulated per latent frame, against diffusers' model, modulated per token;
- ``elementwise``: norms and rotations another way, and compiled blocks against eager ones;
- ``cached_step``: a training step on encoded clips against one that encodes them, and the FLOPs of both at full size;
- ``decode_throughput``: our clip reader against bare PyAV on the same files;
- ``random_windows``: the same for random windows of a long recording, and memory over many clips;
- ``loading``: training clips per second and core, from recordings and from a cache, against bare PyAV;
- ``metrics``: parameters, FLOPs and memory of the judges of a clip, and 150 clips end to end;
- ``cpu_attention``: attention on a CPU in bfloat16 against float32, forward and backward.

``python -m benchmarks.gpu --out DIR`` checks and measures everything on one CUDA card within minutes; what an
experiment takes ``avsync estimate`` counts.
"""
