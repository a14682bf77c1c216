"""A video codec of principal components, and the decoder that it may learn."""

from components.codecs.video.principal.codec import BlockDecoder, PrincipalCodec, PrincipalComponents

__all__ = ["BlockDecoder", "PrincipalCodec", "PrincipalComponents"]
