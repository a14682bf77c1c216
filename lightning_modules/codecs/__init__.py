"""Where video codecs of one's own come from."""
