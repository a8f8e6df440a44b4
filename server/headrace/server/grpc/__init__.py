"""The gRPC edge: grpcio services over the codecs and the data plane."""
