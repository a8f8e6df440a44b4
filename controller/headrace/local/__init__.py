"""The embedded platform; its node runs replicas as processes, never as imports.

service.py   an InferenceService as processes, wired as on a cluster   ·   entry_points.py  images
container.py  command, args, env and mounts of a container as a process   ·   node.py  runs them
ports.py     free ones   ·   unhonoured.py   what one machine cannot do with a manifest
"""
