"""From a model to the pod that serves it (contract §4): which runtime, and what it becomes.

selection.py  which runtime   ·   server_types.py  what its server type implies
merge.py      runtime and predictor become one pod   ·   strategic_merge.py, templates.py, images.py
builtin.py    the runtimes of our own   ·   kserve_names.py  KServe's names and images for them
"""
