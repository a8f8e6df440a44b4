"""The kinds of group serving.kserve.io as types, and the door where manifests become them.

pod.py                core/v1's PodSpec and Container: dicts whose top-level fields are typed
inference_service.py  InferenceService v1beta1   ·   serving_runtime.py  (Cluster)ServingRuntime
decoding.py           manifest → type, with warnings for unknown fields, and back
"""
