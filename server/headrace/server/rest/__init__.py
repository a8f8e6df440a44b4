"""The HTTP edge: routes and handlers on our own HTTP/1.1, over the codecs and the data plane."""
