"""Where models come from: storage URIs to a local folder."""
