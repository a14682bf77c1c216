"""Programs for `SubprocessV2A` that run V-AURA and MMAudio in environments of their own.

They know nothing of this package and speak Python 3.8, the oldest that such an environment has.
"""
