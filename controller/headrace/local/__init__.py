"""The embedded platform; its node runs replicas as processes."""
