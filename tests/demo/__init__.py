"""`make demo`: small real models for every predictor, served from manifests, really called.

training.py  models and held-back rows   ·   manifests.py  an InferenceService each
clients/     what runs in the clients' environments   ·   __main__.py  the walk and the table
"""
