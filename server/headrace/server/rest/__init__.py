"""The HTTP edge: Tornado handlers over the codecs and the data plane."""
