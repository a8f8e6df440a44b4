"""The gRPC edge: services on our own HTTP/2, over the codecs and the data plane."""
